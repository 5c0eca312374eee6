//! One attempt: sends a segment to one worker, and returns its response.

use std::io;
use std::pin::pin;
use std::time::Duration;

use futures::{Stream, stream};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tonic::metadata::{Ascii, AsciiMetadataKey, MetadataValue};
use tonic::{Response, Status};
use tracing::Instrument;

use super::proxy::GrpcChannel;
use super::source_reader::{Read, SourceReader};
use super::{Payload, REPLY_BYTES_MAX, Request};
use crate::formatting::code_name;
use crate::ids::SegmentFormat;
use crate::proto::v1;
use crate::proto::v1::index_segment_request::Payload as Part;
use crate::proto::v1::indexer_service_client::IndexerServiceClient;
use crate::proto::v1::segment_header::Source;
use crate::spans;

/// How much later than this side a worker times out. The worker must have a timeout of its own, because the
/// message that cancels the call may get lost.
const WORKER_GRACE: Duration = Duration::from_secs(1);

/// Why an attempt ended without a response that a receipt can be made of.
#[derive(Debug)]
pub(super) enum Failure {
    /// This side could not read the segment, or the bytes were not as expected.
    Read(io::Error),
    /// The worker answered OK before it can have received the last byte.
    Early {
        /// The number of bytes that the worker says it read.
        bytes_read: u64,
    },
    /// The worker answered with an error, or the connection failed.
    No {
        /// The status of the response.
        status: Box<Status>,
        /// Whether the whole segment had been read by then and was as expected.
        was_read: bool,
    },
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

/// What an attempt sends, to any worker.
#[derive(Debug)]
pub(super) struct Attempt<'a, P> {
    pub request: &'a Request,
    pub payload: &'a P,
    /// The result of reading the segment, if workers read it for themselves.
    pub pointed: Option<&'a Read>,
    /// The value of the `authorization` header.
    pub authorization: Option<MetadataValue<Ascii>>,
    /// The timeout for the response.
    pub allowed: Duration,
}

impl<P: Payload> Attempt<'_, P> {
    /// Sends the segment. Returns the response and what was read. Dropping the future ends the call.
    pub(super) async fn run(
        &self,
        channel: GrpcChannel,
    ) -> Result<(v1::IndexSegmentResponse, Read), Failure> {
        let client = IndexerServiceClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX);
        match (&self.request.url, self.pointed) {
            (Some(url), Some(read)) => self.point_to(client, url.as_str(), read).await,
            _ => self.inline(client).await,
        }
    }

    async fn point_to(
        &self,
        mut client: IndexerServiceClient<GrpcChannel>,
        url: &str,
        read: &Read,
    ) -> Result<(v1::IndexSegmentResponse, Read), Failure> {
        let source = Source::Object(v1::ObjectSource {
            url: url.to_owned(),
            size_bytes: Some(read.digest.size_bytes),
            crc32c: Some(read.digest.crc32c),
        });
        let header = self.header(source);
        let answer = client.index_segment(self.call(stream::iter([header]))).await;
        outcome(answer, Some(read.clone()))
    }

    async fn inline(
        &self,
        mut client: IndexerServiceClient<GrpcChannel>,
    ) -> Result<(v1::IndexSegmentResponse, Read), Failure> {
        let size_bytes = self.payload.size_bytes();
        let header = self.header(Source::Inline(v1::InlineSource { size_bytes, crc32c: None }));
        let reader =
            SourceReader::start(self.payload, self.request.format, self.request.keep_undecodable).await?;
        let (messages, sent) = mpsc::channel(1);
        let mut call = pin!(client.index_segment(self.call(until_its_end(sent))));
        let mut reader = pin!(send(reader, header, messages).instrument(spans::read(size_bytes)));
        let (answer, read) = tokio::select! {
            biased;
            read = &mut reader => {
                let read = read?;
                (call.await, read)
            }
            answer = &mut call => (answer, None),
        };
        outcome(answer, read)
    }

    fn header(&self, source: Source) -> v1::IndexSegmentRequest {
        let request = self.request;
        let format = match request.format {
            None => v1::SegmentFormat::Unspecified,
            Some(SegmentFormat::ChronikWal) => v1::SegmentFormat::ChronikWal,
            Some(SegmentFormat::KafkaLog) => v1::SegmentFormat::KafkaLog,
        };
        let torn_tail = if request.keep_torn_tail { v1::TornTail::Keep } else { v1::TornTail::Refuse };
        let undecodable =
            if request.keep_undecodable { v1::Undecodable::Keep } else { v1::Undecodable::Refuse };
        message(Part::Header(v1::SegmentHeader {
            segment_id: request.segment_id.clone(),
            format: format.into(),
            topic: Some(request.partition.topic().to_owned()),
            partition: Some(request.partition.partition()),
            torn_tail: torn_tail.into(),
            undecodable: undecodable.into(),
            allowed_offsets: request
                .allowed_offsets
                .map(|allowed| v1::OffsetRange { first: allowed.first(), last: allowed.last() }),
            log_id: request.log_id.as_str().to_owned(),
            source: Some(source),
        }))
    }

    fn call<S: Stream<Item = v1::IndexSegmentRequest>>(&self, messages: S) -> tonic::Request<S> {
        let mut call = tonic::Request::new(messages);
        call.set_timeout(self.allowed + WORKER_GRACE);
        if let Some(authorization) = &self.authorization {
            call.metadata_mut().insert("authorization", authorization.clone());
        }
        spans::send(|name, value| {
            if let (Ok(name), Ok(value)) = (name.parse::<AsciiMetadataKey>(), value.parse()) {
                call.metadata_mut().insert(name, value);
            }
        });
        call
    }
}

/// The next item for a call's stream of messages.
enum Next {
    Message(v1::IndexSegmentRequest),
    /// The segment is complete.
    End,
}

/// A stream of messages that ends only at [`Next::End`]. To the worker, the end of the stream is the end of
/// the segment. So a sender that is dropped does not end the stream: a call that is given up is aborted.
fn until_its_end(next: Receiver<Next>) -> impl Stream<Item = v1::IndexSegmentRequest> {
    stream::unfold(next, |mut next| async {
        match next.recv().await {
            Some(Next::Message(message)) => Some((message, next)),
            Some(Next::End) => None,
            None => std::future::pending().await,
        }
    })
}

/// Sends a header and the bytes that are read, always one message behind. The last message is sent only when
/// the reader has ended without an error, so that no worker ever gets a whole segment that was not read as a
/// whole. `None`: nobody receives the messages any more.
async fn send<B>(
    mut reader: SourceReader<B>,
    header: v1::IndexSegmentRequest,
    messages: Sender<Next>,
) -> io::Result<Option<Read>>
where
    B: tokio::io::AsyncRead + Send + Unpin,
{
    let mut held = header;
    while let Some(chunk) = reader.next().await? {
        let message = std::mem::replace(&mut held, message(Part::Chunk(chunk)));
        if messages.send(Next::Message(message)).await.is_err() {
            return Ok(None);
        }
    }
    let is_sent = messages.send(Next::Message(held)).await.is_ok() && messages.send(Next::End).await.is_ok();
    Ok(if is_sent { Some(reader.finish()?) } else { None })
}

fn message(part: Part) -> v1::IndexSegmentRequest {
    v1::IndexSegmentRequest { payload: Some(part) }
}

fn outcome(
    answer: Result<Response<v1::IndexSegmentResponse>, Status>,
    read: Option<Read>,
) -> Result<(v1::IndexSegmentResponse, Read), Failure> {
    match &answer {
        Ok(_) => spans::answered("OK", None),
        Err(status) => spans::answered(code_name(status.code()), Some(status.message())),
    }
    match (answer, read) {
        (Ok(answer), Some(read)) => Ok((answer.into_inner(), read)),
        (Ok(answer), None) => Err(Failure::Early { bytes_read: answer.into_inner().bytes_read }),
        (Err(status), read) => Err(Failure::No { status: Box::new(status), was_read: read.is_some() }),
    }
}
