//! Compares the copies in a store with what Kafka's metadata say about them, in both directions: copies
//! that Kafka uses and that are missing, and copies that are visible and that Kafka does not use. The
//! latter are left behind by a broker that died between a worker's receipt and Kafka's own note of it.
//!
//! [`Plan::new`] changes nothing; [`Plan::apply`] hides what Kafka does not use. Only logs that the
//! metadata name are looked at: others may belong to another cluster. A bundle is opened only if no known
//! copy has its key.

mod kafka_metadata;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};

use crate::archive::{Archive, ArchiveError, ArchiveErrorKind, Source};
use crate::ids::{CopyId, LogId, TopicPartition};
use crate::log_by_log::{Worked, log_by_log};
use crate::store::{HiddenReason, KeyPrefix, Listed, ListedMarker, MarkerKey, Store, StoreError};

pub use kafka_metadata::{CopyState, KafkaMetadata, KnownCopy, KnownLog, MetadataError};

/// How many bundles and markers are read concurrently.
const READS_AT_ONCE: usize = 16;

/// What to compare, and with which care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The topic; `None` for all topics that the metadata name.
    pub topic: Option<String>,
    /// How long ago Kafka must have begun with a copy. Until then the copy may still finish.
    pub after: Duration,
    /// The time until which the metadata have all events, in milliseconds since the Unix epoch. `None` if
    /// that is known only from the events themselves.
    pub as_of_ms: Option<i64>,
}

/// The comparison, for each log that the metadata name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The logs, in the order of partition and log id.
    pub logs: Vec<LogPlan>,
}

/// The comparison for one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPlan {
    /// Topic and partition.
    pub partition: TopicPartition,
    /// The topic's id.
    pub log_id: LogId,
    /// The copies that Kafka uses and that are visible.
    pub used: Sum,
    /// The copies that Kafka uses and that are not visible: consumers cannot read them.
    pub missing: Vec<Missing>,
    /// Visible copies that Kafka does not use, and will not use.
    pub unused: Vec<Unused>,
    /// Visible copies that Kafka does not use yet, or that it is deleting.
    pub undecided: Sum,
    /// Visible copies that Kafka has deleted: `undelete` brought them back.
    pub undeleted: Sum,
    /// Visible bundles that are no copies of Kafka, such as those that an agent sent.
    pub others: Sum,
    /// Visible bundles that cannot be read, so that it is unknown whether they are copies, with the reason.
    pub unreadable: Vec<(Listed, String)>,
}

/// A number of bundles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// The number.
    pub bundles: u64,
    /// Their total size in bytes.
    pub size_bytes: u64,
}

/// A copy that Kafka uses and that is not visible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What Kafka knows about it.
    pub copy: KnownCopy,
    /// Why it is hidden; `None` if it is not in the store at all.
    pub hidden: Option<HiddenReason>,
}

/// A visible copy that Kafka does not use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unused {
    /// The bundle.
    pub listed: Listed,
    /// The copy's id.
    pub copy_id: CopyId,
    /// Its state in Kafka's metadata; `None` if they do not name it.
    pub state: Option<CopyState>,
}

/// The reasons why there is no comparison.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The store cannot be listed, or a marker cannot be read.
    #[error(transparent)]
    List(#[from] StoreError),
    /// A bundle cannot be opened, so it is unknown whether it is a copy of Kafka.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

/// An event during the hiding.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// This copy is hidden.
    Hidden(&'a Unused),
    /// This copy could not be hidden. The rest of its log is left for the next run.
    Failed(&'a Unused, &'a StoreError),
}

/// The outcome of the hiding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What is hidden.
    pub hidden: Sum,
    /// The number of copies that are left because of a failure.
    pub left: u64,
    /// The first failure of each log.
    pub failures: Vec<StoreError>,
}

/// What is visible and what is hidden of one log.
#[derive(Default)]
struct Found {
    visible: Vec<Listed>,
    markers: Vec<ListedMarker>,
}

impl Sum {
    fn add(&mut self, listed: &Listed) {
        self.bundles += 1;
        self.size_bytes += listed.size_bytes;
    }
}

impl Plan {
    /// Lists the topics that the metadata name, and compares.
    pub async fn new(store: &Store, metadata: &KafkaMetadata, scope: &Scope) -> Result<Self, PlanError> {
        let wanted = |topic: &str| scope.topic.as_deref().is_none_or(|only| only == topic);
        let mut found: BTreeMap<(TopicPartition, LogId), Found> = BTreeMap::new();
        let mut topics: Vec<&str> = metadata.logs().map(|((partition, _), _)| partition.topic()).collect();
        topics.dedup();
        for topic in topics.into_iter().filter(|topic| wanted(topic)) {
            let listing = store.list_all(&KeyPrefix::topic(topic)).await?;
            for listed in listing.bundles {
                let log = (listed.key.partition().clone(), listed.key.log_id().clone());
                found.entry(log).or_default().visible.push(listed);
            }
            for marker in listing.markers {
                let log = (marker.key.partition().clone(), marker.key.log_id().clone());
                found.entry(log).or_default().markers.push(marker);
            }
        }
        let mut logs = Vec::new();
        for (log, known) in metadata.logs().filter(|((partition, _), _)| wanted(partition.topic())) {
            let found = found.remove(log).unwrap_or_default();
            // A time that the caller vouches for, or that an event of a later time proves.
            let until_ms = metadata.known_until_ms(known).max(scope.as_of_ms.unwrap_or(i64::MIN));
            let after_ms = i64::try_from(scope.after.as_millis()).unwrap_or(i64::MAX);
            let care = Care {
                limit_ms: until_ms.saturating_sub(after_ms),
                from_start: metadata.is_from_start(known),
            };
            logs.push(LogPlan::new(store, log, known, found, &care).await?);
        }
        Ok(Self { logs })
    }

    /// Returns the copies that Kafka does not use.
    pub fn unused(&self) -> impl Iterator<Item = &Unused> {
        self.logs.iter().flat_map(|log| &log.unused)
    }

    /// Hides the copies that Kafka does not use, at most `per_second_max` of them per second. If one cannot
    /// be hidden, the rest of its log is left; the other logs continue.
    pub async fn apply(
        &self,
        store: &Store,
        per_second_max: Option<NonZeroU64>,
        progress: impl Fn(Progress<'_>),
    ) -> Outcome {
        let hide = async |unused: &Unused| {
            let key = MarkerKey::of(&unused.listed.key);
            store.hide(&key, HiddenReason::Unused).await?;
            Ok(unused.listed.size_bytes)
        };
        let progress = |unused, result: Result<&u64, &StoreError>| match result {
            Ok(_) => progress(Progress::Hidden(unused)),
            Err(error) => progress(Progress::Failed(unused, error)),
        };
        let logs = self.logs.iter().map(|log| &log.unused[..]);
        let Worked { done, left, failures } = log_by_log(logs, per_second_max, hide, progress).await;
        let hidden = Sum { bundles: done.len() as u64, size_bytes: done.iter().sum() };
        Outcome { hidden, left, failures }
    }
}

/// When a copy counts as one that Kafka will not use.
struct Care {
    /// Its last event, or its upload, must not be later than this, in milliseconds since the Unix epoch.
    limit_ms: i64,
    /// Whether the metadata begin with the first event.
    from_start: bool,
}

impl LogPlan {
    async fn new(
        store: &Store,
        (partition, log_id): &(TopicPartition, LogId),
        known: &KnownLog,
        found: Found,
        care: &Care,
    ) -> Result<Self, PlanError> {
        let mut plan = Self {
            partition: partition.clone(),
            log_id: log_id.clone(),
            used: Sum::default(),
            missing: Vec::new(),
            unused: Vec::new(),
            undecided: Sum::default(),
            undeleted: Sum::default(),
            others: Sum::default(),
            unreadable: Vec::new(),
        };
        let mut visible = BTreeSet::new();
        let mut unknown = Vec::new();
        for listed in found.visible {
            match known.copies.get(&listed.key.hash()) {
                Some(copy) => {
                    visible.insert(listed.key.hash());
                    plan.add_known(listed, copy, care);
                }
                None => unknown.push(listed),
            }
        }
        let opened = stream::iter(unknown).map(|listed| open(store, listed)).buffered(READS_AT_ONCE);
        for (listed, opened) in opened.try_collect::<Vec<_>>().await? {
            match opened {
                Opened::Copy(copy_id) => plan.add_unknown(listed, copy_id, care),
                Opened::Other => plan.others.add(&listed),
                Opened::Gone => {}
                Opened::Unreadable(why) => plan.unreadable.push((listed, why)),
            }
        }

        let markers: BTreeMap<_, _> =
            found.markers.iter().map(|marker| (marker.key.hash(), &marker.key)).collect();
        let used = known.copies.iter().filter(|(_, copy)| copy.state == CopyState::CopyFinished);
        let absent = used.filter(|(hash, _)| !visible.contains(*hash));
        let explained = stream::iter(absent).map(async |(hash, copy)| {
            let hidden = match markers.get(hash) {
                Some(key) => store.hidden(key).await?.map(|marker| marker.reason),
                None => None,
            };
            Ok::<_, StoreError>(Missing { copy: copy.clone(), hidden })
        });
        let explained: Vec<_> = explained.buffered(READS_AT_ONCE).try_collect().await?;
        // What Kafka has deleted after it wrote these events is not missing.
        plan.missing =
            explained.into_iter().filter(|one| one.hidden != Some(HiddenReason::Deleted)).collect();
        plan.missing.sort_by_key(|one| one.copy.base_offset);
        plan.unused.sort_by(|a, b| a.listed.key.cmp(&b.listed.key));
        Ok(plan)
    }

    fn add_known(&mut self, listed: Listed, copy: &KnownCopy, care: &Care) {
        match copy.state {
            CopyState::CopyFinished => self.used.add(&listed),
            CopyState::DeleteFinished => self.undeleted.add(&listed),
            CopyState::CopyStarted | CopyState::DeleteStarted if copy.changed_at_ms <= care.limit_ms => {
                self.unused.push(Unused { listed, copy_id: copy.id.clone(), state: Some(copy.state) });
            }
            CopyState::CopyStarted | CopyState::DeleteStarted => self.undecided.add(&listed),
        }
    }

    fn add_unknown(&mut self, listed: Listed, copy_id: CopyId, care: &Care) {
        // A time of zero is unknown.
        if care.from_start && (1..=care.limit_ms).contains(&listed.stored_at_ms) {
            self.unused.push(Unused { listed, copy_id, state: None });
        } else {
            self.undecided.add(&listed);
        }
    }
}

/// What a bundle is whose key is that of no known copy.
enum Opened {
    Copy(CopyId),
    Other,
    /// It was removed after the listing.
    Gone,
    Unreadable(String),
}

async fn open(store: &Store, listed: Listed) -> Result<(Listed, Opened), ArchiveError> {
    let opened = match Archive::open(Source::listed(store, &listed)).await {
        Ok(archive) => match archive.manifest().copy.as_ref().map(|copy| CopyId::new(&copy.id)) {
            None => Opened::Other,
            Some(Ok(copy_id)) => Opened::Copy(copy_id),
            Some(Err(error)) => Opened::Unreadable(error.to_string()),
        },
        Err(error) => match error.kind() {
            ArchiveErrorKind::NotFound => Opened::Gone,
            ArchiveErrorKind::Corrupt | ArchiveErrorKind::Unsupported => {
                Opened::Unreadable(error.to_string())
            }
            ArchiveErrorKind::Denied | ArchiveErrorKind::Unavailable | ArchiveErrorKind::Bug => {
                return Err(error);
            }
        },
    };
    Ok((listed, opened))
}
