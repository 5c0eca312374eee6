//! Deviations from the format in frames that are read all the same, because Kafka's own reader reads them
//! too.

/// A kind of deviation from the format. The frame's bytes are kept as they are, and its records are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Anomaly {
    /// A frame without records whose last offset comes before its first. It covers no offset.
    EmptyFrame,
    /// The producer's own Kafka batch, kept within a Chronik record, is damaged. The record itself is sound.
    OriginalBatchDamaged,
    /// A Kafka batch that starts at or before the last offset of the previous batch.
    OffsetsOutOfOrder,
    /// A record's offset lies outside of the range in its frame's head, or (Kafka) is not greater than that
    /// of the previous record.
    RecordOffset,
    /// There are bytes after the end of a compressed stream, or records in a batch with a count of 0.
    BytesLeftOver,
    /// The checksum or the size of a compressed stream's content is wrong. Kafka's reader checks neither.
    ContentChecksum,
    /// A negative length other than -1, which means null.
    NegativeLength,
    /// A Kafka message of magic 0, the format before record batches.
    KafkaMagic0,
    /// A Kafka message of magic 1, the format before record batches.
    KafkaMagic1,
}

/// The number of kinds.
const KINDS: usize = 9;

impl Anomaly {
    /// All kinds.
    pub const ALL: [Self; KINDS] = [
        Self::EmptyFrame,
        Self::OriginalBatchDamaged,
        Self::OffsetsOutOfOrder,
        Self::RecordOffset,
        Self::BytesLeftOver,
        Self::ContentChecksum,
        Self::NegativeLength,
        Self::KafkaMagic0,
        Self::KafkaMagic1,
    ];

    /// The kind's stable name, in manifests and responses. It is part of the contract and never changes.
    pub fn name(self) -> &'static str {
        match self {
            Self::EmptyFrame => "EMPTY_FRAME",
            Self::OriginalBatchDamaged => "ORIGINAL_BATCH_DAMAGED",
            Self::OffsetsOutOfOrder => "OFFSETS_OUT_OF_ORDER",
            Self::RecordOffset => "BAD_RECORD_OFFSET",
            Self::BytesLeftOver => "BYTES_LEFT_OVER",
            Self::ContentChecksum => "BAD_CONTENT_CHECKSUM",
            Self::NegativeLength => "NEGATIVE_LENGTH",
            Self::KafkaMagic0 => "KAFKA_MAGIC_0",
            Self::KafkaMagic1 => "KAFKA_MAGIC_1",
        }
    }

    fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// The set of anomalies of one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Anomalies(u16);

impl Anomalies {
    /// A set of one anomaly.
    pub fn of(anomaly: Anomaly) -> Self {
        Self(anomaly.bit())
    }

    /// Adds an anomaly.
    pub fn insert(&mut self, anomaly: Anomaly) {
        self.0 |= anomaly.bit();
    }

    /// Adds all of another set.
    pub fn extend(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Whether the set has this anomaly.
    pub fn contains(self, anomaly: Anomaly) -> bool {
        self.0 & anomaly.bit() != 0
    }

    /// Whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The anomalies in the set.
    pub fn iter(self) -> impl Iterator<Item = Anomaly> {
        Anomaly::ALL.into_iter().filter(move |one| self.contains(*one))
    }
}

/// The number of frames with each anomaly. Most partitions have no anomaly, and there may be many partitions,
/// so the counts are allocated with the first anomaly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnomalyCounts(Option<Box<[u64; KINDS]>>);

impl AnomalyCounts {
    /// Counts a frame's anomalies.
    pub fn add(&mut self, anomalies: Anomalies) {
        anomalies.iter().for_each(|one| self.0.get_or_insert_default()[one as usize] += 1);
    }

    /// Adds the counts of another one.
    pub fn merge(&mut self, other: &Self) {
        let Some(others) = &other.0 else { return };
        self.0.get_or_insert_default().iter_mut().zip(others.iter()).for_each(|(count, more)| *count += more);
    }

    /// The names of the kinds that occur, each with its number of frames.
    pub fn by_name(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let count = |one: Anomaly| self.0.as_ref().map_or(0, |counts| counts[one as usize]);
        let counted = Anomaly::ALL.into_iter().map(move |one| (one.name(), count(one)));
        counted.filter(|(_, count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_place_and_a_name_of_its_own() {
        let mut counts = AnomalyCounts::default();
        for (place, one) in Anomaly::ALL.into_iter().enumerate() {
            assert_eq!(one as usize, place);
            counts.add(Anomalies::of(one));
        }
        let names: std::collections::BTreeSet<_> = counts.by_name().collect();
        assert_eq!(names.len(), KINDS);
        assert!(names.iter().all(|(_, count)| *count == 1));
    }
}
