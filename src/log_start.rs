//! Moves the start of a broker's log before segments are deleted from its disk (Kafka's `DeleteRecords`).
//! Consumers that request a deleted offset then get `OFFSET_OUT_OF_RANGE`. Otherwise they would silently get
//! the next record that is left.
//!
//! [`LogStart`] is between an agent and its segments: nothing is deleted before the broker has moved the
//! log's start. Brokers may forget the start when they restart (Chronik 2.6 to 2.10 do). So it is checked at
//! an interval, and moved again.

use std::collections::BTreeMap;
use std::error::Error;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rskafka::BackoffConfig;
use rskafka::client::partition::{OffsetAt, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::client::Receipt;
use crate::formatting::chain;
use crate::ids::TopicPartition;
use crate::wal::{Hold, Listing, Reading, Rejection, SealedSegments, Segment, WalError};

/// The timeout for a broker's response, with its connection and the search for its partition's leader.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// The interval at which the broker is asked whether it still knows where its logs start.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The reason to keep a segment whose receipt an earlier release has left in the checkpoint.
const NO_OFFSETS: &str = "its receipt is of an earlier release and has no offsets, so the log's new start is not known; \
     without the checkpoint the segment is sent again, and gets a new receipt";

/// Why the start of a log could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum LogStartError {
    /// The broker cannot be reached, or refuses.
    #[error("the broker did not move the log's start")]
    Broker(#[from] rskafka::client::error::Error),
    /// The broker would delete a segment that is not stored.
    #[error("{name} is before offset {start} and is not stored: a broker whose log starts there deletes it")]
    NotStored {
        /// The segment.
        name: String,
        /// Where the log would start.
        start: i64,
    },
    /// The segments cannot be read.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// The broker does not answer.
    #[error("the broker has not answered within {}", humantime(ANSWER_MAX))]
    Silent,
}

fn humantime(duration: Duration) -> String {
    format!("{} s", duration.as_secs())
}

/// Sealed segments whose broker must move the start of its log before any of them is deleted.
#[derive(Debug)]
pub struct LogStart<W> {
    wal: Arc<W>,
    starts: Arc<Starts>,
    looking: JoinHandle<()>,
}

impl<W: SealedSegments> LogStart<W> {
    /// Wraps the segments of the broker with these bootstrap addresses (`HOST:PORT`). `known` has the log
    /// starts of partitions from which segments were deleted before. Must be called within a Tokio runtime.
    /// It does not wait for a connection.
    pub fn new(wal: W, bootstrap: Vec<String>, known: BTreeMap<TopicPartition, i64>) -> Self {
        let (client, stored) = (AsyncMutex::default(), Mutex::default());
        let starts = Arc::new(Starts { bootstrap, client, known: Mutex::new(known), stored });
        let wal = Arc::new(wal);
        let looking = tokio::spawn(look_after(Arc::clone(&wal), Arc::clone(&starts)));
        Self { wal, starts, looking }
    }
}

impl<W> Drop for LogStart<W> {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

impl<W: SealedSegments> SealedSegments for LogStart<W> {
    fn list(&self) -> impl Future<Output = Result<Listing, WalError>> + Send {
        self.wal.list()
    }

    fn open(&self, segment: &Segment) -> impl Future<Output = Result<Reading, WalError>> + Send {
        self.wal.open(segment)
    }

    fn hold(
        &self,
        segment: &Segment,
        receipt: &Receipt,
    ) -> impl Future<Output = Result<Option<Hold>, WalError>> + Send {
        self.wal.hold(segment, receipt)
    }

    async fn delete(&self, segment: &Segment, receipt: &Receipt) -> Result<(), WalError> {
        let held = |hold| WalError::Held { name: segment.name.clone(), hold };
        if let Some(hold) = self.wal.hold(segment, receipt).await? {
            return Err(held(hold));
        }
        match receipt.offsets() {
            Some(range) => {
                let start = range.last().saturating_add(1);
                let moved = self.starts.move_to(&*self.wal, &segment.partition, start).await;
                moved.map_err(|error| held(Hold::BrokerNotReady(chain(&error))))?;
            }
            None if receipt.digest().records > 0 => {
                return Err(held(Hold::BrokerNotReady(NO_OFFSETS.to_owned())));
            }
            // A segment without records has no offset that a consumer could request.
            None => {}
        }
        self.wal.delete(segment, receipt).await
    }

    fn reject(
        &self,
        segment: &Segment,
        rejection: &Rejection,
    ) -> impl Future<Output = Result<(), WalError>> + Send {
        self.wal.reject(segment, rejection)
    }

    fn first_offset(&self, segment: &Segment) -> impl Future<Output = Result<Option<i64>, WalError>> + Send {
        self.wal.first_offset(segment)
    }

    fn note_stored(&self, partition: &TopicPartition, stored: &[Segment]) {
        let mut of_partitions = self.starts.stored.lock().unwrap_or_else(PoisonError::into_inner);
        of_partitions.insert(partition.clone(), stored.to_vec());
    }

    fn unstored_below(
        &self,
        partition: &TopicPartition,
        offset: i64,
        stored: &[Segment],
    ) -> impl Future<Output = Result<Option<String>, WalError>> + Send {
        self.wal.unstored_below(partition, offset, stored)
    }

    fn url(&self, segment: &Segment) -> Option<url::Url> {
        self.wal.url(segment)
    }
}

/// Where logs start, and the broker that must know it.
#[derive(Debug)]
struct Starts {
    bootstrap: Vec<String>,
    /// Made at its first use. `None` again after a failure.
    client: AsyncMutex<Option<Arc<Client>>>,
    known: Mutex<BTreeMap<TopicPartition, i64>>,
    /// The segments that are stored and may still be there, by partition.
    stored: Mutex<BTreeMap<TopicPartition, Vec<Segment>>>,
}

impl Starts {
    /// Moves the start of a partition's log, unless it is at `start` or later already. Returns whether it was
    /// moved. Brokers delete what is before the start, so all of that must be stored. This is checked here,
    /// because after several first writes at the same time the files of a Chronik partition are not in the
    /// order of their offsets.
    async fn move_to<W: SealedSegments>(
        &self,
        wal: &W,
        partition: &TopicPartition,
        start: i64,
    ) -> Result<bool, LogStartError> {
        let stored = self.stored(partition);
        if let Some(name) = wal.unstored_below(partition, start, &stored).await? {
            return Err(LogStartError::NotStored { name, start });
        }
        let moved = tokio::time::timeout(ANSWER_MAX, async {
            let client = self.client().await?;
            let log = partition_of(&client, partition).await?;
            if log.get_offset(OffsetAt::Earliest).await? >= start {
                return Ok(false);
            }
            log.delete_records(start, ANSWER_MAX.as_millis() as i32).await.map(|()| true)
        });
        let moved = match moved.await {
            Ok(moved) => moved.map_err(LogStartError::from),
            Err(_) => Err(LogStartError::Silent),
        };
        match &moved {
            Ok(_) => {
                let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                let known = known.entry(partition.clone()).or_insert(start);
                *known = start.max(*known);
            }
            // The connection may be the cause.
            Err(_) => *self.client.lock().await = None,
        }
        moved
    }

    async fn client(&self) -> Result<Arc<Client>, rskafka::client::error::Error> {
        let mut client = self.client.lock().await;
        if let Some(client) = &*client {
            return Ok(Arc::clone(client));
        }
        let backoff = BackoffConfig { deadline: Some(ANSWER_MAX / 2), ..BackoffConfig::default() };
        let builder = ClientBuilder::new(self.bootstrap.clone()).client_id("wal-indexer-agent");
        let built = Arc::new(builder.backoff_config(backoff).build().await?);
        *client = Some(Arc::clone(&built));
        Ok(built)
    }

    fn stored(&self, partition: &TopicPartition) -> Vec<Segment> {
        let stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        stored.get(partition).cloned().unwrap_or_default()
    }

    fn known(&self) -> BTreeMap<TopicPartition, i64> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn partition_of(
    client: &Client,
    partition: &TopicPartition,
) -> Result<PartitionClient, rskafka::client::error::Error> {
    client.partition_client(partition.topic(), partition.partition(), UnknownTopicHandling::Error).await
}

/// Moves the starts again that the broker has forgotten. Runs until it is aborted.
async fn look_after<W: SealedSegments>(wal: Arc<W>, starts: Arc<Starts>) {
    let mut said = BTreeMap::new();
    loop {
        for (partition, start) in starts.known() {
            let why = match starts.move_to(&*wal, &partition, start).await {
                Ok(false) => None,
                Ok(true) => {
                    info!(%partition, start, "the broker had forgotten the log's start, which is now set again");
                    None
                }
                Err(error) => Some(chain(&error as &dyn Error)),
            };
            if let Some(why) = &why
                && said.get(&partition) != Some(why)
            {
                warn!(%partition, start, why, "cannot check or set the log's start");
            }
            match why {
                Some(why) => _ = said.insert(partition, why),
                None => _ = said.remove(&partition),
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{Format, Size, Spec, generate};
    use crate::ids::LogId;
    use crate::wal::dir::WalDir;

    /// A receipt of an earlier release, or of this one if offsets are given.
    fn receipt(segment: &Segment, offsets: Option<(i64, i64)>) -> Receipt {
        let digest = serde_json::json!({
            "size_bytes": segment.version.size_bytes, "crc32c": 0, "sha256": ([0_u8; 32]), "records": 1, "torn_bytes": 0,
        });
        let mut receipt = serde_json::json!({
            "digest": digest, "keys": ["key"], "data_records": 1, "stored_bytes": 1, "already_existed": false,
            "worker": "127.0.0.1:1", "attempts": 1,
        });
        if let Some((first, last)) = offsets {
            receipt["offsets"] = serde_json::json!([first, last]);
        }
        serde_json::from_value(receipt).expect("a receipt")
    }

    /// The segments of a partition, each with one record at this offset.
    fn wal_of(root: &std::path::Path, offsets: &[i64]) -> WalDir {
        let folder = root.join("orders/0");
        std::fs::create_dir_all(&folder).expect("directories");
        for (id, base_offset) in (1..).zip(offsets) {
            let spec = Spec {
                format: Format::ChronikV2,
                size: Size::Records(1),
                base_offset: *base_offset,
                ..Spec::default()
            };
            let mut bytes = Vec::new();
            generate(&spec, &mut bytes).expect("a segment");
            std::fs::write(folder.join(format!("wal_0_{id}.log")), bytes).expect("a file");
        }
        WalDir::new(root, LogId::new("0"))
    }

    /// No broker listens at the address, and none is called.
    #[tokio::test]
    async fn a_broker_is_not_told_to_drop_what_is_not_stored() {
        let root = tempfile::tempdir().expect("a directory");
        // The second file holds lower offsets than the first, as after several first writes at once.
        let wal = wal_of(root.path(), &[7, 3, 9]);
        let mut segments = wal.list().await.expect("a listing").segments;
        segments.sort_by_key(|segment| segment.position);
        let partition = segments[0].partition.clone();
        let log_start = LogStart::new(wal.clone(), vec!["127.0.0.1:1".to_owned()], BTreeMap::new());
        let first = receipt(&segments[0], Some((7, 7)));
        log_start.note_stored(&partition, &segments[..1]);
        let error = log_start.delete(&segments[0], &first).await.expect_err("it stays");
        let is_held = matches!(&error, WalError::Held { hold: Hold::BrokerNotReady(why), .. } if why.contains("wal_0_2.log"));
        assert!(is_held && wal.path_of(&segments[0]).exists(), "{error}");
        // If both are stored, or the start is not beyond the unstored one, the deletion is allowed.
        let below = |offset, stored: &[Segment]| {
            let stored = stored.to_vec();
            let (wal, partition) = (wal.clone(), partition.clone());
            async move { wal.unstored_below(&partition, offset, &stored).await.expect("readable") }
        };
        assert_eq!(below(8, &segments[..2]).await, None);
        assert_eq!(below(8, &segments[1..2]).await.as_deref(), Some("orders/0/wal_0_1.log"));
        assert_eq!(below(3, &[]).await, None);
        assert_eq!(below(4, &[]).await.as_deref(), Some("orders/0/wal_0_2.log"));
        assert!(
            below(10, &segments).await.is_some_and(|name| name.ends_with("wal_0_3.log")),
            "the one in use, too"
        );
    }

    /// No broker listens at the address, and none is called.
    #[tokio::test]
    async fn nothing_goes_on_a_receipt_that_does_not_say_where_the_log_would_start() {
        let root = tempfile::tempdir().expect("a directory");
        let wal = wal_of(root.path(), &[1, 2]);
        let segment = wal.list().await.expect("a listing").segments.remove(0);
        let receipt = receipt(&segment, None);
        let log_start = LogStart::new(wal.clone(), vec!["127.0.0.1:1".to_owned()], BTreeMap::new());
        let error = log_start.delete(&segment, &receipt).await.expect_err("it stays");
        let is_held =
            matches!(&error, WalError::Held { hold: Hold::BrokerNotReady(why), .. } if why == NO_OFFSETS);
        assert!(is_held && wal.path_of(&segment).exists(), "{error}");
    }
}
