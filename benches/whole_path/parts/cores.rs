//! Goal 2: one large segment uses both cores.
//!
//! The worker reads the segment file itself, so that no client uses the cores. "One core" is the same worker
//! limited to one CPU by `taskset`: its one CPU thread, its runtime and the kernel's work for it all share
//! that core. `--threads 1` leaves the second core to everything but the CPU thread, and is shown too.

use std::error::Error;

use wal_indexer::generate::Codec;

use crate::Setup;
use crate::bare;
use crate::process::{Process, cores};
use crate::report::{Goal, Report, Table};
use crate::sample::{Elapsed, Sample, timed};
use crate::segments::{Case, Scratch, Segment};
use crate::worker::{Options, Worker};

pub fn run(setup: &Setup, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let megabytes = setup.large_megabytes;
    report.part(
        "cores",
        &format!(
            "One segment of {megabytes} MB at a time, read from a file by the worker; {} rounds.",
            setup.rounds
        ),
    );
    let mut table = Table::new(&[
        "",
        "one core, s",
        "--threads 1, s",
        "all cores, s",
        "all cores, over gRPC, s",
        "all by one core",
        "all by --threads 1",
    ]);
    for case in [Case::chronik(Codec::None), Case::kafka(Codec::None)] {
        let segments = Segment::logs(case, megabytes * 1_000_000, 1)?;
        let (on_one, on_all) = loops(setup, &segments)?;
        let times = workers(setup, &segments[0])?;
        let seconds = |took: &[Elapsed]| Sample::of(2, took, |took| took.wall.as_secs_f64()).to_string();
        let [one_core, one_thread, all, grpc] = &times;
        let scaled = Sample::ratios(one_core, all);
        table.row(&[
            case.to_string(),
            seconds(one_core),
            seconds(one_thread),
            seconds(all),
            seconds(grpc),
            scaled.to_string(),
            Sample::ratios(one_thread, all).to_string(),
        ]);
        let bare = Sample::ratios(&on_one, &on_all);
        table.row(&["the bare loop", &seconds(&on_one), "", &seconds(&on_all), "", &bare.to_string(), ""]);
        if case == Case::chronik(Codec::None) {
            report.verdict(
                2,
                &format!("{case}, {megabytes} MB: all cores by one"),
                Goal::AtLeast(1.6),
                "",
                &scaled,
            );
        }
    }
    println!();
    table.print();
    Ok(())
}

/// Measures the worker on one core, on one thread, on all cores, and on all cores over gRPC.
fn workers(setup: &Setup, segment: &Segment) -> Result<[Vec<Elapsed>; 4], Box<dyn Error>> {
    let file = Scratch::write(&setup.directory, "segment", &segment.bytes)?;
    let mut workers = [
        Worker::start_with(&setup.directory, &Options { cpu: Some(0), ..Options::default() })?,
        Worker::start_with(&setup.directory, &Options { flags: &["--threads", "1"], ..Options::default() })?,
        Worker::start(&setup.directory)?,
    ];
    let mut times = [const { Vec::new() }; 4];
    for round in 0..=setup.rounds {
        for (nth, worker) in workers.iter_mut().enumerate() {
            let process = worker.process();
            let (_, took) = timed(process, || worker.read(&file.0))?;
            worker.make_room()?;
            if round > 0 {
                times[nth].push(took);
            }
        }
        let [.., all] = &mut workers;
        let process = all.process();
        let (_, took) = timed(process, || all.send([segment.bytes.clone()], 1))?;
        all.make_room()?;
        if round > 0 {
            times[3].push(took);
        }
    }
    Ok(times)
}

/// Measures the bare loop on one thread, and on one thread for each core: the limit of the machine.
fn loops(setup: &Setup, segments: &[Segment]) -> Result<(Vec<Elapsed>, Vec<Elapsed>), Box<dyn Error>> {
    let (mut on_one, mut on_all) = (Vec::new(), Vec::new());
    for _ in 0..setup.rounds {
        on_one.push(timed(Process::this(), || bare::index_all(segments, 1))?.1);
        on_all.push(timed(Process::this(), || bare::index_all(segments, cores()))?.1);
    }
    Ok((on_one, on_all))
}
