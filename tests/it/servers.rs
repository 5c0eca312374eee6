//! Real stores for tests: SeaweedFS (S3) and Azurite (Azure Blob Storage), each started as a child on free ports and ended
//! by its handle. `tests/install-servers.sh` installs them; `WAL_INDEXER_TEST_WEED` and `WAL_INDEXER_TEST_AZURITE` name
//! executables that lie elsewhere.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::macros::format_description;
use url::Url;
use wal_indexer::store::Store;

/// The bucket or container that each server comes with.
pub const BUCKET: &str = "wal-test";

const STARTED_WITHIN: Duration = Duration::from_secs(60);

/// A running server. It ends when this is dropped.
pub struct Server {
    child: Child,
    directory: tempfile::TempDir,
    scheme: &'static str,
    port: u16,
    settings: Vec<(&'static str, String)>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// SeaweedFS with its S3 interface and one identity.
    pub fn s3() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let identities = directory.path().join("s3.json");
        let allowed = r#"["Admin", "Read", "List", "Write", "Tagging"]"#;
        let key = r#"{"accessKey": "test-id", "secretKey": "test-secret"}"#;
        let config = format!(
            r#"{{"identities": [{{"name": "test", "credentials": [{key}], "actions": {allowed}}}]}}"#
        );
        std::fs::write(&identities, config).unwrap();
        let data = directory.path().join("data");
        std::fs::create_dir(&data).unwrap();

        let [s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc, admin, admin_grpc] =
            free_ports();
        let child = start(Command::new(executable("WAL_INDEXER_TEST_WEED", "weed")), &directory, |command| {
            // All of them are needed: a port that is not given is the default one, or 10,000 more than its sibling.
            let ports = [
                ("s3.port", s3),
                ("s3.port.grpc", s3_grpc),
                ("master.port", master),
                ("master.port.grpc", master_grpc),
                ("volume.port", volume),
                ("volume.port.grpc", volume_grpc),
                ("filer.port", filer),
                ("filer.port.grpc", filer_grpc),
                ("admin.port", admin),
                ("admin.port.grpc", admin_grpc),
                ("s3.port.iceberg", 0),
                ("s3.port.lance", 0),
            ];
            command.args(["-logtostderr=true", "mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]);
            command.args(["-webdav=false", "-admin.ui=false", "-master.telemetry=false"]);
            command.arg(format!("-bucket={BUCKET}"));
            command.arg(format!("-dir={}", data.display()));
            command.arg(format!("-s3.config={}", identities.display()));
            command.args(ports.map(|(flag, port)| format!("-{flag}={port}")));
        });
        let settings = s3_settings(s3);
        let mut server = Self { child, directory, scheme: "s3", port: s3, settings };
        // Without a signature: the identities are loaded when it is refused.
        server.wait_until(|port| matches!(http(port, &format!("GET /{BUCKET}/"), "", ""), Some(403)));
        server.wait_until_usable();
        server
    }

    /// Azurite's blob service, in memory.
    pub fn azure() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [port] = free_ports();
        let azurite = executable("WAL_INDEXER_TEST_AZURITE", "azurite-blob");
        let child = start(Command::new(azurite), &directory, |command| {
            command.args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()]);
            command.args([
                "--inMemoryPersistence",
                "--silent",
                "--disableTelemetry",
                "--skipApiVersionCheck",
            ]);
        });
        let settings = azure_settings(port);
        let mut server = Self { child, directory, scheme: "az", port, settings };
        server.wait_until(|port| http(port, "GET /", "", "").is_some());
        server.wait_until(create_container);
        server.wait_until_usable();
        server
    }

    /// The port that speaks the store's protocol.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The settings that lead a store here. As environment variables they do the same for another process.
    pub fn settings(&self) -> Vec<(&str, &str)> {
        self.settings.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }

    /// A store with this prefix in the server's bucket.
    pub fn store(&self, prefix: &str) -> Store {
        Store::open_with(&self.url(prefix), &self.settings()).unwrap()
    }

    /// The URL of a prefix in the server's bucket.
    pub fn url(&self, prefix: &str) -> Url {
        Url::parse(&format!("{}://{BUCKET}/{prefix}", self.scheme)).unwrap()
    }

    fn wait_until(&mut self, ready: impl Fn(u16) -> bool) {
        let deadline = Instant::now() + STARTED_WITHIN;
        while !ready(self.port) {
            let ended = self.child.try_wait().unwrap();
            if ended.is_some() || Instant::now() > deadline {
                let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
                let tail: Vec<_> = log.lines().rev().take(15).collect();
                panic!("{}'s server did not start ({ended:?}), its log from the end: {tail:#?}", self.scheme);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A server answers before it can store.
    fn wait_until_usable(&mut self) {
        let store = self.store("ready");
        // A test may already run on a runtime of its own.
        let probing = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let deadline = Instant::now() + STARTED_WITHIN;
            runtime.block_on(async {
                while let Err(error) = store.probe().await {
                    assert!(Instant::now() < deadline, "{error}");
                }
            });
        });
        probing.join().unwrap();
    }
}

/// The settings for an S3 endpoint on this machine.
pub fn s3_settings(port: u16) -> Vec<(&'static str, String)> {
    vec![
        ("AWS_ENDPOINT", format!("http://127.0.0.1:{port}")),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "test-id".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "test-secret".to_owned()),
    ]
}

/// The account that Azurite comes with; its key is in its documentation.
const ACCOUNT: &str = "devstoreaccount1";
const ACCOUNT_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// The settings for Azurite on this machine.
pub fn azure_settings(port: u16) -> Vec<(&'static str, String)> {
    vec![
        ("AZURE_STORAGE_ENDPOINT", format!("http://127.0.0.1:{port}/{ACCOUNT}")),
        ("AZURE_ALLOW_HTTP", "true".to_owned()),
        ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT.to_owned()),
        ("AZURE_STORAGE_ACCOUNT_KEY", ACCOUNT_KEY.to_owned()),
    ]
}

fn executable(variable: &str, installed: &str) -> PathBuf {
    let path = std::env::var_os(variable).map(PathBuf::from);
    let path =
        path.unwrap_or_else(|| [env!("CARGO_MANIFEST_DIR"), "target", "tools", installed].iter().collect());
    assert!(path.exists(), "{} is missing: run tests/install-servers.sh, or set {variable}", path.display());
    path
}

fn start(mut command: Command, directory: &tempfile::TempDir, arguments: impl FnOnce(&mut Command)) -> Child {
    let log = std::fs::File::create(directory.path().join("log")).unwrap();
    arguments(&mut command);
    command.current_dir(directory.path()).stdin(Stdio::null());
    command.stdout(log.try_clone().unwrap()).stderr(log);
    command.spawn().unwrap()
}

/// Ports that nobody listens on. All are held until the last is found, so that they differ.
fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

/// Sends a request without a body; the status, if there was an answer. `line` is method and path.
fn http(port: u16, line: &str, query: &str, headers: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let head = "Host: 127.0.0.1\r\nConnection: close\r\nContent-Length: 0\r\n";
    write!(stream, "{line}{query} HTTP/1.1\r\n{head}{headers}\r\n").ok()?;
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer.split(' ').nth(1)?.parse().ok()
}

/// `object_store` creates no containers. Signed as
/// <https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key> describes.
fn create_container(port: u16) -> bool {
    let format = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let date = OffsetDateTime::now_utc().format(format).unwrap();
    let version = "2021-08-06";
    // Method, eleven standard headers that are empty, x-ms headers, resource.
    let to_sign = format!(
        "PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:{version}\n\
         /{ACCOUNT}/{ACCOUNT}/{BUCKET}\nrestype:container"
    );
    let key = BASE64_STANDARD.decode(ACCOUNT_KEY).unwrap();
    let signature = BASE64_STANDARD.encode(hmac_sha256(&key, to_sign.as_bytes()));
    let headers = format!(
        "x-ms-date: {date}\r\nx-ms-version: {version}\r\nAuthorization: SharedKey {ACCOUNT}:{signature}\r\n"
    );
    let status = http(port, &format!("PUT /{ACCOUNT}/{BUCKET}"), "?restype=container", &headers);
    matches!(status, Some(201 | 409))
}

/// RFC 2104, for keys of at most 64 bytes.
fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    let pad = |byte: u8| {
        let mut block = [byte; 64];
        block.iter_mut().zip(key).for_each(|(block, key)| *block ^= key);
        block
    };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
}
