//! Lists the segments of a WAL directory that may be sent.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::hold::{Watches, last_written};
use super::layout::{Folder, Layout};
use super::rejection_note::RejectionNotes;
use super::scan::{self, Contents, Halts, Oddities, SegmentFile, failed};
use super::{
    DirectoryIdentity, Halt, Halted, Hold, Listing, LogSigns, Segment, Verdict, WalError, root_hint,
};
use crate::formatting::chain;
use crate::ids::{LogId, LogIds, TopicPartition};

/// The file with the topic's id, beside a Kafka partition's segments.
const METADATA: &str = "partition.metadata";

/// Where Chronik's own indexer writes the output of `TOPIC/PARTITION`, beside the WAL directory (releases 2.0
/// to 2.10).
const INDEXER_OUTPUT: &str = "segments/segments";

/// An indexer that has not written for this long does not run any more: it looks for segments every 30 s.
const INDEXER_IDLE_MIN: Duration = Duration::from_secs(600);

/// The segments of a partition that may be sent.
struct Ready {
    segments: Vec<Segment>,
    has_own_id: bool,
}

/// The inputs of a listing, and the oddities that it finds.
pub(super) struct Lister<'a> {
    pub(super) root: &'a Path,
    pub(super) log_ids: &'a LogIds,
    pub(super) seal_idle_after: Option<Duration>,
    pub(super) watches: &'a Watches,
    pub(super) notes: &'a RejectionNotes,
    /// The segments whose note is not beside them.
    pub(super) noted_elsewhere: BTreeSet<String>,
    /// The oddities found so far.
    pub(super) oddities: Oddities,
}

impl Lister<'_> {
    /// Looks at all partitions. Removes notes whose segments are gone. Blocks.
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
            listing.hint = root_hint::hint(self.root);
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

    /// Adds the contents of a partition's directory, and returns whether it has a segment.
    fn look_into(&mut self, folder: &Folder, listing: &mut Listing) -> Result<bool, Halt> {
        let unreadable = |error: WalError| Halt::Unreadable(chain(&error));
        let contents = scan::contents(self.root, folder, &mut self.oddities).map_err(unreadable)?;
        let birth = DirectoryIdentity::of(&self.root.join(&folder.path)).map_err(unreadable)?;
        self.remove_orphans(folder, &contents);
        let (held, has_segments) = (self.held(folder, &contents), !contents.segments.is_empty());
        if let Some(ready) = self.ready(folder, contents)? {
            let signs = LogSigns { has_own_id: ready.has_own_id, birth };
            listing.logs.insert(folder.partition.clone(), signs);
            listing.segments.extend(ready.segments);
        }
        listing.held.extend(held);
        Ok(has_segments)
    }

    /// Looks for Chronik's own indexer, which cannot be turned off. It reads sealed segments some time after
    /// they were sealed, and fails for ever on segments that are gone.
    fn look_for_another_indexer(&mut self, folders: &[Folder]) {
        let Some(data) = self.root.parent() else { return };
        let at_work = folders.iter().filter(|folder| folder.layout == Layout::Chronik).find_map(|folder| {
            let output = data.join(INDEXER_OUTPUT).join(&folder.path);
            let written_at = std::fs::metadata(&output).and_then(|output| output.modified()).ok()?;
            let age = SystemTime::now().duration_since(written_at).unwrap_or_default();
            (age < INDEXER_IDLE_MIN).then_some(output)
        });
        if let Some(output) = at_work {
            let why = "the broker's own indexer is active here, and fails on segments that are gone: give it time with --keep-for";
            self.oddities.insert(output, why.to_owned());
        }
    }

    /// Returns the hold of a partition in which nothing may be deleted. There is none for Kafka, which
    /// deletes its segments itself.
    fn held(&self, folder: &Folder, contents: &Contents) -> Option<(TopicPartition, Hold)> {
        if folder.layout.broker_deletes() {
            return None;
        }
        self.watches.see(folder, contents);
        // With an age of zero, only a hold that does not end by itself is returned.
        let hold = self.watches.hold(folder, contents, Duration::ZERO)?;
        Some((folder.partition.clone(), hold))
    }

    /// Returns the segments that may be sent; `None`: there is none.
    fn ready(&mut self, folder: &Folder, mut contents: Contents) -> Result<Option<Ready>, Halt> {
        let Some(newest) = contents.newest() else { return Ok(None) };
        // The broker may continue with a lower segment than the highest. That segment is in use, too.
        let last_written = if folder.layout.broker_deletes() { None } else { last_written(&contents) };
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
                broker_deletes: folder.layout.broker_deletes(),
                verdict: if noted { self.verdict(folder, &file) } else { None },
                change_time: Some(file.change_time),
                bounds: folder.layout.bounds(file.position, &positions),
            });
        }
        Ok(Some(Ready { segments, has_own_id: said.is_some() }))
    }

    /// Whether a newest segment has bytes to send and was last written to long ago; false if that time is in
    /// the future.
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
                let why = format!("it counts as rejected, because the note about it cannot be read: {error}");
                self.oddities.insert(self.root.join(name), why);
                Some(Verdict::Rejected)
            }
        }
    }

    /// The log's id, if its directory has it.
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
            // Both must be true: the segment was not in the listing, and it is not there now.
            let directory = self.root.join(&folder.path);
            if let Ok(None) = scan::metadata(&directory.join(&note.segment)) {
                // A note that stays does no harm.
                let _ = std::fs::remove_file(directory.join(&note.file));
            }
        }
    }
}

/// Reads the topic's id from a `partition.metadata`, which has lines of `KEY: VALUE`; `None`: there is no
/// such file.
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
