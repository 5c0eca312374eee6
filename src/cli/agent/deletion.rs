//! The agent's rules for deletion.

use std::time::Duration;

use bytesize::ByteSize;
use clap::{ArgAction, ValueEnum};

use super::super::CliError;
#[cfg(feature = "delete-records")]
use super::super::Exit;
use super::super::duration_argument::seconds;
use crate::agent::Retention;
#[cfg(feature = "delete-records")]
use crate::log_start::LogStart;
use crate::wal::dir::{WalDir, WriterCheck};

/// What is deleted.
#[derive(Debug, clap::Args)]
pub(super) struct DeletionArgs {
    /// Whether to delete segments after they are stored. Kafka's segments are never deleted: Kafka deletes
    /// them itself.
    #[arg(long, env = "WAL_INDEXER_DELETE_AFTER_INDEX", default_value = "true", value_name = "BOOL", action = ArgAction::Set)]
    pub(super) delete_after_index: bool,

    /// Keep the newest N sealed segments of each partition on disk, even if they are stored.
    #[arg(long, env = "WAL_INDEXER_KEEP_SEGMENTS", default_value = "0", value_name = "N")]
    keep_segments: usize,

    /// Keep the newest sealed segments of each partition on disk, up to this many bytes together, such as
    /// 10GiB, even if they are stored.
    #[arg(long, env = "WAL_INDEXER_KEEP_BYTES", default_value = "0", value_name = "BYTES")]
    keep_bytes: ByteSize,

    /// Keep segments on disk that have changed within this time, in seconds, even if they are stored.
    #[arg(long, env = "WAL_INDEXER_KEEP_FOR", default_value = "0", value_name = "SECONDS", value_parser = seconds)]
    keep_for: Duration,

    /// Before a segment is deleted, tell the broker at these addresses (HOST:PORT) that its log starts after
    /// the segment (Kafka's DeleteRecords). Tell it again if it has forgotten that. If the broker cannot be
    /// told, nothing is deleted.
    #[cfg(feature = "delete-records")]
    #[arg(long, env = "WAL_INDEXER_DELETE_RECORDS_ON", value_name = "BOOTSTRAP", value_delimiter = ',')]
    delete_records_on: Vec<String>,

    /// Whether to keep a file that a process has open for writing, or for which this cannot be found out.
    /// `off` skips the check. Use it on file systems without leases, if the broker is known to close the
    /// files that it has sealed.
    #[arg(long, env = "WAL_INDEXER_WRITER_CHECK", default_value = "required", value_name = "WHAT")]
    writer_check: Check,
}

/// The values of [`WriterCheck`] on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Check {
    Required,
    Off,
}

/// The segments of a WAL directory.
pub(super) enum Wal {
    /// Only the directory.
    Dir(WalDir),
    /// With a broker whose log start is moved before a segment is deleted.
    #[cfg(feature = "delete-records")]
    LogStart(LogStart<WalDir>),
}

impl DeletionArgs {
    pub(super) fn retention(&self) -> Retention {
        Retention { segments: self.keep_segments, bytes: self.keep_bytes.as_u64(), age: self.keep_for }
    }

    pub(super) fn writer_check(&self) -> WriterCheck {
        match self.writer_check {
            Check::Required => WriterCheck::Required,
            Check::Off => WriterCheck::Off,
        }
    }

    /// Wraps the segments with a broker whose log start is moved, if `--delete-records-on` names one.
    #[cfg(feature = "delete-records")]
    pub(super) async fn with_log_start(&self, wal: WalDir) -> Result<Wal, CliError> {
        if self.delete_records_on.is_empty() {
            return Ok(Wal::Dir(wal));
        }
        let known = wal.first_offsets().await;
        let known =
            known.map_err(|error| CliError::new(Exit::Failed, "cannot read where logs start", &error))?;
        Ok(Wal::LogStart(LogStart::new(wal, self.delete_records_on.clone(), known)))
    }

    /// Returns the segments as they are: without the feature `delete-records`, no broker's log start can be
    /// moved.
    #[cfg(not(feature = "delete-records"))]
    pub(super) async fn with_log_start(&self, wal: WalDir) -> Result<Wal, CliError> {
        Ok(Wal::Dir(wal))
    }
}
