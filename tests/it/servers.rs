//! Real stores for tests: SeaweedFS (S3) and Azurite (Azure Blob Storage). Each is a child process on free
//! ports, and stops when its handle is dropped. `tests/install-servers.sh` installs them.
//! `WAL_INDEXER_TEST_WEED` and `WAL_INDEXER_TEST_AZURITE` name executables in other places.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::macros::format_description;
use url::Url;
use wal_indexer::store::Store;

/// The bucket or container that each server has at the start.
pub const BUCKET: &str = "wal-test";

const STARTED_WITHIN: Duration = Duration::from_secs(60);

/// How long a server may take to stop before it is killed.
const STOPPED_WITHIN: Duration = Duration::from_secs(10);

/// A running server. It stops when dropped.
pub struct Server {
    child: Child,
    program: PathBuf,
    arguments: Vec<String>,
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
    /// Starts SeaweedFS with its S3 interface and one identity.
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
            ports_to_come_back_to();
        // All are needed: without a value, a port is the default one, or 10,000 more than its sibling.
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
        let flags = ["-logtostderr=true", "mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"].map(str::to_owned);
        let more = ["-webdav=false", "-admin.ui=false", "-master.telemetry=false"].map(str::to_owned);
        let places = [
            format!("-bucket={BUCKET}"),
            format!("-dir={}", data.display()),
            format!("-s3.config={}", identities.display()),
        ];
        let ports = ports.map(|(flag, port)| format!("-{flag}={port}"));
        let arguments = flags.into_iter().chain(more).chain(places).chain(ports).collect();
        let program = executable("WAL_INDEXER_TEST_WEED", "weed");
        let mut server = Self::launch(program, arguments, directory, "s3", s3, s3_settings(s3));
        // A request without a signature: when it is refused, the identities are loaded.
        server.wait_until(|port| matches!(http(port, &format!("GET /{BUCKET}/"), "", ""), Some(403)));
        server.wait_until_usable();
        server
    }

    /// Starts Azurite's blob service, in memory.
    pub fn azure() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [port] = free_ports();
        let program = executable("WAL_INDEXER_TEST_AZURITE", "azurite-blob");
        let flags = ["--inMemoryPersistence", "--silent", "--disableTelemetry", "--skipApiVersionCheck"];
        let port_flag = port.to_string();
        let arguments = ["--blobHost", "127.0.0.1", "--blobPort", &port_flag].into_iter().chain(flags);
        let arguments = arguments.map(str::to_owned).collect();
        let mut server = Self::launch(program, arguments, directory, "az", port, azure_settings(port));
        server.wait_until(|port| http(port, "GET /", "", "").is_some());
        server.wait_until(create_container);
        server.wait_until_usable();
        server
    }

    fn launch(
        program: PathBuf,
        arguments: Vec<String>,
        directory: tempfile::TempDir,
        scheme: &'static str,
        port: u16,
        settings: Vec<(&'static str, String)>,
    ) -> Self {
        let child = spawn(&program, &arguments, directory.path());
        Self { child, program, arguments, directory, scheme, port, settings }
    }

    /// Stops it, and waits for its end.
    pub fn stop(&mut self) {
        let told = Command::new("kill").args(["-s", "TERM", &self.child.id().to_string()]).status();
        assert!(told.expect("kill runs").success());
        let deadline = Instant::now() + STOPPED_WITHIN;
        while self.child.try_wait().expect("it is ours").is_none() {
            if Instant::now() > deadline {
                self.child.kill().expect("it is ours");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Starts it again after [`Server::stop`], on the same ports and with the same contents. Does not wait
    /// until it can be used.
    pub fn start_again(&mut self) {
        self.child = spawn(&self.program, &self.arguments, self.directory.path());
    }

    /// Waits until it can be used after [`Server::start_again`].
    pub fn is_back(&mut self) {
        self.wait_until_usable();
    }

    /// Returns the port for the store's protocol.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the settings that make a store use this server. As environment variables they do the same for
    /// another process.
    pub fn settings(&self) -> Vec<(&str, &str)> {
        self.settings.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }

    /// Returns a store with this prefix in the server's bucket.
    pub fn store(&self, prefix: &str) -> Store {
        Store::open_with(&self.url(prefix), &self.settings()).unwrap()
    }

    /// Returns the URL of a prefix in the server's bucket.
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

    /// Waits until the server can store: it answers before that.
    fn wait_until_usable(&mut self) {
        let store = self.store("ready");
        // In its own thread, because a test may already run on a runtime.
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

/// Returns the settings for an S3 endpoint on this machine.
pub fn s3_settings(port: u16) -> Vec<(&'static str, String)> {
    vec![
        ("AWS_ENDPOINT", format!("http://127.0.0.1:{port}")),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "test-id".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "test-secret".to_owned()),
    ]
}

/// Azurite's default account. Its key is in Azurite's documentation.
const ACCOUNT: &str = "devstoreaccount1";
const ACCOUNT_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Returns the settings for Azurite on this machine.
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

fn spawn(program: &Path, arguments: &[String], directory: &Path) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(directory.join("log")).unwrap();
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory).stdin(Stdio::null());
    command.stdout(log.try_clone().unwrap()).stderr(log);
    command.spawn().unwrap()
}

/// Returns ports that are free. All are held until the last is found, so that they differ.
fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

/// Returns ports for processes that are stopped and started again. They are below the range for outgoing
/// connections, so no connection takes one meanwhile. No test of this process gets one twice.
pub fn ports_to_come_back_to<const N: usize>() -> [u16; N] {
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own_start = (std::process::id() % 200) as u16 * 100;
    let mut next = || FIRST + (own_start + NEXT.fetch_add(1, Relaxed) % COUNT) % COUNT;
    let is_free = |port: &u16| {
        let hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"];
        hosts.iter().all(|host| TcpListener::bind((*host, *port)).is_ok())
    };
    [(); N].map(|()| std::iter::repeat_with(&mut next).find(is_free).expect("there is always a next"))
}

/// Sends a request without a body. Returns the status, if there was an answer. `line` is method and path.
fn http(port: u16, line: &str, query: &str, headers: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let head = "Host: 127.0.0.1\r\nConnection: close\r\nContent-Length: 0\r\n";
    write!(stream, "{line}{query} HTTP/1.1\r\n{head}{headers}\r\n").ok()?;
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer.split(' ').nth(1)?.parse().ok()
}

/// Creates the container, because `object_store` creates none. The signature is described in
/// <https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key>.
fn create_container(port: u16) -> bool {
    let format = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let date = OffsetDateTime::now_utc().format(format).unwrap();
    let version = "2021-08-06";
    // Method, eleven empty standard headers, x-ms headers, resource.
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

/// HMAC-SHA-256 by RFC 2104, for keys of at most 64 bytes.
fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    let pad = |byte: u8| {
        let mut block = [byte; 64];
        block.iter_mut().zip(key).for_each(|(block, key)| *block ^= key);
        block
    };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
}
