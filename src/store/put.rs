//! Stores a bundle as an object, once, and returns a receipt.
//!
//! ```text
//! create-only PUT ─┬─ created ─────────── confirm ─┬─ as sent ── Stored
//!    ▲             ├─ already exists ─┐            ├─ absent ─── PUT again
//!    │             ├─ unknown outcome ┴─ read back ┼─ as sent ── Stored
//!    └── pause ◀───┴─ not stored                   └─ other ──── existing-object check ── Stored or error
//! ```
//!
//! "Already exists" proves nothing by itself. S3 sends it for any conflict. An own attempt whose response was
//! lost causes it. And a request that timed out may still succeed at any later time. So the object is read
//! every time. Before that, its marker is looked up: what is hidden gets no receipt. This module never
//! overwrites or deletes.

use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use object_store::{Error as ObjectError, GetOptions, PutMode, PutOptions, PutPayload};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::Instrument;

use super::disk::{Durable, FileOrigin};
use super::error::{Cause, Operation, StoreError, StoreErrorKind};
use super::key::BundleKey;
use super::marker::{HiddenReason, Rfc3339};
use super::url::{Location, Scheme};
use super::{Store, payload, retry};
use crate::spans;

/// The largest object that one PUT can create, in bytes. Azure accepts 5,000 MiB, S3 5 GiB.
pub const OBJECT_BYTES_MAX: u64 = 5_000 << 20;

/// From this size on, in bytes, hashing (S3 signs the SHA-256 of the body) or copying would block a thread of
/// the runtime for too long.
const LARGE_BYTES: u64 = 1 << 20;

/// The object to store. Clones share the bytes, so a retry does not build the index again.
#[derive(Clone, Debug)]
pub struct NewObject {
    /// The bytes, in order.
    pub parts: Vec<Bytes>,
    /// The number of bytes.
    pub size_bytes: u64,
    /// The CRC-32C (Castagnoli) of the bytes.
    pub crc32c: u32,
    /// Whether the stored object is read back and its checksum compared, on every kind of store. Needed if
    /// the bytes are not in memory, and others may have been sent than those that the checksum is of.
    pub is_read_back: bool,
}

/// The receipt: the object is in the store, complete, durable and checked. Only [`Store::put`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    key: BundleKey,
    url: String,
    size_bytes: u64,
    crc32c: u32,
    e_tag: Option<String>,
    already_existed: bool,
    attempts: u32,
}

impl Stored {
    /// Returns the object's key, relative to the store's root.
    pub fn key(&self) -> &BundleKey {
        &self.key
    }

    /// Returns the object's URL, without credentials.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the object's size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Returns the CRC-32C of the object's bytes.
    pub fn crc32c(&self) -> u32 {
        self.crc32c
    }

    /// Returns the object's ETag, if the store has ETags.
    pub fn e_tag(&self) -> Option<&str> {
        self.e_tag.as_deref()
    }

    /// Returns whether an earlier request or another worker had stored the object. If an attempt of this put
    /// lost its response, and the object is found then, it counts as stored by this put.
    pub fn already_existed(&self) -> bool {
        self.already_existed
    }

    /// Returns how many PUTs were sent.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

/// The result of a put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put<T> {
    /// The receipt.
    pub stored: Stored,
    /// The result of `check_existing`, the existing-object check. It runs if an object was there already and
    /// its bytes differ from those that were sent. `None` if the object has the bytes that were sent.
    pub check_result: Option<T>,
}

/// The reasons why there is no receipt. The object may be in the store all the same; another put finds it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PutError {
    /// The store failed, and a retry would not help.
    #[error("{source}")]
    Store {
        /// The store's error.
        source: StoreError,
        /// How many PUTs were sent.
        attempts: u32,
    },
    /// The deadline has passed.
    #[error("put {url}: out of time after {attempts} attempts{}", Last(.last))]
    Deadline {
        /// The object's URL.
        url: String,
        /// How many PUTs were sent.
        attempts: u32,
        /// The last failure.
        last: Option<StoreError>,
    },
    /// Another object has this key, and the existing-object check refused it.
    #[error("put {url}: another object has this key: {reason}")]
    Taken {
        /// The object's URL.
        url: String,
        /// Why it was refused.
        reason: String,
    },
    /// The object was deleted: a marker hides it, and will hide whatever is stored under this key.
    #[error(
        "put {url}: it is hidden ({reason}) since {}: `wal-indexer undelete` brings it back, and with \
         another log id it is another object",
        Rfc3339(.hidden_at_ms)
    )]
    Hidden {
        /// The object's URL.
        url: String,
        /// Since when, in milliseconds since the Unix epoch.
        hidden_at_ms: i64,
        /// Why.
        reason: HiddenReason,
    },
    /// The object's bytes differ from those that were sent, although the store reported success.
    #[error("{0}")]
    Corrupt(StoreError),
    /// The sizes in the request differ: a bug of the caller.
    #[error("put {url}: the parts have {parts_bytes} bytes, not {size_bytes}")]
    Sizes {
        /// The object's URL.
        url: String,
        /// The sum of the parts' lengths.
        parts_bytes: u64,
        /// The size that the caller gave.
        size_bytes: u64,
    },
}

struct Last<'a>(&'a Option<StoreError>);

impl std::fmt::Display for Last<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.as_ref().map_or(Ok(()), |error| write!(f, ", last error: {error}"))
    }
}

/// An existing object with the same key, as input of the existing-object check. All reads are pinned to the
/// object that was found first.
#[derive(Clone, Debug)]
pub struct Existing {
    store: Store,
    key: BundleKey,
    found: Found,
}

impl Existing {
    /// Returns the object's key.
    pub fn key(&self) -> &BundleKey {
        &self.key
    }

    /// Returns the object's size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.found.size_bytes
    }

    /// Returns the CRC-32C of all its bytes, which were just read.
    pub fn crc32c(&self) -> u32 {
        self.found.crc32c
    }

    /// Returns a range of its bytes.
    pub async fn get_range(&self, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.store.get_range_at(&self.key.to_string(), range, self.found.e_tag.as_deref()).await
    }
}

/// The reasons why an existing object cannot stand for the new one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is a different object, or a damaged one.
    #[error("{reason}")]
    Foreign {
        /// What is wrong with it.
        reason: String,
    },
    /// It could not be read, so the check has no result.
    #[error(transparent)]
    Unread(#[from] StoreError),
}

/// The size, checksum and ETag of an object that was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) size_bytes: u64,
    pub(super) crc32c: u32,
    pub(super) e_tag: Option<String>,
}

impl Found {
    fn is(&self, object: &NewObject) -> bool {
        self.size_bytes == object.size_bytes && self.crc32c == object.crc32c
    }

    fn differs(&self, object: &NewObject) -> Cause {
        match self.size_bytes == object.size_bytes {
            true => Cause::Checksum { expected: object.crc32c, got: self.crc32c },
            false => Cause::Length { expected: object.size_bytes, got: self.size_bytes },
        }
    }
}

/// The store's response to a create-only PUT.
#[derive(Debug)]
pub(super) enum Answer {
    Created {
        e_tag: Option<String>,
    },
    Exists,
    /// Another request for the key was in progress. Whether an object exists is not known.
    Conflict(StoreError),
}

/// The state of a put in progress.
#[derive(Default)]
struct Progress {
    attempts: u32,
    /// Whether an attempt ended without a clear response. An object that is found later may be its work.
    unanswered: bool,
    last: Option<StoreError>,
}

impl Store {
    /// Stores `object` under `key`, once, before `deadline`. If another object has the key, `check_existing`,
    /// the existing-object check, decides whether that object can stand for this one. It may be called again
    /// after a failed read.
    ///
    /// If the future is dropped, the put stops. A request in flight may still succeed; the next put of the
    /// same object finds its result.
    pub async fn put<T, F>(
        &self,
        key: &BundleKey,
        object: &NewObject,
        deadline: Instant,
        check_existing: impl Fn(Existing) -> F,
    ) -> Result<Put<T>, PutError>
    where
        F: Future<Output = Result<T, Refused>>,
    {
        let url = self.url_of(key);
        let parts_bytes = object.parts.iter().map(|part| part.len() as u64).sum();
        if parts_bytes != object.size_bytes {
            return Err(PutError::Sizes { url, parts_bytes, size_bytes: object.size_bytes });
        }
        if object.size_bytes > OBJECT_BYTES_MAX {
            let cause = Cause::TooLarge { size: object.size_bytes, limit: OBJECT_BYTES_MAX };
            return Err(PutError::Store { source: StoreError::new(Operation::Put, url, cause), attempts: 0 });
        }
        let mut progress = Progress::default();
        let putting = self.put_until_confirmed(key, object, &url, &check_existing, &mut progress);
        match timeout_at(deadline, putting).await {
            Ok(outcome) => outcome,
            Err(_) => {
                Err(PutError::Deadline { url, attempts: progress.attempts, last: progress.last.take() })
            }
        }
    }

    async fn put_until_confirmed<T, F>(
        &self,
        key: &BundleKey,
        object: &NewObject,
        url: &str,
        check_existing: &impl Fn(Existing) -> F,
        progress: &mut Progress,
    ) -> Result<Put<T>, PutError>
    where
        F: Future<Output = Result<T, Refused>>,
    {
        let payload = payload::of(&object.parts);
        let name = key.to_string();
        loop {
            progress.attempts += 1;
            let limit = self.timeouts.attempt(object.size_bytes);
            let create = self.create(&name, payload.clone(), url);
            let span = spans::put(key, object.size_bytes, progress.attempts);
            let answer = retry::attempt(&self.rate_limit, &self.timeouts, limit, Operation::Put, url, create);
            let answer = answer.instrument(span).await;
            let confirmation = match answer {
                Ok(Answer::Created { e_tag }) => {
                    let confirmed = self.confirm(key, object, url, e_tag).await;
                    confirmed.map(|found| found.map(|found| (found, None)))
                }
                Ok(Answer::Exists | Answer::Conflict(_)) => {
                    self.read_existing(key, object, url, check_existing).await
                }
                Err(error) if error.is_temporary() => {
                    let landed = error.may_have_landed();
                    progress.unanswered |= landed;
                    progress.last = Some(error);
                    match landed {
                        true => self.read_existing(key, object, url, check_existing).await,
                        false => Ok(None),
                    }
                }
                Err(source) => Err(PutError::Store { source, attempts: progress.attempts }),
            };
            match confirmation {
                Ok(Some((found, check_result))) => {
                    let already_existed = check_result.is_some() || found.existed && !progress.unanswered;
                    let stored = Stored {
                        key: key.clone(),
                        url: url.to_owned(),
                        size_bytes: found.found.size_bytes,
                        crc32c: found.found.crc32c,
                        e_tag: found.found.e_tag,
                        already_existed,
                        attempts: progress.attempts,
                    };
                    return Ok(Put { stored, check_result });
                }
                // The response was "created" or "exists", but no object is there.
                Ok(None) if progress.last.is_none() => {
                    progress.last = Some(StoreError::new(Operation::Get, url, Cause::NotFound));
                }
                Ok(None) => {}
                // The store is not available. The object is looked up again after the next attempt.
                Err(PutError::Store { source, .. }) if source.is_temporary() => progress.last = Some(source),
                Err(PutError::Store { source, .. }) => {
                    return Err(PutError::Store { source, attempts: progress.attempts });
                }
                Err(error) => return Err(error),
            }
            sleep(self.timeouts.pause(progress.attempts)).await;
        }
    }

    /// Sends one create-only PUT.
    pub(super) async fn create(
        &self,
        key: &str,
        payload: PutPayload,
        url: &str,
    ) -> Result<Answer, StoreError> {
        let path = self.path(key, Operation::Put, url)?;
        let large = payload.content_length() as u64 >= LARGE_BYTES;
        let objects = Arc::clone(&self.objects);
        let put = async move {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            objects.put_opts(&path, payload, options).await
        };
        let outcome = if large { first_step_aside(put).await } else { put.await };
        match outcome {
            Ok(result) => Ok(Answer::Created { e_tag: result.e_tag }),
            Err(error) => {
                let exists = matches!(error, ObjectError::AlreadyExists { .. });
                let error = StoreError::from_object_store(Operation::Put, url, &error);
                match exists {
                    true if error.is_conflict() => Ok(Answer::Conflict(error)),
                    true => Ok(Answer::Exists),
                    false => Err(error),
                }
            }
        }
    }
}

/// A confirmed object, and whether it was found after the response "already exists" or after an unknown
/// outcome.
struct Confirmed {
    found: Found,
    existed: bool,
}

type Confirmation<T> = Result<Option<(Confirmed, Option<T>)>, PutError>;

impl Store {
    /// After the response "created", checks that the object is there as sent. Returns `None` if no object is
    /// there: some stores send status 200 for an error.
    async fn confirm(
        &self,
        key: &BundleKey,
        object: &NewObject,
        url: &str,
        e_tag: Option<String>,
    ) -> Result<Option<Confirmed>, PutError> {
        self.refuse_hidden(key, url).await?;
        match *self.location {
            _ if object.is_read_back => return self.confirm_by_reading(key, object, url).await,
            Location::File(_) => return self.confirm_file(key, object, url, e_tag).await,
            Location::Bucket { scheme: Scheme::S3, .. } => {}
            _ => return self.confirm_by_reading(key, object, url).await,
        }
        let head = match self.head(key).await {
            Ok(head) => head,
            Err(error) if error.kind() == StoreErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(failed(source)),
        };
        let same_tag = e_tag.is_none() || head.e_tag.is_none() || e_tag == head.e_tag;
        if head.size_bytes != object.size_bytes || !same_tag {
            return self.confirm_by_reading(key, object, url).await;
        }
        let found = Found { size_bytes: head.size_bytes, crc32c: object.crc32c, e_tag: e_tag.or(head.e_tag) };
        Ok(Some(Confirmed { found, existed: false }))
    }

    /// The same for a file. The file that is checked is the one that is made durable.
    async fn confirm_file(
        &self,
        key: &BundleKey,
        object: &NewObject,
        url: &str,
        e_tag: Option<String>,
    ) -> Result<Option<Confirmed>, PutError> {
        let as_sent =
            |file: &Durable| file.size_bytes == object.size_bytes && e_tag.as_ref() == Some(&file.e_tag);
        match self.sync(&key.to_string(), url, FileOrigin::SyncedWrite).await {
            Ok(Some(file)) if as_sent(&file) => {
                let found = Found { size_bytes: file.size_bytes, crc32c: object.crc32c, e_tag };
                Ok(Some(Confirmed { found, existed: false }))
            }
            // Another file, or none: read it, since any process may have made it.
            Ok(_) => self.confirm_by_reading(key, object, url).await,
            Err(error) if error.kind() == StoreErrorKind::NotFound => {
                self.confirm_by_reading(key, object, url).await
            }
            Err(source) => Err(failed(source)),
        }
    }

    async fn confirm_by_reading(
        &self,
        key: &BundleKey,
        object: &NewObject,
        url: &str,
    ) -> Result<Option<Confirmed>, PutError> {
        let read = self.read_back(&key.to_string(), url).await;
        let Some(found) = read.map_err(failed)? else {
            return Ok(None);
        };
        if !found.is(object) {
            return Err(PutError::Corrupt(StoreError::new(Operation::Put, url, found.differs(object))));
        }
        self.sync(&key.to_string(), url, FileOrigin::Unknown).await.map_err(failed)?;
        Ok(Some(Confirmed { found, existed: false }))
    }

    /// After "already exists" or an unknown outcome, reads the object and checks it. Returns `None` if no
    /// object is there.
    async fn read_existing<T, F>(
        &self,
        key: &BundleKey,
        object: &NewObject,
        url: &str,
        check_existing: &impl Fn(Existing) -> F,
    ) -> Confirmation<T>
    where
        F: Future<Output = Result<T, Refused>>,
    {
        self.refuse_hidden(key, url).await?;
        let read = self.read_back(&key.to_string(), url).await;
        let Some(found) = read.map_err(failed)? else {
            return Ok(None);
        };
        let check_result = if found.is(object) {
            None
        } else {
            let existing = Existing { store: self.clone(), key: key.clone(), found: found.clone() };
            match check_existing(existing).await {
                Ok(check_result) => Some(check_result),
                Err(Refused::Foreign { reason }) => {
                    return Err(PutError::Taken { url: url.to_owned(), reason });
                }
                Err(Refused::Unread(source)) => return Err(failed(source)),
            }
        };
        self.sync(&key.to_string(), url, FileOrigin::Unknown).await.map_err(failed)?;
        Ok(Some((Confirmed { found, existed: true }, check_result)))
    }

    /// Reads a whole object and returns its size and checksum; `None` if no object is there.
    pub(super) async fn read_back(&self, key: &str, url: &str) -> Result<Option<Found>, StoreError> {
        // Each chunk has its own time limit. The put's deadline limits the whole read.
        let limit = self.timeouts.attempt(OBJECT_BYTES_MAX);
        let read = self.read(limit, Operation::Get, url, || async {
            let get = self.get_opts(key, GetOptions::default(), Operation::Get, url);
            let base = self.timeouts.attempt_base;
            let got = match tokio::time::timeout(base, get).await {
                Ok(got) => got?,
                Err(_) => return Err(StoreError::new(Operation::Get, url, Cause::NoAnswer(base))),
            };
            let (expected, e_tag) = (got.meta.size, got.meta.e_tag.clone());
            let mut chunks = got.into_stream();
            let (mut size_bytes, mut crc32c) = (0, 0);
            while let Some(chunk) = self.next(&mut chunks, Operation::Get, url).await? {
                size_bytes += chunk.len() as u64;
                crc32c = crc32c::crc32c_append(crc32c, &chunk);
            }
            if size_bytes != expected {
                // The response was cut off, but the client reported no error.
                return Err(StoreError::new(Operation::Get, url, Cause::Transport("cut off")));
            }
            Ok(Found { size_bytes, crc32c, e_tag })
        });
        match read.await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == StoreErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// On the local file system, makes the object and its name durable. For other stores, the response
    /// confirms that they are.
    pub(super) async fn sync(
        &self,
        name: &str,
        url: &str,
        origin: FileOrigin,
    ) -> Result<Option<Durable>, StoreError> {
        let Location::File(root) = &*self.location else { return Ok(None) };
        let (root, file) = (root.clone(), root.join(name));
        let known = Arc::clone(&self.synced);
        Self::on_disk(Operation::Sync, url, move || known.sync_up_to(&root, &file, origin)).await.map(Some)
    }
}

/// A failure during a confirmation. The put adds the number of its attempts.
fn failed(source: StoreError) -> PutError {
    PutError::Store { source, attempts: 0 }
}

/// Runs a future up to its first wait on a thread for blocking work, where it may hash or copy for long. The
/// rest of it runs where it is awaited.
async fn first_step_aside<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    let mut work = Box::pin(work);
    let step = tokio::task::spawn_blocking(move || {
        match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => Ok(done),
            Poll::Pending => Err(work),
        }
    });
    match step.await {
        Ok(Ok(done)) => done,
        Ok(Err(work)) => work.await,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down, so nothing waits for the result.
            Err(_) => std::future::pending().await,
        },
    }
}
