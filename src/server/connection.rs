//! Accepts connections, opens them concurrently, serves them, and retires them when they are old. It knows
//! nothing of what is served.

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

/// The timeout for a new connection to finish the TLS handshake and to send what HTTP/2 begins with.
const OPENING_MAX: Duration = Duration::from_secs(10);

/// The limits for a connection that was told to go away and has no call: how long it may send nothing more,
/// and how long it may stay in any case.
const LEAVING_MIN: Duration = Duration::from_secs(1);
const LEAVING_MAX: Duration = Duration::from_secs(10);
const LEAVING_LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long the task that serves a connection may take to notice that the connection was cut.
const CUT_MAX: Duration = Duration::from_secs(1);

/// The maximum number of connections that are being opened. Their callers are unknown, and each takes a file
/// descriptor.
const OPENING_CONNECTIONS_MAX: usize = 16 << 10;

/// How long to wait if the process has no free file descriptor, and the minimum time between two warnings
/// about it.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// How a connection is opened, and how long it lasts.
#[derive(Clone, Debug)]
pub(super) struct Opening {
    /// The TLS settings. `None`: plain TCP.
    pub tls: Option<HotReloaded<Tls>>,
    /// The maximum age. A random part is added or subtracted, so that agents which connected at the same time
    /// do not reconnect at the same time.
    pub age_max: Duration,
    /// The limit on the number of connections.
    pub limit: ConnectionLimit,
}

/// Accepts connections until `stopping` turns true. Returns when the last connection has ended. `serve` gets
/// each connection, and a future that is ready when the connection should be told to go away.
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
                        warn!(%error, "cannot accept a connection");
                    }
                    // Close an idle connection, so that a new one gets its file descriptor.
                    opening.limit.evict();
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    // From here on new connections are refused, and not left without a response.
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

/// Waits until the value is true or its sender is dropped.
async fn until(mut stopping: watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// Handles a connection from its start to its end. A connection that has not begun HTTP/2 (a port check, a
/// spare connection of a load balancer, an unfinished handshake) cannot be told to go away, and would delay
/// the end of the process for the whole drain timeout. So it is just closed.
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
        _ = &mut place.evicted => return metrics::listener::not_opened(NotOpened::Evicted),
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
            debug!("a connection did not send enough in time");
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
    // The task that serves the connection notices this at its next read or write.
    let _ = timeout(CUT_MAX, served).await;
}

/// Waits until a connection that was told to go away has had enough time to do so. Its caller may not react.
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
        // A part of the last response may still be in transit.
        let quiet = idle_since.elapsed().min(Duration::from_millis(activity.written_ms_ago()));
        if quiet >= LEAVING_MIN || idle_since.elapsed() >= LEAVING_MAX {
            return;
        }
    }
}

type Opened = (Line, TcpConnectInfo, Vec<u8>);

/// Opens a connection. `None`: the caller has closed it.
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
    // A caller that breaks off here has only gone away.
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

/// A connection whose caller has begun HTTP/2.
#[derive(Debug)]
pub(super) struct Connection {
    line: Line,
    info: TcpConnectInfo,
    /// The bytes that were read before the connection is served.
    words: Vec<u8>,
    /// Dropped with the connection, which ends the stream of `alone`.
    open: Option<oneshot::Sender<()>>,
    /// Ready when the connection must end. `None` after that.
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

    /// The activity of the connection.
    pub(super) fn activity(&self) -> Arc<Activity> {
        Arc::clone(&self.activity)
    }

    /// Turns true when calls that do not count as work must end.
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

    /// Returns the stream of connections that tonic serves: only this one, and then no end until it is
    /// closed. So each connection has its own server, which can be told to retire it.
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
            // Read nothing more from this connection.
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
