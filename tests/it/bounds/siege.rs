//! All attacks at once, beside honest callers, in a cgroup that kills a process that exceeds its limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use wal_indexer::proto::v1::search_service_client::SearchServiceClient;
use wal_indexer::proto::v1::{FetchRequest, RecordFilter, SearchRequest};

use super::*;
use crate::large::batch_of;
use crate::worker::file_url;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const PING: &[u8] = &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1];

/// The topic of records that are almost too large for searches and fetches.
const LARGE: &str = "large";

/// How many requests of an attack were accepted and refused so far.
#[derive(Clone, Default)]
struct Tally {
    taken: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
}

impl Tally {
    fn count<T, E>(&self, outcome: &Result<T, E>) {
        if outcome.is_ok() { &self.taken } else { &self.refused }.fetch_add(1, Relaxed);
    }

    fn words(&self) -> String {
        format!("{} taken, {} refused", self.taken.load(Relaxed), self.refused.load(Relaxed))
    }
}

/// Sends a segment again and again.
async fn send_for_ever(mut client: Client, told: Option<(&'static str, i32)>, bytes: Bytes, tally: Tally) {
    loop {
        tally.count(&send_inline(&mut client, inline(bytes.len() as u64, told), &bytes, 1 << 20).await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Opens connections that send `words`, and then `more` again and again; nothing more if `more` is empty.
async fn connect_for_ever(address: String, host: String, words: Vec<u8>, more: Vec<u8>, tally: Tally) {
    loop {
        let said = async {
            let socket = TcpSocket::new_v4()?;
            socket.bind(format!("{host}:0").parse().expect("an address"))?;
            let mut stream: TcpStream = socket.connect(address.parse().expect("an address")).await?;
            stream.write_all(&words).await?;
            let mut buffer = [0; 1_024];
            loop {
                match more.is_empty() {
                    true if stream.read(&mut buffer).await? == 0 => return Ok::<_, std::io::Error>(()),
                    true => {}
                    false => stream.write_all(&more).await?,
                }
            }
        };
        tally.count(&said.await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Searches and fetches the large records again and again. Pauses every other time after the first message.
async fn read_for_ever(worker: Channel, tally: Tally) {
    let mut client = SearchServiceClient::new(worker).max_decoding_message_size(1 << 30);
    for nth in 0.. {
        let read = async {
            let filter = Some(RecordFilter { topic: LARGE.to_owned(), ..Default::default() });
            let search = SearchRequest { filter, ..Default::default() };
            let fetch = FetchRequest { topic: LARGE.to_owned(), max_bytes: 1 << 30, ..Default::default() };
            let (mut searched, mut fetched) = (None, None);
            match nth % 3 {
                0 => fetched = Some(client.fetch(fetch).await?.into_inner()),
                _ => searched = Some(client.search(search).await?.into_inner()),
            }
            let mut messages = 0;
            loop {
                let more = match (&mut searched, &mut fetched) {
                    (Some(answer), _) => answer.message().await?.is_some(),
                    (_, Some(answer)) => answer.message().await?.is_some(),
                    _ => false,
                };
                messages += 1;
                if !more {
                    return Ok::<_, tonic::Status>(());
                }
                if messages == 1 && nth % 2 == 0 {
                    tokio::time::sleep(Duration::from_secs(5)).await;
                }
            }
        };
        tally.count(&read.await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Stores twelve records of 30 MiB and one of 200 MiB, each in its own bundle of some kilobytes.
async fn store_large(store: &str) {
    let writer = Worker::start_on(store, &[], &["--memory-budget", "2GiB"]);
    for (offset, size) in (0..).zip([30 << 20; 12].into_iter().chain([200 << 20])) {
        let bytes = batch_of(offset, Codec::Zstd, &[size]);
        let first = inline(bytes.len() as u64, Some((LARGE, 0)));
        send_inline(&mut writer.client().await, first, &bytes, 1 << 20).await.expect("a receipt");
    }
}

/// Runs one search to the end of its answer.
async fn search_once(
    client: &mut SearchServiceClient<Channel>,
    asked: SearchRequest,
) -> Result<(), tonic::Status> {
    let mut messages = client.search(asked).await?.into_inner();
    while messages.message().await?.is_some() {}
    Ok(())
}

/// Indexes a small segment and searches it, again and again until `ends`. Returns how long each took, retries
/// included.
async fn work(
    worker: &Worker,
    host: &str,
    ends: Instant,
    late: &AtomicU64,
) -> (Vec<Duration>, Vec<Duration>) {
    let (mut indexed, mut searched) = (Vec::new(), Vec::new());
    let mut bytes = Vec::new();
    generate(&Spec { size: Size::Bytes(500_000), ..Spec::default() }, &mut bytes).expect("in memory");
    let mut client = worker.client_from(host).await;
    let mut search = SearchServiceClient::new(worker.channel_from(host).await);
    for nth in 0.. {
        if Instant::now() > ends {
            break;
        }
        let began = Instant::now();
        loop {
            let first = inline(bytes.len() as u64, Some(("honest", 0)));
            let first = SegmentHeader { log_id: format!("{host}-{nth}"), ..first };
            match send_inline(&mut client, first, &bytes, 1 << 20).await {
                Ok(_) => break,
                Err(status) => {
                    let again = status.get_details_retry_info().and_then(|info| info.retry_delay);
                    let again = again.unwrap_or_else(|| panic!("an honest caller is refused: {status:?}"));
                    tokio::time::sleep(again).await;
                }
            }
        }
        indexed.push(began.elapsed());
        let began = Instant::now();
        let filter = Some(RecordFilter { topic: "honest".to_owned(), ..Default::default() });
        let asked =
            SearchRequest { filter, query: "level:error".to_owned(), limit: 10, ..Default::default() };
        // A search may run out of time behind large ones. No other error is allowed. Its total time is what
        // counts.
        while let Err(status) = search_once(&mut search, asked.clone()).await {
            assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
            assert!(began.elapsed() < Duration::from_secs(300), "an honest search is never answered");
            late.fetch_add(1, Relaxed);
        }
        searched.push(began.elapsed());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    (indexed, searched)
}

fn p99(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[(times.len() * 99 / 100).min(times.len() - 1)]
}

async fn check(limit_mib: u64, partitions: u32, lasts: Duration) {
    let cgroup = Cgroup::new(limit_mib << 20);
    let worker = Worker::start_by(cgroup.launcher(), &[]);
    let mut attacks = JoinSet::new();
    let mut tallies = Vec::new();
    let many = Bytes::from(of_partitions(partitions));
    let tally = Tally::default();
    attacks.spawn(send_for_ever(worker.client_from("127.0.0.2").await, None, many, tally.clone()));
    tallies.push((format!("a segment of {partitions} partitions, again and again"), tally));
    for codec in [Codec::Gzip, Codec::Lz4, Codec::Zstd] {
        let (bomb, tally) = (Bytes::from(dense_batch(codec, 200 << 20)), Tally::default());
        let client = worker.client_from("127.0.0.3").await;
        attacks.spawn(send_for_ever(client, Some(("bombs", 0)), bomb, tally.clone()));
        tallies.push((format!("a batch that opens to 200 MiB ({codec}), again and again"), tally));
    }
    store_large(&file_url(&worker.store())).await;
    let tally = Tally::default();
    for _ in 0..6 {
        attacks.spawn(read_for_ever(worker.channel().await, tally.clone()));
    }
    tallies.push((
        "six who search and fetch records of 30 and 200 MiB, and let some answers wait".to_owned(),
        tally,
    ));
    let quarter = limit_mib << 20 >> 3;
    for host in 4..8 {
        let client = worker.client_from(&format!("127.0.0.{host}")).await;
        (0..4).for_each(|_| drop(attacks.spawn(reserve_only(client.clone(), quarter))));
    }
    tallies.push(("four hosts that declare much and send nothing".to_owned(), Tally::default()));
    for (name, host, count, words, more) in [
        ("silent connections", 8, 30, PREFACE[..23].to_vec(), Vec::new()),
        ("floods of PING", 9, 2, [PREFACE, SETTINGS].concat(), PING.repeat(1_000)),
    ] {
        let tally = Tally::default();
        for _ in 0..count {
            let (address, host) = (worker.address().to_owned(), format!("127.0.0.{host}"));
            attacks.spawn(connect_for_ever(address, host, words.clone(), more.clone(), tally.clone()));
        }
        tallies.push((format!("{count} {name}"), tally));
    }
    let ends = Instant::now() + lasts;
    let late = AtomicU64::new(0);
    let works = join_all(["127.0.0.10", "127.0.0.11"].map(|host| work(&worker, host, ends, &late))).await;
    attacks.shutdown().await;
    let (mut indexed, mut searched) = (Vec::new(), Vec::new());
    works.into_iter().for_each(|(one, other)| {
        indexed.extend(one);
        searched.extend(other);
    });
    let peak = worker.peak_resident_bytes() >> 20;
    println!(
        "cgroup of {limit_mib} MiB, default budget, {lasts:?}: peak {peak} MiB, {} kills",
        cgroup.kills()
    );
    println!(
        "honest: {} segments, p99 {:.1?}; {} searches, p99 {:.1?}, of which ran out of time and were sent again {}",
        indexed.len(),
        p99(&mut indexed),
        searched.len(),
        p99(&mut searched),
        late.load(Relaxed)
    );
    tallies.iter().for_each(|(name, tally)| println!("| {name} | {} |", tally.words()));
    assert_eq!(cgroup.kills(), 0, "nobody is killed");
    assert!(peak <= limit_mib, "{peak} MiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and cgroups; make test runs it"]
async fn a_worker_with_256_mib_survives_all_of_them_at_once() {
    check(256, 3_000, Duration::from_secs(10)).await;
}

/// `WAL_INDEXER_TEST_SECONDS` sets the duration of each siege, `WAL_INDEXER_TEST_MIB` the only limit to try.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and cgroups, and takes half an hour; make test-long runs it"]
async fn long_workers_survive_all_of_them_at_once_for_ten_minutes() {
    let set = |name| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let limits_mib = set("WAL_INDEXER_TEST_MIB").map_or(vec![256, 512, 1_024], |limit_mib| vec![limit_mib]);
    for limit_mib in limits_mib {
        check(limit_mib, 20_000, Duration::from_secs(set("WAL_INDEXER_TEST_SECONDS").unwrap_or(600))).await;
    }
}
