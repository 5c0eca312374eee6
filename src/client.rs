//! A typed client of the workers. It knows nothing of the server, the store or the index.
//!
//! [`Client`] sends each segment to the worker with the fewest bytes in flight. It retries as the error
//! requires. It gives a [`Receipt`] only if the response is about exactly the bytes that it read.
//! [`Connection`] connects to one worker, for the commands of an operator.

mod attempt;
mod connect;
mod connection;
mod endpoint;
mod error;
mod http2_check;
mod pool;
mod proxy;
mod read;
mod receipt;
mod resolve;
mod retry_policy;
mod saved;
mod send;
mod source_reader;
mod tls;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::task::JoinSet;
use url::Url;

pub use connection::{Connection, ConnectionError};
pub use endpoint::{CertificateFiles, Endpoint, EndpointError, Security};
pub use error::{IndexError, Mismatch, ReadError, Refusal};
pub use read::{Answer, Message};
pub use receipt::{Digest, Receipt, StoredBundle};
pub use resolve::{Names, Resolve};
pub use source_reader::digest;

use connect::{Token, WorkerConnector};
use pool::Pool;
use resolve::Watch;
use send::Sending;

use crate::ids::{LogId, OffsetRange, SegmentFormat, TopicPartition};

/// The maximum size of a reply, in bytes. Replies list up to 1,000 gaps for each partition, and a segment may
/// hold many partitions.
const REPLY_BYTES_MAX: usize = 64 << 20;

/// What workers need to know about a segment, besides its bytes.
#[derive(Clone, Debug)]
pub struct Request {
    /// The caller's name for the segment, which workers log.
    pub segment_id: String,
    /// The format of the segment. `None`: workers recognise it.
    pub format: Option<SegmentFormat>,
    /// The partition of the records. If the bytes name a partition too, both must agree.
    pub partition: TopicPartition,
    /// The incarnation of the log to which the offsets belong.
    pub log_id: LogId,
    /// Whether the bytes of a frame that the segment's end cuts off are kept. If not, workers refuse the
    /// segment.
    pub keep_torn_tail: bool,
    /// Whether frames that workers cannot decode are kept as they are. If not, workers refuse the segment.
    pub keep_undecodable: bool,
    /// The offsets that the segment may hold. `None`: any. Workers refuse a segment that holds other offsets.
    pub allowed_offsets: Option<OffsetRange>,
    /// The URL at which workers find the same bytes. If it is set, workers read them there, and only the
    /// header is sent.
    pub url: Option<Url>,
}

impl Request {
    /// A request with the partition of a segment's records. `segment_id` is any name, for the workers' logs. All else is as its field says
    /// for `None` or `false`.
    pub fn new(segment_id: impl Into<String>, partition: TopicPartition, log_id: LogId) -> Self {
        Self {
            segment_id: segment_id.into(),
            format: None,
            partition,
            log_id,
            keep_torn_tail: false,
            keep_undecodable: false,
            allowed_offsets: None,
            url: None,
        }
    }
}

/// The bytes of a segment. They are read from the start for each attempt, and are never held in memory as a
/// whole.
pub trait Payload: Send + Sync {
    /// The reader of the bytes.
    type Bytes: AsyncRead + Send + Unpin + 'static;

    /// The number of bytes.
    fn size_bytes(&self) -> u64;

    /// Opens a reader at the first byte. After the last byte the reader ends, or it fails if the bytes
    /// changed meanwhile.
    fn open(&self) -> impl Future<Output = io::Result<Self::Bytes>> + Send;
}

/// The timeouts of a client.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// For one worker's response to a segment, in addition to the time for the bytes
    /// ([`Self::BYTES_PER_SECOND`]).
    pub attempt: Duration,
    /// For a receipt from any worker, with all attempts and waits. After that the segment is left for another
    /// time.
    pub segment: Duration,
    /// The time between two look-ups of the addresses of a name.
    pub resolve_every: Duration,
}

impl Timeouts {
    /// The slowest transfer at which a segment is still sent, in bytes per second. The timeouts grow by the
    /// time that the segment's bytes need at this rate.
    pub const BYTES_PER_SECOND: u64 = 1 << 20;
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(120),
            segment: Duration::from_secs(300),
            resolve_every: Duration::from_secs(5),
        }
    }
}

/// Sends segments to several workers. Clones are cheap. The connections are closed when the last clone is
/// dropped.
#[derive(Clone, Debug)]
pub struct Client {
    workers: Arc<Workers>,
}

/// The workers, and how to connect to them.
#[derive(Debug)]
struct Workers {
    pool: Arc<Pool>,
    token: Option<Arc<Token>>,
    timeouts: Timeouts,
    /// The tasks that look up names. They end when this is dropped.
    _watches: JoinSet<()>,
}

impl Client {
    /// Looks up the addresses of all endpoints. For endpoints given by name this is repeated in the
    /// background. The client connects only when there is something to send: workers that are unreachable now
    /// may come later, and so may names without an address.
    ///
    /// # Errors
    /// Settings that can never work: no endpoint, or a file that cannot be read or holds something else.
    pub async fn start(
        endpoints: Vec<Endpoint>,
        security: Security,
        timeouts: Timeouts,
    ) -> Result<Self, EndpointError> {
        Self::start_with(endpoints, security, timeouts, Arc::new(Names)).await
    }

    /// As [`start`](Self::start), with names looked up by `resolver`.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub async fn start_with(
        endpoints: Vec<Endpoint>,
        security: Security,
        timeouts: Timeouts,
        resolver: Arc<dyn Resolve>,
    ) -> Result<Self, EndpointError> {
        if endpoints.is_empty() {
            return Err(EndpointError::NoneGiven);
        }
        let connector = WorkerConnector::new(&security, &endpoints).await?;
        let token = connector.token().cloned();
        let pool = Pool::new(endpoints.clone(), connector);
        let watches = watch_all(&endpoints, &pool, &resolver, timeouts.resolve_every).await;
        Ok(Self { workers: Arc::new(Workers { pool, token, timeouts, _watches: watches }) })
    }

    /// Sends a segment, with as many attempts and to as many workers as it takes. A receipt is about the
    /// bytes that `payload` gave: their number, checksums and records. Dropping the future ends all its
    /// calls.
    ///
    /// # Errors
    /// Each error says what to do about it. After any error the caller must keep its copy.
    pub async fn index(&self, request: &Request, payload: &impl Payload) -> Result<Receipt, IndexError> {
        Sending::new(&self.workers, request, payload).run().await
    }
}

/// Looks up all names at the same time, and then continues in the background.
async fn watch_all(
    endpoints: &[Endpoint],
    pool: &Arc<Pool>,
    resolver: &Arc<dyn Resolve>,
    every: Duration,
) -> JoinSet<()> {
    let watch = |(endpoint, (host, port)): (usize, (&str, u16))| {
        let (pool, resolver) = (Arc::clone(pool), Arc::clone(resolver));
        Watch { pool, resolver, endpoint, host: host.to_owned(), port, last: Ok(Vec::new()) }
    };
    let names =
        endpoints.iter().enumerate().filter_map(|(number, endpoint)| Some((number, endpoint.name()?)));
    let mut watches: Vec<_> = names.map(watch).collect();
    futures::future::join_all(watches.iter_mut().map(Watch::look)).await;
    watches.into_iter().map(|watch| watch.run(every)).collect()
}
