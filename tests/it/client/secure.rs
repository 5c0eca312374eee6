//! Certificates and tokens of the client.

use std::error::Error;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tonic::transport::Identity;
use wal_indexer::client::EndpointError;

use super::*;

/// Must not appear anywhere.
const TOKEN: &str = "eyJhbGciOiJub25lIn0.not-to-be-seen";

/// Creates an authority, and a certificate from it for `workers.test` and 127.0.0.1.
fn certificates(directory: &Path) -> (PathBuf, Identity) {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("a key"));
    let authority = authority.expect("a certificate");
    let key = KeyPair::generate().expect("a key");
    let names = ["workers.test".to_owned(), "127.0.0.1".to_owned()];
    let certificate = CertificateParams::new(names).expect("names").signed_by(&key, &authority);
    let path = directory.join("ca.pem");
    std::fs::write(&path, authority.pem()).expect("a file");
    (path, Identity::from_pem(certificate.expect("a certificate").pem(), key.serialize_pem()))
}

async fn secure(directory: &Path, worker: &Worker) -> (ScriptedWorker, Security) {
    let (ca_file, identity) = certificates(directory);
    let token_file = directory.join("token");
    std::fs::write(&token_file, format!("{TOKEN}\n")).expect("a file");
    let any = "127.0.0.1:0".parse().expect("an address");
    let scripted = ScriptedWorker::start_at(any, &worker.endpoint(), Some(identity)).await;
    (scripted, Security { ca_file: Some(ca_file), token_file: Some(token_file), ..Security::default() })
}

/// Resolves every name to this address.
struct Always(SocketAddr);

impl wal_indexer::client::Resolve for Always {
    fn resolve<'a>(
        &'a self,
        _: &'a str,
        _: u16,
    ) -> futures::future::BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async { Ok(vec![self.0]) })
    }
}

async fn index_at(endpoint: &str, at: SocketAddr, security: &Security) -> Result<Receipt, IndexError> {
    let timeouts = Timeouts { segment: Duration::from_secs(20), ..WAIT_MAX };
    let endpoints = vec![endpoint.parse().expect("an endpoint")];
    let client = Client::start_with(endpoints, security.clone(), timeouts, Arc::new(Always(at))).await;
    let client = client.expect("settings that work");
    assert!(!format!("{client:?}").contains("not-to-be-seen"));
    client.index(&request(), &TestPayload::new(segment(10))).await
}

#[tokio::test]
async fn a_worker_is_who_its_certificate_says() {
    let (directory, worker) = (TempDir::new().expect("a directory"), Worker::start());
    let (scripted, security) = secure(directory.path(), &worker).await;
    for endpoint in ["https://workers.test:7070", &scripted.endpoint()] {
        let receipt = index_at(endpoint, scripted.address(), &security).await.expect("a receipt");
        assert_eq!(receipt.worker(), scripted.address().to_string());
        let call = scripted.calls().pop().expect("a call");
        assert_eq!(call.authorization, Some(format!("Bearer {TOKEN}")));
    }
}

#[tokio::test]
async fn a_token_that_was_replaced_is_used_at_once() {
    let (directory, worker) = (TempDir::new().expect("a directory"), Worker::start());
    let (scripted, security) = secure(directory.path(), &worker).await;
    let endpoints = vec![scripted.endpoint().parse().expect("an endpoint")];
    let client = Client::start(endpoints, security.clone(), WAIT_MAX).await.expect("settings that work");
    let token_file = security.token_file.as_ref().expect("a file");
    let send = async |expected: &str| {
        client.index(&request(), &TestPayload::new(segment(10))).await.expect("a receipt");
        let sent = scripted.calls().pop().expect("a call").authorization;
        assert_eq!(sent.as_deref(), Some(expected));
    };
    send(&format!("Bearer {TOKEN}")).await;
    std::fs::write(token_file, "another").expect("a file");
    send("Bearer another").await;
    std::fs::remove_file(token_file).expect("it is there");
    send("Bearer another").await;
}

#[tokio::test]
async fn nobody_else_gets_the_segment_or_the_token() {
    let (directory, worker) = (TempDir::new().expect("a directory"), Worker::start());
    let (scripted, security) = secure(directory.path(), &worker).await;
    let (other_ca, _) = certificates(&{
        let other = directory.path().join("other");
        std::fs::create_dir(&other).expect("a directory");
        other
    });
    let other = Security { ca_file: Some(other_ca), ..security.clone() };
    let plain = format!("https://{}", worker.address());
    for (what, endpoint, at, security) in [
        ("another name", "https://else.test:7070", scripted.address(), &security),
        ("another authority", "https://workers.test:7070", scripted.address(), &other),
        ("no TLS there", &plain, worker.address().parse().expect("an address"), &security),
    ] {
        let timeouts = Timeouts { segment: Duration::from_millis(700), ..WAIT_MAX };
        let endpoints = vec![endpoint.parse().expect("an endpoint")];
        let client = Client::start_with(endpoints, security.clone(), timeouts, Arc::new(Always(at))).await;
        let client = client.expect("settings that work");
        let error = client.index(&request(), &TestPayload::new(segment(10))).await.expect_err(what);
        let IndexError::TimedOut { last: Some(last), .. } = &error else { panic!("{what}: {error:?}") };
        assert_eq!(last.code, "UNAVAILABLE", "{what}: {last}");
        if what.starts_with("another") {
            assert!(last.message.contains("certificate"), "{what}: {last}");
        }
    }
    assert!(scripted.calls().is_empty());
}

#[tokio::test]
async fn settings_that_cannot_work_are_said_so_at_once() {
    let directory = TempDir::new().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("a file");
        Some(path)
    };
    let missing = || Some(directory.path().join("missing"));
    let ca = |ca_file| Security { ca_file, ..Security::default() };
    let token = |token_file| Security { token_file, ..Security::default() };
    for (security, expected) in [
        (ca(missing()), "cannot read"),
        (ca(file("no.pem", "certainly none")), "no certificate"),
        (
            ca(file("bad.pem", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n")),
            "no certificate",
        ),
        (token(missing()), "cannot read"),
        (token(file("empty", "\n")), "no token"),
        (token(file("two", &format!("{TOKEN} two"))), "no token"),
        (token(file("ünï", "tökén")), "no token"),
    ] {
        let secure = security.ca_file.is_some();
        let endpoint = if secure { "https://127.0.0.1:1" } else { "http://127.0.0.1:1" };
        let endpoints = vec![endpoint.parse().expect("an endpoint")];
        let error = Client::start(endpoints, security, WAIT_MAX).await.expect_err(expected);
        let line = format!("{error} {error:?} {:?}", error.source());
        assert!(line.contains(expected) && !line.contains("not-to-be-seen"), "{expected}: {line}");
    }
    let error = Client::start(Vec::new(), Security::default(), WAIT_MAX).await.expect_err("none");
    assert!(matches!(error, EndpointError::NoneGiven), "{error:?}");
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("nobody panicked").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The log includes the lines of all libraries. The test's tasks run on its own thread.
#[tokio::test]
async fn lesson_20_no_credentials_are_in_logs() {
    let (directory, worker) = (TempDir::new().expect("a directory"), Worker::start());
    let (scripted, security) = secure(directory.path(), &worker).await;
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone());
    let _logging = tracing::subscriber::set_default(subscriber.finish());
    scripted.script([Answer::No(Code::Unavailable, None), Answer::No(Code::Unauthenticated, None)]);
    let error =
        index_at("https://workers.test:7070", scripted.address(), &security).await.expect_err("refused");
    assert!(matches!(error, IndexError::Refused(_)), "{error:?}");
    std::fs::remove_file(security.token_file.as_ref().expect("a file")).expect("it is there");
    let log = String::from_utf8_lossy(&log.0.lock().expect("nobody panicked")).into_owned();
    assert!(log.contains("no receipt yet") && log.contains("CROOKED"), "{log}");
    assert!(log.contains("h2"), "the libraries' own lines are there");
    let shown = log.lines().find(|line| line.contains("not-to-be-seen"));
    assert_eq!(shown, None);
}
