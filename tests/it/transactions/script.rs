//! A log with transactions, written in letters, and the state that each of its records must have.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use wal_indexer::generate::kafka::{self, BatchHead};
use wal_indexer::generate::{Codec, Format, chronik};
use wal_indexer::ids::{OffsetRange, TopicPartition};
use wal_indexer::internals::record::{RecordBatch, RecordSpans, Span};

use crate::reading::BASE_MS;

/// The state of a record. One that counts is committed, or outside of transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Counts,
    Aborted,
    Open,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// This many records, in a transaction or not.
    Data(i64, bool),
    /// A control record of this type.
    Control(i16),
}

/// A batch.
#[derive(Clone, Copy, Debug)]
struct Event {
    segment: usize,
    offset: i64,
    producer: Option<i64>,
    epoch: i16,
    kind: Kind,
}

/// Batches in sequence, from offset 0 on.
#[derive(Debug, Default)]
pub struct Script {
    events: Vec<Event>,
    ends: Vec<i64>,
    padding: usize,
}

impl Script {
    /// Parses letters: see `SCRIPTS`. A capital letter is the same producer with a later epoch.
    pub fn parse(text: &str) -> Self {
        let mut script = Self::default();
        for word in text.split_whitespace() {
            let first = word.chars().next().expect("a letter");
            let id = |letter: char| i64::from(letter.to_ascii_lowercase() as u8 - b'a');
            let (producer, kind) = match (first, word.chars().last()) {
                ('|', _) => {
                    script.ends.push(script.next_offset());
                    continue;
                }
                ('.', _) => (None, Kind::Data(1, false)),
                ('i', _) => (Some(id('i')), Kind::Data(1, false)),
                // A change of leader, as in the controllers' own log.
                ('k', _) => (None, Kind::Control(2)),
                (letter, Some('-')) => (Some(id(letter)), Kind::Control(0)),
                (letter, Some('+')) => (Some(id(letter)), Kind::Control(1)),
                (letter, _) => (Some(id(letter)), Kind::Data(word.len() as i64, true)),
            };
            script.push(producer, i16::from(first.is_ascii_uppercase()), kind);
        }
        script.ends.push(script.next_offset());
        script
    }

    /// Returns a random script with this many batches, in this many segments.
    pub fn random(seed: u64, batches: usize, segments: usize) -> Self {
        let (mut rng, mut script) = (StdRng::seed_from_u64(seed), Self::default());
        for nth in 0..batches {
            if nth > 0 && nth % (batches / segments) == 0 {
                script.ends.push(script.next_offset());
            }
            let producer = rng.random_range(0..4);
            match rng.random_range(0..10) {
                0 => script.push(None, -1, Kind::Data(rng.random_range(1..4), false)),
                1 => script.push(Some(producer), 0, Kind::Data(1, false)),
                2 => script.push(Some(producer), 0, Kind::Control(0)),
                3 => script.push(Some(producer), 0, Kind::Control(1)),
                _ => script.push(Some(producer), 0, Kind::Data(rng.random_range(1..4), true)),
            }
        }
        script.ends.push(script.next_offset());
        script
    }

    fn push(&mut self, producer: Option<i64>, epoch: i16, kind: Kind) {
        let (segment, offset) = (self.ends.len(), self.next_offset());
        self.events.push(Event { segment, offset, producer, epoch, kind });
    }

    fn next_offset(&self) -> i64 {
        self.events.last().map_or(0, |event| event.offset + event.kind.offsets())
    }

    /// Makes each value larger by this many bytes, which are not text, and leaves it uncompressed.
    pub fn pad(&mut self, bytes: usize) {
        self.padding = bytes;
    }

    /// Returns how many segments there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns the offset behind the first `segments` segments.
    pub fn end_of(&self, segments: usize) -> i64 {
        self.ends[segments - 1]
    }

    /// Returns the state of each record in the segments `stored`, if no others are stored. The next marker of
    /// the record's producer decides.
    pub fn states(&self, stored: Range<usize>) -> BTreeMap<i64, State> {
        let stored: Vec<_> = self.events.iter().filter(|event| stored.contains(&event.segment)).collect();
        let mut states = BTreeMap::new();
        for (nth, event) in stored.iter().enumerate() {
            let Kind::Data(records, transactional) = event.kind else { continue };
            let end = stored[nth..].iter().find_map(|later| match later.kind {
                Kind::Control(kind) if later.producer == event.producer && kind < 2 => Some(kind),
                _ => None,
            });
            let state = match (transactional, end) {
                (false, _) | (true, Some(1)) => State::Counts,
                (true, Some(_)) => State::Aborted,
                (true, None) => State::Open,
            };
            states.extend((event.offset..event.offset + records).map(|offset| (offset, state)));
        }
        states
    }

    /// Returns the bytes of the segments.
    pub fn segments(&self, format: Format) -> Vec<Bytes> {
        let mut segments = vec![Vec::new(); self.len()];
        for event in &self.events {
            event.write(format, self.padding, &mut segments[event.segment]);
        }
        segments.into_iter().map(Bytes::from).collect()
    }

    /// Returns the Kafka batches whose first offsets meet `takes`.
    pub fn batches(&self, takes: impl Fn(i64) -> bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.events
            .iter()
            .filter(|event| takes(event.offset))
            .for_each(|event| event.write(Format::Kafka, self.padding, &mut bytes));
        bytes
    }
}

impl Kind {
    fn offsets(self) -> i64 {
        match self {
            Self::Data(records, _) => records,
            Self::Control(_) => 1,
        }
    }
}

impl Event {
    fn write(&self, format: Format, padding: usize, out: &mut Vec<u8>) {
        let last = self.offset + self.kind.offsets() - 1;
        let head = BatchHead {
            range: OffsetRange::new(self.offset, last),
            producer_id: self.producer.unwrap_or(-1),
            producer_epoch: if self.producer.is_some() { self.epoch } else { -1 },
            transactional: matches!(self.kind, Kind::Data(_, true) | Kind::Control(0 | 1)),
            control: matches!(self.kind, Kind::Control(_)),
            ..BatchHead::default()
        };
        let (mut bytes, mut records) = (Vec::new(), Vec::new());
        let mut span = |part: &[u8]| {
            bytes.extend_from_slice(part);
            Some(Span { start: (bytes.len() - part.len()) as u32, len: part.len() as u32 })
        };
        for offset in self.offset..=last {
            let (key, value) = match self.kind {
                Kind::Data(..) => {
                    let parity = if offset % 2 == 0 { "even" } else { "odd" };
                    let line = format!("line {offset} {parity}").into_bytes();
                    (None, span(&[line, vec![0xff; padding]].concat()))
                }
                // The key is a version and a type, the value a version and the coordinator's epoch.
                Kind::Control(kind) => {
                    (span(&[[0, 0], kind.to_be_bytes()].concat()), span(&[0, 0, 0, 0, 0, 7]))
                }
            };
            let timestamp_ms = Some(BASE_MS + offset);
            records.push(RecordSpans { offset, timestamp_ms, key, value, headers: 0..0 });
        }
        let batch = RecordBatch { bytes: bytes.into(), records, headers: Vec::new() };
        let codec = if head.control || padding > 0 { Codec::None } else { Codec::Gzip };
        let mut wire = Vec::new();
        kafka::encode(&head, &batch, codec, &mut wire).expect("a batch");
        match format {
            Format::Kafka => out.extend(wire),
            _ => {
                let partition = TopicPartition::new("orders", 3).expect("a partition");
                chronik::encode_v2(&partition, &head, codec, &batch, Some(&wire), out);
            }
        }
    }
}
