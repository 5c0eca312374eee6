//! How the names in a receipt are written to a file: as plain values, which are checked when they are read.

/// A topic and a partition number.
pub(super) mod partition {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    use crate::ids::TopicPartition;

    pub(in super::super) fn serialize<S: Serializer>(
        partition: &Option<TopicPartition>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        partition.as_ref().map(|it| (it.topic(), it.partition())).serialize(to)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<TopicPartition>, D::Error> {
        let read = Option::<(String, i32)>::deserialize(from)?;
        read.map(|(topic, partition)| TopicPartition::new(topic, partition))
            .transpose()
            .map_err(de::Error::custom)
    }
}

/// A log's id.
pub(super) mod log_id {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::ids::LogId;

    pub(in super::super) fn serialize<S: Serializer>(id: &Option<LogId>, to: S) -> Result<S::Ok, S::Error> {
        id.as_ref().map(LogId::as_str).serialize(to)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<LogId>, D::Error> {
        Ok(Option::<String>::deserialize(from)?.map(|id| LogId::new(&id)))
    }
}

/// The first and the last offset.
pub(super) mod offsets {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    use crate::ids::OffsetRange;

    pub(in super::super) fn serialize<S: Serializer>(
        range: &Option<OffsetRange>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        range.map(|range| (range.first(), range.last())).serialize(to)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<OffsetRange>, D::Error> {
        let read = |(first, last): (i64, i64)| {
            let range = OffsetRange::new(first, last);
            range.ok_or_else(|| de::Error::custom(format!("offsets from {first} to {last}")))
        };
        Option::<(i64, i64)>::deserialize(from)?.map(read).transpose()
    }
}
