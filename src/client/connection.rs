//! A connection to one worker: what an operator asks.

use std::path::Path;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use super::REPLY_BYTES_MAX;
use super::reading::CHUNK_BYTES;
use crate::proto::v1;
use crate::proto::v1::index_segment_request::Payload;
use crate::proto::v1::indexer_service_client::IndexerServiceClient;
use crate::proto::v1::search_service_client::SearchServiceClient;
use crate::proto::v1::segment_header::Source;

/// The largest message of an answer, in bytes. A record or a batch is never cut, and may open to 256 MiB.
const ANSWER_BYTES_MAX: usize = 320 << 20;

/// Why a worker gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The endpoint cannot be reached.
    #[error("cannot connect to {endpoint}")]
    Connect {
        /// As it was given.
        endpoint: String,
        /// Why not.
        #[source]
        source: tonic::transport::Error,
    },
    /// The file cannot be read.
    #[error("cannot read the segment's file")]
    File(#[from] std::io::Error),
    /// The worker said no.
    #[error("the worker answered {0}")]
    Status(Box<Status>),
}

impl From<Status> for ConnectionError {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// A connection to one worker; cheap to clone.
#[derive(Clone, Debug)]
pub struct Connection {
    indexer: IndexerServiceClient<Channel>,
    search: SearchServiceClient<Channel>,
}

impl Connection {
    /// Connects to `http://HOST:PORT`.
    pub async fn connect(endpoint: &str) -> Result<Self, ConnectionError> {
        let failed = |source| ConnectionError::Connect { endpoint: endpoint.to_owned(), source };
        let channel =
            Endpoint::from_shared(endpoint.to_owned()).map_err(failed)?.connect().await.map_err(failed)?;
        let search = SearchServiceClient::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
        let indexer = IndexerServiceClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX);
        Ok(Self { indexer, search })
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
        Ok(self.indexer.index_segment(messages).await?.into_inner())
    }

    /// What the worker has done and is doing.
    pub async fn stats(&mut self) -> Result<v1::GetStatsResponse, ConnectionError> {
        Ok(self.indexer.get_stats(v1::GetStatsRequest {}).await?.into_inner())
    }

    /// Records that match, as the worker sends them; the last message has the summary.
    pub async fn search(
        &mut self,
        request: v1::SearchRequest,
    ) -> Result<Streaming<v1::SearchResponse>, ConnectionError> {
        Ok(self.search.search(request).await?.into_inner())
    }

    /// A partition from an offset on, as the worker sends it; the last message says where to go on.
    pub async fn fetch(
        &mut self,
        request: v1::FetchRequest,
    ) -> Result<Streaming<v1::FetchResponse>, ConnectionError> {
        Ok(self.search.fetch(request).await?.into_inner())
    }

    /// The bundles that may hold what is asked for.
    pub async fn list_bundles(
        &mut self,
        request: v1::ListBundlesRequest,
    ) -> Result<Streaming<v1::ListBundlesResponse>, ConnectionError> {
        Ok(self.search.list_bundles(request).await?.into_inner())
    }

    /// Whether the worker can take work.
    pub async fn health(&mut self) -> Result<v1::HealthResponse, ConnectionError> {
        Ok(self.indexer.health(v1::HealthRequest {}).await?.into_inner())
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
