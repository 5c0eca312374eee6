//! What is hidden: the markers of a store, with the bundles that they hide. An operator's commands list them,
//! bring them back ([`undelete`]), and delete them for good ([`purge`]). No worker uses this module.

pub mod purge;
pub mod undelete;

use futures::stream;
use futures::{StreamExt, TryStreamExt};

use crate::ids::{LogId, TopicPartition};
use crate::store::{KeyPrefix, ListedMarker, Marker, Store, StoreError};

/// The number of markers that are read concurrently.
const READS_AT_ONCE: usize = 32;

/// The logs to look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// The topic; `None` for all topics.
    pub topic: Option<String>,
    /// The numbers of the partitions; empty for all partitions.
    pub partitions: Vec<i32>,
    /// The incarnation of the logs; `None` for all incarnations.
    pub log_id: Option<LogId>,
}

/// A marker, with its contents and with the bundles that it hides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The marker's key, and the bundles.
    pub listed: ListedMarker,
    /// Why and since when they are hidden.
    pub marker: Marker,
}

impl Entry {
    /// Returns the total size of the hidden bundles in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.listed.hides.iter().map(|bundle| bundle.size_bytes).sum()
    }
}

impl Scope {
    fn prefix(&self) -> KeyPrefix {
        let Some(topic) = &self.topic else { return KeyPrefix::all() };
        // With one partition the listing is shorter.
        let partition = match self.partitions[..] {
            [number] => TopicPartition::new(topic.as_str(), number).ok(),
            _ => None,
        };
        match (partition, &self.log_id) {
            (Some(partition), Some(log_id)) => KeyPrefix::log(&partition, log_id),
            (Some(partition), None) => KeyPrefix::partition(&partition),
            (None, _) => KeyPrefix::topic(topic),
        }
    }

    fn includes(&self, marker: &ListedMarker) -> bool {
        let partition = marker.key.partition();
        self.topic.as_ref().is_none_or(|topic| partition.topic() == topic)
            && (self.partitions.is_empty() || self.partitions.contains(&partition.partition()))
            && self.log_id.as_ref().is_none_or(|log_id| marker.key.log_id() == log_id)
    }
}

/// Lists what is hidden, in the order of the keys, and reads the markers. A marker that something else
/// removes meanwhile is left out.
pub async fn find(store: &Store, scope: &Scope) -> Result<Vec<Entry>, StoreError> {
    let markers = store.list_all(&scope.prefix()).await?.markers;
    let read = async |listed: ListedMarker| {
        let marker = store.hidden(&listed.key).await?;
        Ok::<_, StoreError>(marker.map(|marker| Entry { listed, marker }))
    };
    let wanted = stream::iter(markers.into_iter().filter(|marker| scope.includes(marker)));
    let found: Vec<Option<Entry>> = wanted.map(read).buffered(READS_AT_ONCE).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}

/// Divides entries, which are sorted by key, by their logs.
fn logs(entries: &[Entry]) -> impl Iterator<Item = &[Entry]> {
    entries.chunk_by(|a, b| {
        let (a, b) = (&a.listed.key, &b.listed.key);
        a.partition() == b.partition() && a.log_id() == b.log_id()
    })
}
