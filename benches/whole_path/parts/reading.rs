//! Reads: the cost of searches and fetches from an S3 server, cold and warm, and their effect on indexing at
//! the same time.

use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use wal_indexer::generate::Codec;
use wal_indexer::proto::v1::search_service_client::SearchServiceClient;
use wal_indexer::proto::v1::{FetchRequest, RecordFilter, SearchRequest, SearchSummary};

use crate::Setup;
use crate::report::{Report, Table};
use crate::sample::{Elapsed, Sample, timed};
use crate::segments::{BATCH_RECORDS, Case, Segment, logs, megabytes};
use crate::servers::Server;
use crate::worker::{Options, Worker};

const CASE: Case = Case::kafka(Codec::None);

/// The number of segments in the searched log. Each is a quarter of a medium segment.
const SEGMENTS: usize = 24;

/// The number of warm reads after each cold one.
const WARM: usize = 5;

/// The number of readers during indexing.
const READERS: usize = 4;

/// A search or a fetch.
#[derive(Clone, Debug)]
enum Question {
    Search(SearchRequest),
    Fetch(FetchRequest),
}

/// The result of a question.
#[derive(Clone, Debug, Default)]
struct Answered {
    records: usize,
    summary: SearchSummary,
}

pub fn run(setup: &Setup, report: &mut Report) -> Result<(), Box<dyn Error>> {
    from_s3(setup, report)?;
    beside_indexing(setup, report)
}

fn from_s3(setup: &Setup, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let weed = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/weed");
    if !weed.exists() {
        report.part("reading", "Absent: SeaweedFS is not installed (`tests/install-servers.sh`).");
        return Ok(());
    }
    let server = Server::s3();
    let (url, variables) = (server.url("bench"), server.settings());
    let flags = ["--roles", "search"];
    let place = Options { store: Some((&url, &variables)), ..Options::default() };
    let log = log(setup.megabytes * 250_000)?;
    let mut writer = Worker::start_with(&setup.directory, &place)?;
    let stored = writer.send(log.iter().map(|segment| segment.bytes.clone()), 2)?;
    drop(writer);
    report.part("reading", &format!(
        "One log in {SEGMENTS} segments ({CASE}, {:.0} MB in all, {:.0} MB of bundles) on SeaweedFS on the same machine, read over gRPC. \
         Cold: the first question to a new worker. Warm: the same again, {WARM} times, from the worker's memory but for the LIST. {} rounds.",
        megabytes(&log),
        stored.bundle_bytes() as f64 / 1e6,
        setup.rounds,
    ));
    let mut table = Table::new(&[
        "question",
        "records, matched, bundles opened",
        "cold, ms",
        "cold: requests, MB",
        "warm, ms",
        "warm: requests",
    ]);
    for (name, question) in questions(&log)? {
        let (mut cold, mut warm, mut first, mut last) =
            (Vec::new(), Vec::new(), Answered::default(), Answered::default());
        for _ in 0..setup.rounds {
            let reader = Worker::start_with(&setup.directory, &Options { flags: &flags, ..place.clone() })?;
            let client = Client::connect(reader.address())?;
            let (answered, took) = timed(reader.process(), || client.ask(&question))?;
            cold.push(took);
            first = answered;
            for _ in 0..WARM {
                let (answered, took) = timed(reader.process(), || client.ask(&question))?;
                warm.push(took);
                last = answered;
            }
        }
        let ms = |took: &[Elapsed]| Sample::of(1, took, |took| took.wall.as_secs_f64() * 1e3).to_string();
        let Answered { records, summary } = first;
        let searched = matches!(question, Question::Search(_));
        let counted = |text: String| if searched { text } else { "not told".to_owned() };
        table.row(&[
            name,
            counted(format!("{records}, {}, {}", summary.matched, summary.bundles_searched)),
            ms(&cold),
            counted(format!("{}, {:.2}", summary.requests_to_store, summary.bytes_fetched as f64 / 1e6)),
            ms(&warm),
            counted(last.summary.requests_to_store.to_string()),
        ]);
    }
    println!();
    table.print();
    Ok(())
}

/// Makes a log, cut into segments.
fn log(segment_bytes: usize) -> Result<Vec<Segment>, Box<dyn Error>> {
    let mut batches = logs(1, BATCH_RECORDS);
    (0..SEGMENTS).map(|_| Segment::fill(CASE, segment_bytes, batches.by_ref())).collect()
}

fn questions(log: &[Segment]) -> Result<Vec<(String, Question)>, Box<dyn Error>> {
    let middle = log[SEGMENTS / 2].batches[0].iter().next().ok_or("an empty batch")?;
    let value: serde_json::Value = serde_json::from_slice(middle.value().unwrap_or_default())?;
    let trace = value["trace_id"].as_str().ok_or("no trace_id")?.to_owned();
    let search = |name: &str, query: &str, limit, count_only| {
        let filter = Some(RecordFilter { topic: "logs".to_owned(), ..RecordFilter::default() });
        let query = query.to_owned();
        (
            name.to_owned(),
            Question::Search(SearchRequest { filter, query, limit, count_only, ..SearchRequest::default() }),
        )
    };
    let fetch = FetchRequest {
        topic: "logs".to_owned(),
        offset: middle.offset(),
        max_records: 1_000,
        max_bytes: 16 << 20,
        ..FetchRequest::default()
    };
    Ok(vec![
        search("the 20 newest of `level:error`", "level:error", 20, false),
        search("a trace id, anywhere", &trace, 20, false),
        search("a trace id at its path", &format!("trace_id:{trace}"), 20, false),
        search("a word that is nowhere", "nowhere2b3found", 20, false),
        search("the count of `level:error`", "level:error", 0, true),
        search("the count of `level:error status:>=500`", "level:error status:>=500", 0, true),
        ("fetch of 1,000 records from the middle".to_owned(), Question::Fetch(fetch)),
    ])
}

/// A caller with its own connection.
struct Client {
    runtime: Runtime,
    service: SearchServiceClient<Channel>,
}

impl Client {
    fn connect(address: &str) -> Result<Self, Box<dyn Error>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let service = runtime.block_on(SearchServiceClient::connect(address.to_owned()))?;
        Ok(Self { runtime, service: service.max_decoding_message_size(64 << 20) })
    }

    fn ask(&self, question: &Question) -> Result<Answered, Box<dyn Error>> {
        let mut service = self.service.clone();
        self.runtime.block_on(async {
            let mut answered = Answered::default();
            match question.clone() {
                Question::Search(request) => {
                    let mut answers = service.search(request).await?.into_inner();
                    while let Some(answer) = answers.message().await? {
                        answered.records += answer.records.len();
                        answered.summary = answer.summary.unwrap_or_default();
                    }
                }
                Question::Fetch(request) => {
                    let mut answers = service.fetch(request).await?.into_inner();
                    while let Some(answer) = answers.message().await? {
                        answered.records += answer.records.len();
                    }
                }
            }
            Ok(answered)
        })
    }
}

fn beside_indexing(setup: &Setup, report: &mut Report) -> Result<(), Box<dyn Error>> {
    report.part("reading beside indexing", &format!(
        "One worker, one local store with a log of {SEGMENTS} segments; two more segments of {} MB ({CASE}) are sent at once, in turns without and with {READERS} \
         readers, each of which asks the questions above one after another and never pauses. The readers' own CPU is on the same cores. {} rounds.",
        setup.megabytes,
        setup.rounds
    ));
    let log = log(setup.megabytes * 250_000)?;
    let questions = questions(&log)?;
    let segments = Segment::logs(CASE, setup.megabytes * 1_000_000, 2)?;
    let all = || segments.iter().map(|segment| segment.bytes.clone()).collect::<Vec<Bytes>>();
    let mut worker = Worker::start(&setup.directory)?;
    worker.send(log.iter().map(|segment| segment.bytes.clone()), 2)?;
    let (mut alone, mut beside, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=setup.rounds {
        let (_, took_alone) = timed(worker.process(), || worker.send(all(), 2))?;
        let (took, rate) = with_readers(worker.address().to_owned(), &questions, || {
            Ok(timed(worker.process(), || worker.send(all(), 2))?.1)
        })?;
        if round > 0 {
            alone.push(took_alone);
            beside.push(took);
            rates.push(rate);
        }
    }
    let speed = |took: &[Elapsed]| {
        Sample::of(1, took, |took| megabytes(&segments) / took.wall.as_secs_f64()).to_string()
    };
    let mut table = Table::new(&[
        "alone, MB/s",
        "beside readers, MB/s",
        "beside by alone",
        "answers to readers, per second",
    ]);
    table.row(&[
        speed(&alone),
        speed(&beside),
        Sample::ratios(&alone, &beside).to_string(),
        Sample::new(0, rates).to_string(),
    ]);
    table.print();
    Ok(())
}

/// Does the work while readers ask questions. Also returns the number of answers per second.
fn with_readers<T>(
    address: String,
    questions: &[(String, Question)],
    work: impl FnOnce() -> Result<T, Box<dyn Error>>,
) -> Result<(T, f64), Box<dyn Error>> {
    let (stop, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    let read = |first: usize| -> Result<(), String> {
        let client = Client::connect(&address).map_err(|error| error.to_string())?;
        for (_, question) in questions.iter().cycle().skip(first) {
            if stop.load(Relaxed) {
                break;
            }
            client.ask(question).map_err(|error| error.to_string())?;
            answers.fetch_add(1, Relaxed);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS).map(|first| scope.spawn(move || read(first))).collect();
        let started = Instant::now();
        let done = work();
        let rate = answers.load(Relaxed) as f64 / started.elapsed().as_secs_f64();
        stop.store(true, Relaxed);
        for reader in readers {
            reader.join().map_err(|_| "a reader panicked")??;
        }
        Ok((done?, rate))
    })
}
