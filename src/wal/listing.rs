//! The segments of a WAL directory that may be sent.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::hold::{Watches, last_written};
use super::layout::{Folder, Layout};
use super::rejection_note::RejectionNotes;
use super::scan::{self, Contents, Halts, Oddities, SegmentFile, failed};
use super::{Birth, Halt, Halted, Hold, Listing, LogSigns, Segment, Verdict, WalError, level};
use crate::formatting::chain;
use crate::ids::{LogId, LogIds, TopicPartition};

/// Beside a Kafka partition's segments.
const METADATA: &str = "partition.metadata";

/// Where Chronik's own indexer puts what it makes of `TOPIC/PARTITION`, beside the WAL directory (its releases 2.0 to 2.10).
const INDEXER_OUTPUT: &str = "segments/segments";

/// An indexer that has written nothing for so long is at work no more: it looks for segments every 30 s.
const INDEXER_IDLE_MIN: Duration = Duration::from_secs(600);

/// The segments of a partition that may be sent.
struct Ready {
    segments: Vec<Segment>,
    says_its_id: bool,
}

/// What a listing is made with.
pub(super) struct Lister<'a> {
    pub(super) root: &'a Path,
    pub(super) log_ids: &'a LogIds,
    pub(super) seal_idle_after: Option<Duration>,
    pub(super) watches: &'a Watches,
    pub(super) notes: &'a RejectionNotes,
    /// The segments with a note that is not beside them.
    pub(super) noted_elsewhere: BTreeSet<String>,
    /// Fills while it looks.
    pub(super) oddities: Oddities,
}

impl Lister<'_> {
    /// Looks at all partitions. Notes whose segments have gone are removed on the way. Blocks.
    pub(super) fn list(&mut self) -> Result<Listing, WalError> {
        let (mut listing, mut halts) = (Listing::default(), Halts::new());
        let folders = scan::folders(self.root, &mut self.oddities, &mut halts)?;
        let mut partitions = 0;
        for folder in &folders {
            match self.look_into(folder, &mut listing) {
                Ok(has_segments) => partitions += u64::from(has_segments),
                Err(halt) => {
                    let (name, partition) = (folder.path.clone(), Some(folder.partition.clone()));
                    halts.insert(name.clone(), Halted { name, partition, halt });
                }
            }
        }
        listing.partitions = Some(partitions);
        if partitions == 0 && halts.is_empty() {
            listing.hint = level::hint(self.root);
        }
        listing.halted = halts.into_values().collect();
        self.watches.retain(&folders);
        for name in &self.noted_elsewhere {
            if let Ok(None) = scan::metadata(&self.root.join(name)) {
                self.notes.drop(self.root, name);
            }
        }
        self.look_for_another_indexer(&folders);
        Ok(listing)
    }

    /// Adds what a partition's directory holds, and says whether there is a segment.
    fn look_into(&mut self, folder: &Folder, listing: &mut Listing) -> Result<bool, Halt> {
        let unreadable = |error: WalError| Halt::Unreadable(chain(&error));
        let contents = scan::contents(self.root, folder, &mut self.oddities).map_err(unreadable)?;
        let birth = Birth::of(&self.root.join(&folder.path)).map_err(unreadable)?;
        self.remove_orphans(folder, &contents);
        let (held, has_segments) = (self.held(folder, &contents), !contents.segments.is_empty());
        if let Some(ready) = self.ready(folder, contents)? {
            let signs = LogSigns { says_its_id: ready.says_its_id, birth };
            listing.logs.insert(folder.partition.clone(), signs);
            listing.segments.extend(ready.segments);
        }
        listing.held.extend(held);
        Ok(has_segments)
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

    /// The segments that may be sent; `None`: there is none.
    fn ready(&mut self, folder: &Folder, mut contents: Contents) -> Result<Option<Ready>, Halt> {
        let Some(newest) = contents.newest() else { return Ok(None) };
        // The broker may go on with a lower one than the highest: that one is in use, too.
        let last_written = if folder.layout.keeps() { None } else { last_written(&contents) };
        let is_in_use = |file: &SegmentFile| file.position == newest || Some(file.position) == last_written;
        let positions: BTreeSet<u64> = contents.segments.iter().map(|file| file.position).collect();
        contents.segments.retain(|file| !is_in_use(file) || self.is_idle(file));
        if contents.segments.is_empty() {
            return Ok(None);
        }
        let said = self.log_id_said(folder).map_err(|error| Halt::LogIdUnreadable(chain(&error)))?;
        let log_id = said.as_ref().unwrap_or_else(|| self.log_ids.of(folder.partition.topic()));
        let mut segments = Vec::with_capacity(contents.segments.len());
        for file in contents.segments {
            let name = folder.name_of(&file.file);
            let noted = contents.notes.iter().any(|note| note.segment == file.file)
                || self.noted_elsewhere.contains(&name);
            segments.push(Segment {
                name,
                partition: folder.partition.clone(),
                log_id: log_id.clone(),
                format: Some(folder.layout.format()),
                position: file.position,
                version: file.version,
                may_grow: is_in_use(&file),
                kept: folder.layout.keeps(),
                verdict: if noted { self.verdict(folder, &file) } else { None },
                change_time: Some(file.change_time),
                bounds: folder.layout.bounds(file.position, &positions),
            });
        }
        Ok(Some(Ready { segments, says_its_id: said.is_some() }))
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
        let name = folder.name_of(&file.file);
        match self.notes.read(self.root, &name) {
            Ok(note) => note.filter(|note| note.version == file.version).map(|note| note.verdict),
            Err(error) => {
                let why = format!("it counts as rejected, since the note about it cannot be read: {error}");
                self.oddities.insert(self.root.join(name), why);
                Some(Verdict::Rejected)
            }
        }
    }

    /// The log's id, where its directory says it.
    fn log_id_said(&self, folder: &Folder) -> Result<Option<LogId>, WalError> {
        match folder.layout {
            Layout::Chronik => Ok(None),
            Layout::Kafka => {
                let path = self.root.join(&folder.path).join(METADATA);
                topic_id(&path).map_err(|error| failed("read", &path, error))
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
