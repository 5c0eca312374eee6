//! Goal 4: the latency of an idle worker for one small segment.

use std::error::Error;
use std::thread;
use std::time::Duration;

use wal_indexer::generate::Codec;
use wal_indexer::proto::v1::Timings;

use crate::Setup;
use crate::bare;
use crate::process::{Process, cores};
use crate::report::{Goal, Report, Table};
use crate::sample::{Elapsed, Sample, timed};
use crate::segments::{Case, Segment};
use crate::worker::Worker;

const BYTES: usize = 4_000_000;

/// The factor for the number of rounds, compared with the other parts.
const TIMES: usize = 8;

/// The pause before each round. In this time the worker completes the work of the previous round and becomes
/// idle.
const PAUSE: Duration = Duration::from_millis(50);

pub fn run(setup: &Setup, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let rounds = setup.rounds * TIMES;
    report.part(
        "latency",
        &format!(
            "One segment of 4 MB at a time, over gRPC, the worker idle before; {rounds} rounds. Receive, build and upload are \
             the receipt's own; receiving and building overlap."
        ),
    );
    let mut table = Table::new(&[
        "segment",
        "answer, ms",
        "receive, build, upload, ms",
        "(a) on one thread, ms",
        "(a) on all cores, ms",
        "answer by (a) on one thread",
        "answer by (a) on all cores",
    ]);
    for case in [Case::kafka(Codec::None), Case::chronik(Codec::None), Case::CHRONIK_RECORDS] {
        let segment = Segment::logs(case, BYTES, 1)?;
        let mut worker = Worker::start(&setup.directory)?;
        let (mut answers, mut timings, mut on_one, mut on_all) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for round in 0..=rounds {
            thread::sleep(PAUSE);
            let (stored, answer) = timed(worker.process(), || worker.send([segment[0].bytes.clone()], 1))?;
            worker.make_room()?;
            let one = timed(Process::this(), || bare::index_all(&segment, 1))?.1;
            let all = timed(Process::this(), || bare::index_all(&segment, cores()))?.1;
            if round > 0 {
                answers.push(answer);
                timings.extend(stored.replies.into_iter().filter_map(|reply| reply.timings));
                on_one.push(one);
                on_all.push(all);
            }
        }
        let ms = |took: &[Elapsed]| Sample::of(0, took, |took| took.wall.as_secs_f64() * 1e3).to_string();
        let part = |us: fn(&Timings) -> u64| {
            format!("{:.0}", Sample::new(0, timings.iter().map(|timings| us(timings) as f64 / 1e3)).median())
        };
        let (by_one, by_all) = (Sample::ratios(&answers, &on_one), Sample::ratios(&answers, &on_all));
        table.row(&[
            case.to_string(),
            ms(&answers),
            [part(|t| t.receive_us), part(|t| t.build_us), part(|t| t.upload_us)].join(", "),
            ms(&on_one),
            ms(&on_all),
            by_one.to_string(),
            by_all.to_string(),
        ]);
        report.verdict(4, &format!("{case}: answer by (a) on one thread"), Goal::AtMost(1.3), "", &by_one);
        report.verdict(4, &format!("{case}: answer by (a) on all cores"), Goal::AtMost(1.3), "", &by_all);
    }
    println!();
    table.print();
    Ok(())
}
