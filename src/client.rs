//! A typed client of the workers. Knows nothing of the server, the store or the index.
//!
//! [`Client`] sends segments to whichever of several workers has least in hand, retries by what an error asks for, and gives a
//! [`Receipt`] only where the answer is about the very bytes that it read. [`Connection`] talks to one worker: what an operator
//! asks.

mod attempt;
mod connect;
mod connection;
mod endpoint;
mod error;
mod greeting;
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

/// Replies list up to 1,000 gaps for each partition, and a segment may hold many.
const REPLY_BYTES_MAX: usize = 64 << 20;

/// What workers need to know of a segment beside its bytes.
#[derive(Clone, Debug)]
pub struct Request {
    /// The caller's name for it; logged by workers.
    pub segment_id: String,
    /// What it is written in; `None`: recognised.
    pub format: Option<SegmentFormat>,
    /// Whose records it holds. Where the bytes say it too, they must agree.
    pub partition: TopicPartition,
    /// The incarnation of the log that its offsets count in.
    pub log_id: LogId,
    /// Whether bytes of a frame that the segment's end cuts off are kept, or make the segment be refused.
    pub keep_torn_tail: bool,
    /// Whether frames that workers cannot decode are kept as they are, or make the segment be refused.
    pub keep_undecodable: bool,
    /// The offsets that it may hold; `None`: any. Workers refuse a segment that holds others.
    pub allowed_offsets: Option<OffsetRange>,
    /// Where workers see the same bytes: then they read them there, and only the header is sent.
    pub url: Option<Url>,
}

/// A segment's bytes, which are read from the start for each attempt, and never held in memory as a whole.
pub trait Payload: Send + Sync {
    /// What reads them.
    type Bytes: AsyncRead + Send + Unpin + 'static;

    /// How many there are.
    fn size_bytes(&self) -> u64;

    /// Starts at the first byte. Behind the last one the reader ends, or fails where the bytes changed meanwhile.
    fn open(&self) -> impl Future<Output = io::Result<Self::Bytes>> + Send;
}

/// How long a client waits for what.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// For one worker's answer to a segment, beside [`Self::BYTES_PER_SECOND`].
    pub attempt: Duration,
    /// For any worker's receipt, all attempts and waits together; then the segment is left for another time.
    pub segment: Duration,
    /// Between two looks at the addresses behind a name.
    pub resolve_every: Duration,
}

impl Timeouts {
    /// The slowest line on which a segment still goes through: each attempt gets so much more time.
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

/// Sends segments to several workers; cheap to clone. The last clone's end closes the connections.
#[derive(Clone, Debug)]
pub struct Client {
    workers: Arc<Workers>,
}

/// The workers, and how to talk to them.
#[derive(Debug)]
struct Workers {
    pool: Arc<Pool>,
    token: Option<Arc<Token>>,
    timeouts: Timeouts,
    /// Look up names; they end with this.
    _watches: JoinSet<()>,
}

impl Client {
    /// Looks up the addresses of all endpoints, and goes on doing so for those given by name. Connects when there is something to
    /// send: workers that are away now may come later, and so may names without an address.
    ///
    /// # Errors
    /// Settings that can never work: no endpoint, a file that cannot be read or holds something else.
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
    /// The same.
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

    /// Sends a segment, as often and to as many workers as it takes. A receipt is about the bytes that `payload` gave: their
    /// number, checksums and records. To drop the future ends whatever is under way.
    ///
    /// # Errors
    /// Each says what to do about it; none means that a copy may go.
    pub async fn index(&self, request: &Request, payload: &impl Payload) -> Result<Receipt, IndexError> {
        Sending::new(&self.workers, request, payload).run().await
    }
}

/// Looks up all names, at the same time, and then goes on in the background.
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
