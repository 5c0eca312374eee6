//! A store with scripted faults: a decorator over any other store. It also counts requests.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::time::{Instant, sleep};
use tonic::async_trait;
use wal_indexer::store::Store;

/// The fault of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No fault.
    None,
    /// 503 with the code `SlowDown`; nothing is done.
    SlowDown,
    /// 500; nothing is done.
    Fail,
    /// 403; nothing is done.
    Forbid,
    /// No answer, ever; nothing is done.
    Hang,
    /// PUT only: the object is stored, and there is no answer, ever.
    LandAndHang,
    /// PUT only: the object is stored, and the connection breaks before the answer.
    LandAndLose,
    /// PUT only: there is no answer, and the object is stored after this time, when the caller has given up.
    LandLate(Duration),
    /// PUT only: "already exists", and nothing is stored. S3 gives this answer to any conflict.
    SayExists,
    /// PUT only: "created", and nothing is stored: an error inside a 200.
    SayCreated,
    /// PUT only: "created", and the stored object has a flipped bit.
    Corrupt,
    /// GET only: conditions are ignored, as some stores do.
    Heedless,
    /// PUT only: just before, somebody else's object is stored under the key.
    ForeignFirst,
}

/// The object under the key after [`Fault::ForeignFirst`].
pub const FOREIGN: &[u8] = b"somebody else's object";

/// How many requests of each kind there were since the start.
#[derive(Debug, Default)]
pub struct Counts {
    pub puts: AtomicU64,
    pub put_bytes: AtomicU64,
    /// GETs and HEADs of bundles.
    pub gets: AtomicU64,
    pub heads: AtomicU64,
    /// GETs of markers.
    pub marker_gets: AtomicU64,
    pub lists: AtomicU64,
    /// The time of each PUT, and the addresses of its parts in memory: the same addresses mean that nothing
    /// was built again.
    pub put_log: Mutex<Vec<(Instant, Vec<usize>)>>,
}

/// The decorator. Without a plan it only counts.
#[derive(Debug)]
pub struct Faults {
    /// The store inside, for what our stores cannot do: replace an object.
    pub inner: Arc<dyn ObjectStore>,
    plan: Mutex<Plan>,
    pub counts: Counts,
}

#[derive(Debug, Default)]
struct Plan {
    next_puts: VecDeque<Fault>,
    next_gets: VecDeque<Fault>,
    next_marker_gets: VecDeque<Fault>,
    next_deletes: VecDeque<Fault>,
    each_nth_put: Option<(u64, Fault)>,
    puts_until: Option<(Instant, Fault)>,
}

impl Faults {
    /// Puts the decorator around a store's client. Returns both.
    pub fn around(store: Store) -> (Store, Arc<Self>) {
        let mut faults = None;
        let store = store.decorated(|inner| {
            let around = Arc::new(Self { inner, plan: Mutex::default(), counts: Counts::default() });
            faults = Some(Arc::clone(&around));
            Arc::new(Shared(around))
        });
        (store, faults.expect("decorated calls it"))
    }

    /// The next PUTs have these faults, in this order. Later ones have none.
    pub fn next_puts(&self, faults: impl IntoIterator<Item = Fault>) {
        self.plan.lock().unwrap().next_puts.extend(faults);
    }

    /// The next GETs and HEADs of bundles have these faults, in this order. Later ones have none.
    pub fn next_gets(&self, faults: impl IntoIterator<Item = Fault>) {
        self.plan.lock().unwrap().next_gets.extend(faults);
    }

    /// The next GETs of markers have these faults, in this order. Later ones have none.
    pub fn next_marker_gets(&self, faults: impl IntoIterator<Item = Fault>) {
        self.plan.lock().unwrap().next_marker_gets.extend(faults);
    }

    /// The next deletions have these faults, in this order. Later ones have none.
    pub fn next_deletes(&self, faults: impl IntoIterator<Item = Fault>) {
        self.plan.lock().unwrap().next_deletes.extend(faults);
    }

    /// Every nth PUT has this fault.
    pub fn each_nth_put(&self, n: u64, fault: Fault) {
        self.plan.lock().unwrap().each_nth_put = Some((n, fault));
    }

    /// All PUTs have this fault for this duration.
    pub fn puts_for(&self, while_: Duration, fault: Fault) {
        self.plan.lock().unwrap().puts_until = Some((Instant::now() + while_, fault));
    }

    fn fault_of_put(&self, payload: &PutPayload) -> Fault {
        let now = Instant::now();
        let parts = payload.iter().map(|part| part.as_ptr().addr()).collect();
        self.counts.put_log.lock().unwrap().push((now, parts));
        self.counts.put_bytes.fetch_add(payload.content_length() as u64, SeqCst);
        let nth = self.counts.puts.fetch_add(1, SeqCst) + 1;
        let mut plan = self.plan.lock().unwrap();
        if let Some(fault) = plan.next_puts.pop_front() {
            return fault;
        }
        match (plan.puts_until, plan.each_nth_put) {
            (Some((until, fault)), _) if now < until => fault,
            (_, Some((n, fault))) if nth.is_multiple_of(n) => fault,
            _ => Fault::None,
        }
    }

    async fn put(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let fault = self.fault_of_put(&payload);
        match fault {
            Fault::None => self.inner.put_opts(location, payload, options).await,
            Fault::LandAndHang => {
                self.inner.put_opts(location, payload, options).await?;
                std::future::pending().await
            }
            Fault::LandAndLose => {
                self.inner.put_opts(location, payload, options).await?;
                Err(cut_off())
            }
            Fault::LandLate(after) => {
                let (inner, location) = (Arc::clone(&self.inner), location.clone());
                // In its own task, because the request is already on its way.
                tokio::spawn(async move {
                    sleep(after).await;
                    inner.put_opts(&location, payload, options).await
                });
                std::future::pending().await
            }
            Fault::SayExists => {
                let source = Box::new(cut_off());
                Err(Error::AlreadyExists { path: location.to_string(), source })
            }
            Fault::SayCreated => Ok(PutResult {
                e_tag: Some("\"none\"".to_owned()),
                version: None,
                extensions: Default::default(),
            }),
            Fault::Corrupt => {
                let mut bytes: Vec<u8> = payload.iter().flatten().copied().collect();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                self.inner.put_opts(location, bytes.into(), options).await
            }
            Fault::ForeignFirst => {
                self.inner
                    .put_opts(location, PutPayload::from_static(FOREIGN), PutOptions::default())
                    .await?;
                self.inner.put_opts(location, payload, options).await
            }
            Fault::SlowDown | Fault::Fail | Fault::Forbid | Fault::Hang | Fault::Heedless => {
                Err(answer(fault).await)
            }
        }
    }

    async fn get(&self, location: &Path, mut options: GetOptions) -> Result<GetResult> {
        let counts = &self.counts;
        let fault = if location.as_ref().ends_with(".deleted") {
            counts.marker_gets.fetch_add(1, SeqCst);
            self.plan.lock().unwrap().next_marker_gets.pop_front()
        } else {
            if options.head { &counts.heads } else { &counts.gets }.fetch_add(1, SeqCst);
            self.plan.lock().unwrap().next_gets.pop_front()
        };
        match fault {
            None | Some(Fault::None) => self.inner.get_opts(location, options).await,
            Some(Fault::Heedless) => {
                options.if_match = None;
                self.inner.get_opts(location, options).await
            }
            Some(fault) => Err(answer(fault).await),
        }
    }
}

/// Returns the error of a store that did nothing.
async fn answer(fault: Fault) -> Error {
    let text = match fault {
        Fault::SlowDown => "503 Service Unavailable: <Error><Code>SlowDown</Code></Error>",
        Fault::Fail => "500 Internal Server Error: <Error><Code>InternalError</Code></Error>",
        Fault::Forbid => "403 Forbidden: <Error><Code>AccessDenied</Code></Error>",
        Fault::Hang => std::future::pending().await,
        other => panic!("{other:?} is no answer to this request"),
    };
    Error::Generic { store: "faulty", source: Box::new(Answered(text)) }
}

fn cut_off() -> Error {
    let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    Error::Generic { store: "faulty", source: Box::new(HttpError::new(HttpErrorKind::Interrupted, reset)) }
}

/// An error in the words that `object_store` uses for an HTTP status.
#[derive(Debug)]
struct Answered(&'static str);

impl fmt::Display for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server returned non-2xx status code: {}", self.0)
    }
}

impl std::error::Error for Answered {}

/// One reference is the store's, the other the test's.
#[derive(Debug)]
struct Shared(Arc<Faults>);

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faults({})", self.0.inner)
    }
}

#[async_trait]
impl ObjectStore for Shared {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.0.put(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.get(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let fault = self.0.plan.lock().unwrap().next_deletes.pop_front();
        match fault {
            None | Some(Fault::None) => self.0.inner.delete_stream(locations),
            Some(fault) => stream::once(async move { Err(answer(fault).await) }).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.counts.lists.fetch_add(1, SeqCst);
        self.0.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.counts.lists.fetch_add(1, SeqCst);
        self.0.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.inner.copy_opts(from, to, options).await
    }
}

/// Cuts bytes into the parts of a new object.
pub fn parts(bytes: &[u8], parts: usize) -> Vec<Bytes> {
    bytes.chunks(bytes.len().div_ceil(parts).max(1)).map(Bytes::copy_from_slice).collect()
}
