//! Ends the calls that a drain no longer waits for. Each call that is still in flight is answered
//! UNAVAILABLE, and is dropped with everything that it holds. To cut the connection would tell the caller
//! nothing, not even whether to use another worker.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::{Body, Frame, SizeHint};
use tokio::sync::watch;
use tonic::Status;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tower::{Layer, Service};

use super::call_metrics::is_ours;
use crate::rpc::status;

type Over = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The layer. Calls of this worker's own services end when `over` turns true. All others (health watches,
/// reflection) may last for ever and do not count as work: they end with their connection, when `leaving`
/// turns true.
#[derive(Clone, Debug)]
pub(super) struct DrainDeadline {
    over: watch::Receiver<bool>,
    leaving: watch::Receiver<bool>,
}

impl DrainDeadline {
    pub(super) fn new(over: watch::Receiver<bool>, leaving: watch::Receiver<bool>) -> Self {
        Self { over, leaving }
    }

    fn is_over(&self, path: &str) -> Over {
        let mut over = if is_ours(path) { self.over.clone() } else { self.leaving.clone() };
        Box::pin(async move {
            if over.wait_for(|over| *over).await.is_err() {
                // The sender is gone, so nothing can end the call.
                std::future::pending().await
            }
        })
    }
}

impl<S> Layer<S> for DrainDeadline {
    type Service = Ended<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Ended { inner, deadline: self.clone() }
    }
}

/// A service whose calls end at the deadline.
#[derive(Clone, Debug)]
pub(super) struct Ended<S> {
    inner: S,
    deadline: DrainDeadline,
}

impl<S, B, A> Service<Request<B>> for Ended<S>
where
    S: Service<Request<B>, Response = Response<A>>,
    S::Future: Send + 'static,
    A: Default,
{
    type Response = Response<Answer<A>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut over = self.deadline.is_over(request.uri().path());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = tokio::select! {
                biased;
                answer = answer => answer?,
                () = &mut over => status::draining().into_http(),
            };
            Ok(response.map(|body| Answer { body: Some(body), over }))
        })
    }
}

/// The body of a response.
pub(super) struct Answer<A> {
    /// `None` after the end of the response.
    body: Option<A>,
    over: Over,
}

impl<A: Body + Unpin> Body for Answer<A> {
    type Data = A::Data;
    type Error = A::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<A::Data>, A::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        if body.is_end_stream() || self.over.as_mut().poll(cx).is_pending() {
            let Some(body) = &mut self.body else { return Poll::Ready(None) };
            let frame = ready!(Pin::new(body).poll_frame(cx));
            // The response has ended, so the deadline can no longer cut it.
            if !matches!(&frame, Some(Ok(frame)) if frame.is_data()) {
                self.body = None;
            }
            return Poll::Ready(frame);
        }
        self.body = None;
        Poll::Ready(last_word(&status::draining()).map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

/// Returns a status as the trailers that end a response. `None` if it does not fit into headers, which this
/// one does.
fn last_word(status: &Status) -> Option<HeaderMap> {
    let mut trailers = HeaderMap::new();
    status.add_header(&mut trailers).ok().map(|()| trailers)
}
