//! The stages of a segment, a search or a fetch, as spans of a trace: one named function for each stage.
//!
//! They are `tracing`'s spans, and all of them come from this module. A collector of traces selects the
//! target `wal_indexer::spans` (`telemetry` does). Log lines are written without the spans. If nothing
//! collects traces, a span only checks a flag. There is no span for a batch, a record, or anything else of
//! which a segment has thousands. This module does not know who does the work, or where traces go.

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

/// Converts a number to the type that traces use.
fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Does a stage's work in its span. If it fails, records the reason in the span.
pub async fn stage<T, E: Error>(span: Span, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    async { work.await.inspect_err(|error| failed(&formatting::chain(error))) }.instrument(span).await
}

/// The same for work that waits for nothing.
pub fn work<T, E: Error>(span: &Span, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    span.in_scope(|| work().inspect_err(|error| failed(&formatting::chain(error))))
}

/// Records in the current span how many bytes and records the work was about.
pub fn record_size(bytes: u64, records: u64) {
    Span::current().record("bytes", number(bytes)).record("records", number(records));
}

/// Records the outcome in the current span.
pub fn ended(outcome: &str) {
    Span::current().record("outcome", outcome);
}

/// Records in the current span that its work failed.
pub fn failed(why: &str) {
    Span::current().set_status(Status::error(why.to_owned()));
}

/// Wraps work for another thread, so that it continues in the current span.
pub fn carried<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let span = Span::current();
    move || span.in_scope(work)
}

/// The span of a segment that waits for memory.
pub fn admit(bytes: u64) -> Span {
    info_span!("admit", bytes = number(bytes))
}

/// The span of a segment whose bytes are received and indexed.
pub fn receive() -> Span {
    info_span!("receive", bytes = Empty, records = Empty)
}

/// The span of a slice that is built: decoded, indexed and packed. `slice` is its number in the partition.
pub fn build(partition: &dyn Display, slice: usize) -> Span {
    info_span!("build", partition = display(partition), slice = slice as i64, bytes = Empty, records = Empty)
}

/// The span of packing slices into bundles.
pub fn pack() -> Span {
    info_span!("pack", bytes = Empty, records = Empty)
}

/// The span of storing a bundle and checking it there.
pub fn upload(key: &dyn Display, bytes: u64, records: u64) -> Span {
    info_span!(
        "upload",
        key = display(key),
        bytes = number(bytes),
        records = number(records),
        outcome = Empty
    )
}

/// The span of one attempt to create an object. Its outcome is `ok`, or the kind of the error.
pub fn put(key: &dyn Display, bytes: u64, attempt: u32) -> Span {
    let (bytes, attempt) = (number(bytes), i64::from(attempt));
    let (name, key) = ("store put", display(key));
    info_span!("store", otel.name = name, otel.kind = "client", key, bytes, attempt, outcome = Empty)
}

/// The span of one attempt at any other operation of a store. The outcomes are the same.
pub fn ask(operation: &str, url: &str) -> Span {
    let name = format_args!("store {operation}");
    info_span!("store", otel.name = display(name), otel.kind = "client", url, outcome = Empty)
}

/// The span of making a receipt of what is stored.
pub fn receipt() -> Span {
    info_span!("receipt", bytes = Empty, records = Empty)
}

/// The span of listing the bundles that may match.
pub fn list() -> Span {
    info_span!("list", bundles = Empty)
}

/// Records in the current span how many bundles were found.
pub fn listed(bundles: usize) {
    Span::current().record("bundles", bundles as i64);
}

/// The span of opening and searching a bundle.
pub fn bundle(key: &dyn Display, bytes: u64) -> Span {
    info_span!("bundle", key = display(key), bytes = number(bytes))
}

/// The span of opening a bundle: what all its readers need is read.
pub fn open(key: &dyn Display) -> Span {
    info_span!("open", key = display(key))
}

/// The span of searching a leaf of a bundle's index.
pub fn leaf(number: usize) -> Span {
    info_span!("leaf", leaf = number as i64)
}

/// The span of reading the found records from their blocks.
pub fn take() -> Span {
    info_span!("take", bytes = Empty, records = Empty)
}

/// The span of finding the bundles that hold what a fetch requests.
pub fn plan() -> Span {
    info_span!("plan", bundles = Empty)
}

/// The span of reading and decoding a block.
pub fn block(bundle: &str, bytes: u64) -> Span {
    info_span!("block", bundle, bytes = number(bytes))
}

/// The span of a segment from an agent to its receipt.
pub fn segment(name: &str, partition: &dyn Display, bytes: u64) -> Span {
    let (partition, bytes) = (display(partition), number(bytes));
    info_span!("segment", segment_id = name, partition, bytes, outcome = Empty)
}

/// The span of reading a segment's bytes in the client.
pub fn read(bytes: u64) -> Span {
    info_span!("read", bytes = number(bytes))
}

/// The span of one attempt to have a segment indexed, by OpenTelemetry's conventions for gRPC.
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

/// Records in the current span, which is that of a call, the code of the response and the error, if it is
/// one.
pub fn answered(code: &'static str, error: Option<&str>) {
    Span::current().record("rpc.response.status_code", code);
    error.into_iter().for_each(failed);
}

/// The span of writing a receipt to the checkpoint, before anything is done because of it.
pub fn remember(origin: Option<&Origin>) -> Span {
    continued(origin, || info_span!("remember"))
}

/// The span of deleting a segment on its receipt. `origin` is the trace of its delivery.
pub fn delete(name: &str, bytes: u64, origin: Option<&Origin>) -> Span {
    continued(origin, || info_span!("delete", segment_id = name, bytes = number(bytes), outcome = Empty))
}

fn continued(origin: Option<&Origin>, make: impl FnOnce() -> Span) -> Span {
    match origin {
        Some(origin) => origin.continued(make),
        None => make(),
    }
}
