//! Tracks which log each partition has: the id under which its records are stored, and the end of the stored
//! offsets. So another log of the same name is noticed before its records are mixed with those of the first.
//!
//! Kafka writes the id of a topic beside its segments, in `partition.metadata`. If that file is missing, or
//! the layout has no such file, the log has the configured id. Then there is only one sign of another log:
//! the offsets begin anew, and the directory is another one.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::checkpoint::Checkpoint;
use super::journal::Journal;
use crate::formatting::chain;
use crate::ids::{LogId, TopicPartition};
use crate::wal::{DirectoryIdentity, Halt, Halted, Listing, LogSigns, SealedSegments, Segment};

const FIRST_LINE: &str = "wal-indexer logs 1";

/// What is remembered of the partitions' logs. An entry stays when its partition is gone, because the
/// partition may come back.
#[derive(Debug)]
pub(super) struct Logs {
    known: HashMap<TopicPartition, Known>,
    journal: Journal,
}

/// What is remembered of a partition's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    log_id: String,
    #[serde(rename = "says_its_id")]
    has_own_id: bool,
    birth: Option<DirectoryIdentity>,
    /// The offset after the last stored offset. `None`: nothing is stored.
    next_offset: Option<i64>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    topic: String,
    partition: i32,
    #[serde(flatten)]
    known: Known,
}

impl Line {
    fn of((partition, known): (&TopicPartition, &Known)) -> Self {
        let (topic, number) = (partition.topic().to_owned(), partition.partition());
        Self { topic, partition: number, known: known.clone() }
    }
}

/// The first offset of each segment, by name, for partitions whose log may be another one. An error says why
/// the offset cannot be read.
pub(super) type FirstOffsets = HashMap<String, Result<Option<i64>, String>>;

/// The decision which log a partition has.
#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    /// The remembered log. Its directory may be another one.
    Same,
    /// The remembered log, whatever id the listing says.
    KeepId,
    /// Another one, with the id that the listing says.
    Another,
    /// It is unknown which log it is, or it must not be mixed with what is stored.
    Halt(Halt),
}

impl Logs {
    /// Opens `DIR/NAME.logs`, which may be missing. Returns `None` if the file is something else.
    pub(super) async fn open(dir: &Path, name: &str) -> io::Result<Option<Self>> {
        let path = dir.join(format!("{name}.logs"));
        let (journal, contents) = Journal::read::<Line>(path, FIRST_LINE).await?;
        let Some(contents) = contents else { return Ok(None) };
        if let Some(line) = contents.damaged_line {
            let path = journal.path().display();
            warn!(%path, line, "the file of known logs is damaged from that line on");
        }
        let mut known = HashMap::new();
        for Line { topic, partition, known: log } in contents.lines {
            known.extend(TopicPartition::new(&*topic, partition).ok().map(|partition| (partition, log)));
        }
        Ok(Some(Self { known, journal }))
    }

    /// Returns a copy of what is known, for a listing that runs at the same time.
    pub(super) fn known(&self) -> HashMap<TopicPartition, Known> {
        self.known.clone()
    }

    /// Records that a segment is stored.
    pub(super) async fn stored(&mut self, segment: &Segment, last_offset: i64) -> io::Result<()> {
        let next = last_offset.saturating_add(1);
        match self.known.get_mut(&segment.partition) {
            Some(known) if LogId::new(&known.log_id) == segment.log_id && known.next_offset < Some(next) => {
                known.next_offset = Some(next);
            }
            _ => return Ok(()),
        }
        let line = Line::of((&segment.partition, &self.known[&segment.partition]));
        self.journal.add(&line, self.known.iter().map(Line::of)).await
    }

    /// Adds what receipts say about partitions of which nothing else is known.
    pub(super) fn learn(&mut self, from_receipts: HashMap<TopicPartition, Known>) {
        for (partition, known) in from_receipts {
            self.known.entry(partition).or_insert(known);
        }
    }

    /// Compares a listing with what is known. Sets the log ids of its segments, and halts partitions whose
    /// logs must not be mixed. Returns whether something new must be [saved](Self::save).
    pub(super) fn take(
        &mut self,
        listing: &mut Listing,
        first_offsets: &FirstOffsets,
        checkpoint: &Checkpoint,
    ) -> bool {
        let mut of_partitions: BTreeMap<&TopicPartition, Vec<&Segment>> = BTreeMap::new();
        for segment in &listing.segments {
            of_partitions.entry(&segment.partition).or_default().push(segment);
        }
        let (mut still, mut halted, mut is_changed) = (HashMap::new(), Vec::new(), false);
        for (partition, segments) in of_partitions {
            let (Some(signs), Some(first)) = (listing.logs.get(partition), segments.first()) else {
                continue;
            };
            let known = self.known.get(partition).cloned();
            let anew = known
                .as_ref()
                .map_or(Ok(false), |known| known.begins_anew(signs, &segments, first_offsets, checkpoint));
            let judgement = match anew {
                Ok(anew) => judge(known.as_ref(), signs, &first.log_id, anew),
                Err(why) => Judgement::Halt(Halt::Unreadable(why)),
            };
            let now = match (judgement, known) {
                (Judgement::Halt(halt), _) => {
                    let name =
                        first.name.rsplit_once('/').map_or(&*first.name, |(above, _)| above).to_owned();
                    halted.push(Halted { name, partition: Some(partition.clone()), halt });
                    continue;
                }
                (Judgement::Same, Some(known)) => {
                    Known { has_own_id: signs.has_own_id, birth: signs.birth, ..known }
                }
                (Judgement::KeepId, Some(known)) => {
                    let log_id = LogId::new(&known.log_id);
                    if self.known.get(partition).is_none_or(|before| before.birth != signs.birth) {
                        let (kept, listed) = (&known.log_id, first.log_id.as_str());
                        info!(%partition, kept, listed, "its offsets continue, so it is the log that it was, and it keeps its id");
                    }
                    still.insert(partition.clone(), log_id);
                    Known { birth: signs.birth, ..known }
                }
                (Judgement::Another, _) | (Judgement::Same | Judgement::KeepId, None) => Known {
                    log_id: first.log_id.as_str().to_owned(),
                    has_own_id: signs.has_own_id,
                    birth: signs.birth,
                    next_offset: None,
                },
            };
            if self.known.get(partition) != Some(&now) {
                self.known.insert(partition.clone(), now);
                is_changed = true;
            }
        }
        listing.halted.extend(halted);
        for segment in &mut listing.segments {
            if let Some(log_id) = still.get(&segment.partition) {
                segment.log_id = log_id.clone();
            }
        }
        is_changed
    }

    pub(super) async fn save(&mut self) -> io::Result<()> {
        self.journal.write_anew(self.known.iter().map(Line::of)).await
    }
}

impl Known {
    pub(super) fn new(log_id: String, next_offset: Option<i64>) -> Self {
        Self { log_id, has_own_id: false, birth: None, next_offset }
    }

    /// Whether a listing says the same about the log.
    fn is_as(&self, signs: &LogSigns, log_id: &LogId) -> bool {
        let is_there = self.birth == signs.birth && self.has_own_id == signs.has_own_id;
        is_there && LogId::new(&self.log_id) == *log_id
    }

    /// Whether a segment that is not stored begins with a stored offset, in a directory that is not the known
    /// one.
    fn begins_anew(
        &self,
        signs: &LogSigns,
        segments: &[&Segment],
        first_offsets: &FirstOffsets,
        checkpoint: &Checkpoint,
    ) -> Result<bool, String> {
        let Some(next) = self.next_offset else { return Ok(false) };
        if self.birth.is_some() && self.birth == signs.birth {
            return Ok(false);
        }
        for segment in segments.iter().filter(|segment| !checkpoint.has_copy_of(segment)) {
            let first = first_offsets.get(&segment.name).cloned().unwrap_or(Ok(None))?;
            if first.is_some_and(|first| first < next) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Decides which log a partition has. `anew`: its offsets begin anew, and its directory is another one.
fn judge(known: Option<&Known>, signs: &LogSigns, listed: &LogId, anew: bool) -> Judgement {
    let Some(known) = known else { return Judgement::Another };
    let is_same_id = LogId::new(&known.log_id) == *listed;
    match (known.has_own_id, signs.has_own_id) {
        // Topic ids are never reused.
        (_, true) if is_same_id => Judgement::Same,
        (true, true) => Judgement::Another,
        // The broker was upgraded, and now writes the file.
        (false, true) if !anew && known.next_offset.is_some() => Judgement::KeepId,
        (false, true) => Judgement::Another,
        // The file was lost.
        (true, false) if anew => Judgement::Halt(Halt::LogIdLost),
        (true, false) => Judgement::KeepId,
        // The configured id was changed.
        (false, false) if !is_same_id => Judgement::Another,
        (false, false) if anew => Judgement::Halt(Halt::CreatedAgain { log_id: listed.clone() }),
        (false, false) => Judgement::Same,
    }
}

/// Reads the first offsets of segments in partitions whose log may not be the known one.
pub(super) async fn first_offsets<W: SealedSegments>(
    wal: &W,
    known: &HashMap<TopicPartition, Known>,
    listing: &Listing,
) -> FirstOffsets {
    let mut first_offsets = FirstOffsets::new();
    for segment in &listing.segments {
        let Some(signs) = listing.logs.get(&segment.partition) else { continue };
        // A partition that is not known cannot have another log than the known one.
        if known.get(&segment.partition).is_none_or(|known| known.is_as(signs, &segment.log_id)) {
            continue;
        }
        let first = wal.first_offset(segment).await.map_err(|error| chain(&error));
        first_offsets.insert(segment.name.clone(), first);
    }
    first_offsets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(known: (&str, bool, Option<i64>), listed: (&str, bool), anew: bool, expected: Judgement) {
        let (log_id, has_own_id, next_offset) = known;
        let known = Known { has_own_id, ..Known::new(log_id.to_owned(), next_offset) };
        let signs = LogSigns { has_own_id: listed.1, birth: None };
        assert_eq!(
            judge(Some(&known), &signs, &LogId::new(listed.0), anew),
            expected,
            "{known:?} {listed:?}"
        );
    }

    #[test]
    fn a_log_is_another_one_only_where_its_own_id_or_its_offsets_say_so() {
        let (stored, nothing) = (Some(100), None);
        check(("0", false, stored), ("topic-id", true), false, Judgement::KeepId);
        check(("0", false, stored), ("topic-id", true), true, Judgement::Another);
        check(("0", false, nothing), ("topic-id", true), false, Judgement::Another);
        check(("topic-id", true, stored), ("0", false), false, Judgement::KeepId);
        check(("topic-id", true, stored), ("0", false), true, Judgement::Halt(Halt::LogIdLost));
        check(("topic-id", true, stored), ("topic-id", true), true, Judgement::Same);
        check(("topic-id", true, stored), ("another", true), false, Judgement::Another);
        check(("0", false, stored), ("0", false), false, Judgement::Same);
        let created_again = Judgement::Halt(Halt::CreatedAgain { log_id: LogId::new("0") });
        check(("0", false, stored), ("0", false), true, created_again);
        check(("0", false, stored), ("1", false), true, Judgement::Another);
    }
}
