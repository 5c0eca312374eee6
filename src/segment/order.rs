//! The order of a Kafka log's batches.

use super::{Anomalies, Anomaly, Encoding, Frame, kafka};

/// Follows a Kafka log from frame to frame. Its offsets only rise; old releases wrote batches that start before the end of the one in front of
/// them (KAFKA-7866), and Kafka's reader reads these. Base offsets are under no checksum: this is all that can be said of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogOrder {
    last_offset: Option<i64>,
}

impl LogOrder {
    /// What there is to say of the place of the next frame.
    pub fn next(&mut self, frame: &Frame) -> Anomalies {
        let claimed = match frame.encoding {
            Encoding::KafkaBatch => kafka::range(&frame.bytes).ok(),
            Encoding::KafkaMessage | Encoding::Unknown => frame.head_range(),
            // Chronik's frames come in any order.
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
