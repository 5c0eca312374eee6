//! Which segments are stored already: a file of receipts that outlives the process.
//!
//! A first line says what it is; each line behind it is a CRC-32C and one receipt as JSON, appended as receipts come. The last
//! line about a name counts. A line that is torn or damaged ends what is read.
//!
//! Losing it costs time, never data: segments are sent again, and workers find them stored. Having too much in it costs no data
//! either: nothing is deleted on a receipt of an earlier process before the segment's bytes were read again and found to be what the
//! receipt says. So lines are not synced one by one.

use std::collections::HashMap;
use std::fs::{self, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;
use tracing::warn;

use crate::client::Receipt;
use crate::ids::LogId;
use crate::wal::{ChangeTime, Segment, Version};

const FIRST_LINE: &str = "wal-indexer checkpoint 1";

/// Lines that no longer count may be as many as those that do, and so many more, before the file is written anew.
const GARBAGE_LINES: usize = 256;

/// How old a receipt may be, for a segment to be deleted on it without its bytes being read again. Most segments go at once; one
/// that waits behind another is on a disk, where others write.
const RECEIPT_AGE_MAX: Duration = Duration::from_secs(30);

/// The receipts of one WAL directory; locked, so that no two agents look after one directory.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    entries: HashMap<String, Entry>,
    /// Where lines are appended; `None`: the file must be written anew first, because what follows in it would not be read.
    file: Option<File>,
    lines: usize,
    /// Unlocked by the end of the process, whatever ends it.
    _lock: fs::File,
}

/// Why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Another process holds it.
    #[error("another agent looks after this directory: {} is locked", path.display())]
    Locked {
        /// The lock.
        path: PathBuf,
    },
    /// Something else lies under its name, or a later version wrote it.
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
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A receipt, and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub receipt: Receipt,
    /// When this process has seen the bytes that the receipt is for. `None`: it was an earlier process that saw them.
    seen: Option<Seen>,
    of: Subject,
}

/// When a segment's bytes were seen to be what its receipt is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    at: Instant,
    /// The file's change time then.
    change_time: Option<ChangeTime>,
}

impl Seen {
    fn now(segment: &Segment) -> Self {
        Self { at: Instant::now(), change_time: segment.change_time }
    }
}

impl Entry {
    /// Whether the segment's bytes must be read again before it is deleted: an earlier process saw them last, the file was touched
    /// since, or it was long ago.
    pub(super) fn is_to_be_read(&self, segment: &Segment) -> bool {
        let is_fresh =
            |seen: &Seen| seen.change_time == segment.change_time && seen.at.elapsed() <= RECEIPT_AGE_MAX;
        !self.seen.as_ref().is_some_and(is_fresh)
    }
}

/// What a receipt is for, beside the segment's name.
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

impl Checkpoint {
    /// Opens or creates `DIR/NAME.checkpoint`, and locks `DIR/NAME.lock`.
    pub async fn open(dir: &Path, name: &str) -> Result<Self, CheckpointError> {
        let (path, lock) = (dir.join(format!("{name}.checkpoint")), dir.join(format!("{name}.lock")));
        let lock = lock_file(&lock)?;
        let bytes = match tokio::fs::read(&path).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed_at(&path, error)),
        };
        let Some(contents) = read(&bytes) else { return Err(CheckpointError::Foreign { path }) };
        if let Some(line) = contents.damaged_line {
            let (path, kept) = (path.display(), contents.entries.len());
            warn!(%path, line, kept, "the checkpoint is damaged; what it says from that line on is sent again");
        }
        let (entries, lines) = (contents.entries, contents.lines);
        let mut checkpoint = Self { path, entries, file: None, lines, _lock: lock };
        match checkpoint.write_anew().await {
            // A full disk is what an agent is there for.
            Err(error) if is_full(&error) => {
                warn!(path = %checkpoint.path.display(), %error, "the checkpoint cannot be written");
            }
            // Now, so that a place that cannot be written to is found before there is anything to write.
            written => written.map_err(|source| failed_at(&checkpoint.path, source))?,
        }
        Ok(checkpoint)
    }

    /// The receipt for a segment as it is, if there is one.
    pub(super) fn get(&self, segment: &Segment) -> Option<&Entry> {
        let entry = self.entries.get(&segment.name)?;
        let is_for_it =
            entry.of.is(segment) && entry.receipt.digest().size_bytes == segment.version.size_bytes;
        is_for_it.then_some(entry)
    }

    /// Remembers a receipt that has just come. An error means that it is remembered for this process only.
    pub(super) async fn remember(&mut self, segment: &Segment, receipt: Receipt) -> io::Result<()> {
        let entry = Entry { receipt, seen: Some(Seen::now(segment)), of: Subject::of(segment) };
        let line = line(&segment.name, &entry);
        self.entries.insert(segment.name.clone(), entry);
        let garbage = self.lines.saturating_sub(self.entries.len());
        match self.file.take() {
            Some(file) if garbage <= self.entries.len() + GARBAGE_LINES => self.append(file, line?).await,
            _ => self.write_anew().await,
        }
    }

    /// The segment's bytes have been read again, and are those that its receipt is for.
    pub(super) fn confirm(&mut self, segment: &Segment) {
        if let Some(entry) = self.entries.get_mut(&segment.name) {
            entry.seen = Some(Seen::now(segment));
        }
    }

    /// A receipt is no longer believed, by this process and by later ones.
    pub(super) async fn disown(&mut self, name: &str) -> io::Result<()> {
        self.forget(name);
        self.write_anew().await
    }

    /// A receipt is no longer needed.
    pub(super) fn forget(&mut self, name: &str) {
        self.entries.remove(name);
    }

    /// Forgets all but those that are still there.
    pub(super) fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        self.entries.retain(|name, _| is_there(name));
    }

    /// The file is kept for the next line only if this one went into it as a whole.
    async fn append(&mut self, mut file: File, line: String) -> io::Result<()> {
        file.write_all(line.as_bytes()).await?;
        file.flush().await?;
        self.lines += 1;
        self.file = Some(file);
        Ok(())
    }

    /// Writes all that counts to another file, which then takes the place of this one.
    async fn write_anew(&mut self) -> io::Result<()> {
        let mut text = format!("{FIRST_LINE}\n");
        for (name, entry) in &self.entries {
            text.push_str(&line(name, entry)?);
        }
        let temporary = self.path.with_extension("checkpoint.new");
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&temporary).await?;
        file.write_all(text.as_bytes()).await?;
        file.sync_all().await?;
        tokio::fs::rename(&temporary, &self.path).await?;
        if let Some(dir) = self.path.parent() {
            File::open(dir).await?.sync_all().await?;
        }
        self.lines = self.entries.len();
        self.file = Some(file);
        Ok(())
    }
}

fn failed_at(path: &Path, source: io::Error) -> CheckpointError {
    CheckpointError::Io { path: path.to_owned(), source }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
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

fn line(name: &str, entry: &Entry) -> io::Result<String> {
    let json = serde_json::to_string(&LineRef { name, of: &entry.of, receipt: &entry.receipt })?;
    Ok(format!("{:08x} {json}\n", crc32c::crc32c(json.as_bytes())))
}

/// What a checkpoint's bytes say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Contents {
    entries: HashMap<String, Entry>,
    /// Good ones, also those that later ones replace.
    lines: usize,
    /// The first that is not good, counted from 1.
    damaged_line: Option<usize>,
}

/// `None` where these are no checkpoint's bytes. Nothing at all, or a first line that was cut off, is an empty one.
fn read(bytes: &[u8]) -> Option<Contents> {
    let mut contents = Contents::default();
    let first = format!("{FIRST_LINE}\n");
    let Some(rest) = bytes.strip_prefix(first.as_bytes()) else {
        return first.as_bytes().starts_with(bytes).then_some(contents);
    };
    for line in rest.split_inclusive(|byte| *byte == b'\n') {
        let Some(Line { name, of, receipt }) = read_line(line) else {
            contents.damaged_line = Some(contents.lines + 2);
            break;
        };
        contents.entries.insert(name, Entry { receipt, seen: None, of });
        contents.lines += 1;
    }
    Some(contents)
}

fn read_line(line: &[u8]) -> Option<Line> {
    let (checksum, json) = line.strip_suffix(b"\n")?.split_at_checked(9)?;
    let checksum = std::str::from_utf8(checksum).ok()?.strip_suffix(' ')?;
    let is_whole = u32::from_str_radix(checksum, 16) == Ok(crc32c::crc32c(json));
    is_whole.then(|| serde_json::from_slice(json).ok())?
}
