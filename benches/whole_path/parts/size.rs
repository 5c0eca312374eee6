//! Goal 5: the size of a bundle, with index and records shown separately.

use std::error::Error;

use wal_indexer::generate::{Codec, Format};

use crate::Setup;
use crate::report::{Goal, Report, Table};
use crate::sample::Sample;
use crate::segments::{Case, Segment};
use crate::worker::Worker;

/// The measured cases: Kafka with each codec, and Chronik.
pub fn cases() -> Vec<Case> {
    let kafka = Codec::ALL.map(Case::kafka);
    let v1 = Case { format: Format::ChronikV1, codec: Codec::None, producer_bytes: false };
    let chronik = [Case::chronik(Codec::None), Case::chronik(Codec::Zstd), Case::CHRONIK_RECORDS, v1];
    kafka.into_iter().chain(chronik).collect()
}

pub fn run(setup: &Setup, report: &mut Report) -> Result<(), Box<dyn Error>> {
    report.part("size", &format!("Generated JSON logs, a segment of {} MB each.", setup.megabytes));
    let mut table = Table::new(&HEADS);
    let mut worker = Worker::start(&setup.directory)?;
    for case in cases() {
        let [segment] = &Segment::logs(case, setup.megabytes * 1_000_000, 1)?[..] else { continue };
        let share = row(&mut worker, &case.to_string(), segment, &mut table)?;
        if let Some(limit) = limit(case) {
            report.verdict(
                5,
                &format!("{case}: bundle by segment"),
                Goal::AtMost(limit),
                "",
                &Sample::new(3, [share]),
            );
        }
    }
    println!();
    table.print();
    Ok(())
}

fn limit(case: Case) -> Option<f64> {
    match (case.format, case.codec, case.producer_bytes) {
        (Format::ChronikV2, Codec::None, true) => Some(0.25),
        (Format::ChronikV2, _, false) => Some(0.55),
        (Format::Kafka, Codec::None, _) => Some(0.65),
        _ => None,
    }
}

/// The columns of [`row`].
pub const HEADS: [&str; 7] = [
    "segment",
    "MB",
    "records",
    "bundle bytes / segment byte",
    "index",
    "records, verbatim",
    "bundle bytes / value byte",
];

/// Indexes a segment, adds the sizes of its bundle to the table, and returns the bundle bytes for each byte
/// of the segment.
pub fn row(
    worker: &mut Worker,
    name: &str,
    segment: &Segment,
    table: &mut Table,
) -> Result<f64, Box<dyn Error>> {
    let stored = worker.send([segment.bytes.clone()], 1)?;
    let members = worker.members(&stored)?;
    worker.make_room()?;
    let values: usize = segment
        .batches
        .iter()
        .flat_map(|batch| batch.iter())
        .filter_map(|record| Some(record.value()?.len()))
        .sum();
    let share = |bytes: u64, of: usize| bytes as f64 / of as f64;
    let by_segment = |bytes| format!("{:.3}", share(bytes, segment.bytes.len()));
    table.row(&[
        name.to_owned(),
        format!("{:.1}", segment.megabytes()),
        segment.records().to_string(),
        by_segment(members.bundle_bytes),
        by_segment(members.index_bytes),
        by_segment(members.record_bytes),
        format!("{:.3}", share(members.bundle_bytes, values)),
    ]);
    Ok(share(members.bundle_bytes, segment.bytes.len()))
}
