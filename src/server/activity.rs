//! The activity of a connection: calls of this worker's own services in flight, and bytes that are sent.
//! Health watches and reflection do not count as work: they may last for ever, and a caller can always start
//! them again.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use http_body::{Body, Frame, SizeHint};
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

use super::call_metrics::is_ours;

/// The activity of one connection. Times are in milliseconds since it was opened.
#[derive(Debug)]
pub(super) struct Activity {
    opened: Instant,
    calls: AtomicUsize,
    last_call_ms: AtomicU64,
    last_write_ms: AtomicU64,
    /// When the connection was opened, in milliseconds, on a clock that all connections share.
    opened_ms: u64,
}

/// A call in flight. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Call(Arc<Activity>);

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        static CLOCK: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        let opened = Instant::now();
        let opened_ms = opened.duration_since(*CLOCK.get_or_init(|| opened)).as_millis() as u64;
        Arc::new(Self {
            opened,
            calls: AtomicUsize::new(0),
            last_call_ms: AtomicU64::new(0),
            last_write_ms: AtomicU64::new(0),
            opened_ms,
        })
    }

    pub(super) fn begin(self: &Arc<Self>) -> Call {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Call(Arc::clone(self))
    }

    pub(super) fn has_calls(&self) -> bool {
        self.calls.load(Ordering::Relaxed) > 0
    }

    /// When the last call ended, or else the connection was opened, in milliseconds. Comparable between
    /// connections.
    pub(super) fn last_call_ms(&self) -> u64 {
        self.opened_ms + self.last_call_ms.load(Ordering::Relaxed)
    }

    pub(super) fn wrote(&self) {
        self.last_write_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// The time since bytes were last sent, in milliseconds.
    pub(super) fn written_ms_ago(&self) -> u64 {
        self.now_ms().saturating_sub(self.last_write_ms.load(Ordering::Relaxed))
    }

    fn now_ms(&self) -> u64 {
        self.opened.elapsed().as_millis() as u64
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.last_call_ms.store(self.0.now_ms(), Ordering::Relaxed);
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The layer that counts calls in flight.
#[derive(Clone, Debug)]
pub(super) struct ActivityLayer(pub(super) Arc<Activity>);

impl<S> Layer<S> for ActivityLayer {
    type Service = ActivityService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ActivityService { inner, activity: Arc::clone(&self.0) }
    }
}

/// A service whose calls are counted.
#[derive(Clone, Debug)]
pub(super) struct ActivityService<S> {
    inner: S,
    activity: Arc<Activity>,
}

impl<S, B> Service<Request<B>> for ActivityService<S>
where
    S: Service<Request<B>, Response = Response<tonic::body::Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<tonic::body::Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let call = is_ours(request.uri().path()).then(|| self.activity.begin());
        let answer = self.inner.call(request);
        Box::pin(
            async move { Ok(answer.await?.map(|body| tonic::body::Body::new(Answer { body, _call: call }))) },
        )
    }
}

/// The body of a response. The call is in flight until the body is dropped.
struct Answer<A> {
    body: A,
    _call: Option<Call>,
}

impl<A: Body + Unpin> Body for Answer<A> {
    type Data = A::Data;
    type Error = A::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<A::Data>, A::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
