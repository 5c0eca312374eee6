//! A bundle becomes an object, once, and a receipt.
//!
//! ```text
//! create-only PUT ─┬─ created ─────────── confirm ─┬─ as sent ── Stored
//!    ▲             ├─ already exists ─┐            ├─ absent ─── again
//!    │             ├─ no clear answer ┴─ read back ┼─ as sent ── Stored
//!    └── pause ◀───┴─ certainly not                └─ other ──── the judge: may it stand? ── Stored, or an error
//! ```
//!
//! "Already exists" proves nothing by itself: S3 answers it for any conflict, an attempt of our own whose answer was lost
//! causes it, and a request that was given up may land at any later time. So the object is read, every time. Nothing here
//! overwrites or deletes.

use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use object_store::{Error as ObjectError, GetOptions, PutMode, PutOptions, PutPayload};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::Instrument;

use super::disk::{Came, Durable};
use super::error::{Cause, Operation, StoreError, StoreErrorKind};
use super::key::BundleKey;
use super::url::{Location, Scheme};
use super::{Store, payload, retry};
use crate::spans;

/// The largest object that one PUT creates, in bytes: Azure takes 5,000 MiB, S3 5 GiB.
pub const OBJECT_BYTES_MAX: u64 = 5_000 << 20;

/// Hashing (S3 signs the body's SHA-256) or copying this much, in bytes, would hold up a thread of the runtime.
const LARGE_BYTES: u64 = 1 << 20;

/// The bytes to store. Cloning the parts costs nothing, so that an attempt never needs the index built again.
#[derive(Clone, Debug)]
pub struct NewObject {
    /// The bytes, in order.
    pub parts: Vec<Bytes>,
    /// Their number.
    pub size_bytes: u64,
    /// Their CRC-32C (Castagnoli).
    pub crc32c: u32,
}

/// The receipt: the object lies in the store, whole, durable and checked. Only [`Store::put`] makes one.
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
    /// The object's key, relative to the store's root.
    pub fn key(&self) -> &BundleKey {
        &self.key
    }

    /// The object's URL, without credentials.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The object's size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The CRC-32C of the object's bytes.
    pub fn crc32c(&self) -> u32 {
        self.crc32c
    }

    /// The object's ETag, where the store has one.
    pub fn e_tag(&self) -> Option<&str> {
        self.e_tag.as_deref()
    }

    /// Whether an earlier request, or another worker, had stored it. An object found after an attempt of this put whose
    /// answer was lost counts as this put's own.
    pub fn already_existed(&self) -> bool {
        self.already_existed
    }

    /// How many PUTs were sent.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

/// What a put came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put<T> {
    /// The receipt.
    pub stored: Stored,
    /// What the judge found in the object that was there already, if that differs from the one sent; `None` where the
    /// object consists of the very bytes that were sent.
    pub judged: Option<T>,
}

/// Why no receipt can be given. An object may lie there all the same: sending again picks it up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PutError {
    /// The store failed, and trying again would not help.
    #[error("{source}")]
    Store {
        /// What it said.
        source: StoreError,
        /// How many PUTs were sent.
        attempts: u32,
    },
    /// Out of time.
    #[error("put {url}: out of time after {attempts} attempts{}", Last(.last))]
    Deadline {
        /// The object's URL.
        url: String,
        /// How many PUTs were sent.
        attempts: u32,
        /// The last failure.
        last: Option<StoreError>,
    },
    /// Another object has this key, and the judge does not let it stand in for this one.
    #[error("put {url}: another object has this key: {reason}")]
    Taken {
        /// The object's URL.
        url: String,
        /// What the judge said.
        reason: String,
    },
    /// The object holds other bytes than those sent, although the store said that it had taken them.
    #[error("{0}")]
    Corrupt(StoreError),
    /// The caller's sizes disagree: a bug.
    #[error("put {url}: the parts have {parts_bytes} bytes, not {size_bytes}")]
    Sizes {
        /// The object's URL.
        url: String,
        /// The sum of the parts' lengths.
        parts_bytes: u64,
        /// What was said.
        size_bytes: u64,
    },
}

struct Last<'a>(&'a Option<StoreError>);

impl std::fmt::Display for Last<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.as_ref().map_or(Ok(()), |error| write!(f, ", at last: {error}"))
    }
}

/// An object that has the key already, for the judge to look at. Reads are pinned to what was found first.
#[derive(Clone, Debug)]
pub struct Existing {
    store: Store,
    key: BundleKey,
    found: Found,
}

impl Existing {
    /// The object's key.
    pub fn key(&self) -> &BundleKey {
        &self.key
    }

    /// The object's size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.found.size_bytes
    }

    /// The CRC-32C of all its bytes, just read.
    pub fn crc32c(&self) -> u32 {
        self.found.crc32c
    }

    /// A range of its bytes.
    pub async fn get_range(&self, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.store.get_range_at(&self.key.to_string(), range, self.found.e_tag.as_deref()).await
    }
}

/// Why the judge does not let an object stand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is another one, or a broken one.
    #[error("{reason}")]
    Foreign {
        /// What is wrong with it.
        reason: String,
    },
    /// It could not be read: no judgement.
    #[error(transparent)]
    Unread(#[from] StoreError),
}

/// What was read back.
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

/// What the store said to a create-only PUT.
#[derive(Debug)]
pub(super) enum Answer {
    Created {
        e_tag: Option<String>,
    },
    Exists,
    /// Another request for the key was under way: what is there, if anything, is not known.
    Conflict(StoreError),
}

/// What is known of a put while it goes on.
#[derive(Default)]
struct Progress {
    attempts: u32,
    /// An attempt ended without a clear answer: what is found later may be its work.
    unanswered: bool,
    last: Option<StoreError>,
}

impl Store {
    /// Stores `object` under `key`, once, by `deadline`. Where another object has the key, `judge` decides whether that
    /// one may stand for it (it may be asked again after a failed read). Dropping the future gives up; what was under way
    /// may still land, and is found by the next put of the same.
    pub async fn put<T, F>(
        &self,
        key: &BundleKey,
        object: &NewObject,
        deadline: Instant,
        judge: impl Fn(Existing) -> F,
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
        let putting = self.put_until_settled(key, object, &url, &judge, &mut progress);
        match timeout_at(deadline, putting).await {
            Ok(outcome) => outcome,
            Err(_) => {
                Err(PutError::Deadline { url, attempts: progress.attempts, last: progress.last.take() })
            }
        }
    }

    async fn put_until_settled<T, F>(
        &self,
        key: &BundleKey,
        object: &NewObject,
        url: &str,
        judge: &impl Fn(Existing) -> F,
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
            let answer = retry::attempt(&self.pace, &self.timeouts, limit, Operation::Put, url, create);
            let answer = answer.instrument(span).await;
            let settled = match answer {
                Ok(Answer::Created { e_tag }) => {
                    let confirmed = self.confirm(key, object, url, e_tag).await;
                    confirmed.map(|found| found.map(|found| (found, None)))
                }
                Ok(Answer::Exists | Answer::Conflict(_)) => self.settle(key, object, url, judge).await,
                Err(error) if error.is_passing() => {
                    let landed = error.may_have_landed();
                    progress.unanswered |= landed;
                    progress.last = Some(error);
                    match landed {
                        true => self.settle(key, object, url, judge).await,
                        false => Ok(None),
                    }
                }
                Err(source) => Err(PutError::Store { source, attempts: progress.attempts }),
            };
            match settled {
                Ok(Some((found, judged))) => {
                    let already_existed = judged.is_some() || found.existed && !progress.unanswered;
                    let stored = Stored {
                        key: key.clone(),
                        url: url.to_owned(),
                        size_bytes: found.found.size_bytes,
                        crc32c: found.found.crc32c,
                        e_tag: found.found.e_tag,
                        already_existed,
                        attempts: progress.attempts,
                    };
                    return Ok(Put { stored, judged });
                }
                // "Created" or "exists", and nothing there.
                Ok(None) if progress.last.is_none() => {
                    progress.last = Some(StoreError::new(Operation::Get, url, Cause::NotFound));
                }
                Ok(None) => {}
                // The store is away: what lies there will be looked at again.
                Err(PutError::Store { source, .. }) if source.is_passing() => progress.last = Some(source),
                Err(PutError::Store { source, .. }) => {
                    return Err(PutError::Store { source, attempts: progress.attempts });
                }
                Err(error) => return Err(error),
            }
            sleep(self.timeouts.pause(progress.attempts)).await;
        }
    }

    /// One create-only PUT.
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

/// A confirmed object, and whether "already exists" led to it.
struct Confirmed {
    found: Found,
    existed: bool,
}

type Settled<T> = Result<Option<(Confirmed, Option<T>)>, PutError>;

impl Store {
    /// After "created": is what was sent there to stay? `None` where nothing is there: some stores say 200 and mean an
    /// error.
    async fn confirm(
        &self,
        key: &BundleKey,
        object: &NewObject,
        url: &str,
        e_tag: Option<String>,
    ) -> Result<Option<Confirmed>, PutError> {
        match *self.location {
            Location::File(_) => return self.confirm_file(key, object, url, e_tag).await,
            Location::Bucket { scheme: Scheme::S3, .. } => {}
            _ => return self.confirm_by_reading(key, object, url).await,
        }
        let head = match self.head(key).await {
            Ok(head) => head,
            Err(error) if error.kind() == StoreErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(PutError::Store { source, attempts: 0 }),
        };
        let same_tag = e_tag.is_none() || head.e_tag.is_none() || e_tag == head.e_tag;
        if head.size_bytes != object.size_bytes || !same_tag {
            return self.confirm_by_reading(key, object, url).await;
        }
        let found = Found { size_bytes: head.size_bytes, crc32c: object.crc32c, e_tag: e_tag.or(head.e_tag) };
        Ok(Some(Confirmed { found, existed: false }))
    }

    /// The same for a file: the one that is made durable is the one that is looked at.
    async fn confirm_file(
        &self,
        key: &BundleKey,
        object: &NewObject,
        url: &str,
        e_tag: Option<String>,
    ) -> Result<Option<Confirmed>, PutError> {
        let as_sent =
            |file: &Durable| file.size_bytes == object.size_bytes && e_tag.as_ref() == Some(&file.e_tag);
        match self.sync(key, url, Came::WithSync).await {
            Ok(Some(file)) if as_sent(&file) => {
                let found = Found { size_bytes: file.size_bytes, crc32c: object.crc32c, e_tag };
                Ok(Some(Confirmed { found, existed: false }))
            }
            // Another file, or none: it is looked at as what anybody may have made.
            Ok(_) => self.confirm_by_reading(key, object, url).await,
            Err(PutError::Store { source, .. }) if source.kind() == StoreErrorKind::NotFound => {
                self.confirm_by_reading(key, object, url).await
            }
            Err(error) => Err(error),
        }
    }

    async fn confirm_by_reading(
        &self,
        key: &BundleKey,
        object: &NewObject,
        url: &str,
    ) -> Result<Option<Confirmed>, PutError> {
        let read = self.read_back(&key.to_string(), url).await;
        let Some(found) = read.map_err(|source| PutError::Store { source, attempts: 0 })? else {
            return Ok(None);
        };
        if !found.is(object) {
            return Err(PutError::Corrupt(StoreError::new(Operation::Put, url, found.differs(object))));
        }
        self.sync(key, url, Came::Somehow).await?;
        Ok(Some(Confirmed { found, existed: false }))
    }

    /// After "already exists", or no clear answer: whose is what lies there? `None` where nothing does.
    async fn settle<T, F>(
        &self,
        key: &BundleKey,
        object: &NewObject,
        url: &str,
        judge: &impl Fn(Existing) -> F,
    ) -> Settled<T>
    where
        F: Future<Output = Result<T, Refused>>,
    {
        let read = self.read_back(&key.to_string(), url).await;
        let Some(found) = read.map_err(|source| PutError::Store { source, attempts: 0 })? else {
            return Ok(None);
        };
        let judged = if found.is(object) {
            None
        } else {
            let existing = Existing { store: self.clone(), key: key.clone(), found: found.clone() };
            match judge(existing).await {
                Ok(judged) => Some(judged),
                Err(Refused::Foreign { reason }) => {
                    return Err(PutError::Taken { url: url.to_owned(), reason });
                }
                Err(Refused::Unread(source)) => return Err(PutError::Store { source, attempts: 0 }),
            }
        };
        self.sync(key, url, Came::Somehow).await?;
        Ok(Some((Confirmed { found, existed: true }, judged)))
    }

    /// Reads an object to its end for size and checksum; `None` where there is none.
    pub(super) async fn read_back(&self, key: &str, url: &str) -> Result<Option<Found>, StoreError> {
        // Each chunk is due in time; the put's deadline bounds the whole.
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
                // Cut off without an error: as good as one.
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

    /// On the local file system: makes the object and its name durable. Elsewhere the store's answer says that they are.
    async fn sync(&self, key: &BundleKey, url: &str, came: Came) -> Result<Option<Durable>, PutError> {
        let Location::File(root) = &*self.location else { return Ok(None) };
        let (root, file) = (root.clone(), root.join(key.to_string()));
        let known = Arc::clone(&self.synced);
        let synced = tokio::task::spawn_blocking(move || known.sync_up_to(&root, &file, came)).await;
        let cause = match synced {
            Ok(Ok(durable)) => return Ok(Some(durable)),
            Ok(Err(error)) => Cause::Io { kind: error.kind(), os_error: error.raw_os_error() },
            Err(_) => Cause::Client("file system"),
        };
        let source = StoreError::new(Operation::Sync, url, cause);
        Err(PutError::Store { source, attempts: 0 })
    }
}

/// Runs a future up to its first wait on a thread for blocking work, where it may hash or copy at its ease, and the rest
/// where it is awaited.
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
            // The runtime is shutting down: nobody waits for the answer any more.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests;
