//! Indexes the same records with each contender in turn, so that a slow minute of the machine affects all of
//! them.

use std::error::Error;

use bytes::Bytes;

use crate::Setup;
use crate::bare;
use crate::process::{Process, cores};
use crate::reference::{Fields, Reference};
use crate::sample::{Elapsed, Sample, timed};
use crate::segments::{Segment, megabytes};
use crate::worker::{Members, Worker};

/// The results of all rounds.
pub struct Contest {
    pub megabytes: f64,
    pub whole: Vec<Elapsed>,
    /// The client's CPU time during the whole path. The wall time is that of `whole`.
    pub client: Vec<Elapsed>,
    pub bare: Vec<Elapsed>,
    /// Empty if the reference is not built.
    pub lean: Vec<Elapsed>,
    pub stock: Vec<Elapsed>,
    /// The same in every round, because no clock value is stored in a bundle.
    pub members: Members,
}

impl Contest {
    pub fn speed(&self, took: &[Elapsed]) -> Sample {
        Sample::of(1, took, |took| self.megabytes / took.wall.as_secs_f64())
    }

    /// How many times faster the whole path is than another contender.
    pub fn ratio(&self, other: &[Elapsed]) -> Sample {
        Sample::ratios(other, &self.whole)
    }

    /// The median of CPU seconds.
    pub fn cpu(took: &[Elapsed]) -> f64 {
        Sample::of(2, took, |took| took.cpu.as_secs_f64()).median()
    }
}

/// Runs one round to warm up, and then `rounds` more. All segments are sent to the worker at the same time.
/// The references with these `fields` run in turn.
pub fn run(
    setup: &Setup,
    segments: &[Segment],
    rounds: usize,
    fields: &[Fields],
) -> Result<Contest, Box<dyn Error>> {
    let records: u64 = segments.iter().map(Segment::records).sum();
    let mut worker = Worker::start(&setup.directory)?;
    let mut references = Vec::new();
    for fields in fields {
        if let Some(reference) = Reference::start(&setup.reference, *fields, segments, &setup.directory)? {
            references.push((*fields, reference));
        }
    }
    let mut contest = Contest {
        megabytes: megabytes(segments),
        whole: Vec::new(),
        client: Vec::new(),
        bare: Vec::new(),
        lean: Vec::new(),
        stock: Vec::new(),
        members: Members::default(),
    };
    for round in 0..=rounds {
        let all = || segments.iter().map(|segment| segment.bytes.clone()).collect::<Vec<Bytes>>();
        let process = worker.process();
        let ((stored, whole), client) =
            timed(Process::this(), || timed(process, || worker.send(all(), segments.len())))?;
        contest.members = worker.members(&stored)?;
        worker.make_room()?;
        check(records, stored.records())?;
        let (documents, bare) = timed(Process::this(), || bare::index_all(segments, cores()))?;
        check(records, documents)?;
        if round > 0 {
            contest.whole.push(whole);
            contest.client.push(client);
            contest.bare.push(bare);
        }
        for (fields, reference) in &mut references {
            let (documents, took) = timed(reference.process(), || reference.index_all(cores()))?;
            check(records, documents)?;
            match fields {
                _ if round == 0 => {}
                Fields::Lean => contest.lean.push(took),
                Fields::Stock => contest.stock.push(took),
            }
        }
    }
    Ok(contest)
}

fn check(records: u64, indexed: u64) -> Result<(), String> {
    if records == indexed { Ok(()) } else { Err(format!("{records} records became {indexed}")) }
}
