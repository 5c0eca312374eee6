//! Goal 8: many small segments, compared with few large ones.

use std::error::Error;
use std::num::NonZeroUsize;

use bytes::Bytes;
use wal_indexer::generate::Codec;

use crate::Setup;
use crate::report::{Goal, Report, Table};
use crate::sample::{Sample, timed};
use crate::segments::{Case, Segment, logs};
use crate::worker::Worker;

const SMALL: usize = 1_000;
const SMALL_BYTES: usize = 100_000;
const AT_ONCE: usize = 16;
const LARGE: u64 = 2;

/// The batch size for both kinds of segments. 200 records, the default, are larger than a whole small
/// segment.
const BATCH_RECORDS: NonZeroUsize = NonZeroUsize::new(20).unwrap();

pub fn run(setup: &Setup, report: &mut Report) -> Result<(), Box<dyn Error>> {
    report.part("small", &format!(
        "{SMALL} segments of {SMALL_BYTES} bytes, {AT_ONCE} in flight, beside {LARGE} of {} MB at once; batches of \
             {BATCH_RECORDS} records; {} rounds.",
        setup.megabytes, setup.rounds
    ));
    let mut table = Table::new(&[
        "segments",
        "small, MB/s",
        "large, MB/s",
        "small by large",
        "worker's CPU ms / MB, small : large",
    ]);
    for case in [Case::kafka(Codec::None), Case::chronik(Codec::None)] {
        let fill = |seed, bytes| {
            Ok::<Bytes, Box<dyn Error>>(Segment::fill(case, bytes, logs(seed, BATCH_RECORDS))?.bytes)
        };
        let small: Vec<Bytes> =
            (0..SMALL as u64).map(|seed| fill(seed, SMALL_BYTES)).collect::<Result<_, _>>()?;
        let large: Vec<Bytes> =
            (0..LARGE).map(|seed| fill(seed, setup.megabytes * 1_000_000)).collect::<Result<_, _>>()?;
        let megabytes = |segments: &[Bytes]| segments.iter().map(Bytes::len).sum::<usize>() as f64 / 1e6;
        let mut worker = Worker::start(&setup.directory)?;
        let process = worker.process();
        let (mut of_small, mut of_large) = (Vec::new(), Vec::new());
        for round in 0..=setup.rounds {
            let (_, small_took) = timed(process, || worker.send(small.iter().cloned(), AT_ONCE))?;
            worker.make_room()?;
            let (_, large_took) = timed(process, || worker.send(large.iter().cloned(), large.len()))?;
            worker.make_room()?;
            if round > 0 {
                of_small.push(small_took);
                of_large.push(large_took);
            }
        }
        let speed = |took: &[_], segments: &[Bytes]| {
            Sample::of(1, took, |took| megabytes(segments) / took.wall.as_secs_f64())
        };
        let cost = |took: &[_], segments: &[Bytes]| {
            Sample::of(1, took, |took| took.cpu.as_secs_f64() * 1e3 / megabytes(segments)).median()
        };
        let sizes = megabytes(&small) / megabytes(&large);
        let ratio = Sample::new(
            2,
            of_large
                .iter()
                .zip(&of_small)
                .map(|(large, small)| sizes * large.wall.as_secs_f64() / small.wall.as_secs_f64()),
        );
        table.row(&[
            case.to_string(),
            speed(&of_small, &small).to_string(),
            speed(&of_large, &large).to_string(),
            ratio.to_string(),
            format!("{:.1} : {:.1}", cost(&of_small, &small), cost(&of_large, &large)),
        ]);
        report.verdict(
            8,
            &format!("{case}: MB/s of small by large segments"),
            Goal::AtLeast(0.8),
            "",
            &ratio,
        );
    }
    println!();
    table.print();
    Ok(())
}
