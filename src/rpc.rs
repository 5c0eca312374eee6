//! The gRPC services. They convert the request to domain types, call the domain, and convert the result to
//! proto. Knows nothing of Tantivy or keys.

pub mod archive;
pub mod body;
pub mod caller;
pub mod convert;
mod health;
mod parts;
pub mod search;
pub mod status;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::timeout;
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::field::Empty;
use tracing::{Instrument, Span, info, info_span, warn};

use crate::formatting;
use crate::ids::CallerId;
use crate::ingest::{self, Ingest, IngestError, ReadError, Receipt, RequestError, Stats};
use crate::proto::v1;
use crate::proto::v1::indexer_service_server::IndexerService;
use crate::store::SourceRoots;

use caller::Caller;
use health::{StoreCheck, check_memory};

/// The service `walindexer.v1.IndexerService`.
#[derive(Debug)]
pub struct Indexer {
    ingest: Ingest,
    sources: SourceRoots,
    worker_id: String,
    draining: Arc<AtomicBool>,
    store_check: StoreCheck,
}

impl Indexer {
    /// Creates the service. `draining` becomes true when the process must take no more work.
    pub fn new(ingest: Ingest, sources: SourceRoots, worker_id: String, draining: Arc<AtomicBool>) -> Self {
        Self { ingest, sources, worker_id, draining, store_check: StoreCheck::default() }
    }

    async fn index(
        &self,
        mut messages: Streaming<v1::IndexSegmentRequest>,
        caller_id: CallerId,
    ) -> Result<Receipt, IngestError> {
        let first = first_message(&mut messages, self.ingest.timeouts.silence).await?;
        let Some(v1::index_segment_request::Payload::Header(header)) = first.and_then(|first| first.payload)
        else {
            return Err(RequestError::HeaderMissing.into());
        };
        Span::current().record("segment_id", header.segment_id.as_str());
        match &header.source {
            None => Err(RequestError::SourceMissing.into()),
            Some(v1::segment_header::Source::Inline(inline)) => {
                let parts = convert::request_parts(&header, inline.size_bytes)?;
                let request = ingest::Request::new(parts)?.claimed_by(caller_id);
                self.ingest.run(request, chunks(messages)).await
            }
            Some(v1::segment_header::Source::Object(object)) => {
                let source =
                    self.sources.open(&object.url, object.size_bytes).await.map_err(ReadError::from)?;
                let parts = convert::request_parts(&header, source.size_bytes())?;
                let request = ingest::Request::new(parts)?.claimed_by(caller_id);
                let bytes = source.read().map(|chunk| chunk.map_err(ReadError::from));
                tokio::select! {
                    biased;
                    error = behind_an_object(messages) => Err(error),
                    receipt = self.ingest.run(request, Box::pin(bytes)) => receipt,
                }
            }
        }
    }
}

/// Watches the rest of the stream of a request whose segment is an object: nothing may follow the header.
/// Returns what is wrong, and stays pending as long as nothing is.
async fn behind_an_object(mut messages: Streaming<v1::IndexSegmentRequest>) -> IngestError {
    match messages.message().await {
        Ok(None) => std::future::pending().await,
        Ok(Some(_)) => RequestError::MoreThanHeader.into(),
        Err(status) => unread(&status).into(),
    }
}

/// Returns the first message of a stream, which has the header. `None` if the stream has ended.
async fn first_message<M>(
    messages: &mut Streaming<M>,
    silence_max: Duration,
) -> Result<Option<M>, IngestError> {
    let first = timeout(silence_max, messages.message()).await;
    let first = first.map_err(|_| IngestError::Silent { after: silence_max })?;
    first.map_err(|status| match unread(&status) {
        ReadError::NotAChunk { .. } => RequestError::HeaderMissing.into(),
        gone => IngestError::from(gone),
    })
}

/// A message behind a header.
trait ChunkMessage {
    /// Returns its bytes. Anything but a chunk is an error.
    fn into_chunk(self) -> Result<Bytes, ReadError>;
}

const SECOND_HEADER: ReadError = ReadError::NotAChunk { found: "a second header" };
const EMPTY_MESSAGE: ReadError = ReadError::NotAChunk { found: "an empty message" };

impl ChunkMessage for v1::IndexSegmentRequest {
    fn into_chunk(self) -> Result<Bytes, ReadError> {
        match self.payload {
            Some(v1::index_segment_request::Payload::Chunk(bytes)) => Ok(bytes),
            Some(v1::index_segment_request::Payload::Header(_)) => Err(SECOND_HEADER),
            None => Err(EMPTY_MESSAGE),
        }
    }
}

impl ChunkMessage for v1::CopySegmentRequest {
    fn into_chunk(self) -> Result<Bytes, ReadError> {
        match self.payload {
            Some(v1::copy_segment_request::Payload::Chunk(bytes)) => Ok(bytes),
            Some(v1::copy_segment_request::Payload::Header(_)) => Err(SECOND_HEADER),
            None => Err(EMPTY_MESSAGE),
        }
    }
}

/// Returns the rest of the stream as bytes. Any message but a chunk is an error.
fn chunks<M: ChunkMessage + Send + 'static>(
    messages: Streaming<M>,
) -> impl Stream<Item = Result<Bytes, ReadError>> + Unpin {
    let chunks = stream::unfold(messages, |mut messages| async {
        let chunk = match messages.message().await {
            Ok(None) => return None,
            Ok(Some(message)) => message.into_chunk(),
            Err(status) => Err(unread(&status)),
        };
        Some((chunk, messages))
    });
    Box::pin(chunks)
}

/// Returns why there is no next message. Either the bytes are not a message, or the caller has gone and
/// cannot receive a response.
fn unread(status: &Status) -> ReadError {
    match status.code() {
        Code::OutOfRange => ReadError::NotAChunk { found: "a message above the limit of 4 MiB" },
        Code::Internal => ReadError::NotAChunk { found: "bytes that are not a message" },
        _ => ReadError::CallerGone,
    }
}

/// Counts a request as cancelled unless it ended: if a caller hangs up, the future of its request is dropped.
struct Outcome<'a> {
    stats: &'a Stats,
    ended: bool,
}

impl<'a> Outcome<'a> {
    fn new(stats: &'a Stats) -> Self {
        Self { stats, ended: false }
    }

    fn ended(&mut self) {
        self.ended = true;
    }

    fn rejected(&mut self, code: Code) {
        self.ended = true;
        self.stats.request_rejected(formatting::code_name(code), code == Code::Internal);
    }
}

impl Drop for Outcome<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.rejected(Code::Cancelled);
        }
    }
}

#[tonic::async_trait]
impl IndexerService for Indexer {
    async fn index_segment(
        &self,
        request: Request<Streaming<v1::IndexSegmentRequest>>,
    ) -> Result<Response<v1::IndexSegmentResponse>, Status> {
        let mut outcome = Outcome::new(&self.ingest.stats);
        if self.draining.load(Ordering::Acquire) {
            outcome.rejected(Code::Unavailable);
            return Err(status::draining());
        }
        let span = info_span!("index_segment", segment_id = Empty, caller = Empty);
        let caller = Caller::of(&request);
        if let Caller::Named(name) = &caller {
            span.record("caller", &**name);
        }
        let caller_id = caller.caller_id();
        let result = self.index(request.into_inner(), caller_id).instrument(span.clone()).await;
        match result {
            Ok(receipt) => {
                outcome.ended();
                span.in_scope(|| log_receipt(&receipt));
                let mut reply = Response::new(convert::receipt(&receipt));
                // The memory is held until the response is on the wire: see `server/call_metrics`.
                reply.extensions_mut().insert(Arc::new(receipt.into_memory()));
                Ok(reply)
            }
            Err(error) => {
                let status = status::of_ingest(&error);
                let code = formatting::code_name(status.code());
                span.in_scope(|| warn!(code, error = status.message(), "segment refused"));
                outcome.rejected(status.code());
                Err(status)
            }
        }
    }

    async fn get_stats(
        &self,
        _: Request<v1::GetStatsRequest>,
    ) -> Result<Response<v1::GetStatsResponse>, Status> {
        let (snapshot, memory) = (self.ingest.stats.snapshot(), self.ingest.budget.usage());
        Ok(Response::new(convert::stats(&self.worker_id, &snapshot, &memory)))
    }

    async fn health(&self, _: Request<v1::HealthRequest>) -> Result<Response<v1::HealthResponse>, Status> {
        let checks = vec![self.store_check.of(&self.ingest.store).await, check_memory(&self.ingest.budget)];
        let status = if self.draining.load(Ordering::Acquire) {
            v1::health_response::Status::Draining
        } else if checks.iter().all(|check| check.ok) {
            v1::health_response::Status::Serving
        } else {
            v1::health_response::Status::Unavailable
        };
        Ok(Response::new(v1::HealthResponse {
            status: status.into(),
            checks,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: convert::millis(self.ingest.stats.uptime()),
        }))
    }
}

fn log_receipt(receipt: &Receipt) {
    info!(
        bytes = receipt.bytes_read,
        records = receipt.records(),
        bundles = receipt.partitions.len(),
        already_existed = receipt.already_existed(),
        total_ms = convert::millis(receipt.timings.total),
        "segment indexed"
    );
}
