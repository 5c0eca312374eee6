//! The segments of a WAL directory that may be sent.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::hold::{Watches, last_written};
use super::layout::{Folder, Layout};
use super::scan::{self, Contents, Oddities, SegmentFile, failed};
use super::{Hold, Listing, Segment, Verdict, WalError, note};
use crate::ids::{LogId, TopicPartition};

/// Beside a Kafka partition's segments.
const METADATA: &str = "partition.metadata";

/// Where Chronik's own indexer puts what it makes of `TOPIC/PARTITION`, beside the WAL directory (its releases 2.0 to 2.10).
const INDEXER_OUTPUT: &str = "segments/segments";

/// An indexer that has written nothing for so long is at work no more: it looks for segments every 30 s.
const INDEXER_IDLE_MIN: Duration = Duration::from_secs(600);

/// What a listing is made with.
pub(super) struct Lister<'a> {
    pub(super) root: &'a Path,
    pub(super) log_id: &'a LogId,
    pub(super) seal_idle_after: Option<Duration>,
    pub(super) watches: &'a Watches,
    /// Fills while it looks.
    pub(super) oddities: Oddities,
}

impl Lister<'_> {
    /// Looks at all partitions. Notes whose segments have gone are removed on the way. Blocks.
    pub(super) fn list(&mut self) -> Result<Listing, WalError> {
        let mut listing = Listing::default();
        let folders = scan::folders(self.root, &mut self.oddities)?;
        for folder in &folders {
            let contents = scan::contents(self.root, folder, &mut self.oddities)?;
            self.remove_orphans(folder, &contents);
            listing.held.extend(self.held(folder, &contents));
            listing.segments.extend(self.ready(folder, contents)?);
        }
        self.watches.retain(&folders);
        self.look_for_another_indexer(&folders);
        Ok(listing)
    }

    /// Chronik has an indexer of its own, which cannot be turned off. It reads sealed segments some time after they were sealed, and fails for
    /// ever on those that are gone.
    fn look_for_another_indexer(&mut self, folders: &[Folder]) {
        let Some(data) = self.root.parent() else { return };
        let at_work = folders.iter().filter(|folder| folder.layout == Layout::Chronik).find_map(|folder| {
            let output = data.join(INDEXER_OUTPUT).join(&folder.path);
            let written_at = std::fs::metadata(&output).and_then(|output| output.modified()).ok()?;
            let age = SystemTime::now().duration_since(written_at).unwrap_or_default();
            (age < INDEXER_IDLE_MIN).then_some(output)
        });
        if let Some(output) = at_work {
            let why = "the broker's own indexer is at work here, and fails on segments that are gone: leave it time with --keep-for";
            self.oddities.insert(output, why.to_owned());
        }
    }

    /// A partition in which nothing may be deleted. What of Kafka's is deleted is Kafka's business.
    fn held(&self, folder: &Folder, contents: &Contents) -> Option<(TopicPartition, Hold)> {
        if folder.layout.keeps() {
            return None;
        }
        self.watches.see(folder, contents);
        // Only this one does not pass by itself.
        let hold = self.watches.hold(folder, contents, Duration::ZERO)?;
        Some((folder.partition.clone(), hold))
    }

    fn ready(&mut self, folder: &Folder, mut contents: Contents) -> Result<Vec<Segment>, WalError> {
        let Some(newest) = contents.newest() else { return Ok(Vec::new()) };
        // The broker may go on with a lower one than the highest: that one is in use, too.
        let last_written = if folder.layout.keeps() { None } else { last_written(&contents) };
        let is_in_use = |file: &SegmentFile| file.position == newest || Some(file.position) == last_written;
        contents.segments.retain(|file| !is_in_use(file) || self.is_idle(file));
        if contents.segments.is_empty() {
            return Ok(Vec::new());
        }
        let log_id = self.log_id_of(folder)?;
        let mut segments = Vec::with_capacity(contents.segments.len());
        for file in contents.segments {
            let noted = contents.notes.iter().any(|note| note.segment == file.file);
            segments.push(Segment {
                name: folder.name_of(&file.file),
                partition: folder.partition.clone(),
                log_id: log_id.clone(),
                format: Some(folder.layout.format()),
                position: file.position,
                version: file.version,
                may_grow: is_in_use(&file),
                kept: folder.layout.keeps(),
                verdict: if noted { self.verdict(folder, &file) } else { None },
                change_time: Some(file.change_time),
            });
        }
        Ok(segments)
    }

    /// Whether a newest segment has something to send and was last written to long ago; not, if that time is still to come.
    fn is_idle(&self, file: &SegmentFile) -> bool {
        let unchanged_for = SystemTime::now().duration_since(file.version.changed_at);
        match (self.seal_idle_after, unchanged_for) {
            (Some(idle), Ok(unchanged_for)) => unchanged_for >= idle && file.version.size_bytes > 0,
            (None, _) | (_, Err(_)) => false,
        }
    }

    fn verdict(&mut self, folder: &Folder, file: &SegmentFile) -> Option<Verdict> {
        let path = self.root.join(folder.name_of(&file.file));
        match note::read(&path) {
            Ok(note) => note.filter(|note| note.version == file.version).map(|note| note.verdict),
            Err(error) => {
                let why = format!("it counts as rejected, since the note about it cannot be read: {error}");
                self.oddities.insert(path, why);
                Some(Verdict::Rejected)
            }
        }
    }

    fn log_id_of(&self, folder: &Folder) -> Result<LogId, WalError> {
        match folder.layout {
            Layout::Chronik => Ok(self.log_id.clone()),
            Layout::Kafka => {
                let path = self.root.join(&folder.path).join(METADATA);
                let topic_id = topic_id(&path).map_err(|error| failed("read", &path, error))?;
                Ok(topic_id.unwrap_or_else(|| self.log_id.clone()))
            }
        }
    }

    fn remove_orphans(&mut self, folder: &Folder, contents: &Contents) {
        for note in &contents.notes {
            if contents.segments.iter().any(|file| file.file == note.segment) {
                continue;
            }
            // Both must hold: that it was not among the names, and that it is not there now.
            let directory = self.root.join(&folder.path);
            if let Ok(None) = scan::metadata(&directory.join(&note.segment)) {
                // One that stays is in nobody's way.
                let _ = std::fs::remove_file(directory.join(&note.file));
            }
        }
    }
}

/// The topic's id in a `partition.metadata`, lines of `KEY: VALUE`; `None`: there is no such file.
fn topic_id(path: &Path) -> std::io::Result<Option<LogId>> {
    let Some(text) = scan::unless_gone(std::fs::read_to_string(path))? else { return Ok(None) };
    let id = text.lines().find_map(|line| line.strip_prefix("topic_id:")).map(str::trim);
    // Sixteen bytes in URL-safe base64, without padding.
    let valid = |id: &&str| {
        id.len() == 22 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    match id.filter(valid) {
        Some(id) => Ok(Some(LogId::new(id))),
        None => Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "it holds no topic_id")),
    }
}
