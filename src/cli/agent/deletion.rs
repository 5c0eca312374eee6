//! What an agent deletes, and when.

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
    /// Whether segments are deleted once they are stored. Kafka's never are: it deletes them itself.
    #[arg(long, env = "WAL_INDEXER_DELETE_AFTER_INDEX", default_value = "true", value_name = "BOOL", action = ArgAction::Set)]
    pub(super) delete_after_index: bool,

    /// Keep the newest N sealed segments of each partition on disk, although they are stored.
    #[arg(long, env = "WAL_INDEXER_KEEP_SEGMENTS", default_value = "0", value_name = "N")]
    keep_segments: usize,

    /// Keep the newest sealed segments of each partition on disk until they have this many bytes together, as 10GiB, although
    /// they are stored.
    #[arg(long, env = "WAL_INDEXER_KEEP_BYTES", default_value = "0", value_name = "BYTES")]
    keep_bytes: ByteSize,

    /// Keep segments on disk that have changed within this time, in seconds, although they are stored.
    #[arg(long, env = "WAL_INDEXER_KEEP_FOR", default_value = "0", value_name = "SECONDS", value_parser = seconds)]
    keep_for: Duration,

    /// Before a segment is deleted, tell the broker behind these addresses, as HOST:PORT, that its log starts behind it (Kafka's
    /// DeleteRecords), and tell it again when it has forgotten that. Where it cannot be told, nothing is deleted.
    #[cfg(feature = "delete-records")]
    #[arg(long, env = "WAL_INDEXER_DELETE_RECORDS_ON", value_name = "BOOTSTRAP", value_delimiter = ',')]
    delete_records_on: Vec<String>,

    /// Whether a file stays that a process has open for writing, or of which that cannot be found out. `off`: nobody looks; for
    /// file systems without leases, where the broker is known to close what it has sealed.
    #[arg(long, env = "WAL_INDEXER_WRITER_CHECK", default_value = "required", value_name = "WHAT")]
    writer_check: Check,
}

/// How [`WriterCheck`] is spelt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Check {
    Required,
    Off,
}

/// Segments to look after.
pub(super) enum Wal {
    /// As they lie in their directory.
    Dir(WalDir),
    /// With a broker that is told before one is deleted.
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

    /// The segments, with a broker that is told of deletions where one is named.
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

    /// The segments: without its feature there is no way to tell a broker of deletions.
    #[cfg(not(feature = "delete-records"))]
    pub(super) async fn with_log_start(&self, wal: WalDir) -> Result<Wal, CliError> {
        Ok(Wal::Dir(wal))
    }
}
