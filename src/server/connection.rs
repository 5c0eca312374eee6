//! Connections: taken in beside one another, made safe, served, and retired when they are old. Knows nothing of what is served.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::{Stream, StreamExt, stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tracing::{debug, warn};

use super::activity::Activity;
use super::frames::FrameCount;
use super::hot_reload::HotReloaded;
use super::limit::{ConnectionLimit, ConnectionPermit};
use super::preface;
use super::tls::Tls;
use crate::metrics;
use crate::metrics::listener::{Ended, NotOpened};

/// How long a new connection may take to agree on TLS, and to say all that HTTP/2 begins with.
const OPENING_MAX: Duration = Duration::from_secs(10);

/// How long a connection that was told to go away, and that has no call, may say nothing more; and how long it may take in any case.
const LEAVING_MIN: Duration = Duration::from_secs(1);
const LEAVING_MAX: Duration = Duration::from_secs(10);
const LEAVING_LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long what serves a connection may take to see that it has been cut.
const CUT_MAX: Duration = Duration::from_secs(1);

/// Connections that may be at that. Their callers are strangers still, and each costs a file.
const OPENING_CONNECTIONS_MAX: usize = 16 << 10;

/// A process without a free file has to wait for one, and to say so now and then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// What a connection goes through before it is served, and how long it is then.
#[derive(Clone, Debug)]
pub(super) struct Opening {
    /// How it is made safe.
    pub tls: Option<HotReloaded<Tls>>,
    /// Some more or less, by chance: agents that connected together should not come back together.
    pub age_max: Duration,
    /// How many there may be.
    pub limit: ConnectionLimit,
}

/// Takes connections in until `stopping` turns true, and returns when the last one has ended. `serve` gets each connection, and when
/// it should be told to go away.
pub(super) async fn serve_all<S, F>(
    listener: TcpListener,
    opening: Opening,
    stopping: watch::Receiver<bool>,
    serve: S,
) where
    S: Fn(Connection, BoxFuture<'static, ()>) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(OPENING_CONNECTIONS_MAX));
    let (mut connections, mut complained) = (JoinSet::new(), None::<Instant>);
    loop {
        tokio::select! {
            biased;
            () = until(stopping.clone()) => break,
            _ = connections.join_next(), if !connections.is_empty() => {}
            accepted = accept(&listener, &places) => match accepted {
                Ok((stream, address, opening_place)) => {
                    let activity = Activity::new();
                    let Some(place) = opening.limit.enter(address.ip(), Arc::clone(&activity)) else {
                        metrics::listener::not_opened(NotOpened::Crowded);
                        continue;
                    };
                    let (opening, stopping, serve) = (opening.clone(), stopping.clone(), serve.clone());
                    connections.spawn(one(stream, (opening_place, place), activity, opening, stopping, serve));
                }
                Err(error) => {
                    if complained.is_none_or(|last| last.elapsed() > COMPLAIN_EVERY) {
                        complained = Some(Instant::now());
                        warn!(%error, "cannot take a connection in");
                    }
                    // One that is idle gives its file to one that comes.
                    opening.limit.evict();
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    // New connections are refused from here on, rather than left without an answer.
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, address) = listener.accept().await?;
    Ok((stream, address, place))
}

/// When it turns true. Nobody being left to say so is as good.
async fn until(mut stopping: watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// From the first word to the last. A connection that has not begun to speak HTTP/2 (a port check, a balancer's spare, one that stops
/// inside a handshake) cannot be told to go away, and would hold up the end of the process for as long as a drain may take: it just ends.
async fn one<S, F>(
    stream: TcpStream,
    (opening_place, mut place): (OwnedSemaphorePermit, ConnectionPermit),
    activity: Arc<Activity>,
    opening: Opening,
    stopping: watch::Receiver<bool>,
    serve: S,
) where
    S: Fn(Connection, BoxFuture<'static, ()>) -> F,
    F: Future<Output = ()>,
{
    let began = Instant::now();
    let opened = tokio::select! {
        () = until(stopping.clone()) => return,
        _ = &mut place.evicted => return metrics::listener::ended(Ended::Evicted),
        opened = timeout(OPENING_MAX, open(stream, opening.tls)) => opened,
    };
    drop(opening_place);
    let (line, info, words) = match opened {
        Ok(Ok(Some(opened))) => opened,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => {
            metrics::listener::not_opened(NotOpened::Tls);
            debug!(%error, "a connection is refused");
            return;
        }
        Err(_) => {
            metrics::listener::not_opened(NotOpened::TimedOut);
            debug!("a connection said too little for too long");
            return;
        }
    };
    metrics::listener::opened();
    let retired = began + opening.age_max.mul_f64(rand::random_range(0.9..1.1));
    let retire = move || {
        let stopping = stopping.clone();
        async move {
            tokio::select! {
                () = sleep_until(retired.into()) => {}
                () = until(stopping) => {}
            }
        }
    };
    let ((cut, is_cut), (leave, leaving)) = (oneshot::channel(), watch::channel(false));
    let connection = Connection::new(line, info, words, (is_cut, leaving), Arc::clone(&activity));
    let mut served = pin!(serve(connection, Box::pin(retire())));
    let why = tokio::select! {
        () = &mut served => return,
        _ = &mut place.evicted => Ended::Evicted,
        () = overdue(retire(), &leave, &activity) => Ended::Retired,
    };
    metrics::listener::ended(why);
    drop(cut);
    // What serves it is told by its next read or write.
    let _ = timeout(CUT_MAX, served).await;
}

/// When a connection that was told to go away has had the time to: its caller may not listen.
async fn overdue(retire: impl Future<Output = ()>, leave: &watch::Sender<bool>, activity: &Activity) {
    retire.await;
    sleep(LEAVING_MIN).await;
    leave.send_replace(true);
    let mut idle_since = Instant::now();
    loop {
        sleep(LEAVING_LOOK_EVERY).await;
        if activity.has_calls() {
            idle_since = Instant::now();
            continue;
        }
        // Of the last answer some may still be on its way.
        let quiet = idle_since.elapsed().min(Duration::from_millis(activity.written_ms_ago()));
        if quiet >= LEAVING_MIN || idle_since.elapsed() >= LEAVING_MAX {
            return;
        }
    }
}

type Opened = (Line, TcpConnectInfo, Vec<u8>);

/// `None`: its caller has gone without a word.
async fn open(stream: TcpStream, tls: Option<HotReloaded<Tls>>) -> io::Result<Option<Opened>> {
    stream.set_nodelay(true)?;
    if stream.peek(&mut [0]).await? == 0 {
        return Ok(None);
    }
    let info = stream.connect_info();
    let mut line = match tls {
        None => Line::Plain(stream),
        Some(tls) => Line::Tls(Box::new(tls.acceptor().accept(stream).await?)),
    };
    // Whoever breaks off in the middle of it is no more than gone.
    let words = match &mut line {
        Line::Plain(stream) => preface::read(stream).await,
        Line::Tls(stream) => preface::read(stream.as_mut()).await,
    };
    let words = match words {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(error),
        words => words.unwrap_or_default(),
    };
    Ok(words.map(|words| (line, info, words)))
}

/// A connection that has begun to speak.
#[derive(Debug)]
pub(super) struct Connection {
    line: Line,
    info: TcpConnectInfo,
    /// What was read of it before it was served.
    words: Vec<u8>,
    /// Dropped with it.
    open: Option<oneshot::Sender<()>>,
    /// Ends when the connection has to; `None` from then on.
    cut: Option<oneshot::Receiver<()>>,
    leaving: watch::Receiver<bool>,
    activity: Arc<Activity>,
    frames: FrameCount,
}

#[derive(Debug)]
enum Line {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
    fn new(
        line: Line,
        info: TcpConnectInfo,
        words: Vec<u8>,
        (cut, leaving): (oneshot::Receiver<()>, watch::Receiver<bool>),
        activity: Arc<Activity>,
    ) -> Self {
        let mut frames = FrameCount::new();
        frames.received(words.get(preface::PREFACE.len()..).unwrap_or_default());
        Self { line, info, words, open: None, cut: Some(cut), leaving, activity, frames }
    }

    /// What it is doing.
    pub(super) fn activity(&self) -> Arc<Activity> {
        Arc::clone(&self.activity)
    }

    /// Turns true when calls that are no work have to end.
    pub(super) fn leaving(&self) -> watch::Receiver<bool> {
        self.leaving.clone()
    }

    fn check_cut(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(cut) = &mut self.cut else { return Err(io::ErrorKind::ConnectionAborted.into()) };
        if Pin::new(cut).poll(cx).is_ready() {
            self.cut = None;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }

    fn wrote(&mut self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = written {
            self.activity.wrote();
            self.frames.sent(*bytes);
        }
    }

    /// As tonic takes connections in: this one alone, and then none for as long as it is open. So each has a server of its own, which
    /// can be told to retire it.
    pub(super) fn alone(mut self) -> impl Stream<Item = io::Result<Self>> {
        let (open, closed) = oneshot::channel();
        self.open = Some(open);
        let end = stream::once(closed).filter_map(|_| std::future::ready(None));
        stream::once(std::future::ready(Ok(self))).chain(end)
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.info.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let connection = &mut *self;
        connection.check_cut(cx)?;
        if !connection.words.is_empty() {
            let taken = connection.words.len().min(buffer.remaining());
            buffer.put_slice(&connection.words[..taken]);
            connection.words.drain(..taken);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = match &mut connection.line {
            Line::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Line::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        if connection.frames.received(&buffer.filled()[before..]) {
            metrics::listener::ended(Ended::Flooding);
            // Not read on from here.
            connection.cut = None;
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check_cut(cx)?;
        let written = match &mut self.line {
            Line::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Line::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        self.wrote(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_cut(cx)?;
        let written = match &mut self.line {
            Line::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
            Line::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
        };
        self.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        match &self.line {
            Line::Plain(stream) => stream.is_write_vectored(),
            Line::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_cut(cx)?;
        match &mut self.line {
            Line::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Line::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_cut(cx)?;
        match &mut self.line {
            Line::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Line::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
