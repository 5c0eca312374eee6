//! A server for tests that sends the same bytes as the response to every request, and records the requests.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use ::url::Url;

use super::Store;

/// The body of every PUT in these tests.
pub(super) const BODY: &str = "bytes";

/// A secret that no message may contain.
pub(super) const SECRET: &str = "wJalrXUtnFEMI-not-to-be-seen";

pub(super) struct FakeServer {
    pub(super) port: u16,
    requests: Arc<Mutex<Vec<String>>>,
}

impl FakeServer {
    pub(super) fn start(answer: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, answer) = (listener.local_addr().unwrap().port(), answer.to_owned());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                // Recorded before the response, so that a client that has the response finds the request.
                let request = read_one(&mut stream);
                seen.lock().unwrap().push(request);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Self { port, requests }
    }

    /// Returns all requests so far, in order.
    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn read_one(stream: &mut TcpStream) -> String {
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        request.extend_from_slice(&buffer[..n]);
        let end: &[u8] = if request.starts_with(b"PUT") { BODY.as_bytes() } else { b"\r\n\r\n" };
        if request.ends_with(end) {
            break;
        }
    }
    String::from_utf8_lossy(&request).into_owned()
}

/// A store on S3 at this port, with settings that would weaken the checks if they were used.
pub(super) fn s3(port: u16) -> Store {
    let endpoint = format!("http://127.0.0.1:{port}");
    let settings = [
        ("AWS_ENDPOINT", endpoint.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_REGION", "test-1"),
        ("AWS_ACCESS_KEY_ID", "test-id"),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_UNSIGNED_PAYLOAD", "true"),
        ("AWS_CONDITIONAL_PUT", "disabled"),
    ];
    Store::open_with(&Url::parse("s3://bucket/prefix").unwrap(), &settings).unwrap()
}
