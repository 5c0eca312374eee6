//! The order of a Kafka log's batches.

use super::{Anomalies, Anomaly, Encoding, Frame, kafka};

/// Follows a Kafka log from frame to frame and checks that its offsets rise. Old releases wrote batches that
/// start before the end of the batch before them (KAFKA-7866), and Kafka's reader reads these. No checksum
/// covers base offsets, so no other check of them is possible.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogOrder {
    last_offset: Option<i64>,
}

impl LogOrder {
    /// Returns the anomalies of the next frame's place.
    pub fn next(&mut self, frame: &Frame) -> Anomalies {
        let claimed = match frame.encoding {
            Encoding::KafkaBatch => kafka::range(&frame.bytes).ok(),
            Encoding::KafkaMessage | Encoding::Unknown => frame.head_range(),
            // Chronik's frames may be in any order.
            Encoding::ChronikV1 | Encoding::ChronikV2 => None,
        };
        let Some(range) = claimed else { return Anomalies::default() };
        match self.last_offset.replace(range.last()) {
            Some(previous_last) if range.first() <= previous_last => {
                Anomalies::of(Anomaly::OffsetsOutOfOrder)
            }
            _ => Anomalies::default(),
        }
    }
}
