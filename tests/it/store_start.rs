//! The start of a worker on a store that fails for a moment, is down, or does not honour create-only PUTs.
//! The store is a small S3 server in this process with scripted answers.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::servers::s3_settings;
use crate::worker::{Worker, command};

const STORE: &str = "s3://bucket/prefix";

/// What happens to a PUT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// 409 with this code; nothing is stored.
    Conflict(&'static str),
    /// 503 `SlowDown`; nothing is stored.
    SlowDown,
    /// 500; nothing is stored.
    Fail,
    /// The connection is closed before the object is stored.
    Cut,
    /// The connection is closed after the object was stored.
    Lost,
}

#[derive(Default)]
struct Shared {
    objects: HashMap<String, Vec<u8>>,
    puts: VecDeque<Fault>,
    gets: VecDeque<Fault>,
    overwrites: bool,
}

/// An S3 server with one bucket, for the duration of the test.
struct FakeS3 {
    port: u16,
    shared: Arc<Mutex<Shared>>,
}

impl FakeS3 {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::<Mutex<Shared>>::default();
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&serving);
                thread::spawn(move || answer(stream, &shared));
            }
        });
        Self { port, shared }
    }

    fn next_puts(self, faults: impl IntoIterator<Item = Fault>) -> Self {
        self.shared.lock().expect("whole").puts.extend(faults);
        self
    }

    fn next_gets(self, faults: impl IntoIterator<Item = Fault>) -> Self {
        self.shared.lock().expect("whole").gets.extend(faults);
        self
    }

    /// From now on conditions are ignored.
    fn overwriting(self) -> Self {
        self.shared.lock().expect("whole").overwrites = true;
        self
    }
}

/// Answers one request, and closes the connection.
fn answer(stream: TcpStream, shared: &Mutex<Shared>) {
    let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
    let (mut line, mut length) = (String::new(), 0);
    reader.read_line(&mut line).unwrap_or_default();
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return };
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header).unwrap_or_default() == 0 || header == "\r\n" {
            break;
        }
        if let Some(bytes) = header.to_lowercase().strip_prefix("content-length:") {
            length = bytes.trim().parse().expect("a length");
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("the body");
    let Some((status, headers, body)) = outcome(&method, path, body, &mut shared.lock().expect("whole"))
    else {
        return;
    };
    let length = headers.unwrap_or(body.len());
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\netag: \"tag\"\r\n\
         last-modified: Wed, 21 Oct 2015 07:28:00 GMT\r\nconnection: close\r\n\r\n"
    );
    let _ = (&stream).write_all(&[head.as_bytes(), &body].concat());
}

type Answer = (String, Option<usize>, Vec<u8>);

fn outcome(method: &str, path: String, body: Vec<u8>, shared: &mut Shared) -> Option<Answer> {
    let error = |status: &str, code: &str| {
        let body = format!("<Error><Code>{code}</Code></Error>").into_bytes();
        Some((status.to_owned(), None, body))
    };
    let faults = if method == "PUT" { &mut shared.puts } else { &mut shared.gets };
    let fault = faults.pop_front().unwrap_or(Fault::None);
    match fault {
        Fault::None | Fault::Lost => {}
        Fault::Conflict(code) => return error("409 Conflict", code),
        Fault::SlowDown => return error("503 Service Unavailable", "SlowDown"),
        Fault::Fail => return error("500 Internal Server Error", "InternalError"),
        Fault::Cut => return None,
    }
    let found = match method {
        "PUT" if shared.objects.contains_key(&path) && !shared.overwrites => {
            return error("412 Precondition Failed", "PreconditionFailed");
        }
        "PUT" => {
            shared.objects.insert(path, body);
            Some(("200 OK".to_owned(), None, Vec::new()))
        }
        "HEAD" => shared.objects.get(&path).map(|body| ("200 OK".to_owned(), Some(body.len()), Vec::new())),
        _ => shared.objects.get(&path).map(|body| ("200 OK".to_owned(), None, body.clone())),
    };
    match fault {
        Fault::Lost => None,
        _ => found.or_else(|| error("404 Not Found", "NoSuchKey")),
    }
}

/// Runs a command that must end by itself. Returns its exit code and standard error.
fn ended(arguments: &[&str], port: u16) -> (Option<i32>, String) {
    let settings = s3_settings(port);
    let output = command(arguments).envs(settings).output().expect("it starts");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_start_survives_what_a_put_survives() {
    let conflict = Fault::Conflict("ConditionalRequestConflict");
    let plans: [&[Fault]; 8] = [
        &[conflict],
        &[conflict, conflict, Fault::None, conflict],
        &[Fault::Conflict("OperationAborted"), Fault::Cut],
        &[Fault::None, conflict],
        &[Fault::Lost, Fault::Lost],
        &[Fault::None, Fault::Cut],
        &[Fault::SlowDown; 7],
        &[Fault::Fail; 6],
    ];
    for puts in plans {
        let store = FakeS3::start().next_puts(puts.iter().copied());
        // This waits until the worker prints where it listens. If it does not, the test ends here.
        let _worker = Worker::start_on(STORE, &variables(store.port), &[]);
        assert!(store.shared.lock().expect("whole").puts.is_empty(), "{puts:?}");
    }
    for gets in [&[Fault::SlowDown, Fault::Cut][..], &[Fault::Fail; 7]] {
        let store = FakeS3::start().next_gets(gets.iter().copied());
        let _worker = Worker::start_on(STORE, &variables(store.port), &[]);
        assert!(store.shared.lock().expect("whole").gets.is_empty(), "{gets:?}");
    }
}

#[test]
fn a_store_that_creates_a_key_twice_is_refused_also_after_a_conflict() {
    for puts in [vec![], vec![Fault::Conflict("ConditionalRequestConflict"), Fault::None, Fault::SlowDown]] {
        let store = FakeS3::start().overwriting().next_puts(puts);
        let (code, said) = ended(&["serve", "--listen", "127.0.0.1:0", "--store", STORE], store.port);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("does not honour create-only PUTs"), "{said}");
    }
}

#[test]
fn a_store_that_is_away_is_exit_code_5_and_one_that_refuses_is_1() {
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/kafka/none.log");
    let began = Instant::now();
    let verbs: [&[&str]; 7] = [
        &["serve", "--listen", "127.0.0.1:0"],
        &["serve", "--listen", "127.0.0.1:0", "--roles", "search"],
        &["index", file, "--topic", "t", "--partition", "0"],
        &["ls"],
        &["search", "x", "--topic", "t"],
        &["fetch", "--topic", "t", "--partition", "0"],
        &["verify", "--all"],
    ];
    thread::scope(|scope| {
        for verb in verbs {
            scope.spawn(move || {
                let (code, said) = ended(&[verb, &["--store", STORE]].concat(), closed);
                assert_eq!(code, Some(5), "{verb:?}: {said}");
                assert!(said.contains("error: "), "{verb:?}: {said}");
            });
        }
    });
    assert!(began.elapsed() < Duration::from_secs(100), "it gives up in time");
}

fn variables(port: u16) -> Vec<(&'static str, &'static str)> {
    // Kept for the whole process, because `Worker` takes borrowed values.
    s3_settings(port).into_iter().map(|(name, value)| (name, &*value.leak())).collect()
}
