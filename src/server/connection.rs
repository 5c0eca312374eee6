//! Connections: taken in beside one another, made safe, served, and retired when they are old. Knows nothing of what is served.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::{Stream, StreamExt, stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tracing::{debug, warn};

use super::crowd::{Crowd, Place};
use super::reload::Followed;
use super::tls::Tls;
use crate::metrics;
use crate::metrics::listener::NotOpened;

/// How long a new connection may take to say its first word, and to agree on TLS.
const OPENING_MAX: Duration = Duration::from_secs(10);

/// Connections that may be at that. Their callers are strangers still, and each costs a file.
const OPENING_CONNECTIONS_MAX: usize = 16 << 10;

/// A process without a free file has to wait for one, and to say so now and then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// What a connection goes through before it is served, and how long it is then.
#[derive(Clone, Debug)]
pub(super) struct Opening {
    /// How it is made safe.
    pub tls: Option<Followed<Tls>>,
    /// Some more or less, by chance: agents that connected together should not come back together.
    pub age_max: Duration,
    /// How many a host may have.
    pub crowd: Crowd,
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
                Ok((stream, address, place)) => match opening.crowd.enter(address.ip()) {
                    Some(in_crowd) => {
                        let (opening, stopping, serve) = (opening.clone(), stopping.clone(), serve.clone());
                        connections.spawn(one(stream, (place, in_crowd), opening, stopping, serve));
                    }
                    None => metrics::listener::not_opened(NotOpened::Crowded),
                },
                Err(error) => {
                    if complained.is_none_or(|last| last.elapsed() > COMPLAIN_EVERY) {
                        complained = Some(Instant::now());
                        warn!(%error, "cannot take a connection in");
                    }
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

/// From the first word to the last. A connection that has not said any (a port check, a balancer's spare) cannot be told to go
/// away, and would hold up the end of the process for as long as a drain may take: it just ends.
async fn one<S, F>(
    stream: TcpStream,
    (place, _in_crowd): (OwnedSemaphorePermit, Place),
    opening: Opening,
    stopping: watch::Receiver<bool>,
    serve: S,
) where
    S: Fn(Connection, BoxFuture<'static, ()>) -> F,
    F: Future<Output = ()>,
{
    let opened = tokio::select! {
        () = until(stopping.clone()) => return,
        opened = timeout(OPENING_MAX, open(stream, opening.tls)) => opened,
    };
    drop(place);
    let connection = match opened {
        Ok(Ok(Some(connection))) => connection,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => {
            metrics::listener::not_opened(NotOpened::Tls);
            debug!(%error, "a connection is refused");
            return;
        }
        Err(_) => {
            metrics::listener::not_opened(NotOpened::TimedOut);
            debug!("a connection said nothing for too long");
            return;
        }
    };
    metrics::listener::opened();
    let age_max = opening.age_max.mul_f64(rand::random_range(0.9..1.1));
    let retire = async move {
        tokio::select! {
            () = sleep(age_max) => {}
            () = until(stopping) => {}
        }
    };
    serve(connection, Box::pin(retire)).await;
}

/// `None`: its caller has gone without a word.
async fn open(stream: TcpStream, tls: Option<Followed<Tls>>) -> io::Result<Option<Connection>> {
    stream.set_nodelay(true)?;
    if stream.peek(&mut [0]).await? == 0 {
        return Ok(None);
    }
    let info = stream.connect_info();
    let line = match tls {
        None => Line::Plain(stream),
        Some(tls) => Line::Tls(Box::new(tls.acceptor().accept(stream).await?)),
    };
    Ok(Some(Connection { line, info, open: None }))
}

/// A connection that has begun to speak.
#[derive(Debug)]
pub(super) struct Connection {
    line: Line,
    info: TcpConnectInfo,
    /// Dropped with it.
    open: Option<oneshot::Sender<()>>,
}

#[derive(Debug)]
enum Line {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
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
        match &mut self.line {
            Line::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Line::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.line {
            Line::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Line::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.line {
            Line::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
            Line::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.line {
            Line::Plain(stream) => stream.is_write_vectored(),
            Line::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.line {
            Line::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Line::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.line {
            Line::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Line::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
