//! Joins spans of several processes to one trace: W3C's `traceparent` and `tracestate`, by OpenTelemetry's
//! global propagator.

use opentelemetry::propagation::{Extractor, Injector};
use opentelemetry::trace::{SpanId, Status, TraceContextExt, TraceId};
use opentelemetry::{Context, global};
use tracing::field::Empty;
use tracing::{Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The ids of a trace and of a span in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// The trace.
    pub trace: TraceId,
    /// The span.
    pub span: SpanId,
}

/// The ids of the current span and its trace. `None` if there is no trace.
pub fn current() -> Option<Ids> {
    let context = Context::current();
    let span = context.span();
    let found = span.span_context();
    found.is_valid().then(|| Ids { trace: found.trace_id(), span: found.span_id() })
}

/// A place in a trace, for spans that begin after the span at this place has ended.
#[derive(Clone, Debug)]
pub struct Origin(Context);

impl Origin {
    /// The place of the current span in its trace. `None` if there is no trace.
    pub fn here() -> Option<Self> {
        let context = Context::current();
        let here = context.span().span_context().clone();
        here.is_valid().then(|| Self(Context::new().with_remote_span_context(here)))
    }

    /// Makes a span that continues from there.
    pub(super) fn continued(&self, make: impl FnOnce() -> Span) -> Span {
        let _there = self.0.clone().attach();
        make()
    }
}

/// Passes the current trace on to the called service, by these headers.
pub fn send(mut header: impl FnMut(&str, String)) {
    struct Headers<'a>(&'a mut dyn FnMut(&str, String));
    impl Injector for Headers<'_> {
        fn set(&mut self, key: &str, value: String) {
            (self.0)(key, value);
        }
    }
    global::get_text_map_propagator(|propagator| propagator.inject(&mut Headers(&mut header)));
}

/// A call that this process handles, as a part of its caller's trace, or as the first span of a trace.
#[derive(Debug)]
pub struct Call {
    span: Span,
    /// The caller's trace, if nothing collects spans here. Log lines show it nevertheless.
    callers: Option<Context>,
}

impl Call {
    /// Begins a call of `method` (`package.Service/Method`), by OpenTelemetry's conventions for gRPC.
    /// `header` returns the headers of the call.
    pub fn begin<'a>(method: &str, header: &'a dyn Fn(&str) -> Option<&'a str>) -> Self {
        let callers = callers(header);
        let _there = callers.clone().map(Context::attach);
        let span = info_span!(
            "call",
            otel.name = method,
            otel.kind = "server",
            rpc.system.name = "grpc",
            rpc.method = method,
            rpc.response.status_code = Empty,
        );
        Self { callers: callers.filter(|_| span.is_disabled()), span }
    }

    /// A call that is not part of any trace.
    pub fn untraced() -> Self {
        Self { span: Span::none(), callers: None }
    }

    /// Does a part of the call's work.
    pub fn scope<T>(&self, work: impl FnOnce() -> T) -> T {
        let _there = self.callers.clone().map(Context::attach);
        self.span.in_scope(work)
    }

    /// Records the code of the response. `error` is the reason, if this side is at fault.
    pub fn end(&self, code: &'static str, error: Option<&str>) {
        self.span.record("rpc.response.status_code", code);
        if let Some(why) = error {
            self.span.set_status(Status::error(why.to_owned()));
        }
    }
}

fn callers<'a>(header: &'a dyn Fn(&str) -> Option<&'a str>) -> Option<Context> {
    struct Headers<'a>(&'a dyn Fn(&str) -> Option<&'a str>);
    impl Extractor for Headers<'_> {
        fn get(&self, key: &str) -> Option<&str> {
            (self.0)(key)
        }

        fn keys(&self) -> Vec<&str> {
            Vec::new()
        }
    }
    header("traceparent")?;
    let context = global::get_text_map_propagator(|propagator| {
        propagator.extract_with_context(&Context::new(), &Headers(header))
    });
    context.span().span_context().is_valid().then_some(context)
}
