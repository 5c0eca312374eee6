//! Tokens and their roles.

use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use futures::{StreamExt, stream};
use tempfile::TempDir;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use wal_indexer::proto::v1;
use wal_indexer::proto::v1::indexer_service_client::IndexerServiceClient;
use wal_indexer::proto::v1::search_service_client::SearchServiceClient;

use super::*;
use crate::authority::replace;
use crate::worker::{Refusal, chunk, command, file_url, header, inline};
use crate::written::fixture;

/// Must not appear anywhere.
const SECRET: &str = "not-to-be-seen";

/// Adds metadata to each call.
#[derive(Clone)]
struct With(MetadataMap);

impl Interceptor for With {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        *request.metadata_mut() = self.0.clone();
        Ok(request)
    }
}

type Line = InterceptedService<Channel, With>;

fn token(holder: &str) -> String {
    format!("{SECRET}-{holder}-0123456789")
}

fn bearer(token: &str) -> With {
    let mut metadata = MetadataMap::new();
    let mut value = AsciiMetadataValue::try_from(format!("Bearer {token}")).expect("ASCII");
    value.set_sensitive(true);
    metadata.insert("authorization", value);
    With(metadata)
}

fn nothing() -> With {
    With(MetadataMap::new())
}

struct Scene {
    directory: TempDir,
    worker: Worker,
}

impl Scene {
    /// Starts a worker with one token for each role, and one for all roles.
    fn start(flags: &[&str]) -> Self {
        let directory = TempDir::new().expect("a directory");
        let file = directory.path().join("tokens");
        let line = |name: &str, roles: &str| format!("{name} {roles} {}\n", token(name));
        let lines = [
            "# the brokers\n".to_owned(),
            line("index", "index"),
            line("search", "search"),
            line("stats", "stats"),
            line("all", "index,search,stats"),
        ];
        fs::write(&file, lines.concat()).expect("a file");
        let file = text(&file);
        let flags: Vec<_> = ["--tokens", &file].into_iter().chain(flags.iter().copied()).collect();
        Self { directory, worker: Worker::start_with(&flags) }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("tokens")
    }

    async fn line(&self, with: With) -> Line {
        InterceptedService::new(self.worker.channel().await, with)
    }
}

/// Everything that can be called.
const METHODS: [&str; 8] =
    ["IndexSegment", "GetStats", "Health", "Search", "Fetch", "ListBundles", "reflection", "another"];

/// Whether a role allows a method.
fn reaches(method: &str, role: &str) -> bool {
    match method {
        "IndexSegment" => role == "index",
        "GetStats" | "Health" => role == "stats",
        "Search" | "Fetch" | "ListBundles" => role == "search",
        _ => true,
    }
}

/// Calls a method, with a valid request except for the token. Returns OK if there is an answer.
async fn call(line: Line, method: &str) -> Result<(), Status> {
    match method {
        "IndexSegment" => {
            let source = fixture("kafka/none.log");
            let first = header(inline(source.len() as u64, Some(("orders", 3))));
            let messages = stream::iter([first, chunk(source)]);
            IndexerServiceClient::new(line).index_segment(messages).await.map(drop)
        }
        "GetStats" => IndexerServiceClient::new(line).get_stats(v1::GetStatsRequest {}).await.map(drop),
        "Health" => IndexerServiceClient::new(line).health(v1::HealthRequest {}).await.map(drop),
        "Search" => {
            let filter = v1::RecordFilter { topic: "none".to_owned(), ..v1::RecordFilter::default() };
            let request = v1::SearchRequest { filter: Some(filter), ..v1::SearchRequest::default() };
            SearchServiceClient::new(line).search(request).await.map(drop)
        }
        "Fetch" => {
            let request = v1::FetchRequest { topic: "none".to_owned(), ..v1::FetchRequest::default() };
            let answer = SearchServiceClient::new(line).fetch(request).await.map(drop);
            // There is no such log.
            answer.or_else(|status| if status.code() == Code::NotFound { Ok(()) } else { Err(status) })
        }
        "ListBundles" => {
            let request = v1::ListBundlesRequest::default();
            SearchServiceClient::new(line).list_bundles(request).await.map(drop)
        }
        "reflection" => {
            ServerReflectionClient::new(line).server_reflection_info(stream::empty()).await.map(drop)
        }
        _ => {
            let mut grpc = tonic::client::Grpc::new(line);
            grpc.ready().await.expect("it listens");
            let path = tonic::codegen::http::uri::PathAndQuery::from_static("/a.b.C/Another");
            let codec = tonic_prost::ProstCodec::<v1::HealthRequest, v1::HealthResponse>::default();
            let answer = grpc.unary(Request::new(v1::HealthRequest {}), path, codec).await.map(drop);
            answer.or_else(|status| if status.code() == Code::Unimplemented { Ok(()) } else { Err(status) })
        }
    }
}

#[tokio::test]
async fn each_role_reaches_what_is_its_own_and_nothing_else() {
    let scene = Scene::start(&[]);
    for method in METHODS {
        for (what, with, reason) in [
            ("no token", nothing(), "TOKEN_MISSING"),
            ("another token", bearer(&token("another")), "TOKEN_UNKNOWN"),
            ("a part of one", bearer(&token("all")[..20]), "TOKEN_UNKNOWN"),
            ("an empty one", bearer(""), "TOKEN_UNKNOWN"),
        ] {
            let refused = call(scene.line(with).await, method).await.expect_err(what);
            let refusal = Refusal::of(&refused);
            assert_eq!((refusal.code, &*refusal.reason), (Code::Unauthenticated, reason), "{method}: {what}");
            assert!(!format!("{refused:?}").contains(SECRET), "{refused:?}");
        }
        for role in ["index", "search", "stats"] {
            let answer = call(scene.line(bearer(&token(role))).await, method).await;
            if reaches(method, role) {
                answer.unwrap_or_else(|status| panic!("{method} with {role}: {status:?}"));
                continue;
            }
            let refusal = Refusal::of(&answer.expect_err("its role does not reach"));
            assert_eq!(
                (refusal.code, &*refusal.reason),
                (Code::PermissionDenied, "ROLE_MISSING"),
                "{method} with {role}"
            );
            assert!(reaches(method, refusal.facts.get("role").expect("which one is needed")), "{method}");
        }
        let answer = call(scene.line(bearer(&token("all"))).await, method).await;
        answer.unwrap_or_else(|status| panic!("{method} with all: {status:?}"));
    }
    // Probes have no token.
    let mut health = HealthClient::new(scene.worker.channel().await);
    health.check(HealthCheckRequest::default()).await.expect("health is open to all");
}

#[tokio::test]
async fn a_stranger_is_answered_before_anything_that_it_sends_is_read() {
    let scene = Scene::start(&[]);
    let mut client = IndexerServiceClient::new(scene.line(bearer(&token("another"))).await);
    // The stream has no message and does not end.
    let refused = client.index_segment(stream::pending()).await.expect_err("a stranger");
    assert_eq!(refused.code(), Code::Unauthenticated);
    // A declared gigabyte, with bytes that follow.
    let endless = stream::iter([header(inline(1 << 30, Some(("orders", 3))))])
        .chain(stream::repeat_with(|| chunk(Bytes::from_static(&[0; 64 << 10]))));
    let refused = client.index_segment(endless).await.expect_err("a stranger");
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
    let mut client = IndexerServiceClient::new(scene.line(bearer(&token("stats"))).await);
    let stats = client.get_stats(v1::GetStatsRequest {}).await.expect("it may").into_inner();
    assert_eq!(stats.memory.expect("memory").reserved_bytes, 0);
    assert_eq!((stats.jobs.len(), stats.rejected.len()), (0, 0), "the write path has never heard of it");
}

#[tokio::test]
async fn tokens_can_be_replaced_while_a_worker_runs() {
    let scene = Scene::start(&["--metrics-listen", "127.0.0.1:0"]);
    let stats = async |with: &str| {
        let mut client = IndexerServiceClient::new(scene.line(bearer(&token(with))).await);
        client.get_stats(v1::GetStatsRequest {}).await.map(drop).map_err(|status| status.code())
    };
    assert_eq!(stats("next").await, Err(Code::Unauthenticated));
    let line = |token_of: &str| format!("ops stats {}\n", token(token_of));
    replace(&scene.file(), [line("stats"), line("next")].concat().as_bytes());
    until("the new one is known", async || stats("next").await.ok()).await;
    assert_eq!(stats("stats").await, Ok(()), "one name may have two");
    replace(&scene.file(), line("next").as_bytes());
    until("the old one is not", async || stats("stats").await.err()).await;
    assert_eq!(stats("next").await, Ok(()));

    // A file that cannot be parsed changes nothing.
    let what = [("what", "tokens")];
    let failing = || scene.worker.scrape().sum("wal_indexer_worker_reload_failing", &what);
    assert_eq!(failing(), Some(0.0));
    replace(&scene.file(), b"ops everything please\n");
    until("it says so", async || (failing() == Some(1.0)).then_some(())).await;
    assert_eq!(stats("next").await, Ok(()));
}

#[tokio::test]
async fn metadata_has_limits() {
    let scene = Scene::start(&[]);
    let with = |count: usize, bytes: usize| {
        let With(mut metadata) = bearer(&token("stats"));
        for number in 0..count {
            let name = tonic::metadata::AsciiMetadataKey::from_bytes(format!("x-{number}").as_bytes());
            let value = AsciiMetadataValue::try_from("v".repeat(bytes)).expect("ASCII");
            metadata.insert(name.expect("a name"), value);
        }
        With(metadata)
    };
    for (count, bytes) in [(1, 7_000), (50, 10)] {
        call(scene.line(with(count, bytes)).await, "GetStats").await.expect("that much may be");
    }
    for (count, bytes) in [(1, 8_200), (70, 10), (40, 180)] {
        let refused = call(scene.line(with(count, bytes)).await, "GetStats").await.expect_err("too much");
        let refusal = Refusal::of(&refused);
        assert_eq!((refusal.code, &*refusal.reason), (Code::InvalidArgument, "METADATA_TOO_LARGE"));
    }
    // More than HTTP/2 accepts is refused without a reason.
    call(scene.line(with(1, 20_000)).await, "GetStats").await.expect_err("far too much");
    call(scene.line(bearer(&token("stats"))).await, "GetStats").await.expect("it lives on");
}

#[tokio::test]
async fn lesson_20_no_token_is_in_a_workers_log() {
    let scene = Scene::start(&["--log", "trace"]);
    for method in METHODS {
        call(scene.line(bearer(&token("all"))).await, method).await.expect("it may");
        for holder in ["another", "index", "stats"] {
            // The result does not matter. The value is not marked as sensitive: a caller need not do that.
            let With(mut metadata) = nothing();
            let value = format!("Bearer {}", token(holder)).parse().expect("ASCII");
            metadata.insert("authorization", value);
            let _ = call(scene.line(With(metadata)).await, method).await;
        }
    }
    replace(&scene.file(), format!("ops everything {}\n", token("next")).as_bytes());
    until("it complains", async || scene.worker.log().contains("does not fit").then_some(())).await;
    let log = scene.worker.log();
    assert!(log.contains("caller=\"all\""), "names are there");
    assert!(log.contains("h2") && log.contains("a call is refused"), "all that there is to log");
    assert_eq!(log.lines().find(|line| line.contains(SECRET)), None);
}

#[test]
fn files_that_list_no_tokens_are_said_so_at_the_start() {
    let directory = TempDir::new().expect("a directory");
    let store = file_url(directory.path());
    let path = directory.path().join("tokens");
    for (contents, expected) in [
        (None, "cannot read"),
        (Some(String::new()), "no token"),
        (Some(format!("index {}\n", token("index"))), "line 1"),
        (Some(format!("# one\nagent index {}\nops admin {}\n", token("a"), token("b"))), "line 3"),
        (Some(format!("agent index {}\nops stats {}\n", token("a"), token("a"))), "line 2"),
        (Some(format!("agent index {}\n", &SECRET[..10])), "line 1"),
    ] {
        match contents {
            Some(contents) => fs::write(&path, contents).expect("a file"),
            None => _ = fs::remove_file(&path),
        }
        let mut serve = command(["serve", "--listen", "127.0.0.1:0", "--store", &store, "--tokens"]);
        let output = serve.arg(&path).output().expect("the program starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{expected}: {said}");
        assert!(said.contains("--tokens") && said.contains(expected), "{said}");
        assert!(!said.contains(&SECRET[..10]), "{said}");
    }
}
