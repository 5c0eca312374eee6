//! The WAL directories of Chronik and Kafka.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tracing::warn;
use url::Url;

use super::hold::{Watches, is_log_longer};
use super::layout::{self, Folder, Layout};
use super::lease::Writers;
use super::listing::Lister;
use super::reader::{Opened, VersionReader};
use super::rejection_note::RejectionNotes;
use super::scan::{self, Halts, Oddities, failed, unless_gone};
use super::{
    ChangeTime, Hold, Listing, Reading, Rejection, SealedSegments, Segment, Verdict, Version, WalError,
    frames, ignored, rejection_note,
};
use crate::client::Receipt;
use crate::formatting::chain;
use crate::ids::{LogIds, TopicPartition};

/// In a URL's path every byte except `[A-Za-z0-9._-]` is encoded.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'_').remove(b'-');

/// A directory in which a broker keeps its log: `TOPIC/PARTITION/wal_PARTITION_ID.log` (Chronik) or
/// `TOPIC-PARTITION/OFFSET.log` (Kafka), recognised by these names. It ignores topics that start with `__`,
/// and all other files. It does not follow links below the directory.
///
/// The segment with the highest number of each partition is never deleted, because Chronik counts on from it
/// after a restart. Another segment is deleted only if
///
/// - the highest segment is also the one that was last written to, and has been for
///   [`Self::min_segment_age`]: Chronik may create several files at once and continue with a lower one;
/// - a later segment holds a whole frame beyond its last offset: Chronik finds the end of its log there when
///   it starts;
/// - no process has it open for writing.
#[derive(Clone, Debug)]
pub struct WalDir {
    root: PathBuf,
    log_ids: LogIds,
    seal_idle_after: Option<Duration>,
    min_segment_age: Duration,
    writer_check: WriterCheck,
    seen_at: Option<Url>,
    notes: RejectionNotes,
    watches: Watches,
    /// The oddities that were already logged.
    known_oddities: Arc<Mutex<Oddities>>,
}

/// Whether a file may be deleted while a process may have it open for writing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriterCheck {
    /// A file is not deleted if it is open for writing, or if this is not known. A read lease shows it; the
    /// lease needs the file's owner or `CAP_LEASE`, and a local file system. Without a lease, the open files
    /// of all processes show it.
    #[default]
    Required,
    /// There is no check. The operator of the broker ensures that sealed files are closed.
    Off,
}

impl WalDir {
    /// Makes a WAL directory for the log under `root`. `log_ids` are the incarnations of the topics' logs, if
    /// the directory does not name them; Kafka's directories do, in `partition.metadata`. A single
    /// [`LogId`](crate::ids::LogId) applies to all topics.
    pub fn new(root: impl Into<PathBuf>, log_ids: impl Into<LogIds>) -> Self {
        Self {
            root: root.into(),
            log_ids: log_ids.into(),
            seal_idle_after: None,
            min_segment_age: Duration::ZERO,
            writer_check: WriterCheck::default(),
            seen_at: None,
            notes: RejectionNotes::default(),
            watches: Watches::default(),
            known_oddities: Arc::default(),
        }
    }

    /// Sets how long a partition's newest segment must be unchanged before it is listed too; `None`: it is
    /// never listed.
    pub fn seal_idle_after(mut self, idle: Option<Duration>) -> Self {
        self.seal_idle_after = idle;
        self
    }

    /// Sets how long a partition's highest segment must have been the last written one, before anything of
    /// the partition is deleted.
    pub fn min_segment_age(mut self, age: Duration) -> Self {
        self.min_segment_age = age;
        self
    }

    /// Sets whether files may be deleted while a process may have them open for writing.
    pub fn writer_check(mut self, check: WriterCheck) -> Self {
        self.writer_check = check;
        self
    }

    /// Sets the URL under which workers see the directory, if they share the storage. It must be a URL that
    /// can have a path.
    pub fn seen_at(mut self, url: Option<Url>) -> Self {
        self.seen_at = url;
        self
    }

    /// Sets where notes about rejected segments are kept.
    pub fn notes(mut self, notes: RejectionNotes) -> Self {
        self.notes = notes;
        self
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The path of a segment's file.
    pub fn path_of(&self, segment: &Segment) -> PathBuf {
        self.root.join(&segment.name)
    }

    /// Returns where the logs start from which segments were deleted: for each partition without its first
    /// segments, the lowest offset that one of its files begins with. Only Chronik's layout shows which
    /// segments are the first.
    ///
    /// # Errors
    /// The directory cannot be read. A partition that cannot be read is skipped with a warning.
    pub async fn first_offsets(&self) -> Result<BTreeMap<TopicPartition, i64>, WalError> {
        self.blocking(Self::first_offsets_now).await
    }

    fn first_offsets_now(&self) -> Result<BTreeMap<TopicPartition, i64>, WalError> {
        let (mut starts, mut oddities) = (BTreeMap::new(), Oddities::new());
        for folder in scan::folders(&self.root, &mut oddities, &mut Halts::new())? {
            match self.first_offset_in(&folder, &mut oddities) {
                Ok(first) => starts.extend(first.map(|first| (folder.partition, first))),
                Err(error) => {
                    let (directory, error) = (&folder.path, chain(&error));
                    warn!(
                        directory,
                        error, "cannot read where this log starts: the next deletion tells its broker"
                    );
                }
            }
        }
        Ok(starts)
    }

    /// Returns the lowest offset that a file begins with, for a partition without its first segments.
    fn first_offset_in(&self, folder: &Folder, oddities: &mut Oddities) -> Result<Option<i64>, WalError> {
        let contents = scan::contents(&self.root, folder, oddities)?;
        let is_whole = contents.segments.iter().any(|file| file.position == 0);
        if is_whole || folder.layout.broker_deletes() {
            return Ok(None);
        }
        let mut first = None::<i64>;
        for file in &contents.segments {
            let path = self.root.join(folder.name_of(&file.file));
            let begins = frames::first_offset(&path, folder.layout.format());
            let begins = begins.map_err(|error| failed("read", &path, error))?;
            first = first.into_iter().chain(begins).min();
        }
        Ok(first)
    }

    /// Returns the names in the directory that are not in `listed`, each with the reason as a text. It leaves
    /// out directories on the way to segments, and files that are not segments.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub async fn ignored_names(&self, listed: Vec<Segment>) -> Result<BTreeMap<String, String>, WalError> {
        self.blocking(move |dir| ignored::names(&dir.root, &listed, dir.seal_idle_after.is_some())).await
    }

    pub(super) fn list_now(&self) -> Result<Listing, WalError> {
        let mut lister = Lister {
            root: &self.root,
            log_ids: &self.log_ids,
            seal_idle_after: self.seal_idle_after,
            watches: &self.watches,
            notes: &self.notes,
            noted_elsewhere: self.notes.names_elsewhere(),
            oddities: Oddities::new(),
        };
        let listing = lister.list()?;
        for (path, why) in self.new_oddities(lister.oddities) {
            warn!(path = %path.display(), why, "unexpected entry in the WAL directory");
        }
        Ok(listing)
    }

    /// Returns the oddities that the last listing did not have.
    pub(super) fn new_oddities(&self, oddities: Oddities) -> Oddities {
        let mut known = self.known_oddities.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new_oddities = oddities.clone();
        new_oddities.retain(|path, why| known.get(path) != Some(why));
        *known = oddities;
        new_oddities
    }

    /// Whether the last listing found an oddity at this path.
    #[cfg(test)]
    pub(super) fn is_odd(&self, path: &Path) -> bool {
        self.known_oddities.lock().unwrap_or_else(PoisonError::into_inner).contains_key(path)
    }

    fn hold_now(&self, segment: &Segment, receipt: &Receipt) -> Result<Option<Hold>, WalError> {
        let (folder, _) = place(segment)?;
        if segment.broker_deletes || folder.layout.broker_deletes() || segment.may_grow {
            return Ok(None);
        }
        let path = self.path_of(segment);
        match self.open_listed(segment, &path) {
            Ok(Some(file)) => match self.hold_of(&file, segment, receipt)? {
                Some(hold) => Ok(Some(hold)),
                None => Ok(self.writers(&file, &path)?.err()),
            },
            // Only a file that is there and is the listed version can be held. For other files the deletion
            // reports what is wrong.
            Ok(None) | Err(WalError::Changed { .. } | WalError::Touched { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns why an open file must stay, as far as its partition shows it. Writers are checked separately.
    fn hold_of(&self, file: &File, segment: &Segment, receipt: &Receipt) -> Result<Option<Hold>, WalError> {
        let (folder, position) = place(segment)?;
        let contents = scan::contents(&self.root, &folder, &mut Oddities::new())?;
        if contents.newest().is_none_or(|newest| newest <= position) {
            return Ok(None);
        }
        if let Some(hold) = self.watches.hold(&folder, &contents, self.min_segment_age) {
            return Ok(Some(hold));
        }
        let last = last_offset(&folder, file, receipt)
            .map_err(|error| failed("read", &self.path_of(segment), error))?;
        let is_end = match last {
            Some(last) => !is_log_longer(&self.root, &folder, &contents, position, last)?,
            None => false,
        };
        Ok(is_end.then_some(Hold::EndOfLog))
    }

    fn unstored_below_now(
        &self,
        partition: &TopicPartition,
        offset: i64,
        stored: &[Segment],
    ) -> Result<Option<String>, WalError> {
        let Some(folder) = Folder::chronik(partition.topic(), &partition.partition().to_string()).is() else {
            return Ok(None);
        };
        let contents = scan::contents(&self.root, &folder, &mut Oddities::new())?;
        for file in contents.segments.iter().filter(|file| file.version.size_bytes > 0) {
            let name = folder.name_of(&file.file);
            if stored.iter().any(|segment| segment.name == name && segment.version == file.version) {
                continue;
            }
            let (path, format) = (self.root.join(&name), folder.layout.format());
            let unread = |error| failed("read", &path, error);
            let is_below = !frames::reach_beyond(&path, format, offset.saturating_sub(1)).map_err(unread)?;
            if is_below && frames::first_offset(&path, format).map_err(unread)?.is_some() {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// Ensures that nobody writes to the file while the returned value is held, or returns why the file must
    /// stay.
    fn writers<'file>(
        &self,
        file: &'file File,
        path: &Path,
    ) -> Result<Result<Writers<'file>, Hold>, WalError> {
        if self.writer_check == WriterCheck::Off {
            return Ok(Ok(Writers::None { _lease: None }));
        }
        let writers = Writers::of(file).map_err(|error| failed("look for writers of", path, error))?;
        Ok(match writers {
            none @ Writers::None { .. } => Ok(none),
            Writers::Some => Err(Hold::OpenForWriting),
            Writers::Unknown(why) => Err(Hold::WritersUnknown(why)),
        })
    }

    fn delete_now(&self, segment: &Segment, receipt: &Receipt) -> Result<(), WalError> {
        let name = || segment.name.clone();
        let (folder, position) = place(segment)?;
        // The names decide, and not the caller's fields, because these files may be the only copies.
        if segment.broker_deletes || folder.layout.broker_deletes() {
            return Err(WalError::BrokerDeletes { name: name() });
        }
        let size_bytes = segment.version.size_bytes;
        if receipt.digest().size_bytes != size_bytes {
            let receipt_bytes = receipt.digest().size_bytes;
            return Err(WalError::OtherReceipt { name: name(), size_bytes, receipt_bytes });
        }
        let path = self.path_of(segment);
        if let Some(file) = self.open_listed(segment, &path)? {
            if segment.may_grow || !scan::has_newer(&self.root, &folder, position)? {
                return Err(WalError::MayGrow { name: name() });
            }
            let held = |hold| WalError::Held { name: name(), hold };
            if let Some(hold) = self.hold_of(&file, segment, receipt)? {
                return Err(held(hold));
            }
            let _no_writers = self.writers(&file, &path)?.map_err(held)?;
            // The checks above may take a while. So the file is checked last, while nobody can open it for
            // writing.
            if self.is_untouched(segment, &path)? {
                unless_gone(fs::remove_file(&path)).map_err(|error| failed("delete", &path, error))?;
            }
        }
        // If a note stays, the next listing removes it.
        self.notes.drop(&self.root, &segment.name);
        // Also if the segment was already gone: it may have been deleted a moment ago, and not durably.
        rejection_note::sync_directory_of(&path)
    }

    /// Opens the file, if it is there and has not changed since it was listed. A changed file is an error.
    fn open_listed(&self, segment: &Segment, path: &Path) -> Result<Option<File>, WalError> {
        if !self.is_untouched(segment, path)? {
            return Ok(None);
        }
        unless_gone(File::open(path)).map_err(|error| failed("open", path, error))
    }

    /// Whether the file is there and has not changed since it was listed. A file that is another version, or
    /// that was touched, is an error.
    fn is_untouched(&self, segment: &Segment, path: &Path) -> Result<bool, WalError> {
        let Some(metadata) = self.listed(segment, path)? else { return Ok(false) };
        match segment.change_time.is_none_or(|listed| listed == ChangeTime::of(&metadata)) {
            true => Ok(true),
            false => Err(WalError::Touched { name: segment.name.clone() }),
        }
    }

    /// Returns the file's metadata, if it is there and is the listed version. Another version is an error.
    fn listed(&self, segment: &Segment, path: &Path) -> Result<Option<Metadata>, WalError> {
        let Some(metadata) = scan::metadata(path)? else { return Ok(None) };
        let version = Version::of(&metadata).map_err(|error| failed("look at", path, error))?;
        match metadata.is_file() && version == segment.version {
            true => Ok(Some(metadata)),
            false => Err(WalError::Changed { name: segment.name.clone() }),
        }
    }

    fn reject_now(&self, segment: &Segment, rejection: &Rejection) -> Result<(), WalError> {
        let (folder, position) = place(segment)?;
        let path = self.path_of(segment);
        if self.listed(segment, &path)?.is_none() {
            return Err(WalError::Gone { name: segment.name.clone() });
        }
        if segment.bounds.is_some() {
            // Since the listing, a compaction may have put other segments after this one. Then the segment
            // was refused by mistake.
            let contents = scan::contents(&self.root, &folder, &mut Oddities::new())?;
            let positions = contents.segments.iter().map(|file| file.position).collect();
            if folder.layout.bounds(position, &positions) != segment.bounds {
                return Err(WalError::Changed { name: segment.name.clone() });
            }
        }
        // An operator skipped it while a worker still had it.
        let skipped = |note: rejection_note::RejectionNote| {
            note.verdict == Verdict::Skipped && note.version == segment.version
        };
        if self.notes.read(&self.root, &segment.name).is_ok_and(|note| note.is_some_and(skipped)) {
            return Ok(());
        }
        self.notes.write(&self.root, &segment.name, Verdict::Rejected, rejection, segment.version)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, WalError> + Send + 'static,
    ) -> Result<T, WalError> {
        let dir = self.clone();
        match tokio::task::spawn_blocking(move || work(&dir)).await {
            Ok(done) => done,
            Err(error) => Err(failed("work on", &self.root, io::Error::other(error))),
        }
    }
}

/// Returns the place that the segment's name gives. It is always below the directory, even if the name is
/// made up.
fn place(segment: &Segment) -> Result<(Folder, u64), WalError> {
    layout::place(&segment.name).ok_or_else(|| WalError::NotASegment { name: segment.name.clone() })
}

/// Returns the greatest offset in a segment, from its receipt. Receipts of earlier releases do not have it;
/// then it is read from the file.
fn last_offset(folder: &Folder, file: &File, receipt: &Receipt) -> io::Result<Option<i64>> {
    match receipt.offsets() {
        Some(range) => Ok(Some(range.last())),
        None => frames::last_offset(file, folder.layout.format()),
    }
}

impl SealedSegments for WalDir {
    async fn list(&self) -> Result<Listing, WalError> {
        self.blocking(Self::list_now).await
    }

    async fn open(&self, segment: &Segment) -> Result<Reading, WalError> {
        let segment = segment.clone();
        self.blocking(move |dir| {
            place(&segment)?;
            let path = dir.path_of(&segment);
            let opened = Opened::new(&path, &segment)?;
            let reader = VersionReader::new(opened).map_err(|error| failed("open", &path, error))?;
            Ok(Box::pin(reader) as Reading)
        })
        .await
    }

    async fn first_offset(&self, segment: &Segment) -> Result<Option<i64>, WalError> {
        let segment = segment.clone();
        self.blocking(move |dir| {
            let (folder, position) = place(&segment)?;
            match folder.layout {
                Layout::Kafka => Ok(i64::try_from(position).ok()),
                Layout::Chronik => {
                    let path = dir.path_of(&segment);
                    frames::first_offset(&path, folder.layout.format())
                        .map_err(|error| failed("read", &path, error))
                }
            }
        })
        .await
    }

    async fn hold(&self, segment: &Segment, receipt: &Receipt) -> Result<Option<Hold>, WalError> {
        let (segment, receipt) = (segment.clone(), receipt.clone());
        self.blocking(move |dir| dir.hold_now(&segment, &receipt)).await
    }

    async fn unstored_below(
        &self,
        partition: &TopicPartition,
        offset: i64,
        stored: &[Segment],
    ) -> Result<Option<String>, WalError> {
        let (partition, stored) = (partition.clone(), stored.to_vec());
        self.blocking(move |dir| dir.unstored_below_now(&partition, offset, &stored)).await
    }

    async fn delete(&self, segment: &Segment, receipt: &Receipt) -> Result<(), WalError> {
        let (segment, receipt) = (segment.clone(), receipt.clone());
        self.blocking(move |dir| dir.delete_now(&segment, &receipt)).await
    }

    async fn reject(&self, segment: &Segment, rejection: &Rejection) -> Result<(), WalError> {
        let (segment, rejection) = (segment.clone(), rejection.clone());
        self.blocking(move |dir| dir.reject_now(&segment, &rejection)).await
    }

    fn url(&self, segment: &Segment) -> Option<Url> {
        let mut url = self.seen_at.clone().filter(|url| !url.cannot_be_a_base())?;
        let encoded = segment.name.split('/').map(|part| utf8_percent_encode(part, ENCODED).to_string());
        let above = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{above}/{}", encoded.collect::<Vec<_>>().join("/")));
        Some(url)
    }
}
