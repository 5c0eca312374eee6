//! A gate in front of a store that speaks HTTP, as S3 does: it passes requests, holds them, answers that there are
//! too many, or loses an answer. Each request has its own connection, so that a held request leaves nothing behind.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What happens to requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// They are passed to the store.
    Open,
    /// They are read and never answered. Their connections break when the mood changes.
    Hang,
    /// They are read and answered with this status: 503 in S3's form, or 429.
    Refuse(u16),
    /// The first PUT of a bundle reaches the store when the mood changes, also if its caller has gone by then. All
    /// else is passed.
    Delay,
    /// The first PUT of a bundle reaches the store, and its answer is lost. PUTs of markers reach the store when the
    /// mood changes, also if their callers have gone by then. All else is passed.
    LoseAnswer,
}

/// What came so far.
#[derive(Default)]
struct Counts {
    refused_puts: AtomicU64,
    /// PUTs of bundles that were delayed, or whose answers were lost.
    struck: AtomicU64,
    /// Whether one of the current mood is struck already.
    is_struck: AtomicBool,
}

/// The gate. It stops when dropped.
pub struct Gate {
    port: u16,
    mood: watch::Sender<Mood>,
    counts: Arc<Counts>,
    _tasks: JoinSet<()>,
}

impl Gate {
    /// Starts in front of this local port, open.
    pub async fn start(store: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (mood, seen) = watch::channel(Mood::Open);
        let (mut tasks, counts) = (JoinSet::new(), Arc::<Counts>::default());
        let counted = Arc::clone(&counts);
        tasks.spawn(async move {
            let mut passing = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (mood, counts) = (seen.clone(), Arc::clone(&counted));
                // Tests break connections on purpose.
                passing.spawn(async move { drop(pass(client, store, mood, &counts).await) });
            }
        });
        Self { port, mood, counts, _tasks: tasks }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn turns(&self, mood: Mood) {
        self.counts.is_struck.store(false, SeqCst);
        self.mood.send_replace(mood);
    }

    /// Returns how many PUTs were refused so far.
    pub fn refused_puts(&self) -> u64 {
        self.counts.refused_puts.load(SeqCst)
    }

    /// Returns how many PUTs of bundles were delayed, or lost their answers, so far.
    pub fn struck(&self) -> u64 {
        self.counts.struck.load(SeqCst)
    }
}

/// Handles one request and its answer.
async fn pass(
    mut client: TcpStream,
    store: u16,
    mut mood: watch::Receiver<Mood>,
    counts: &Counts,
) -> io::Result<()> {
    let (head, body) = request(&mut client).await?;
    let now = *mood.borrow_and_update();
    let puts = |end: &str| {
        let path = head.strip_prefix("PUT ").and_then(|rest| rest.split([' ', '?']).next());
        path.is_some_and(|path| path.ends_with(end))
    };
    let strikes = || {
        let is_first = puts(".tar") && !counts.is_struck.swap(true, SeqCst);
        counts.struck.fetch_add(u64::from(is_first), SeqCst);
        is_first
    };
    let is_delayed = || match now {
        Mood::Delay => strikes(),
        _ => puts(".deleted"),
    };
    match now {
        Mood::LoseAnswer if strikes() => {
            answer_of(store, &head, &body).await?;
            drop(mood.changed().await);
            Ok(())
        }
        Mood::Delay | Mood::LoseAnswer if is_delayed() => {
            drop(mood.changed().await);
            answer_of(store, &head, &body).await.map(drop)
        }
        Mood::Open | Mood::Delay | Mood::LoseAnswer => {
            let mut store = TcpStream::connect(("127.0.0.1", store)).await?;
            ask(&mut store, &head, &body).await?;
            copy(&mut store, &mut client).await?;
            client.shutdown().await
        }
        Mood::Hang => {
            let changed = async { drop(mood.changed().await) };
            let gone = async { drop(client.read(&mut [0]).await) };
            tokio::select! {
                () = changed => {}
                () = gone => {}
            }
            Ok(())
        }
        Mood::Refuse(status) => {
            counts.refused_puts.fetch_add(u64::from(head.starts_with("PUT ")), SeqCst);
            refuse(&mut client, status).await
        }
    }
}

async fn ask(store: &mut TcpStream, head: &str, body: &[u8]) -> io::Result<()> {
    let (line, headers) = head.split_at(head.find("\r\n").unwrap_or_default());
    store.write_all(format!("{line}\r\nConnection: close{headers}").as_bytes()).await?;
    store.write_all(body).await
}

/// Passes a request to the store, and returns its whole answer.
async fn answer_of(store: u16, head: &str, body: &[u8]) -> io::Result<Vec<u8>> {
    let (mut store, mut answer) = (TcpStream::connect(("127.0.0.1", store)).await?, Vec::new());
    ask(&mut store, head, body).await?;
    store.read_to_end(&mut answer).await?;
    Ok(answer)
}

async fn refuse(client: &mut TcpStream, status: u16) -> io::Result<()> {
    let text = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
    let about = format!("Content-Type: application/xml\r\nContent-Length: {}", text.len());
    let answer = format!("HTTP/1.1 {status} Slow Down\r\n{about}\r\nConnection: close\r\n\r\n{text}");
    client.write_all(answer.as_bytes()).await?;
    client.shutdown().await
}

/// Reads a request's head, up to the empty line, and its body of the length that the head states.
async fn request(client: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            more(client, &mut buffer, &mut bytes).await?;
            continue;
        };
        let head = String::from_utf8_lossy(&bytes[..end + 4]).into_owned();
        let lower = head.to_ascii_lowercase();
        let length = lower.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.map_or(0, |length| length.trim().parse().expect("a length"));
        let mut body = bytes.split_off(end + 4);
        while body.len() < length {
            more(client, &mut buffer, &mut body).await?;
        }
        return Ok((head, body));
    }
}

async fn more(client: &mut TcpStream, buffer: &mut [u8], bytes: &mut Vec<u8>) -> io::Result<()> {
    match client.read(buffer).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        n => {
            bytes.extend_from_slice(&buffer[..n]);
            Ok(())
        }
    }
}
