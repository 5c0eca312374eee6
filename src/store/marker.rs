//! Markers: an object beside a bundle that hides it. What is deleted is hidden first, so that a mistake can
//! be undone; only later a purge frees the space.
//!
//! A marker is created once, like a bundle, and its existence alone hides the bundle. So its contents can be
//! anything: a later release may write more into it. It may exist before its bundle, and without one. Then a
//! bundle that arrives late is hidden from its first moment.
//!
//! Workers create markers. Only an operator's commands remove them (`delete`).

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use object_store::{GetOptions, PutPayload};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known;
use tracing::Instrument;

use super::disk::FileOrigin;
use super::error::{Cause, Operation, StoreError, StoreErrorKind};
use super::key::{BundleKey, MarkerKey};
use super::put::{Answer, PutError};
use super::{Listed, Store, join_url, retry};
use crate::spans;

/// The version of the contents that this release writes.
const VERSION: u64 = 1;

/// The largest marker that is read, in bytes. The contents of a larger one are not known to this release.
const MARKER_BYTES_MAX: u64 = 64 << 10;

/// The longest name of a reason that is repeated, in bytes.
const REASON_BYTES_MAX: usize = 64;

/// Why a bundle is hidden.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HiddenReason {
    /// The owner of the log deleted it.
    Deleted,
    /// Its retention is over.
    Expired,
    /// Kafka does not use this copy.
    Unused,
    /// A reason that this release does not know, or `unknown` if the marker does not say.
    Other(String),
}

impl HiddenReason {
    /// Returns its name, for people and for the contents of a marker.
    pub fn name(&self) -> &str {
        match self {
            Self::Deleted => "deleted",
            Self::Expired => "expired",
            Self::Unused => "unused",
            Self::Other(name) => name,
        }
    }

    /// A name that is not plain text is not repeated: it may be printed on a terminal.
    fn named(name: Option<&str>) -> Self {
        let is_plain = |name: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
            (1..=REASON_BYTES_MAX).contains(&name.len()) && name.bytes().all(plain)
        };
        match name {
            Some("deleted") => Self::Deleted,
            Some("expired") => Self::Expired,
            Some("unused") => Self::Unused,
            Some(name) if is_plain(name) => Self::Other(name.to_owned()),
            _ => Self::Other("unknown".to_owned()),
        }
    }
}

impl fmt::Display for HiddenReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The contents of a marker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    /// Why the bundle is hidden.
    pub reason: HiddenReason,
    /// Since when, in milliseconds since the Unix epoch. If the marker does not say, or names a time in the
    /// future, this is the time when the store got it.
    pub hidden_at_ms: i64,
}

/// The outcome of hiding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hidden {
    /// Whether the marker was there already.
    pub already: bool,
    /// Since when the bundle is hidden, in milliseconds since the Unix epoch: the time in the marker that is
    /// there.
    pub hidden_at_ms: i64,
}

/// The bundles and markers that a LIST found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The visible bundles, in the order of their keys.
    pub bundles: Vec<Listed>,
    /// The markers, in the order of their keys.
    pub markers: Vec<ListedMarker>,
}

/// A marker that a LIST found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedMarker {
    /// Its key.
    pub key: MarkerKey,
    /// When the marker was stored, in milliseconds since the Unix epoch; 0 if unknown.
    pub stored_at_ms: i64,
    /// The bundles that it hides: one, or none if the bundle never came or is gone. Two releases may have
    /// given the same bundle different times in its key: then both are here.
    pub hides: Vec<Listed>,
}

impl Listing {
    /// Moves the hidden bundles to their markers. `bundles` and `markers` are sorted.
    pub(super) fn of(bundles: Vec<Listed>, mut markers: Vec<ListedMarker>) -> Self {
        if markers.is_empty() {
            return Self { bundles, markers };
        }
        let mut visible = Vec::with_capacity(bundles.len());
        for bundle in bundles {
            let key = MarkerKey::of(&bundle.key);
            match markers.binary_search_by(|marker| marker.key.cmp(&key)) {
                Ok(at) => markers[at].hides.push(bundle),
                Err(_) => visible.push(bundle),
            }
        }
        Self { bundles: visible, markers }
    }
}

impl Marker {
    fn to_json(&self) -> String {
        json!({"version": VERSION, "reason": self.reason.name(), "hidden_at_ms": self.hidden_at_ms})
            .to_string()
    }

    /// Reads what is known of the contents. A marker hides its bundle whatever it contains.
    fn read(contents: &[u8], stored_at_ms: i64, now_ms: i64) -> Self {
        let contents: Value = serde_json::from_slice(contents).unwrap_or_default();
        let hidden_at_ms = contents["hidden_at_ms"].as_i64().filter(|ms| (0..=now_ms).contains(ms));
        Self {
            reason: HiddenReason::named(contents["reason"].as_str()),
            hidden_at_ms: hidden_at_ms.unwrap_or(stored_at_ms),
        }
    }
}

/// A time in milliseconds since the Unix epoch, as text for people.
pub(super) struct Rfc3339<'a>(pub(super) &'a i64);

impl fmt::Display for Rfc3339<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(*self.0) * 1_000_000);
        match time.ok().and_then(|time| time.format(&well_known::Rfc3339).ok()) {
            Some(text) => f.write_str(&text),
            None => write!(f, "{} ms", self.0),
        }
    }
}

fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}

impl Store {
    /// Hides the bundle that `key` is the marker of, from the next LIST on. No receipt is given for it any
    /// more. The bundle need not exist: if it comes later, it is hidden too. Hiding again changes nothing.
    pub async fn hide(&self, key: &MarkerKey, reason: HiddenReason) -> Result<Hidden, StoreError> {
        let (name, url) = (key.to_string(), self.url_of_marker(key));
        // What is behind a link could be hidden, but never purged.
        self.check_path(Operation::Put, &name, &url).await?;
        let marker = Marker { reason, hidden_at_ms: now_ms() };
        let payload = PutPayload::from(marker.to_json());
        // Whether an attempt ended without a clear response. A marker that is found later may be its work.
        let (mut failures, mut unanswered) = (0, false);
        loop {
            let create = self.create(&name, payload.clone(), &url);
            let span = spans::ask(Operation::Put.name(), &url);
            let limit = self.timeouts.attempt_base;
            let answer =
                retry::attempt(&self.rate_limit, &self.timeouts, limit, Operation::Put, &url, create);
            let (created, error) = match answer.instrument(span).await {
                Ok(Answer::Created { .. }) => (true, None),
                Ok(Answer::Exists) => (false, None),
                Ok(Answer::Conflict(error)) => (false, Some(error)),
                Err(error) if error.is_temporary() => {
                    unanswered |= error.may_have_landed();
                    (false, Some(error))
                }
                Err(error) => return Err(error),
            };
            // As for a bundle, only what is read back counts.
            if let Some(found) = self.durable_marker(&name, &url).await? {
                let is_ours = created || unanswered && found == marker;
                return Ok(Hidden { already: !is_ours, hidden_at_ms: found.hidden_at_ms });
            }
            failures += 1;
            if failures >= self.timeouts.read_attempts_max {
                let missing = || StoreError::new(Operation::Get, &url, Cause::NotFound);
                return Err(error.unwrap_or_else(missing));
            }
            tokio::time::sleep(self.timeouts.pause(failures)).await;
        }
    }

    /// Returns the marker with this key, if there is one.
    pub async fn hidden(&self, key: &MarkerKey) -> Result<Option<Marker>, StoreError> {
        self.marker(&key.to_string(), &self.url_of_marker(key)).await
    }

    /// Returns the URL of a marker.
    pub fn url_of_marker(&self, key: &MarkerKey) -> String {
        join_url(&self.url, &key.to_string())
    }

    /// Fails if a marker hides this bundle. [`Store::put`] calls this before it looks at the object. The
    /// order matters: a purge removes first the bundle, then the marker. If the object is there after there
    /// was no marker, no purge is removing it.
    pub(super) async fn refuse_hidden(&self, key: &BundleKey, url: &str) -> Result<(), PutError> {
        match self.hidden(&MarkerKey::of(key)).await {
            Ok(None) => Ok(()),
            Ok(Some(Marker { reason, hidden_at_ms })) => {
                Err(PutError::Hidden { url: url.to_owned(), hidden_at_ms, reason })
            }
            Err(source) => Err(PutError::Store { source, attempts: 0 }),
        }
    }

    /// Reads a marker and makes it durable, no matter which process wrote it.
    async fn durable_marker(&self, name: &str, url: &str) -> Result<Option<Marker>, StoreError> {
        let Some(found) = self.marker(name, url).await? else { return Ok(None) };
        match self.sync(name, url, FileOrigin::Unknown).await {
            Ok(_) => Ok(Some(found)),
            Err(error) if error.kind() == StoreErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn marker(&self, name: &str, url: &str) -> Result<Option<Marker>, StoreError> {
        let read = self.read(self.timeouts.attempt_base, Operation::Get, url, || async {
            let got = self.get_opts(name, GetOptions::default(), Operation::Get, url).await?;
            let stored_at_ms = got.meta.last_modified.timestamp_millis();
            if got.meta.size > MARKER_BYTES_MAX {
                return Ok(Marker::read(b"", stored_at_ms, now_ms()));
            }
            let contents =
                got.bytes().await.map_err(|e| StoreError::from_object_store(Operation::Get, url, &e))?;
            Ok(Marker::read(&contents, stored_at_ms, now_ms()))
        });
        match read.await {
            Ok(marker) => Ok(Some(marker)),
            Err(error) if error.kind() == StoreErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
