use std::net::TcpListener;

use url::Url;

use super::*;
use crate::store::fake_server::{FakeServer, SECRET, s3};
use crate::store::put::Answer;
use crate::store::{OpenError, Store};

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

async fn put(answer: &str) -> Result<Answer, StoreError> {
    s3(FakeServer::start(answer).port).create("key", "bytes".into(), "s3://bucket/prefix/key").await
}

#[tokio::test]
async fn what_a_server_says_becomes_what_to_do_next() {
    let status = |status, code: Option<&str>| Cause::Status { status, code: code.map(str::to_owned) };
    let slow = "<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce</Message></Error>";
    let digest = "<Error><Code>BadDigest</Code></Error>";
    for (line, body, cause, kind) in [
        ("503 Slow Down", slow, status(503, Some("SlowDown")), StoreErrorKind::Unavailable),
        ("500 Internal Server Error", "", status(500, None), StoreErrorKind::Unavailable),
        ("429 Too Many Requests", "", status(429, None), StoreErrorKind::Unavailable),
        ("400 Bad Request", digest, status(400, Some("BadDigest")), StoreErrorKind::Unavailable),
        ("400 Bad Request", "<Code>X</Code>", status(400, Some("X")), StoreErrorKind::Denied),
        (
            "403 Forbidden",
            "<Code>AccessDenied</Code>",
            status(403, Some("AccessDenied")),
            StoreErrorKind::Denied,
        ),
        ("401 Unauthorized", "", status(401, None), StoreErrorKind::Denied),
        ("404 Not Found", "<Code>NoSuchBucket</Code>", Cause::NotFound, StoreErrorKind::NotFound),
        ("411 Length Required", "", status(411, None), StoreErrorKind::Denied),
        ("416 Range Not Satisfiable", "<Code>InvalidRange</Code>", Cause::Ended, StoreErrorKind::Corrupt),
    ] {
        let error = put(&answer(line, body)).await.unwrap_err();
        assert_eq!((error.cause(), error.kind()), (&cause, kind), "{line}");
    }
}

#[tokio::test]
async fn every_conflict_is_only_called_existing() {
    for line in ["409 Conflict", "412 Precondition Failed"] {
        assert!(matches!(put(&answer(line, "")).await, Ok(Answer::Exists)), "{line}");
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_off_may_have_landed_and_a_closed_port_has_not() {
    let cut = put("HTTP/1.1 200").await.unwrap_err();
    assert_eq!(cut.kind(), StoreErrorKind::Unavailable, "{cut}");
    assert!(cut.may_have_landed());
    let no_tag = put(&answer("200 OK", "")).await.unwrap_err();
    assert_eq!(no_tag.kind(), StoreErrorKind::Unavailable, "{no_tag}");
    assert!(no_tag.may_have_landed());
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let refused = s3(closed).create("key", "bytes".into(), "s3://bucket/key").await.unwrap_err();
    assert_eq!(refused.cause(), &Cause::Transport(NOT_CONNECTED));
    assert!(!refused.may_have_landed() && refused.is_temporary());
    let slow = put(&answer("503 Slow Down", "")).await.unwrap_err();
    assert!(slow.is_slow_down() && !slow.may_have_landed());
}

#[tokio::test]
async fn nothing_that_a_server_repeats_of_credentials_is_in_a_message() {
    let body = format!(
        "<Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>test-id</AWSAccessKeyId>\
         <StringToSign>{SECRET}</StringToSign><Resource>/bucket?X-Amz-Signature={SECRET}</Resource></Error>"
    );
    let error = put(&answer("403 Forbidden", &body)).await.unwrap_err();
    let (shown, debug) = (error.to_string(), format!("{error:?}"));
    assert_eq!(shown, "put s3://bucket/prefix/key: the store answered 403 (SignatureDoesNotMatch)");
    // A code with other characters than letters and digits is not repeated either.
    let body = format!("<Code>{SECRET} and more</Code>");
    let other = put(&answer("403 Forbidden", &body)).await.unwrap_err();
    let store = format!("{:?}", s3(1));
    for text in [shown, debug, other.to_string(), format!("{other:?}"), store] {
        assert!(!text.contains("not-to-be-seen") && !text.contains("test-id"), "{text}");
    }
}

#[test]
fn settings_that_make_no_client_are_told_without_their_values() {
    let url = Url::parse("az://container").unwrap();
    let secret = [("AZURE_STORAGE_ACCOUNT_NAME", "a"), ("AZURE_STORAGE_ACCOUNT_KEY", "=not-base64=")];
    let error = Store::open_with(&url, &secret).unwrap_err();
    assert!(matches!(error, OpenError::Settings { .. }));
    assert!(error.to_string().contains("az://container") && !error.to_string().contains("not-base64"));
    assert!(!format!("{error:?}").contains("not-base64"));
}

#[test]
fn errors_of_the_operating_system_say_whether_they_pass() {
    let kind =
        |kind| StoreError::new(Operation::Sync, "file:///x", Cause::Io { kind, os_error: None }).kind();
    assert_eq!(kind(io::ErrorKind::NotFound), StoreErrorKind::NotFound);
    assert_eq!(kind(io::ErrorKind::PermissionDenied), StoreErrorKind::Denied);
    assert_eq!(kind(io::ErrorKind::StorageFull), StoreErrorKind::Unavailable);
    let full = Cause::Io { kind: io::ErrorKind::StorageFull, os_error: Some(28) };
    let message = StoreError::new(Operation::Put, "file:///x", full).to_string();
    assert_eq!(message, "put file:///x: no storage space (os error 28)");
}

#[tokio::test]
async fn an_object_that_ends_too_early_is_corrupt_and_not_out_of_reach() {
    let key = "t/0/0/00000000000000000000-00000000000000000000_00000000000000000000-00000000000000000000_0000000000000000.tar";
    let directory = tempfile::tempdir().expect("a directory");
    let disk = Url::from_directory_path(directory.path()).expect("a url");
    for url in [disk, Url::parse("memory:").expect("a url")] {
        let store = Store::open(&url).expect("a store");
        store.create(key, "0123456789".into(), key).await.expect("created");
        let key = key.parse().expect("a key");
        for (range, cause) in [(10..11, Cause::Ended), (8..12, Cause::Length { expected: 4, got: 2 })] {
            let error = store.get_range(&key, range).await.expect_err("it has ten bytes");
            assert_eq!((error.cause(), error.kind()), (&cause, StoreErrorKind::Corrupt), "{url}");
        }
    }
}
