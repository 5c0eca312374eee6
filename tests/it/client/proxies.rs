//! Proxies between clients and workers that answer by themselves.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::codegen::http::{Request as HttpRequest, Response as HttpResponse};
use wal_indexer::client::Connection;

use super::*;
use crate::sidecar::once;

/// The proxy's own answer: status, content type, content.
pub type Own = (u16, &'static str, &'static str);

pub const HTML: &str = "text/html; charset=utf-8";

/// An error page as nginx writes it.
const BAD_GATEWAY: &str = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad \
    Gateway</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n";

/// A proxy in front of a worker. It stops when dropped.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    /// Its own answers, before it passes calls on.
    own: Mutex<VecDeque<Own>>,
    /// Its own answer to every call.
    always: Mutex<Option<Own>>,
    calls: AtomicUsize,
    worker: String,
}

impl Proxy {
    pub async fn start(worker: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared { worker: worker.to_owned(), ..Shared::default() });
        let mut tasks = JoinSet::new();
        let served = Arc::clone(&shared);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let shared = Arc::clone(&served);
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(Arc::clone(&shared), request));
                    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    // A client that disconnects is fine.
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, shared, _tasks: tasks }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets its own answers to the next calls.
    pub fn says(&self, own: impl IntoIterator<Item = Own>) {
        self.shared.own.lock().expect("nobody panicked").extend(own);
    }

    pub fn always(&self, own: Own) {
        *self.shared.always.lock().expect("nobody panicked") = Some(own);
    }

    pub fn calls(&self) -> usize {
        self.shared.calls.load(Relaxed)
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: HttpRequest<Incoming>,
) -> Result<HttpResponse<Body>, Infallible> {
    shared.calls.fetch_add(1, Relaxed);
    let own = shared.own.lock().expect("nobody panicked").pop_front();
    let own = own.or(*shared.always.lock().expect("nobody panicked"));
    let Some((status, content_type, content)) = own else {
        let stream = TcpStream::connect(&shared.worker).await.expect("the worker");
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut worker, connection) = handshake.await.expect("a connection");
        tokio::spawn(connection);
        return Ok(worker.send_request(request).await.expect("an answer").map(Body::new));
    };
    let mut answer = HttpResponse::builder().status(status);
    if !content_type.is_empty() {
        answer = answer.header("content-type", content_type);
    }
    Ok(answer.body(Body::new(content.to_owned())).expect("an answer"))
}

async fn impatient(endpoint: String) -> Client {
    client(&[endpoint], Timeouts { segment: Duration::from_millis(1_500), ..WAIT_MAX }).await
}

#[tokio::test]
async fn what_a_proxy_says_by_itself_becomes_the_code_of_grpcs_mapping_with_its_words() {
    let proxy = Proxy::start("").await;
    for (own, code, words) in [
        ((429, "text/plain", "slow down"), "UNAVAILABLE", "HTTP status 429 Too Many Requests: slow down"),
        (
            (502, HTML, BAD_GATEWAY),
            "UNAVAILABLE",
            "HTTP status 502 Bad Gateway: 502 Bad Gateway 502 Bad Gateway nginx",
        ),
        ((503, "", "no healthy upstream"), "UNAVAILABLE", "503 Service Unavailable: no healthy upstream"),
        ((504, "application/json", "{}"), "UNAVAILABLE", "504 Gateway Timeout: {}"),
        ((503, "application/grpc", ""), "UNAVAILABLE", "HTTP status 503"),
        ((401, HTML, "<h1>Log in</h1>"), "UNAUTHENTICATED", "401 Unauthorized: Log in"),
        ((403, "text/plain", ""), "PERMISSION_DENIED", "HTTP status 403 Forbidden"),
        (
            (404, HTML, "<b>default backend</b> - 404"),
            "UNIMPLEMENTED",
            "404 Not Found: default backend - 404",
        ),
        ((400, HTML, "<p>bad"), "INTERNAL", "400 Bad Request: bad"),
        ((200, HTML, "<p>Welcome!</p>"), "UNKNOWN", "200 OK: Welcome!"),
        ((302, "", ""), "UNKNOWN", "302 Found"),
        ((500, "text/plain", "oops"), "UNKNOWN", "500 Internal Server Error: oops"),
    ] {
        proxy.always(own);
        let before = proxy.calls();
        let error = impatient(proxy.endpoint()).await.index(&request(), &TestPayload::new(segment(10))).await;
        let (is_sent_again, refusal) = match error.expect_err("no receipt") {
            IndexError::TimedOut { last: Some(last), .. } => (true, last),
            IndexError::Refused(refusal) => (false, refusal),
            error => panic!("{own:?}: {error:?}"),
        };
        assert_eq!((refusal.code, &*refusal.reason), (code, "NOT_GRPC"), "{own:?}");
        assert!(refusal.message.contains(words), "{own:?}: {}", refusal.message);
        assert_eq!(is_sent_again, matches!(code, "UNAVAILABLE" | "UNKNOWN"), "{own:?}");
        let calls = proxy.calls() - before;
        assert_eq!(calls >= 2, is_sent_again || code == "INTERNAL", "{own:?}: {calls} calls");
    }
}

#[tokio::test]
async fn a_proxy_without_a_worker_is_asked_again_until_it_has_one() {
    let worker = Worker::start();
    let proxy = Proxy::start(worker.address()).await;
    let busy = [(503, HTML, "busy"), (502, HTML, BAD_GATEWAY), (429, "", ""), (504, "text/plain", "late")];
    proxy.says(busy);
    let receipt = index(proxy.endpoint(), &segment(100)).await.expect("a receipt");
    assert_eq!((receipt.attempts(), receipt.data_records()), (5, 100));
}

#[tokio::test]
async fn a_proxys_limit_is_no_verdict_about_a_segment() {
    let proxy = Proxy::start("").await;
    proxy.always((413, HTML, "<html><head><title>413 Request Entity Too Large</title></head></html>"));
    let error = index(proxy.endpoint(), &large_segment()).await.expect_err("it is too large");
    let IndexError::Refused(refusal) = &error else { panic!("{error:?}") };
    assert_eq!((&*refusal.reason, refusal.position), ("PROXY_BODY_LIMIT", None));
    assert!(refusal.message.contains("takes no request body so large: HTTP status 413"), "{refusal}");
    assert_eq!(proxy.calls(), 1, "it will not grow");

    // The agent rejects no segment because of it.
    let wal = tempfile::tempdir().expect("a directory");
    let directory = wal.path().join("logs-0");
    std::fs::create_dir(&directory).expect("a directory");
    for name in ["00000000000000000000.log", "00000000000000001000.log"] {
        std::fs::write(directory.join(name), segment(100)).expect("a file");
    }
    let (path, endpoint) = (wal.path().to_owned(), proxy.endpoint());
    let ran = tokio::task::spawn_blocking(move || once(&path, &[endpoint], &[]));
    let ran = ran.await.expect("it ran");
    let said = String::from_utf8_lossy(&ran.stderr) + String::from_utf8_lossy(&ran.stdout);
    assert_eq!(ran.status.code(), Some(5), "{said}");
    assert!(said.contains("takes no request body so large"), "{said}");
    assert!(!directory.join("00000000000000000000.log.rejected.json").exists(), "{said}");
}

#[tokio::test]
async fn one_who_does_not_speak_http_2_is_named_as_such() {
    let cases: [(&[u8], &str); 2] = [
        (
            b"HTTP/1.1 400 Bad Request\r\nserver: old\r\n\r\n",
            "speaks HTTP/1 and not HTTP/2: it answers \"HTTP/1.1 400 Bad Request\"",
        ),
        (b"\x15\x03\x01\x00\x02\x02\x16", "expects TLS"),
    ];
    for (says, words) in cases {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let serving = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                stream.write_all(says).await.expect("it is sent");
                let mut sink = Vec::new();
                // Until the client disconnects.
                let _ = stream.read_to_end(&mut sink).await;
            }
        });
        let endpoint = format!("http://{address}");
        let error = impatient(endpoint.clone()).await.index(&request(), &TestPayload::new(segment(10))).await;
        let error = wal_indexer::internals::formatting::chain(&error.expect_err("nobody"));
        assert!(error.contains(words), "{error}");

        let stats = async { Connection::connect(&endpoint).await?.stats().await };
        let error = wal_indexer::internals::formatting::chain(&stats.await.expect_err("nobody"));
        let words = words.split(':').next().expect("some words");
        assert!(error.contains(words), "{error}");
        serving.abort();
    }
}

#[tokio::test]
async fn searches_tell_a_proxys_words_too() {
    let proxy = Proxy::start("").await;
    proxy.always((502, HTML, BAD_GATEWAY));
    let mut connection = Connection::connect(&proxy.endpoint()).await.expect("a connection");
    let error = connection.search(v1::SearchRequest::default()).await.expect_err("no worker");
    assert_eq!(error.code(), Some(Code::Unavailable));
    assert!(error.to_string().contains("502 Bad Gateway nginx"), "{error}");
}
