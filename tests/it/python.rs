//! A client in another language, generated from the protos, without any code of this project: `tests/client`.

use std::fs;
use std::process::Command;

use crate::authority::Authority;
use crate::worker::Worker;

/// Runs a script of `tests/client` against a new worker. Returns its output.
fn run(script: &str) -> String {
    let worker = Worker::start();
    run_with(&[script, worker.address()])
}

/// Runs a script with these arguments.
fn run_with(arguments: &[&str]) -> String {
    let python = std::env::var("WAL_INDEXER_TEST_PYTHON")
        .expect("WAL_INDEXER_TEST_PYTHON names a Python with tests/client/requirements.txt installed");
    let output = Command::new(python)
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("Python starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// Returns the number of Kafka fixtures.
fn logs() -> usize {
    let fixtures = std::fs::read_dir("tests/fixtures/kafka").expect("the fixtures are there");
    let is_log = |path: std::path::PathBuf| path.extension() == Some("log".as_ref());
    fixtures.filter(|entry| entry.as_ref().is_ok_and(|entry| is_log(entry.path()))).count()
}

#[test]
#[ignore = "needs Python with grpcio; make test runs it"]
fn a_python_client_that_knows_only_the_protos_indexes_every_fixture() {
    let said = run("tests/client/all_fixtures.py");
    let mentioned = said.matches(".log").count();
    assert!(mentioned >= logs(), "only {mentioned} Kafka fixtures were sent:\n{said}");
}

#[test]
#[ignore = "needs Python with grpcio; make test runs it"]
fn a_python_client_shows_a_certificate_and_a_token() {
    let authority = Authority::new();
    let (pair, caller) = (authority.sign("worker"), authority.sign("caller"));
    let path = |path: std::path::PathBuf| path.to_str().expect("UTF-8").to_owned();
    let (token, tokens) = (authority.directory().join("token"), authority.directory().join("tokens"));
    fs::write(&token, "0123456789abcdef\n").expect("a file");
    fs::write(&tokens, "python index,stats 0123456789abcdef\n").expect("a file");
    let (ca, token, tokens) = (path(authority.file()), path(token), path(tokens));
    let (certificate, key) = (path(pair.certificate), path(pair.key));
    let worker = Worker::start_with(&[
        "--tls-cert",
        &certificate,
        "--tls-key",
        &key,
        "--tls-client-ca",
        &ca,
        "--tokens",
        &tokens,
    ]);
    let (certificate, key) = (path(caller.certificate), path(caller.key));
    let script = ["tests/client/index_fixture.py", worker.address()];
    let fixture = ["tests/fixtures/kafka/zstd.log", "tests/fixtures/kafka/zstd.expected.json"];
    let partition = ["--topic", "orders", "--partition", "3"];
    let shown = ["--tls-ca", &ca, "--tls-cert", &certificate, "--tls-key", &key, "--token-file", &token];
    let said = run_with(&[&script[..], &fixture, &partition, &shown].concat());
    assert!(said.contains("zstd.log in"), "{said}");
}

#[test]
#[ignore = "needs Python with grpcio and kafka-python; make test runs it"]
fn kafka_python_decodes_what_is_fetched_of_every_fixture_with_valid_checksums() {
    let said = run("tests/client/fetch_fixtures.py");
    let decoded = said.lines().filter(|line| line.ends_with("with valid checksums")).count();
    // All Kafka fixtures except the empty one, and most of Chronik's.
    assert!(decoded > logs() + 5, "only {decoded} were decoded:\n{said}");
}
