//! A connection to one worker, for the commands of an operator.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::time::sleep;
use tonic::transport;
use tonic::{Code, Request, Response, Status, Streaming};

use super::REPLY_BYTES_MAX;
use super::connect::{Token, WorkerConnector};
use super::endpoint::{Endpoint, EndpointError, Security};
use super::proxy::GrpcChannel;
use super::retry_policy::never_sent;
use super::source_reader::CHUNK_BYTES;
use crate::proto::v1;
use crate::proto::v1::index_segment_request::Payload;
use crate::proto::v1::indexer_service_client::IndexerServiceClient;
use crate::proto::v1::search_service_client::SearchServiceClient;
use crate::proto::v1::segment_header::Source;

/// The maximum size of one message of a response, in bytes. A record or a batch is never cut, and may
/// decompress to 256 MiB.
pub(super) const ANSWER_BYTES_MAX: usize = 320 << 20;

/// The pause before a retry of a call that found its connection closed.
const UNSENT_PAUSE: Duration = Duration::from_millis(100);

/// Why a call to a worker failed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The endpoint cannot be reached.
    #[error("cannot connect to {endpoint}")]
    Connect {
        /// The endpoint, as it was given.
        endpoint: String,
        /// The cause.
        #[source]
        source: transport::Error,
    },
    /// The endpoint or the security settings cannot be used.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The file cannot be read.
    #[error("cannot read the segment's file")]
    File(#[from] std::io::Error),
    /// The worker answered with an error.
    #[error("the worker answered {0}")]
    Status(Box<Status>),
}

impl ConnectionError {
    /// The code of the worker's error, if it answered with one.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Status(status) => Some(status.code()),
            Self::Connect { .. } | Self::Endpoint(_) | Self::File(_) => None,
        }
    }
}

impl From<Status> for ConnectionError {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// A connection to one worker; cheap to clone.
#[derive(Clone, Debug)]
pub struct Connection {
    indexer: IndexerServiceClient<GrpcChannel>,
    search: SearchServiceClient<GrpcChannel>,
    token: Option<Arc<Token>>,
}

impl Connection {
    /// Connects to `http://HOST:PORT`.
    pub async fn connect(endpoint: &str) -> Result<Self, ConnectionError> {
        Self::connect_with(&endpoint.parse()?, &Security::default()).await
    }

    /// Connects with certificates and a token.
    pub async fn connect_with(endpoint: &Endpoint, security: &Security) -> Result<Self, ConnectionError> {
        let connector = WorkerConnector::new(security, std::slice::from_ref(endpoint)).await?;
        let failed = |source| ConnectionError::Connect { endpoint: endpoint.to_string(), source };
        let channel = connector.connect_now(endpoint).await?.map_err(failed)?;
        let search = SearchServiceClient::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
        let indexer = IndexerServiceClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX);
        Ok(Self { indexer, search, token: connector.token().cloned() })
    }

    /// Makes a call with the token, as its file has it now.
    async fn call<T>(&self, message: T) -> Request<T> {
        let mut call = Request::new(message);
        if let Some(token) = &self.token {
            call.metadata_mut().insert("authorization", token.authorization().await);
        }
        call
    }

    /// Calls the worker. If the call was not sent because the worker had just closed the connection, calls
    /// once more.
    async fn ask<T: Clone, A>(
        &self,
        message: T,
        question: impl AsyncFn(Request<T>) -> Result<Response<A>, Status>,
    ) -> Result<A, ConnectionError> {
        let answer = match question(self.call(message.clone()).await).await {
            Err(status) if never_sent(&status) => {
                sleep(UNSENT_PAUSE).await;
                question(self.call(message).await).await
            }
            answer => answer,
        };
        Ok(answer?.into_inner())
    }

    /// Streams a file as an inline source. `header.source` is filled in from the file's size.
    pub async fn index_file(
        &mut self,
        mut header: v1::SegmentHeader,
        path: &Path,
    ) -> Result<v1::IndexSegmentResponse, ConnectionError> {
        let file = File::open(path).await?;
        let size_bytes = file.metadata().await?.len();
        header.source = Some(Source::Inline(v1::InlineSource { size_bytes, crc32c: None }));
        let chunks = stream::unfold(Some(file), |file| async {
            let mut file = file?;
            match next_chunk(&mut file).await {
                Ok(chunk) if chunk.is_empty() => None,
                Ok(chunk) => Some((message(Payload::Chunk(chunk)), Some(file))),
                // The stream ends short of its size, and the worker refuses the segment.
                Err(_) => None,
            }
        });
        let messages = stream::once(async { message(Payload::Header(header)) }).chain(chunks);
        let call = self.call(messages).await;
        Ok(self.indexer.index_segment(call).await?.into_inner())
    }

    /// Returns what the worker has done and is doing.
    pub async fn stats(&mut self) -> Result<v1::GetStatsResponse, ConnectionError> {
        self.ask(v1::GetStatsRequest {}, async |call| self.indexer.clone().get_stats(call).await).await
    }

    /// Searches for records. Returns the matches as the worker sends them. The last message has the summary.
    pub async fn search(
        &mut self,
        request: v1::SearchRequest,
    ) -> Result<Streaming<v1::SearchResponse>, ConnectionError> {
        self.ask(request, async |call| self.search.clone().search(call).await).await
    }

    /// Fetches a partition from an offset on. Returns the messages as the worker sends them. The last one
    /// says where to continue.
    pub async fn fetch(
        &mut self,
        request: v1::FetchRequest,
    ) -> Result<Streaming<v1::FetchResponse>, ConnectionError> {
        self.ask(request, async |call| self.search.clone().fetch(call).await).await
    }

    /// Lists the bundles that may hold the requested records.
    pub async fn list_bundles(
        &mut self,
        request: v1::ListBundlesRequest,
    ) -> Result<Streaming<v1::ListBundlesResponse>, ConnectionError> {
        self.ask(request, async |call| self.search.clone().list_bundles(call).await).await
    }

    /// Whether the worker can take work.
    pub async fn health(&mut self) -> Result<v1::HealthResponse, ConnectionError> {
        self.ask(v1::HealthRequest {}, async |call| self.indexer.clone().health(call).await).await
    }
}

fn message(payload: Payload) -> v1::IndexSegmentRequest {
    v1::IndexSegmentRequest { payload: Some(payload) }
}

async fn next_chunk(file: &mut File) -> std::io::Result<Bytes> {
    let mut buffer = BytesMut::with_capacity(CHUNK_BYTES);
    while buffer.len() < CHUNK_BYTES && file.read_buf(&mut buffer).await? > 0 {}
    Ok(buffer.freeze())
}
