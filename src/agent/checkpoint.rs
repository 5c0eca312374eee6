//! The record of which segments are stored: a file of receipts that outlives the process.
//!
//! The file is a [journal](super::journal) of receipts. The last line about a name counts.
//!
//! To lose the file costs time, but never data: segments are sent again, and workers find that they are
//! stored. Extra receipts cost no data either: before the agent deletes a segment on a receipt of an earlier
//! process, it reads the segment's bytes again and compares them with the receipt. So lines are not synced
//! one by one.

use std::collections::HashMap;
use std::fs::{self, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::journal::Journal;
use super::logs::{FirstOffsets, Known, Logs};
use crate::client::Receipt;
use crate::ids::{LogId, TopicPartition};
use crate::wal::{ChangeTime, Listing, Segment, Version};

const FIRST_LINE: &str = "wal-indexer checkpoint 1";

/// The maximum age of a receipt on which a segment is deleted without reading its bytes again. Most segments
/// are deleted at once. A segment that waits behind another one is on a disk to which others write.
const RECEIPT_AGE_MAX: Duration = Duration::from_secs(30);

/// The receipts of one WAL directory. It is locked, so that no two agents work on one directory.
#[derive(Debug)]
pub struct Checkpoint {
    entries: HashMap<String, Entry>,
    journal: Journal,
    /// `None` while it processes a listing.
    logs: Option<Logs>,
    /// The end of the process unlocks them, whatever ends it.
    _locks: Vec<fs::File>,
}

/// Why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Another process has locked it.
    #[error("another agent looks after this directory: {} is locked", path.display())]
    Locked {
        /// The lock.
        path: PathBuf,
    },
    /// The file is something else, or a later version wrote it.
    #[error("{} is no checkpoint that this version can read; without it, all segments are sent again", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read or written.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// A receipt, and the segment that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub receipt: Receipt,
    /// When this process last saw the bytes that the receipt is for. `None`: only an earlier process saw
    /// them.
    seen: Option<Seen>,
    of: Subject,
}

/// When a segment's bytes were known to match its receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    at: Instant,
    /// The change time of the file at that time.
    change_time: Option<ChangeTime>,
}

impl Seen {
    fn now(segment: &Segment) -> Self {
        Self { at: Instant::now(), change_time: segment.change_time }
    }
}

impl Entry {
    /// Whether the segment's bytes must be read again before it is deleted. This is so if only an earlier
    /// process saw them, if the file was touched since then, or if that was too long ago.
    pub(super) fn is_to_be_read(&self, segment: &Segment) -> bool {
        let is_fresh =
            |seen: &Seen| seen.change_time == segment.change_time && seen.at.elapsed() <= RECEIPT_AGE_MAX;
        !self.seen.as_ref().is_some_and(is_fresh)
    }
}

/// What a receipt is for, in addition to the segment's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Subject {
    topic: String,
    partition: i32,
    log_id: String,
    version: Version,
}

impl Subject {
    fn of(segment: &Segment) -> Self {
        Self {
            topic: segment.partition.topic().to_owned(),
            partition: segment.partition.partition(),
            log_id: segment.log_id.as_str().to_owned(),
            version: segment.version,
        }
    }

    fn is(&self, segment: &Segment) -> bool {
        let partition = (segment.partition.topic(), segment.partition.partition());
        (self.topic.as_str(), self.partition) == partition
            && LogId::new(&self.log_id) == segment.log_id
            && self.version == segment.version
    }
}

#[derive(Deserialize)]
struct Line {
    name: String,
    #[serde(flatten)]
    of: Subject,
    receipt: Receipt,
}

#[derive(Serialize)]
struct LineRef<'a> {
    name: &'a str,
    #[serde(flatten)]
    of: &'a Subject,
    receipt: &'a Receipt,
}

impl<'a> LineRef<'a> {
    fn of((name, entry): (&'a String, &'a Entry)) -> Self {
        Self { name, of: &entry.of, receipt: &entry.receipt }
    }
}

impl Checkpoint {
    /// Opens or creates `DIR/NAME.checkpoint` and `DIR/NAME.logs`, and locks `DIR/NAME.lock`.
    pub async fn open(dir: &Path, name: &str) -> Result<Self, CheckpointError> {
        let lock = lock_file(&dir.join(format!("{name}.lock")))?;
        let mut checkpoint = Self::look_at(dir, name).await?;
        checkpoint._locks.push(lock);
        match checkpoint.journal.write_anew(lines(&checkpoint.entries)).await {
            // The agent must start on a full disk, because it is there to free space.
            Err(error) if is_full(&error) => {
                warn!(path = %checkpoint.journal.path().display(), %error, "the checkpoint cannot be written");
            }
            // Write now, so that a path that is not writable is found before there is a receipt to write.
            written => written.map_err(|source| failed_at(checkpoint.journal.path(), source))?,
        }
        Ok(checkpoint)
    }

    /// Reads `DIR/NAME.checkpoint` and `DIR/NAME.logs`, even if another process has locked them. The result
    /// must not be written.
    pub(super) async fn look_at(dir: &Path, name: &str) -> Result<Self, CheckpointError> {
        let path = dir.join(format!("{name}.checkpoint"));
        let read = Journal::read::<Line>(path.clone(), FIRST_LINE).await;
        let (journal, contents) = read.map_err(|error| failed_at(&path, error))?;
        let Some(contents) = contents else { return Err(CheckpointError::Foreign { path }) };
        let entry = |Line { name, of, receipt }| (name, Entry { receipt, seen: None, of });
        let entries: HashMap<_, _> = contents.lines.into_iter().map(entry).collect();
        if let Some(line) = contents.damaged_line {
            let (path, kept) = (path.display(), entries.len());
            warn!(%path, line, kept, "the checkpoint is damaged: its segments from that line on are sent again");
        }
        let logs = Logs::open(dir, name).await;
        let logs_path = dir.join(format!("{name}.logs"));
        let logs = logs.map_err(|error| failed_at(&logs_path, error))?;
        let mut logs = logs.ok_or(CheckpointError::Foreign { path: logs_path })?;
        logs.learn(known_from_receipts(&entries));
        Ok(Self { entries, journal, logs: Some(logs), _locks: Vec::new() })
    }

    /// Locks another file too, so that an agent that keeps its checkpoint elsewhere is noticed. The lock is
    /// left out if the file cannot be opened because of permissions, a read-only file system or a full disk.
    pub fn locked_by(mut self, path: &Path) -> Result<Self, CheckpointError> {
        match lock_file(path) {
            Ok(lock) => self._locks.push(lock),
            Err(CheckpointError::Io { source, .. }) if is_no_place(&source) => {}
            Err(error) => return Err(error),
        }
        Ok(self)
    }

    /// The receipt for this version of a segment, if there is one.
    pub(super) fn get(&self, segment: &Segment) -> Option<&Entry> {
        let entry = self.entries.get(&segment.name)?;
        let is_for_it =
            entry.of.is(segment) && entry.receipt.digest().size_bytes == segment.version.size_bytes;
        is_for_it.then_some(entry)
    }

    /// Records a new receipt. After an error, it is remembered for this process only.
    pub(super) async fn remember(&mut self, segment: &Segment, receipt: Receipt) -> io::Result<()> {
        let last_offset = receipt.offsets().map(|offsets| offsets.last());
        let entry = Entry { receipt, seen: Some(Seen::now(segment)), of: Subject::of(segment) };
        self.entries.insert(segment.name.clone(), entry);
        let line = LineRef::of((&segment.name, &self.entries[&segment.name]));
        let added = self.journal.add(&line, lines(&self.entries)).await;
        match (&mut self.logs, last_offset) {
            (Some(logs), Some(last_offset)) => added.and(logs.stored(segment, last_offset).await),
            _ => added,
        }
    }

    /// What is known of the partitions' logs.
    pub(super) fn known_logs(&self) -> HashMap<TopicPartition, Known> {
        self.logs.as_ref().map(Logs::known).unwrap_or_default()
    }

    /// Whether a segment of this name, size and time is stored, whatever its log id and its file.
    pub(super) fn has_copy_of(&self, segment: &Segment) -> bool {
        self.entries.get(&segment.name).is_some_and(|entry| {
            let (is, was) = (segment.version, entry.of.version);
            (is.size_bytes, is.changed_at) == (was.size_bytes, was.changed_at)
        })
    }

    /// Compares a listing with what is known of the partitions' logs. Returns whether something new must be
    /// [saved](Self::save_logs).
    pub(super) fn take_logs(&mut self, listing: &mut Listing, first_offsets: &FirstOffsets) -> bool {
        let Some(mut logs) = self.logs.take() else { return false };
        let is_changed = logs.take(listing, first_offsets, self);
        self.logs = Some(logs);
        is_changed
    }

    /// Writes what is known of the logs. After an error, it is remembered for this process only.
    pub(super) async fn save_logs(&mut self) -> io::Result<()> {
        match &mut self.logs {
            Some(logs) => logs.save().await,
            None => Ok(()),
        }
    }

    /// Records that the segment's bytes were read again and match its receipt.
    pub(super) fn confirm(&mut self, segment: &Segment) {
        if let Some(entry) = self.entries.get_mut(&segment.name) {
            entry.seen = Some(Seen::now(segment));
        }
    }

    /// Removes a receipt that must no longer be trusted, also for later processes.
    pub(super) async fn invalidate(&mut self, name: &str) -> io::Result<()> {
        self.forget(name);
        self.journal.write_anew(lines(&self.entries)).await
    }

    /// Removes a receipt that is no longer needed.
    pub(super) fn forget(&mut self, name: &str) {
        self.entries.remove(name);
    }

    /// Removes all receipts whose segments are gone, by name and partition.
    pub(super) fn retain(&mut self, is_there: impl Fn(&str, &TopicPartition) -> bool) {
        self.entries.retain(|name, entry| {
            let partition = TopicPartition::new(&*entry.of.topic, entry.of.partition);
            partition.is_ok_and(|partition| is_there(name, &partition))
        });
    }
}

/// What receipts say about the partitions' logs: the log id and the next offset of the latest receipt.
fn known_from_receipts(entries: &HashMap<String, Entry>) -> HashMap<TopicPartition, Known> {
    let mut latest_by_partition = HashMap::<TopicPartition, (Option<i64>, &str)>::new();
    for Entry { receipt, of, .. } in entries.values() {
        let Ok(partition) = TopicPartition::new(&*of.topic, of.partition) else { continue };
        let next = receipt.offsets().map(|offsets| offsets.last().saturating_add(1));
        let latest = latest_by_partition.entry(partition).or_insert((next, &of.log_id));
        if next > latest.0 {
            *latest = (next, &of.log_id);
        }
    }
    let known =
        |(partition, (next, log_id)): (_, (_, &str))| (partition, Known::new(log_id.to_owned(), next));
    latest_by_partition.into_iter().map(known).collect()
}

fn lines(entries: &HashMap<String, Entry>) -> impl ExactSizeIterator<Item = LineRef<'_>> {
    entries.iter().map(LineRef::of)
}

fn failed_at(path: &Path, source: io::Error) -> CheckpointError {
    CheckpointError::Io { path: path.to_owned(), source }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn is_no_place(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
        || is_full(error)
}

fn lock_file(path: &Path) -> Result<fs::File, CheckpointError> {
    let failed = |source| failed_at(path, source);
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(CheckpointError::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}
