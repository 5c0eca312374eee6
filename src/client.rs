//! A typed client of the workers. Knows nothing of the server, the store or the index.
//!
//! [`Client`] sends segments to whichever of several workers has least in hand, retries by what an error asks for, and gives a
//! [`Receipt`] only where the answer is about the very bytes that it read. [`Connection`] talks to one worker: what an operator
//! asks.

mod connection;
mod endpoint;
mod error;
mod receipt;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncRead;
use url::Url;

pub use connection::{Connection, ConnectionError};
pub use endpoint::{Endpoint, EndpointError, Security};
pub use error::{IndexError, Mismatch, Refusal};
pub use receipt::{Digest, Receipt};

use crate::ids::{LogId, SegmentFormat, TopicPartition};

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
pub struct Patience {
    /// For one worker's answer to a segment, beside [`Self::BYTES_PER_SECOND`].
    pub attempt: Duration,
    /// For any worker's receipt, all attempts and waits together; then the segment is left for another time.
    pub segment: Duration,
    /// Between two looks at the addresses behind a name.
    pub resolve_every: Duration,
}

impl Patience {
    /// The slowest line on which a segment still goes through: each attempt gets so much more time.
    pub const BYTES_PER_SECOND: u64 = 1 << 20;
}

impl Default for Patience {
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
    inner: Arc<()>,
}

impl Client {
    /// Looks up the addresses of all endpoints, and goes on doing so for those given by name. Connects when there is something to
    /// send: workers that are away now may come later, and so may names without an address.
    pub async fn start(
        endpoints: Vec<Endpoint>,
        security: Security,
        patience: Patience,
    ) -> Result<Self, EndpointError> {
        let _ = (endpoints, security, patience);
        todo!()
    }

    /// Sends a segment, as often and to as many workers as it takes. A receipt is about the bytes that `payload` gave: their
    /// number, checksums and records.
    pub async fn index(&self, request: &Request, payload: &impl Payload) -> Result<Receipt, IndexError> {
        let _ = (request, payload);
        todo!()
    }
}
