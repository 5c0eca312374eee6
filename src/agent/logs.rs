//! Which log each partition's is: under which id its records are stored, and up to where. So another log of the same name is noticed
//! before its records are mixed with those of the first.
//!
//! Kafka writes the id of a topic beside its segments, in `partition.metadata`. Where that is missing, or the layout has none, the log has
//! the id that was set. Then only offsets that begin anew in a directory that is another one tell that the log is another one.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::checkpoint::Checkpoint;
use super::journal::Journal;
use crate::formatting::chain;
use crate::ids::{LogId, TopicPartition};
use crate::wal::{Birth, Halt, Halted, Listing, LogSigns, SealedSegments, Segment};

const FIRST_LINE: &str = "wal-indexer logs 1";

/// What is remembered of the partitions' logs. It is kept when a partition is gone: it may come again.
#[derive(Debug)]
pub(super) struct Logs {
    known: HashMap<TopicPartition, Known>,
    journal: Journal,
}

/// What is remembered of a partition's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    log_id: String,
    says_its_id: bool,
    birth: Option<Birth>,
    /// Behind the last offset that is stored; `None`: nothing is.
    next_offset: Option<i64>,
}

#[derive(Serialize, Deserialize)]
struct PermitQueue {
    topic: String,
    partition: i32,
    #[serde(flatten)]
    known: Known,
}

impl PermitQueue {
    fn of((partition, known): (&TopicPartition, &Known)) -> Self {
        let (topic, number) = (partition.topic().to_owned(), partition.partition());
        Self { topic, partition: number, known: known.clone() }
    }
}

/// The offsets that segments begin with, by name, of partitions whose logs may be others; or why that cannot be read.
pub(super) type FirstOffsets = HashMap<String, Result<Option<i64>, String>>;

/// What a partition's log is, as far as can be told.
#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    /// What is remembered, though its directory may be another one.
    Same,
    /// What is remembered, whatever id the listing says.
    Still,
    /// Another one, with the id that the listing says.
    Another,
    /// Nobody can tell, or it must not be mixed with what is stored.
    Halt(Halt),
}

impl Logs {
    /// Opens `DIR/NAME.logs`, which need not be there. `None`: it is something else.
    pub(super) async fn open(dir: &Path, name: &str) -> io::Result<Option<Self>> {
        let path = dir.join(format!("{name}.logs"));
        let (journal, contents) = Journal::read::<PermitQueue>(path, FIRST_LINE).await?;
        let Some(contents) = contents else { return Ok(None) };
        if let Some(line) = contents.damaged_line {
            let path = journal.path().display();
            warn!(%path, line, "what is remembered of logs is damaged from that line on");
        }
        let mut known = HashMap::new();
        for PermitQueue { topic, partition, known: log } in contents.lines {
            known.extend(TopicPartition::new(&*topic, partition).ok().map(|partition| (partition, log)));
        }
        Ok(Some(Self { known, journal }))
    }

    /// What is known, for whoever looks at the segments meanwhile.
    pub(super) fn known(&self) -> HashMap<TopicPartition, Known> {
        self.known.clone()
    }

    /// A segment is stored.
    pub(super) async fn stored(&mut self, segment: &Segment, last_offset: i64) -> io::Result<()> {
        let next = last_offset.saturating_add(1);
        match self.known.get_mut(&segment.partition) {
            Some(known) if LogId::new(&known.log_id) == segment.log_id && known.next_offset < Some(next) => {
                known.next_offset = Some(next);
            }
            _ => return Ok(()),
        }
        let line = PermitQueue::of((&segment.partition, &self.known[&segment.partition]));
        self.journal.add(&line, self.known.iter().map(PermitQueue::of)).await
    }

    /// Takes what receipts tell of partitions of which nothing else is known.
    pub(super) fn learn(&mut self, told: HashMap<TopicPartition, Known>) {
        for (partition, known) in told {
            self.known.entry(partition).or_insert(known);
        }
    }

    /// Holds a listing against what is known: gives its segments the ids of their logs, and halts partitions whose logs must not be mixed.
    /// Says whether anything was learned that is to be [saved](Self::save).
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
                    Known { says_its_id: signs.says_its_id, birth: signs.birth, ..known }
                }
                (Judgement::Still, Some(known)) => {
                    let log_id = LogId::new(&known.log_id);
                    if self.known.get(partition).is_none_or(|before| before.birth != signs.birth) {
                        let (kept, listed) = (&known.log_id, first.log_id.as_str());
                        info!(%partition, kept, listed, "its offsets go on, so it is the log that it was, and keeps its id");
                    }
                    still.insert(partition.clone(), log_id);
                    Known { birth: signs.birth, ..known }
                }
                (Judgement::Another, _) | (Judgement::Same | Judgement::Still, None) => Known {
                    log_id: first.log_id.as_str().to_owned(),
                    says_its_id: signs.says_its_id,
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
        self.journal.write_anew(self.known.iter().map(PermitQueue::of)).await
    }
}

impl Known {
    pub(super) fn new(log_id: String, next_offset: Option<i64>) -> Self {
        Self { log_id, says_its_id: false, birth: None, next_offset }
    }

    /// Whether a listing says the same.
    fn is_as(&self, signs: &LogSigns, log_id: &LogId) -> bool {
        let is_there = self.birth == signs.birth && self.says_its_id == signs.says_its_id;
        is_there && LogId::new(&self.log_id) == *log_id
    }

    /// Whether a segment that is not stored, in a directory that is not known, begins with an offset that is.
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

/// What a partition's log is. `anew`: its offsets begin anew in a directory that is another one.
fn judge(known: Option<&Known>, signs: &LogSigns, listed: &LogId, anew: bool) -> Judgement {
    let Some(known) = known else { return Judgement::Another };
    let is_same_id = LogId::new(&known.log_id) == *listed;
    match (known.says_its_id, signs.says_its_id) {
        // Ids of topics are never used again.
        (_, true) if is_same_id => Judgement::Same,
        (true, true) => Judgement::Another,
        // A broker that was upgraded has written the file.
        (false, true) if !anew && known.next_offset.is_some() => Judgement::Still,
        (false, true) => Judgement::Another,
        // The file was lost.
        (true, false) if anew => Judgement::Halt(Halt::LogIdLost),
        (true, false) => Judgement::Still,
        // Somebody set another one.
        (false, false) if !is_same_id => Judgement::Another,
        (false, false) if anew => Judgement::Halt(Halt::CreatedAgain { log_id: listed.clone() }),
        (false, false) => Judgement::Same,
    }
}

/// The offsets that segments begin with, of the partitions whose logs may be others than those that are known.
pub(super) async fn first_offsets<W: SealedSegments>(
    wal: &W,
    known: &HashMap<TopicPartition, Known>,
    listing: &Listing,
) -> FirstOffsets {
    let mut first_offsets = FirstOffsets::new();
    for segment in &listing.segments {
        let Some(signs) = listing.logs.get(&segment.partition) else { continue };
        // Of what is not known, none can be another one.
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
        let (log_id, says_its_id, next_offset) = known;
        let known = Known { says_its_id, ..Known::new(log_id.to_owned(), next_offset) };
        let signs = LogSigns { says_its_id: listed.1, birth: None };
        assert_eq!(
            judge(Some(&known), &signs, &LogId::new(listed.0), anew),
            expected,
            "{known:?} {listed:?}"
        );
    }

    #[test]
    fn a_log_is_another_one_only_where_its_own_id_or_its_offsets_say_so() {
        let (stored, nothing) = (Some(100), None);
        check(("0", false, stored), ("topic-id", true), false, Judgement::Still);
        check(("0", false, stored), ("topic-id", true), true, Judgement::Another);
        check(("0", false, nothing), ("topic-id", true), false, Judgement::Another);
        check(("topic-id", true, stored), ("0", false), false, Judgement::Still);
        check(("topic-id", true, stored), ("0", false), true, Judgement::Halt(Halt::LogIdLost));
        check(("topic-id", true, stored), ("topic-id", true), true, Judgement::Same);
        check(("topic-id", true, stored), ("another", true), false, Judgement::Another);
        check(("0", false, stored), ("0", false), false, Judgement::Same);
        let created_again = Judgement::Halt(Halt::CreatedAgain { log_id: LogId::new("0") });
        check(("0", false, stored), ("0", false), true, created_again);
        check(("0", false, stored), ("1", false), true, Judgement::Another);
    }
}
