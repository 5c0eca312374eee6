//! Counts calls when they end, by method, code and reason, whatever they call and whichever layer answers.
//! Calls of this worker's own services become part of their caller's trace. Health checks and similar calls
//! do not, because they come every few seconds from everywhere.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use http_body::{Body, Frame, SizeHint};
use tonic::codegen::http::{Extensions, HeaderMap, Request, Response};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use tower::{Layer, Service};

use crate::formatting;
use crate::metrics;
use crate::spans;

/// The methods of this server. Callers may request any path. All other paths are counted together, so that a
/// stranger cannot fill a monitoring system with names.
const METHODS: [(&str, &[&str]); 3] = [
    ("walindexer.v1.IndexerService", &["IndexSegment", "GetStats", "Health"]),
    ("walindexer.v1.SearchService", &["Search", "Fetch", "ListBundles"]),
    ("grpc.health.v1.Health", &["Check", "List", "Watch"]),
];

/// The codes that are a fault of the server, by OpenTelemetry's conventions for gRPC.
const FAULTS: [Code; 6] = [
    Code::Unknown,
    Code::DeadlineExceeded,
    Code::Unimplemented,
    Code::Internal,
    Code::Unavailable,
    Code::DataLoss,
];

fn method(path: &str) -> &'static str {
    let called = path.strip_prefix('/').and_then(|path| path.split_once('/'));
    let known = called.and_then(|(service, method)| {
        let (_, methods) = METHODS.iter().find(|(name, _)| *name == service)?;
        methods.iter().find(|name| **name == method)
    });
    known.copied().unwrap_or("other")
}

/// Whether a path belongs to this worker's own services.
pub(super) fn is_ours(path: &str) -> bool {
    path.starts_with("/walindexer.v1.") && method(path) != "other"
}

/// The layer that counts calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallMetricsLayer;

impl<S> Layer<S> for CallMetricsLayer {
    type Service = CallMetrics<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CallMetrics(inner)
    }
}

/// A service whose calls are counted.
#[derive(Clone, Debug)]
pub(super) struct CallMetrics<S>(S);

impl<S, B, A> Service<Request<B>> for CallMetrics<S>
where
    S: Service<Request<B>, Response = Response<A>>,
    S::Future: Send + 'static,
{
    type Response = Response<Answer<A>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut call = Call::begin(&request);
        let answer = call.trace.scope(|| self.0.call(request));
        Box::pin(async move {
            let mut answer = pin!(answer);
            let answer = poll_fn(|cx| call.trace.scope(|| answer.as_mut().poll(cx)));
            let (mut head, body) = answer.await?.into_parts();
            // The status of an error may come in the headers. Any other status comes at the end.
            call.look_at(&head.headers);
            let _held = std::mem::take(&mut head.extensions);
            Ok(Response::from_parts(head, Answer { body, call, _held }))
        })
    }
}

/// The body of a response.
#[derive(Debug)]
pub(super) struct Answer<A> {
    body: A,
    call: Call,
    /// The extensions of the response, which hold its memory. They are dropped with the body.
    _held: Extensions,
}

impl<A: Body + Unpin> Body for Answer<A> {
    type Data = A::Data;
    type Error = A::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<A::Data>, A::Error>>> {
        let this = &mut *self;
        let frame = ready!(this.call.trace.scope(|| Pin::new(&mut this.body).poll_frame(cx)));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            this.call.look_at(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A call that is not counted yet. If it is dropped before its end, it was cancelled: its caller hung up, or
/// its deadline passed.
#[derive(Debug)]
struct Call {
    method: &'static str,
    began: Instant,
    ended: bool,
    trace: spans::Call,
}

impl Call {
    fn begin<B>(request: &Request<B>) -> Self {
        let path = request.uri().path();
        let trace = match is_ours(path) {
            true => spans::Call::begin(&path[1..], &|name| request.headers().get(name)?.to_str().ok()),
            false => spans::Call::untraced(),
        };
        Self { method: method(path), began: Instant::now(), ended: false, trace }
    }

    /// Counts the call if these headers hold its status.
    fn look_at(&mut self, headers: &HeaderMap) {
        if let Some(status) = Status::from_header_map(headers) {
            let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
            self.end(status.code(), reason, status.message());
        }
    }

    fn end(&mut self, code: Code, reason: String, why: &str) {
        self.ended = true;
        self.trace.end(formatting::code_name(code), FAULTS.contains(&code).then_some(why));
        metrics::worker::answered(self.method, formatting::code_name(code), reason, self.began.elapsed());
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Code::Cancelled, String::new(), "");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The methods of a proto file, as paths.
    fn paths(proto: &str) -> Vec<String> {
        let mut service = "";
        let lines = proto.lines().filter_map(|line| {
            let words: Vec<_> = line.split([' ', '(']).filter(|word| !word.is_empty()).collect();
            match words.as_slice() {
                ["service", name, ..] => service = name,
                ["rpc", name, ..] => return Some(format!("/walindexer.v1.{service}/{name}")),
                _ => {}
            }
            None
        });
        lines.collect()
    }

    #[test]
    fn every_method_of_ours_is_counted_by_its_name() {
        let indexer = paths(include_str!("../../proto/walindexer/v1/indexer.proto"));
        let search = paths(include_str!("../../proto/walindexer/v1/search.proto"));
        assert_eq!((indexer.len(), search.len()), (3, 3));
        for path in indexer.iter().chain(&search) {
            assert_eq!(Some(method(path)), path.rsplit('/').next());
        }
    }

    #[test]
    fn a_stranger_makes_no_names() {
        for path in ["", "/", "/x", "/a/b", "/walindexer.v1.IndexerService/Drop", "walindexer.v1.X/Search"] {
            assert_eq!(method(path), "other", "{path}");
        }
    }
}
