//! The directories of Chronik and Kafka.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tracing::warn;
use url::Url;

use super::layout::{self, Folder};
use super::listing::Lister;
use super::reader::{Opened, VersionReader};
use super::scan::{self, Oddities, failed, unless_gone};
use super::{Reading, Rejection, SealedSegments, Segment, Verdict, Version, WalError, note};
use crate::client::Receipt;
use crate::ids::LogId;

/// In a URL's path every byte is encoded but `[A-Za-z0-9._-]`.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'_').remove(b'-');

/// A directory in which a broker keeps its log: `TOPIC/PARTITION/wal_PARTITION_ID.log` (Chronik) or
/// `TOPIC-PARTITION/OFFSET.log` (Kafka), recognised by these names. Topics that start with `__` are left alone, links below
/// the directory are not followed, and everything else in it is none of our business.
///
/// Of each partition the segment with the highest number is the one that its broker writes to. It is never deleted, also
/// because Chronik counts on from it after a restart.
#[derive(Clone, Debug)]
pub struct WalDir {
    root: PathBuf,
    log_id: LogId,
    seal_idle_after: Option<Duration>,
    seen_at: Option<Url>,
    /// What was warned of before.
    known_oddities: Arc<Mutex<Oddities>>,
}

impl WalDir {
    /// The log under `root`. `log_id` is the incarnation of the log, where the directory does not say it: Kafka's does, in
    /// `partition.metadata`.
    pub fn new(root: impl Into<PathBuf>, log_id: LogId) -> Self {
        Self {
            root: root.into(),
            log_id,
            seal_idle_after: None,
            seen_at: None,
            known_oddities: Arc::default(),
        }
    }

    /// For how long a partition's newest segment must not have been written to, to be listed too; `None`: it never is.
    pub fn seal_idle_after(mut self, idle: Option<Duration>) -> Self {
        self.seal_idle_after = idle;
        self
    }

    /// Where workers see the directory, if they share the storage: a URL that can have a path.
    pub fn seen_at(mut self, url: Option<Url>) -> Self {
        self.seen_at = url;
        self
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a segment's file is.
    pub fn path_of(&self, segment: &Segment) -> PathBuf {
        self.root.join(&segment.name)
    }

    pub(super) fn list_now(&self) -> Result<Vec<Segment>, WalError> {
        let mut lister = Lister {
            root: &self.root,
            log_id: &self.log_id,
            seal_idle_after: self.seal_idle_after,
            oddities: Oddities::new(),
        };
        let segments = lister.list()?;
        for (path, why) in self.news(lister.oddities) {
            warn!(path = %path.display(), why, "something odd in the WAL directory");
        }
        Ok(segments)
    }

    /// Those that were not there the last time.
    pub(super) fn news(&self, oddities: Oddities) -> Oddities {
        let mut known = self.known_oddities.lock().unwrap_or_else(PoisonError::into_inner);
        let mut news = oddities.clone();
        news.retain(|path, why| known.get(path) != Some(why));
        *known = oddities;
        news
    }

    fn delete_now(&self, segment: &Segment, receipt: &Receipt) -> Result<(), WalError> {
        let name = || segment.name.clone();
        let (folder, position) = place(segment)?;
        // What the names say counts, whatever the caller was told: these are people's only copies.
        if segment.kept || folder.layout.keeps() {
            return Err(WalError::Kept { name: name() });
        }
        let size_bytes = segment.version.size_bytes;
        if receipt.digest().size_bytes != size_bytes {
            let receipt_bytes = receipt.digest().size_bytes;
            return Err(WalError::OtherReceipt { name: name(), size_bytes, receipt_bytes });
        }
        let path = self.path_of(segment);
        if self.is_listed(segment, &path)? {
            if segment.may_grow || !scan::has_newer(&self.root, &folder, position)? {
                return Err(WalError::MayGrow { name: name() });
            }
            // A look at the directory may take a while: the file has the last word.
            if self.is_listed(segment, &path)? {
                unless_gone(fs::remove_file(&path)).map_err(|error| failed("delete", &path, error))?;
            }
        }
        // One that stays goes with the next listing.
        let _ = fs::remove_file(note::path_of(&path));
        // Also where it had gone already: perhaps a moment ago, and not for good.
        note::sync_directory_of(&path)
    }

    /// Whether the file is there, and what it was when it was listed. Another one is an error.
    fn is_listed(&self, segment: &Segment, path: &Path) -> Result<bool, WalError> {
        let Some(metadata) = scan::metadata(path)? else { return Ok(false) };
        let version = Version::of(&metadata).map_err(|error| failed("look at", path, error))?;
        match metadata.is_file() && version == segment.version {
            true => Ok(true),
            false => Err(WalError::Changed { name: segment.name.clone() }),
        }
    }

    fn reject_now(&self, segment: &Segment, rejection: &Rejection) -> Result<(), WalError> {
        place(segment)?;
        let path = self.path_of(segment);
        if !self.is_listed(segment, &path)? {
            return Err(WalError::Gone { name: segment.name.clone() });
        }
        // Decided by an operator while a worker still had it.
        let skipped = |note: note::Note| note.verdict == Verdict::Skipped && note.version == segment.version;
        if note::read(&path).is_ok_and(|note| note.is_some_and(skipped)) {
            return Ok(());
        }
        note::write(&path, Verdict::Rejected, rejection, segment.version)
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

/// Where the segment's name says that it is: below the directory, whoever made the name.
fn place(segment: &Segment) -> Result<(Folder, u64), WalError> {
    layout::place(&segment.name).ok_or_else(|| WalError::NotASegment { name: segment.name.clone() })
}

impl SealedSegments for WalDir {
    async fn list(&self) -> Result<Vec<Segment>, WalError> {
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
