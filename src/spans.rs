//! What happens on the way of a segment, a search or a fetch, as spans of a trace: one named function for each stage.
//!
//! They are `tracing`'s spans, of this module alone: who collects traces takes in the target `wal_indexer::spans` (`telemetry`
//! does), and log lines are written without them. Where nobody collects, a span is a look at a flag. There is none for a batch, a
//! record, or anything else that comes by the thousand in a segment. Knows nothing of who works, and of where traces go.

mod context;

use std::error::Error;
use std::fmt::Display;
use std::future::Future;

use opentelemetry::trace::Status;
use tracing::field::{Empty, display};
use tracing::{Instrument, Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::formatting;

pub use context::{Call, Ids, Origin, current, send};

/// A number as traces know them.
fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Does a stage's work in its span, and tells there why it failed.
pub async fn stage<T, E: Error>(span: Span, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    async { work.await.inspect_err(|error| failed(&formatting::chain(error))) }.instrument(span).await
}

/// The same for work that waits for nothing.
pub fn work<T, E: Error>(span: &Span, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    span.in_scope(|| work().inspect_err(|error| failed(&formatting::chain(error))))
}

/// Notes at the span that work goes on in how much it was about.
pub fn took(bytes: u64, records: u64) {
    Span::current().record("bytes", number(bytes)).record("records", number(records));
}

/// Notes at the span that work goes on in what came of it.
pub fn ended(outcome: &str) {
    Span::current().record("outcome", outcome);
}

/// Notes at the span that work goes on in that it failed.
pub fn failed(why: &str) {
    Span::current().set_status(Status::error(why.to_owned()));
}

/// Work for another thread that goes on in the span that it comes from.
pub fn carried<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let span = Span::current();
    move || span.in_scope(work)
}

/// A segment waits for memory.
pub fn admit(bytes: u64) -> Span {
    info_span!("admit", bytes = number(bytes))
}

/// A segment's bytes come, and are indexed meanwhile.
pub fn receive() -> Span {
    info_span!("receive", bytes = Empty, records = Empty)
}

/// A slice is built: decoded, indexed and packed. `slice` counts those of the partition.
pub fn build(partition: &dyn Display, slice: usize) -> Span {
    info_span!("build", partition = display(partition), slice = slice as i64, bytes = Empty, records = Empty)
}

/// Slices become bundles.
pub fn pack() -> Span {
    info_span!("pack", bytes = Empty, records = Empty)
}

/// A bundle goes to the store, and is checked there.
pub fn upload(key: &dyn Display, bytes: u64, records: u64) -> Span {
    info_span!(
        "upload",
        key = display(key),
        bytes = number(bytes),
        records = number(records),
        outcome = Empty
    )
}

/// One attempt to create an object; its outcome is `ok`, or the kind of the error.
pub fn put(key: &dyn Display, bytes: u64, attempt: u32) -> Span {
    let (bytes, attempt) = (number(bytes), i64::from(attempt));
    let (name, key) = ("store put", display(key));
    info_span!("store", otel.name = name, otel.kind = "client", key, bytes, attempt, outcome = Empty)
}

/// One attempt at anything else that a store is asked; the same outcomes.
pub fn ask(operation: &str, url: &str) -> Span {
    let name = format_args!("store {operation}");
    info_span!("store", otel.name = display(name), otel.kind = "client", url, outcome = Empty)
}

/// A receipt is made of what is stored.
pub fn receipt() -> Span {
    info_span!("receipt", bytes = Empty, records = Empty)
}

/// The bundles that come into question are listed.
pub fn list() -> Span {
    info_span!("list", bundles = Empty)
}

/// Notes how many bundles were found.
pub fn listed(bundles: usize) {
    Span::current().record("bundles", bundles as i64);
}

/// A bundle is opened and searched.
pub fn bundle(key: &dyn Display, bytes: u64) -> Span {
    info_span!("bundle", key = display(key), bytes = number(bytes))
}

/// A bundle is opened: what all its readers need is read.
pub fn open(key: &dyn Display) -> Span {
    info_span!("open", key = display(key))
}

/// A leaf of a bundle's index is searched.
pub fn leaf(number: usize) -> Span {
    info_span!("leaf", leaf = number as i64)
}

/// Records that were found are read from their blocks.
pub fn take() -> Span {
    info_span!("take", bytes = Empty, records = Empty)
}

/// It is found out which bundles hold what is to be fetched.
pub fn plan() -> Span {
    info_span!("plan", bundles = Empty)
}

/// A block is read and decoded.
pub fn block(bundle: &str, bytes: u64) -> Span {
    info_span!("block", bundle, bytes = number(bytes))
}

/// A segment's way from an agent to its receipt.
pub fn segment(name: &str, partition: &dyn Display, bytes: u64) -> Span {
    let (partition, bytes) = (display(partition), number(bytes));
    info_span!("segment", segment_id = name, partition, bytes, outcome = Empty)
}

/// A segment's bytes are read on this side.
pub fn read(bytes: u64) -> Span {
    info_span!("read", bytes = number(bytes))
}

/// One attempt to have a segment indexed, by OpenTelemetry's conventions for gRPC.
pub fn attempt(worker: &dyn Display, attempt: u32) -> Span {
    info_span!(
        "attempt",
        otel.name = "walindexer.v1.IndexerService/IndexSegment",
        otel.kind = "client",
        rpc.system.name = "grpc",
        rpc.method = "walindexer.v1.IndexerService/IndexSegment",
        rpc.response.status_code = Empty,
        server.address = display(worker),
        attempt = i64::from(attempt),
    )
}

/// Notes the code of an answer at the span of its call, and whether it is an error there.
pub fn answered(code: &'static str, error: Option<&str>) {
    Span::current().record("rpc.response.status_code", code);
    error.into_iter().for_each(failed);
}

/// A receipt is written down before anything is done because of it.
pub fn remember(origin: Option<&Origin>) -> Span {
    continued(origin, || info_span!("remember"))
}

/// A segment is deleted on its receipt; `origin` is its way there.
pub fn delete(name: &str, bytes: u64, origin: Option<&Origin>) -> Span {
    continued(origin, || info_span!("delete", segment_id = name, bytes = number(bytes), outcome = Empty))
}

fn continued(origin: Option<&Origin>, make: impl FnOnce() -> Span) -> Span {
    match origin {
        Some(origin) => origin.continued(make),
        None => make(),
    }
}
