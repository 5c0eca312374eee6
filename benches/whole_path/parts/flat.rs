//! Goal 3: a megabyte costs the same CPU time in a small segment and in a large one.

use std::error::Error;

use bytes::Bytes;
use wal_indexer::generate::Codec;

use crate::Setup;
use crate::report::{Goal, Report, Table};
use crate::sample::{Elapsed, Sample, timed};
use crate::segments::{Case, Segment};
use crate::worker::Worker;

const MIB: usize = 1 << 20;

/// The segment sizes, and the number of segments in a round. There are enough for a clock with a resolution
/// of hundredths of a second.
const SIZES: [(&str, usize, u64); 5] = [
    ("1 MB", 1_000_000, 200),
    ("4 MB", 4_000_000, 50),
    ("64 MB", 64_000_000, 4),
    ("250 MB", 250_000_000, 1),
    ("1 GiB", 1_024 * MIB, 1),
];

/// The size with which the others are compared.
const MIDDLE: &str = "64 MB";

/// A few rounds are enough, because each round sends two gigabytes.
const ROUNDS_MAX: usize = 3;

pub fn run(setup: &Setup, report: &mut Report) -> Result<(), Box<dyn Error>> {
    report.part(
        "flat",
        &format!(
            "Two segments at a time, over gRPC; CPU of the worker alone; {} rounds.",
            setup.rounds.min(ROUNDS_MAX)
        ),
    );
    for case in [Case::kafka(Codec::None), Case::chronik(Codec::None)] {
        measure(setup, report, case)?;
    }
    Ok(())
}

fn measure(setup: &Setup, report: &mut Report, case: Case) -> Result<(), Box<dyn Error>> {
    let sizes = SIZES.iter().filter(|(_, bytes, _)| *bytes <= setup.bytes_max);
    let mut rows = Vec::new();
    for (name, bytes, count) in sizes {
        let segments = Segment::logs(case, *bytes, *count)?;
        let segments: Vec<Bytes> = segments.into_iter().map(|segment| segment.bytes).collect();
        let megabytes = segments.iter().map(|segment| segment.len() as f64 / 1e6).sum::<f64>();
        rows.push(Row { name, megabytes, segments, took: Vec::new() });
    }
    let mut worker = Worker::start(&setup.directory)?;
    for round in 0..=setup.rounds.min(ROUNDS_MAX) {
        for row in &mut rows {
            let process = worker.process();
            let (_, took) = timed(process, || worker.send(row.segments.iter().cloned(), 2))?;
            worker.make_room()?;
            if round > 0 {
                row.took.push(took);
            }
        }
    }
    let Some(middle) = rows.iter().find(|row| row.name == MIDDLE).map(|row| row.cost().median()) else {
        return Ok(());
    };
    let mut table = Table::new(&[&case.to_string(), "segments", "MB/s", "CPU ms / MB", "by that of 64 MB"]);
    for row in &rows {
        let by_middle = Sample::new(2, row.took.iter().map(|took| row.cost_of(took) / middle));
        let speed = Sample::of(1, &row.took, |took| row.megabytes / took.wall.as_secs_f64());
        table.row(&[
            row.name,
            &row.segments.len().to_string(),
            &speed.to_string(),
            &row.cost().to_string(),
            &by_middle.to_string(),
        ]);
        if ["1 MB", "1 GiB"].contains(&row.name) {
            report.verdict(
                3,
                &format!("{case}: CPU of {} by 64 MB", row.name),
                Goal::Within(0.85, 1.15),
                "",
                &by_middle,
            );
        }
    }
    println!();
    table.print();
    Ok(())
}

struct Row {
    name: &'static str,
    megabytes: f64,
    segments: Vec<Bytes>,
    took: Vec<Elapsed>,
}

impl Row {
    fn cost_of(&self, took: &Elapsed) -> f64 {
        took.cpu.as_secs_f64() * 1e3 / self.megabytes
    }

    fn cost(&self) -> Sample {
        Sample::of(1, &self.took, |took| self.cost_of(took))
    }
}
