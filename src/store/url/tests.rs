use super::*;
use crate::store::Store;
use crate::store::fake_server::{BODY, FakeServer, s3};
use crate::store::put::Answer;

fn parse(url: &str) -> Result<Location, LocationError> {
    Location::parse(&Url::parse(url).unwrap())
}

fn bucket(scheme: Scheme, bucket: &str, prefix: &str) -> Result<Location, LocationError> {
    Ok(Location::Bucket { scheme, bucket: bucket.to_owned(), prefix: Path::parse(prefix).unwrap() })
}

#[test]
fn each_scheme_is_taken_apart_and_its_path_decoded_once() {
    assert_eq!(parse("s3://b"), bucket(Scheme::S3, "b", ""));
    assert_eq!(parse("s3://b/"), bucket(Scheme::S3, "b", ""));
    assert_eq!(parse("s3://b/x/y/"), bucket(Scheme::S3, "b", "x/y"));
    assert_eq!(parse("gs://b/x%20y"), bucket(Scheme::Gcs, "b", "x y"));
    assert_eq!(parse("az://c/100%2525"), bucket(Scheme::Azure, "c", "100%25"));
    assert_eq!(parse("memory:"), Ok(Location::Memory { prefix: Path::default() }));
    assert_eq!(parse("memory:///p"), Ok(Location::Memory { prefix: Path::parse("p").unwrap() }));
    assert_eq!(parse("file:///a%20b/c"), Ok(Location::File(PathBuf::from("/a b/c"))));
    assert_eq!(parse("file://localhost/a"), Ok(Location::File(PathBuf::from("/a"))));
}

#[test]
fn what_is_no_plain_location_is_refused() {
    let scheme = |scheme: &str| Err(LocationError::Scheme { scheme: scheme.to_owned() });
    assert_eq!(parse("http://b/x"), scheme("http"));
    assert_eq!(parse("s3a://b/x"), scheme("s3a"));
    for url in ["s3://user:secret@b/x", "s3://b:9000/x", "s3://b/x?region=y", "az://c/x#y"] {
        assert_eq!(parse(url), Err(LocationError::Extra), "{url}");
    }
    assert_eq!(parse("s3:///x"), Err(LocationError::NoBucket));
    assert_eq!(parse("file://host/x"), Err(LocationError::Host));
    for url in ["s3://b/a//b", "s3://b/a%2Fb", "s3://b/a%2f..%2fb", "s3://b/a%00b", "s3://b/%FF"] {
        assert_eq!(parse(url), Err(LocationError::Path), "{url}");
    }
    for url in ["file:///a%2Fb", "file:///a%00b", "file:///%2e%2e%2fb"] {
        assert_eq!(parse(url), Err(LocationError::Path), "{url}");
    }
    let long = format!("s3://b/{}", "x".repeat(401));
    assert_eq!(parse(&long), Err(LocationError::PrefixTooLong { bytes: 401 }));
}

const CREATED: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nETag: \"x\"\r\nContent-Length: 0\r\n\r\n";

/// Creates one object and returns the lines of the request.
async fn created(store: Store, server: &FakeServer) -> Vec<String> {
    let answer = store.create("a%2Fb", BODY.into(), "").await.unwrap();
    assert!(matches!(answer, Answer::Created { .. }));
    let requests = server.requests();
    assert_eq!(requests.len(), 1, "one request, no retries behind our back");
    requests[0].lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn s3_gets_what_it_needs_to_verify_the_body_and_to_create_only() {
    let server = FakeServer::start(CREATED);
    let lines = created(s3(server.port), &server).await;
    // The SHA-256 of "bytes". The signature covers it, even if the environment asks for unsigned payloads.
    let sha256 = "277089d91c0bdf4f2e6862ba7e4a07605119431f5d13f726dd352b06f1b206a9";
    let base64 = "J3CJ2RwL308uaGK6fkoHYFEZQx9dE/cm3TUrBvGyBqk=";
    for line in [
        "PUT /bucket/prefix/a%252Fb HTTP/1.1".to_owned(),
        "if-none-match: *".to_owned(),
        format!("x-amz-content-sha256: {sha256}"),
        format!("x-amz-checksum-sha256: {base64}"),
    ] {
        assert!(lines.contains(&line), "{line} is not in {lines:#?}");
    }
    let signed = lines.iter().find(|line| line.starts_with("authorization: ")).unwrap();
    assert!(signed.contains("x-amz-checksum-sha256;x-amz-content-sha256"), "{signed}");
}

#[tokio::test]
async fn azure_and_gcs_are_asked_to_create_only() {
    let server = FakeServer::start(CREATED);
    let endpoint = format!("http://127.0.0.1:{}", server.port);
    let azure = [
        ("AZURE_STORAGE_ENDPOINT", endpoint.as_str()),
        ("AZURE_ALLOW_HTTP", "true"),
        ("AZURE_STORAGE_ACCOUNT_NAME", "account"),
        ("AZURE_STORAGE_ACCOUNT_KEY", "a2V5"),
    ];
    let store = Store::open_with(&Url::parse("az://container/prefix").unwrap(), &azure).unwrap();
    let lines = created(store, &server).await;
    assert_eq!(lines[0], "PUT /container/prefix/a%252Fb HTTP/1.1");
    assert!(lines.contains(&"if-none-match: *".to_owned()), "{lines:#?}");

    let server = FakeServer::start(CREATED);
    let endpoint = format!("http://127.0.0.1:{}", server.port);
    // An account for which no token is requested.
    let account = format!(
        r#"{{"private_key": "", "private_key_id": "", "client_email": "", "disable_oauth": true,
        "gcs_base_url": "{endpoint}"}}"#
    );
    let gcs = [("GOOGLE_SERVICE_ACCOUNT_KEY", account.as_str())];
    let store = Store::open_with(&Url::parse("gs://bucket/prefix").unwrap(), &gcs).unwrap();
    let lines = created(store, &server).await;
    assert_eq!(lines[0], "PUT /bucket/prefix%2Fa%252Fb HTTP/1.1");
    assert!(lines.contains(&"x-goog-if-generation-match: 0".to_owned()), "{lines:#?}");
}
