//! The directories of Chronik and Kafka.

use std::path::PathBuf;
use std::time::Duration;

use super::{Reading, Rejection, SealedSegments, Segment, WalError};
use crate::client::Receipt;
use crate::ids::LogId;

/// A directory in which a broker keeps its log: `TOPIC/PARTITION/wal_PARTITION_ID.log` (Chronik) or
/// `TOPIC-PARTITION/OFFSET.log` (Kafka), recognised by these names.
#[derive(Clone, Debug)]
pub struct WalDir {
    /// The directory.
    pub root: PathBuf,
    /// The incarnation of the log, where the directory does not say it.
    pub log_id: LogId,
    /// For how long a partition's newest segment must not have changed to be sent; `None`: it is not.
    pub seal_idle_after: Option<Duration>,
    /// Where workers see the directory, if they share the storage.
    pub seen_at: Option<url::Url>,
}

impl SealedSegments for WalDir {
    async fn list(&self) -> Result<Vec<Segment>, WalError> {
        todo!()
    }
    async fn open(&self, segment: &Segment) -> Result<Reading, WalError> {
        let _ = segment;
        todo!()
    }
    async fn delete(&self, segment: &Segment, receipt: &Receipt) -> Result<(), WalError> {
        let _ = (segment, receipt);
        todo!()
    }
    async fn reject(&self, segment: &Segment, rejection: &Rejection) -> Result<(), WalError> {
        let _ = (segment, rejection);
        todo!()
    }
}
