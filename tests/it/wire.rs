//! The requests for each bundle, counted between a worker and a real server. Operators pay for each request,
//! and a LIST is the most expensive. Google Cloud Storage behaves like Azure here (create, then read back).
//! It cannot be counted, because no local server implements its preconditions.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use wal_indexer::generate::{Format, Size, Spec, generate};

use crate::servers::{BUCKET, Server, azure_settings, s3_settings};
use crate::worker::{Client, Worker, inline, send_inline};

/// The requests that were passed on, in order: the method, and the kind of object.
#[derive(Default)]
struct Requests(Mutex<Vec<String>>);

impl Requests {
    /// Returns how many of each there were since the last call.
    fn counted(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for request in self.0.lock().expect("no panic").drain(..) {
            *counts.entry(request).or_default() += 1;
        }
        counts
    }

    /// Notes a request. `line` is its first line: `PUT /bucket/key?query HTTP/1.1`.
    fn note(&self, line: &str) {
        let mut words = line.split(' ');
        let (method, target) = (words.next().expect("a method"), words.next().expect("a target"));
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let plain = path.contains(BUCKET) && query.is_empty();
        let about = match path.rsplit_once('.') {
            Some((_, "tar")) if plain => "bundle",
            Some((_, "deleted")) if plain => "marker",
            _ => target,
        };
        self.0.lock().expect("no panic").push(format!("{method} {about}"));
    }
}

/// Starts a proxy in front of a local port that counts requests.
async fn counting(server: u16, requests: Arc<Requests>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("it listens").port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let requests = Arc::clone(&requests);
            tokio::spawn(async move {
                let server = TcpStream::connect(("127.0.0.1", server)).await.expect("it listens");
                let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                    (client.into_split(), server.into_split());
                tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
                pass_on(&mut from_client, &mut to_server, &requests).await
            });
        }
    });
    port
}

/// Passes on HTTP/1.1 requests, one after the other. Their bodies have a stated length.
async fn pass_on(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    requests: &Requests,
) -> std::io::Result<()> {
    const END: &[u8] = b"\r\n\r\n";
    let (mut buffer, mut head, mut body_left) = (vec![0; 64 << 10], Vec::new(), 0_usize);
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            if body_left > 0 {
                let (_, behind) = rest.split_at(body_left.min(rest.len()));
                body_left -= rest.len() - behind.len();
                rest = behind;
                continue;
            }
            head.push(rest[0]);
            rest = &rest[1..];
            if head.ends_with(END) {
                let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
                assert!(!text.contains("transfer-encoding"), "{text}");
                let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
                body_left = length.map_or(0, |length| length.trim().parse().expect("a number"));
                requests.note(String::from_utf8_lossy(&head).lines().next().expect("a line"));
                head.clear();
            }
        }
        to.write_all(&buffer[..read]).await?;
    }
}

/// Sends a generated segment with this many partitions. Returns how many bundles it has, and how many of them
/// existed before.
async fn send(client: &mut Client, partitions: u32, seed: u64) -> (usize, usize) {
    let spec = Spec {
        format: Format::ChronikV2,
        size: Size::Records(300),
        partitions: partitions.try_into().expect("not zero"),
        batch_records: 20.try_into().expect("not zero"),
        seed,
        ..Spec::default()
    };
    let mut bytes = Vec::new();
    generate(&spec, &mut bytes).expect("a segment");
    let reply =
        send_inline(client, inline(bytes.len() as u64, None), &bytes, 64 << 10).await.expect("stored");
    let bundles = reply.partitions.iter().map(|one| one.bundle.as_ref().expect("a bundle"));
    (reply.partitions.len(), bundles.filter(|bundle| bundle.already_existed).count())
}

/// Compares the numbers of requests. `check` is the method that checks a new object. An existing object is
/// read.
async fn check(server: &Server, settings: fn(u16) -> Vec<(&'static str, String)>, check: &str) {
    let requests = Arc::new(Requests::default());
    let settings = settings(counting(server.port(), Arc::clone(&requests)).await);
    let url = server.url("some/prefix");
    // In another thread: before the worker prints where it listens, it calls the store through the proxy,
    // which runs on this runtime.
    let starting = tokio::task::spawn_blocking(move || {
        let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Worker::start_on(url.as_str(), &settings, &[])
    });
    let worker = starting.await.expect("it starts");
    let mut client = worker.client().await;
    assert!(requests.counted().values().sum::<usize>() >= 3, "the proxy sees what the probe asks for");

    // No receipt is given for what a marker hides, so each bundle costs a look for its marker.
    let cost = |put: usize, asks: &str, count: usize| {
        let marker = ("GET marker".to_owned(), count);
        BTreeMap::from([("PUT bundle".to_owned(), put), (format!("{asks} bundle"), count), marker])
    };
    assert_eq!(send(&mut client, 1, 1).await, (1, 0));
    assert_eq!(requests.counted(), cost(1, check, 1), "one bundle");
    assert_eq!(send(&mut client, 7, 2).await, (7, 0));
    assert_eq!(requests.counted(), cost(7, check, 7), "seven");
    assert_eq!(send(&mut client, 7, 2).await, (7, 7));
    assert_eq!(requests.counted(), cost(7, "GET", 7), "seven that are there already");
    for seed in 3..8 {
        send(&mut client, 2, seed).await;
    }
    assert_eq!(requests.counted(), cost(10, check, 10), "five segments of two");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs SeaweedFS (tests/install-servers.sh); make test runs it"]
async fn a_bundle_costs_a_put_a_head_and_a_look_for_its_marker_on_s3_and_nothing_is_ever_listed() {
    check(&Server::s3(), s3_settings, "HEAD").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Azurite (tests/install-servers.sh); make test runs it"]
async fn a_bundle_costs_a_put_a_get_and_a_look_for_its_marker_on_azure_and_nothing_is_ever_listed() {
    check(&Server::azure(), azure_settings, "GET").await;
}
