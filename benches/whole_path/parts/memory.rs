//! Goal 6: resident memory. Each number is from a new worker.

use std::error::Error;
use std::thread;
use std::time::Duration;

use wal_indexer::generate::Codec;

use crate::Setup;
use crate::report::{Goal, Report, Table};
use crate::sample::Sample;
use crate::segments::{Case, Segment};
use crate::worker::{Options, Worker};

/// The budgets for four large segments at once, as flags and in bytes.
const BUDGETS: [(&str, u64); 2] = [("1GiB", 1 << 30), ("2GiB", 2 << 30)];

/// After this time without work, a worker should have returned its free memory.
const QUIET: Duration = Duration::from_secs(12);

pub fn run(setup: &Setup, report: &mut Report) -> Result<(), Box<dyn Error>> {
    report.part(
        "memory",
        "Resident memory of a fresh worker, over gRPC, in millions of bytes; `VmHWM` where it says peak.",
    );
    let mut table = Table::new(&["", "--memory-budget", "peak RSS, MB", "by the budget", "idle again, MB"]);
    idle(setup, report)?;
    one_at_a_time(setup, report, &mut table)?;
    four_at_once(setup, report, &mut table)?;
    println!();
    table.print();
    Ok(())
}

fn idle(setup: &Setup, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let worker = Worker::start(&setup.directory)?;
    thread::sleep(Duration::from_secs(1));
    let fresh = megabytes(worker.process().rss_bytes()?);
    report.verdict(6, "idle, nothing done yet", Goal::AtMost(30.0), "MB", &fresh);
    Ok(())
}

fn one_at_a_time(setup: &Setup, report: &mut Report, table: &mut Table) -> Result<(), Box<dyn Error>> {
    let mut workers = Vec::new();
    for case in Case::OF_GOALS {
        let segments = Segment::logs(case, setup.megabytes * 1_000_000, 1)?;
        let mut worker = Worker::start(&setup.directory)?;
        worker.send(segments.into_iter().map(|segment| segment.bytes), 1)?;
        workers.push((case, megabytes(worker.process().peak_rss_bytes()?), worker));
    }
    thread::sleep(QUIET);
    let mut quiet = Vec::new();
    for (case, peak, worker) in workers {
        let after = worker.process().rss_bytes()?;
        quiet.push(after);
        let name = format!("one segment of {} MB: {case}", setup.megabytes);
        report.verdict(6, &name, Goal::AtMost(250.0), "MB", &peak);
        table.row(&[
            name,
            "default".to_owned(),
            peak.to_string(),
            String::new(),
            megabytes(after).to_string(),
        ]);
    }
    let most = megabytes(quiet.into_iter().max().unwrap_or_default());
    let name = format!("idle again, {} s after one segment, the most of these", QUIET.as_secs());
    report.verdict(6, &name, Goal::AtMost(30.0), "MB", &most);
    Ok(())
}

fn four_at_once(setup: &Setup, report: &mut Report, table: &mut Table) -> Result<(), Box<dyn Error>> {
    for case in [Case::chronik(Codec::None), Case::kafka(Codec::None)] {
        let segments = Segment::logs(case, setup.large_megabytes * 1_000_000, 4)?;
        for (flag, budget) in BUDGETS {
            let options = Options { flags: &["--memory-budget", flag], ..Options::default() };
            let mut worker = Worker::start_with(&setup.directory, &options)?;
            let sent = worker.send(segments.iter().map(|segment| segment.bytes.clone()), segments.len());
            let peak = worker.process().peak_rss_bytes()?;
            let name = format!("four of {} MB at once: {case}", setup.large_megabytes);
            let by_budget = match sent {
                Ok(_) => Sample::new(2, [peak as f64 / budget as f64]),
                Err(refused) => {
                    println!("- {name}, {flag}: {refused}");
                    Sample::new(2, [])
                }
            };
            report.verdict(6, &format!("{name}, peak by {flag}"), Goal::AtMost(1.0), "", &by_budget);
            table.row(&[
                name,
                flag.to_owned(),
                megabytes(peak).to_string(),
                by_budget.to_string(),
                String::new(),
            ]);
        }
    }
    Ok(())
}

fn megabytes(bytes: u64) -> Sample {
    Sample::new(0, [bytes as f64 / 1e6])
}
