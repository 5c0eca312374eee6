//! A gate in front of a store that speaks HTTP, as S3 does: it passes requests, holds them for ever, or
//! answers that there are too many. Each request has its own connection, so that a held request leaves
//! nothing behind.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

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
}

/// The gate. It stops when dropped.
pub struct Gate {
    port: u16,
    mood: watch::Sender<Mood>,
    refused_puts: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Gate {
    /// Starts in front of this local port, open.
    pub async fn start(store: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (mood, seen) = watch::channel(Mood::Open);
        let (mut tasks, refused_puts) = (JoinSet::new(), Arc::<AtomicU64>::default());
        let refused = Arc::clone(&refused_puts);
        tasks.spawn(async move {
            let mut passing = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (mood, refused) = (seen.clone(), Arc::clone(&refused));
                // Tests break connections on purpose.
                passing.spawn(async move { drop(pass(client, store, mood, &refused).await) });
            }
        });
        Self { port, mood, refused_puts, _tasks: tasks }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn turns(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// Returns how many PUTs were refused so far.
    pub fn refused_puts(&self) -> u64 {
        self.refused_puts.load(SeqCst)
    }
}

/// Handles one request and its answer.
async fn pass(
    mut client: TcpStream,
    store: u16,
    mut mood: watch::Receiver<Mood>,
    refused: &AtomicU64,
) -> io::Result<()> {
    let (head, body) = request(&mut client).await?;
    let now = *mood.borrow_and_update();
    match now {
        Mood::Open => {
            let mut store = TcpStream::connect(("127.0.0.1", store)).await?;
            let line_end = head.find("\r\n").unwrap_or_default();
            let (line, headers) = head.split_at(line_end);
            store.write_all(format!("{line}\r\nConnection: close{headers}").as_bytes()).await?;
            store.write_all(&body).await?;
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
            refused.fetch_add(u64::from(head.starts_with("PUT ")), SeqCst);
            let text =
                "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
            let about = format!("Content-Type: application/xml\r\nContent-Length: {}", text.len());
            let answer = format!("HTTP/1.1 {status} Slow Down\r\n{about}\r\nConnection: close\r\n\r\n{text}");
            client.write_all(answer.as_bytes()).await?;
            client.shutdown().await
        }
    }
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
