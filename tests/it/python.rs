//! A client in another language, generated from the protos, with none of our code: `tests/client`.

use std::process::Command;

use crate::worker::Worker;

#[test]
#[ignore = "needs Python with grpcio; make test runs it"]
fn a_python_client_that_knows_only_the_protos_indexes_every_fixture() {
    let python = std::env::var("WAL_INDEXER_TEST_PYTHON")
        .expect("WAL_INDEXER_TEST_PYTHON names a Python with tests/client/requirements.txt installed");
    let worker = Worker::start();
    let output = Command::new(python)
        .args(["tests/client/all_fixtures.py", worker.address()])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("Python starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let fixtures = std::fs::read_dir("tests/fixtures/kafka").expect("the fixtures are there");
    let logs = fixtures
        .filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().extension() == Some("log".as_ref())));
    let mentioned = said.matches(".log").count();
    assert!(mentioned >= logs.count(), "only {mentioned} Kafka fixtures were sent:\n{said}");
}
