//! The service `walindexer.v1.ArchiveService`, for brokers that keep whole segments in a store.

mod idle;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::field::Empty;
use tracing::{Instrument, Span, debug, info, info_span, warn};

use super::body::{self, Answers, MessageWithMemory};
use super::caller::Caller;
use super::{Outcome, chunks, convert, first_message, log_receipt, status};
use crate::archive::TrafficCounter;
use crate::copies::{CHUNK_BYTES, Copies, CopyError, CopyName, Locator, SegmentReader, Wanted};
use crate::formatting;
use crate::ids::{CallerId, CopyId, LogId, OffsetRange, TopicPartition};
use crate::ingest::{
    self, AttachmentFacts, AttachmentParts, CopyParts, Ingest, IngestError, Receipt, RequestError,
    RequestParts, TornTail, Undecodable,
};
use crate::metrics;
use crate::proto::v1;
use crate::proto::v1::archive_service_server::ArchiveService;
use crate::store::HiddenReason;

/// How long a reader may take no message before it loses the rest. A reader that parks a stream and goes on
/// with it later must do so within this time.
const IDLE_MAX: Duration = Duration::from_secs(120);

/// The service.
#[derive(Debug)]
pub struct Archiver {
    ingest: Ingest,
    copies: Copies,
    draining: Arc<AtomicBool>,
}

impl Archiver {
    /// Creates the service. `ingest` stores copies, `copies` reads them. `draining` becomes true when the
    /// process must take no more segments.
    pub fn new(ingest: Ingest, copies: Copies, draining: Arc<AtomicBool>) -> Self {
        Self { ingest, copies, draining }
    }

    async fn copy(
        &self,
        mut messages: Streaming<v1::CopySegmentRequest>,
        caller_id: CallerId,
    ) -> Result<Receipt, IngestError> {
        let first = first_message(&mut messages, self.ingest.timeouts.silence).await?;
        let Some(v1::copy_segment_request::Payload::Header(header)) = first.and_then(|first| first.payload)
        else {
            return Err(RequestError::HeaderMissing.into());
        };
        Span::current().record("segment_id", header.segment_id.as_str());
        let request = ingest::Request::new(copy_parts(header)?)?.claimed_by(caller_id);
        self.ingest.run(request, chunks(messages)).await
    }
}

/// Returns what a header says about its copy.
fn copy_parts(header: v1::CopyHeader) -> Result<RequestParts, RequestError> {
    let v1::CopyHeader { name, segment_id, format, size_bytes, crc32c, last_offset, attachments } = header;
    let name = name.unwrap_or_default();
    let (first, last) = (name.base_offset, last_offset.unwrap_or(i64::MAX));
    let attachments = attachments.into_iter().map(|one| AttachmentParts {
        name: one.name,
        size_bytes: one.size_bytes,
        crc32c: one.crc32c,
    });
    Ok(RequestParts {
        segment_id,
        format: convert::format_from(format)?,
        topic: Some(name.topic),
        partition: Some(name.partition),
        log_id: name.log_id,
        size_bytes,
        crc32c,
        // A copy is never refused for what the broker itself keeps.
        torn_tail: TornTail::Keep,
        undecodable: Undecodable::Keep,
        allowed_offsets: Some(
            OffsetRange::new(first, last).ok_or(RequestError::NoOffsetsAllowed { first, last })?,
        ),
        copy: Some(CopyParts {
            copy_id: name.copy_id,
            base_offset: name.base_offset,
            attachments: attachments.collect(),
        }),
    })
}

fn copy_response(receipt: &Receipt) -> v1::CopySegmentResponse {
    let one = receipt.partitions.first();
    let locator = one.map(|one| Locator::new(one.stored.key(), one.stored.size_bytes()).encode());
    v1::CopySegmentResponse {
        receipt: Some(convert::receipt(receipt)),
        attachments: one.iter().flat_map(|one| &one.attachments).map(attachment).collect(),
        locator: locator.unwrap_or_default().into(),
    }
}

fn attachment(facts: &AttachmentFacts) -> v1::Attachment {
    v1::Attachment { name: facts.name.clone(), size_bytes: facts.size_bytes, crc32c: Some(facts.crc32c) }
}

/// Converts the name of a copy.
fn copy_name(name: Option<v1::SegmentName>) -> Result<CopyName, Status> {
    let name = name.ok_or_else(|| status::invalid("NAME_MISSING", "the request names no copy".to_owned()))?;
    let partition = TopicPartition::new(name.topic, name.partition);
    let partition = partition.map_err(|error| status::of_partition(&error))?;
    let copy_id = CopyId::new(&name.copy_id);
    let copy_id = copy_id.map_err(|error| status::invalid("COPY", error.to_string()))?;
    let found = CopyName::new(partition, LogId::new(&name.log_id), name.base_offset, &copy_id);
    found.map_err(|error| status::of_name(&error))
}

fn wanted_copy(name: Option<v1::SegmentName>, locator: &[u8]) -> Result<Wanted, Status> {
    let name = copy_name(name)?;
    if locator.is_empty() {
        return Ok(Wanted::Copy(name, None));
    }
    let unknown = || status::invalid("LOCATOR", "the locator is not one of this release".to_owned());
    Ok(Wanted::Copy(name, Some(Locator::decode(locator).ok_or_else(unknown)?)))
}

fn wanted(request: v1::ReadSegmentRequest) -> Result<Wanted, Status> {
    use v1::read_segment_request::Bundle;
    match request.bundle {
        Some(Bundle::Name(name)) => wanted_copy(Some(name), &request.locator),
        Some(Bundle::Key(key)) => {
            let key = key.parse().map_err(|error| status::invalid("KEY", format!("{key}: {error}")))?;
            Ok(Wanted::Key(key))
        }
        None => wanted_copy(None, &[]),
    }
}

/// Counts the requests to the store for one response, also if its caller did not read to the end.
struct Counted(&'static str, TrafficCounter);

impl Drop for Counted {
    fn drop(&mut self) {
        let traffic = self.1.total();
        metrics::worker::fetched(self.0, traffic.requests, traffic.bytes);
    }
}

fn refused(call: &'static str, error: &CopyError) -> Status {
    let status = status::of_copy(error);
    let code = formatting::code_name(status.code());
    match error {
        // Brokers ask for the transaction index of each segment, and most segments have none.
        CopyError::NoAttachment { .. } => debug!(call, code, error = status.message(), "no such attachment"),
        _ => warn!(call, code, error = status.message(), "a copy cannot be read"),
    }
    status
}

fn message<T>(message: T) -> MessageWithMemory<T, ()> {
    MessageWithMemory { message, memory: None }
}

/// Returns pieces of bytes that are in memory.
fn pieces(mut bytes: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || (!bytes.is_empty()).then(|| bytes.split_to(bytes.len().min(CHUNK_BYTES))))
}

/// Returns the messages of a segment as they are asked for. The first one says how large the segment is.
fn segment_messages(
    reader: SegmentReader,
    counted: Counted,
) -> impl Stream<Item = Result<v1::ReadSegmentResponse, Status>> + Send {
    let segment_size_bytes = reader.segment_bytes();
    stream::unfold(Some((reader, counted, segment_size_bytes, true)), |state| async {
        let (mut reader, counted, segment_size_bytes, is_first) = state?;
        match reader.next().await {
            Ok(None) if !is_first => None,
            Ok(chunk) => {
                let segment_size_bytes = if is_first { segment_size_bytes } else { 0 };
                let message =
                    v1::ReadSegmentResponse { chunk: chunk.unwrap_or_default(), segment_size_bytes };
                Some((Ok(message), Some((reader, counted, 0, false))))
            }
            Err(error) => Some((Err(refused("ReadSegment", &error)), None)),
        }
    })
}

#[tonic::async_trait]
impl ArchiveService for Archiver {
    type ReadSegmentStream = Answers<v1::ReadSegmentResponse>;
    type ReadAttachmentStream = Answers<v1::ReadAttachmentResponse>;

    async fn copy_segment(
        &self,
        request: Request<Streaming<v1::CopySegmentRequest>>,
    ) -> Result<Response<v1::CopySegmentResponse>, Status> {
        let mut outcome = Outcome::new(&self.ingest.stats);
        if self.draining.load(Ordering::Acquire) {
            outcome.rejected(Code::Unavailable);
            return Err(status::draining());
        }
        let span = info_span!("copy_segment", segment_id = Empty, caller = Empty);
        let caller = Caller::of(&request);
        if let Caller::Named(name) = &caller {
            span.record("caller", &**name);
        }
        let copied = self.copy(request.into_inner(), caller.caller_id()).instrument(span.clone()).await;
        match copied {
            Ok(receipt) => {
                outcome.ended();
                span.in_scope(|| log_receipt(&receipt));
                let mut reply = Response::new(copy_response(&receipt));
                // The memory is held until the response is on the wire: see `server/call_metrics`.
                reply.extensions_mut().insert(Arc::new(receipt.into_memory()));
                Ok(reply)
            }
            Err(error) => {
                let status = status::of_ingested_copy(&error);
                let code = formatting::code_name(status.code());
                span.in_scope(|| warn!(code, error = status.message(), "copy refused"));
                outcome.rejected(status.code());
                Err(status)
            }
        }
    }

    async fn read_segment(
        &self,
        request: Request<v1::ReadSegmentRequest>,
    ) -> Result<Response<Self::ReadSegmentStream>, Status> {
        let caller_id = Caller::of(&request).caller_id();
        let request = request.into_inner();
        let (position, end) = (request.position, request.end);
        let wanted = wanted(request)?;
        let counted = Counted("ReadSegment", TrafficCounter::default());
        let reader = self.copies.read(&wanted, position, end, &caller_id, &counted.1).await;
        let reader = reader.map_err(|error| refused("ReadSegment", &error))?;
        let messages = idle::bounded(segment_messages(reader, counted).boxed(), IDLE_MAX);
        Ok(body::answer(messages.map(|one| one.map(message))))
    }

    async fn read_attachment(
        &self,
        request: Request<v1::ReadAttachmentRequest>,
    ) -> Result<Response<Self::ReadAttachmentStream>, Status> {
        let caller_id = Caller::of(&request).caller_id();
        let v1::ReadAttachmentRequest { name, locator, attachment } = request.into_inner();
        let wanted = wanted_copy(name, &locator)?;
        let counted = Counted("ReadAttachment", TrafficCounter::default());
        let found = self.copies.attachment(&wanted, &attachment, &caller_id, &counted.1).await;
        let (bytes, crc32c, memory) = found.map_err(|error| refused("ReadAttachment", &error))?;
        let described =
            v1::Attachment { name: attachment, size_bytes: bytes.len() as u64, crc32c: Some(crc32c) };
        let first = v1::ReadAttachmentResponse { chunk: Bytes::new(), attachment: Some(described) };
        let rest = pieces(bytes).map(|chunk| v1::ReadAttachmentResponse { chunk, attachment: None });
        let messages = stream::iter(std::iter::once(first).chain(rest).map(Ok)).inspect(move |_| {
            let _held = &memory;
        });
        let messages = idle::bounded(messages.boxed(), IDLE_MAX);
        Ok(body::answer(messages.map(|one| one.map(message))))
    }

    async fn delete_segment(
        &self,
        request: Request<v1::DeleteSegmentRequest>,
    ) -> Result<Response<v1::DeleteSegmentResponse>, Status> {
        let name = copy_name(request.into_inner().name)?;
        let marker = name.marker().to_string();
        let hidden = self.copies.store().hide(name.marker(), HiddenReason::Deleted).await;
        let hidden = hidden.map_err(|error| {
            warn!(marker, error = formatting::chain(&error), "a copy cannot be deleted");
            status::of_store(&error)
        })?;
        info!(marker, already = hidden.already, "copy deleted");
        Ok(Response::new(v1::DeleteSegmentResponse {
            already_deleted: hidden.already,
            deleted_at_ms: hidden.hidden_at_ms,
        }))
    }
}
