//! Measures the effect of one greedy caller on another caller of the same worker: the other's calls alone,
//! and during sixty calls of the greedy one.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use wal_indexer::generate::Codec;

use crate::Setup;
use crate::report::{Goal, Report, Table};
use crate::sample::{Elapsed, Sample};
use crate::segments::{Case, Segment};
use crate::worker::{Caller, Options, Worker};

const BYTES: usize = 16_000_000;
const BUDGET: &str = "512MiB";

/// The number of calls that the greedy caller always has in flight.
const GREEDY: usize = 60;

/// The number of calls of the other caller in a round, one after the other.
const CALLS: usize = 5;

pub fn run(setup: &Setup, report: &mut Report) -> Result<(), Box<dyn Error>> {
    report.part(
        "sharing",
        &format!(
            "One caller sends segments of 16 MB one after the other, {CALLS} a round: alone, and beside a greedy one with {GREEDY} \
             of the same in flight on the same worker ({BUDGET}). Each caller is a host of its own. A wait is the whole call, from \
             its first byte to its receipt. All run on the same cores: what the greedy one's own process takes counts against the worker."
        ),
    );
    let segment = Segment::logs(Case::kafka(Codec::None), BYTES, 1)?.remove(0).bytes;
    let mut table = Table::new(&["calls", "wait, ms", "of that for memory, ms"]);
    let (mut alone, mut first, mut beside) = (Vec::new(), Vec::new(), Vec::new());
    let mut greedy_calls = 0;
    for _ in 0..=setup.rounds {
        let mut worker = Worker::start_with(
            &setup.directory,
            &Options { flags: &["--memory-budget", BUDGET], ..Options::default() },
        )?;
        let mut other = Caller::new(worker.address(), "127.0.0.2")?;
        // One call to warm up.
        other.send("warm", &segment)?;
        let calls = (0..CALLS).map(|nth| wait(&mut other, &format!("alone-{nth}"), &segment));
        alone.extend(calls.collect::<Result<Vec<_>, _>>()?);
        let greedy = Greedy::start(worker.address(), &segment);
        greedy.until_it_has(GREEDY as u64 / 10);
        first.push(wait(&mut other, "first", &segment)?);
        let calls = (0..CALLS).map(|nth| wait(&mut other, &format!("beside-{nth}"), &segment));
        beside.extend(calls.collect::<Result<Vec<_>, _>>()?);
        greedy_calls += greedy.stop()?;
        worker.make_room()?;
    }
    for (name, waits) in
        [("alone", &alone), ("the first one beside the greedy one's", &first), ("all others", &beside)]
    {
        table.row(&[
            name.to_owned(),
            Sample::new(0, waits.iter().map(|(took, _)| took.wall.as_secs_f64() * 1e3)).to_string(),
            Sample::new(0, waits.iter().map(|(_, admit)| admit.as_secs_f64() * 1e3)).to_string(),
        ]);
    }
    table.print();
    println!("The greedy one had {greedy_calls} receipts meanwhile.\n");
    let took = |waits: &[(Elapsed, Duration)]| waits.iter().map(|(took, _)| *took).collect::<Vec<_>>();
    let by_alone = Sample::ratios(&took(&beside), &took(&alone));
    report.verdict(6, "the other's wait beside a greedy one, by alone", Goal::AtMost(2.0), "", &by_alone);
    Ok(())
}

/// Sends one segment. Returns the time of the call, and the part of it spent waiting for memory.
fn wait(caller: &mut Caller, log_id: &str, segment: &Bytes) -> Result<(Elapsed, Duration), Box<dyn Error>> {
    let began = Instant::now();
    let reply = caller.send(log_id, segment)?;
    let admit = Duration::from_micros(reply.timings.unwrap_or_default().admit_us);
    Ok((Elapsed { wall: began.elapsed(), cpu: Duration::ZERO }, admit))
}

/// A caller that always has the same number of calls in flight.
struct Greedy {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: thread::JoinHandle<Result<(), String>>,
}

impl Greedy {
    fn start(address: &str, segment: &Bytes) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (address, segment) = (address.to_owned(), segment.clone());
        let (stopping, count) = (Arc::clone(&stop), Arc::clone(&done));
        let thread = thread::spawn(move || {
            let mut caller = Caller::new(&address, "127.0.0.1").map_err(|error| error.to_string())?;
            caller.send_always(&segment, GREEDY, &stopping, &count).map_err(|error| error.to_string())
        });
        Self { stop, done, thread }
    }

    fn until_it_has(&self, receipts: u64) {
        while self.done.load(Ordering::SeqCst) < receipts && !self.thread.is_finished() {
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops the caller and returns the number of its receipts.
    fn stop(self) -> Result<u64, Box<dyn Error>> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().map_err(|_| "the greedy caller panicked")??;
        Ok(self.done.load(Ordering::SeqCst))
    }
}
