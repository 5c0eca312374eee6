//! Goal 6: resident memory. A fresh worker for each figure.

use std::error::Error;
use std::thread;
use std::time::Duration;

use wal_indexer::generate::Codec;

use crate::Setup;
use crate::report::{Asked, Report, Table};
use crate::sample::Sample;
use crate::segments::{Case, Segment};
use crate::worker::{Options, Worker};

const CASES: [Case; 4] =
    [Case::kafka(Codec::None), Case::kafka(Codec::Zstd), Case::chronik(Codec::None), Case::CHRONIK_RECORDS];

/// Budgets for four large segments at once, as flags and in bytes.
const BUDGETS: [(&str, u64); 2] = [("1GiB", 1 << 30), ("2GiB", 2 << 30)];

/// After this long without work a worker should have given back what it can.
const QUIET: Duration = Duration::from_secs(12);

pub fn run(setup: &Setup, report: &mut Report) -> Result<(), Box<dyn Error>> {
    report.part(
        "memory",
        "Resident memory of a fresh worker, over gRPC, in millions of bytes; `VmHWM` where it says peak.",
    );
    let idle = Worker::start(&setup.directory)?;
    thread::sleep(Duration::from_secs(1));
    let fresh = idle.process().rss_bytes()?;
    drop(idle);
    report.verdict(6, "idle, nothing done yet", Asked::AtMost(30.0), "MB", &megabytes(fresh));
    let mut table = Table::new(&["", "--memory-budget", "peak RSS, MB", "by the budget", "idle again, MB"]);
    let mut workers = Vec::new();
    for case in CASES {
        let [segment] = &Segment::logs(case, setup.megabytes * 1_000_000, 1)?[..] else { continue };
        let mut worker = Worker::start(&setup.directory)?;
        worker.send([segment.bytes.clone()], 1)?;
        workers.push((case, worker.process().peak_rss_bytes()?, worker));
    }
    thread::sleep(QUIET);
    let mut quiet = 0;
    for (case, peak, worker) in workers {
        let after = worker.process().rss_bytes()?;
        quiet = quiet.max(after);
        let name = format!("one segment of {} MB: {case}", setup.megabytes);
        report.verdict(6, &name, Asked::AtMost(250.0), "MB", &megabytes(peak));
        table.row(&[
            name,
            "default".into(),
            megabytes(peak).to_string(),
            String::new(),
            megabytes(after).to_string(),
        ]);
    }
    report.verdict(
        6,
        &format!("idle again, {QUIET:?} after the last segment"),
        Asked::AtMost(30.0),
        "MB",
        &megabytes(quiet),
    );
    for case in [Case::chronik(Codec::None), Case::kafka(Codec::None)] {
        let segments = Segment::logs(case, setup.large_megabytes * 1_000_000, 4)?;
        for (flag, budget) in BUDGETS {
            let mut worker = Worker::start_with(
                &setup.directory,
                &Options { cpu: None, flags: &["--memory-budget", flag] },
            )?;
            let sent = worker.send(segments.iter().map(|segment| segment.bytes.clone()), segments.len());
            let peak = worker.process().peak_rss_bytes()?;
            let name = format!("four of {} MB at once: {case}", setup.large_megabytes);
            let name = match sent {
                Ok(_) => name,
                Err(refused) => format!("{name}: {refused}"),
            };
            let by_budget = Sample::new(2, [peak as f64 / budget as f64]);
            table.row(&[
                name.clone(),
                flag.into(),
                megabytes(peak).to_string(),
                by_budget.to_string(),
                String::new(),
            ]);
            report.verdict(6, &format!("{name}, peak by {flag}"), Asked::AtMost(1.0), "", &by_budget);
        }
    }
    println!();
    table.print();
    Ok(())
}

fn megabytes(bytes: u64) -> Sample {
    Sample::new(0, [bytes as f64 / 1e6])
}
