//! The key scheme. This is the only place that makes and parses keys.
//!
//! ```text
//! {topic}/{partition}/{log_id}/{base:020}-{last:020}_{min_ts:020}-{max_ts:020}_{hash16}.tar
//! {topic}/{partition}/{log_id}/{base:020}_{hash16}.deleted
//! ```
//!
//! The second form is the key of a marker, which hides the bundle beside it with the same base offset and
//! hash. Both sort side by side, so one LIST shows a bundle and its marker.
//!
//! A key is relative to the store's root. Widths are fixed, so that keys sort in the order of their offsets.
//! A LIST is the registry: it shows which bundles cover an offset or a time. No bundle needs to be opened.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use object_store::path::Path;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::{Digest, Sha256};

use crate::ids::{CopyId, LogId, OffsetRange, TopicPartition, TopicPartitionError};

/// The longest topic or log id in bytes, percent-encoded. File systems allow names of 255 bytes.
pub const ENCODED_BYTES_MAX: usize = 249;

/// Encodes every byte except `[A-Za-z0-9._-]`.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'_').remove(b'-');

/// The key of a bundle, relative to the store's root. A key is always valid: printing and parsing are
/// inverse.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BundleKey {
    partition: TopicPartition,
    log_id: LogId,
    range: OffsetRange,
    times_ms: Option<(i64, i64)>,
    hash: Hash16,
}

/// The key of the marker that hides a bundle, relative to the store's root. It is made of parts of the
/// bundle's key that are known before the bundle is found, or even before it exists.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MarkerKey {
    partition: TopicPartition,
    log_id: LogId,
    base_offset: i64,
    hash: Hash16,
}

/// The first eight bytes of a [`KeyHash`], printed as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash16([u8; 8]);

/// The hash that ties a key to its contents: SHA-256(SHA-256 of all source bytes ‖ log id ‖ 0 ‖ topic ‖ 0 ‖
/// partition), with the partition as decimal digits. Settings and versions are not part of it: the first
/// object wins. The key of a copy is tied to its copy id instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// `source_sha256` is the hash of the whole segment, with all partitions.
    pub fn new(source_sha256: &[u8; 32], log_id: &LogId, partition: &TopicPartition) -> Self {
        let mut hash = Sha256::new();
        hash.update(source_sha256);
        Self::of_log(hash, log_id, partition)
    }

    /// The hash of a copy: SHA-256(`copy` ‖ 0 ‖ copy id ‖ 0 ‖ log id ‖ 0 ‖ topic ‖ 0 ‖ partition). So two
    /// copies of the same bytes have two keys.
    pub fn of_copy(copy_id: &CopyId, log_id: &LogId, partition: &TopicPartition) -> Self {
        let mut hash = Sha256::new();
        hash.update("copy");
        hash.update([0]);
        hash.update(copy_id.as_str());
        hash.update([0]);
        Self::of_log(hash, log_id, partition)
    }

    fn of_log(mut hash: Sha256, log_id: &LogId, partition: &TopicPartition) -> Self {
        hash.update(log_id.as_str());
        hash.update([0]);
        hash.update(partition.topic());
        hash.update([0]);
        hash.update(partition.partition().to_string());
        Self(hash.finalize().into())
    }

    /// Returns all 32 bytes. They seed everything that must be the same for equal keys.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the part of the hash that is in the key.
    pub fn hash16(&self) -> Hash16 {
        let mut first = [0; 8];
        first.copy_from_slice(&self.0[..8]);
        Hash16(first)
    }
}

impl Hash16 {
    fn parsed(digits: &str) -> Option<Self> {
        if digits.len() != 16 || !digits.is_ascii() {
            return None;
        }
        let mut bytes = [0; 8];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Hash16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The reasons why parts do not make a key. The request is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The topic is too long for a name in a file system.
    #[error("the topic takes {bytes} bytes when percent-encoded, more than {ENCODED_BYTES_MAX}")]
    TopicTooLong {
        /// Its encoded length in bytes.
        bytes: usize,
    },
    /// The log id is too long for a name in a file system.
    #[error("the log id takes {bytes} bytes when percent-encoded, more than {ENCODED_BYTES_MAX}")]
    LogIdTooLong {
        /// Its encoded length in bytes.
        bytes: usize,
    },
    /// Offsets count from zero.
    #[error("the base offset {offset} is negative")]
    NegativeOffset {
        /// The offset given.
        offset: i64,
    },
    /// The smallest time is greater than the greatest.
    #[error("the times are reversed: {min_ms} ms to {max_ms} ms")]
    TimesReversed {
        /// The smallest time, in milliseconds since the Unix epoch.
        min_ms: i64,
        /// The greatest time.
        max_ms: i64,
    },
}

/// The reasons why a string is not the key of a bundle or marker. Other objects may have such names, so this
/// alone is not an error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseKeyError {
    /// The string does not have the four parts of the form in the module's documentation.
    #[error("not of the form topic/partition/log_id/base-last_min-max_hash.tar")]
    Form,
    /// The string does not have the four parts of a marker's key.
    #[error("not of the form topic/partition/log_id/base_hash.deleted")]
    MarkerForm,
    /// The topic or partition is not valid.
    #[error(transparent)]
    TopicPartition(#[from] TopicPartitionError),
    /// The parts do not make a key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The string can be parsed, but this module would write it in another way (other encoding, a sign, wrong
    /// widths).
    #[error("not in the canonical form: {canonical}")]
    NotCanonical {
        /// The right form.
        canonical: String,
    },
}

impl BundleKey {
    /// `times_ms` are the smallest and the greatest timestamp of the data records, in milliseconds since the
    /// Unix epoch. If they are absent or negative, the key has zeros, and the bundle matches every time
    /// range. Its manifest has the exact times.
    pub fn new(
        partition: TopicPartition,
        log_id: LogId,
        range: OffsetRange,
        times_ms: Option<(i64, i64)>,
        hash: Hash16,
    ) -> Result<Self, KeyError> {
        check_front(&partition, &log_id, range.first())?;
        if let Some((min_ms, max_ms)) = times_ms
            && min_ms > max_ms
        {
            return Err(KeyError::TimesReversed { min_ms, max_ms });
        }
        let times_ms = times_ms.filter(|&(min_ms, max_ms)| min_ms >= 0 && max_ms > 0);
        Ok(Self { partition, log_id, range, times_ms, hash })
    }

    /// Topic and partition.
    pub fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// The incarnation of the log.
    pub fn log_id(&self) -> &LogId {
        &self.log_id
    }

    /// The offsets that the bundle covers.
    pub fn range(&self) -> OffsetRange {
        self.range
    }

    /// Returns the smallest and the greatest timestamp in milliseconds. `None` if the key has zeros: then the
    /// bundle may have records of any time.
    pub fn times_ms(&self) -> Option<(i64, i64)> {
        self.times_ms
    }

    /// Returns the part of the contents' hash that is in the key.
    pub fn hash(&self) -> Hash16 {
        self.hash
    }

    /// Returns whether the bundle may have a record in this time range, both ends inclusive.
    pub fn may_hold_times(&self, first_ms: i64, last_ms: i64) -> bool {
        self.times_ms.is_none_or(|(min, max)| min <= last_ms && first_ms <= max)
    }
}

impl fmt::Display for BundleKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (min, max) = self.times_ms.unwrap_or((0, 0));
        let (base, last) = (self.range.first(), self.range.last());
        f.write_str(&encoded(self.partition.topic()))?;
        write!(f, "/{}/", self.partition.partition())?;
        f.write_str(&encoded(self.log_id.as_str()))?;
        write!(f, "/{base:020}-{last:020}_{min:020}-{max:020}_{}.tar", self.hash)
    }
}

impl FromStr for BundleKey {
    type Err = ParseKeyError;

    fn from_str(key: &str) -> Result<Self, ParseKeyError> {
        let (partition, log_id, name) = segments(key).ok_or(ParseKeyError::Form)?;
        let (range, times, hash) = name_parts(name).ok_or(ParseKeyError::Form)?;
        let parsed = Self::new(partition?, log_id, range, Some(times), hash)?;
        canonical(parsed, key)
    }
}

impl MarkerKey {
    /// The key of the marker that hides `bundle`.
    pub fn of(bundle: &BundleKey) -> Self {
        Self {
            partition: bundle.partition.clone(),
            log_id: bundle.log_id.clone(),
            base_offset: bundle.range.first(),
            hash: bundle.hash,
        }
    }

    /// The key of the marker for the bundle with these parts in its key. The bundle need not exist.
    pub fn new(
        partition: TopicPartition,
        log_id: LogId,
        base_offset: i64,
        hash: Hash16,
    ) -> Result<Self, KeyError> {
        check_front(&partition, &log_id, base_offset)?;
        Ok(Self { partition, log_id, base_offset, hash })
    }

    /// Topic and partition.
    pub fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// The incarnation of the log.
    pub fn log_id(&self) -> &LogId {
        &self.log_id
    }

    /// The first offset of the bundle.
    pub fn base_offset(&self) -> i64 {
        self.base_offset
    }

    /// Returns the part of the contents' hash that is in the bundle's key.
    pub fn hash(&self) -> Hash16 {
        self.hash
    }
}

impl fmt::Display for MarkerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(KeyPrefix::log(&self.partition, &self.log_id).as_str())?;
        write!(f, "/{:020}_{}.deleted", self.base_offset, self.hash)
    }
}

impl FromStr for MarkerKey {
    type Err = ParseKeyError;

    fn from_str(key: &str) -> Result<Self, ParseKeyError> {
        let (partition, log_id, name) = segments(key).ok_or(ParseKeyError::MarkerForm)?;
        let parts = name.strip_suffix(".deleted").and_then(|name| name.split_once('_'));
        let parts = parts.and_then(|(base, hash)| Some((number(base)?, Hash16::parsed(hash)?)));
        let (base_offset, hash) = parts.ok_or(ParseKeyError::MarkerForm)?;
        canonical(Self::new(partition?, log_id, base_offset, hash)?, key)
    }
}

/// Returns `parsed` if it is printed as `key`.
fn canonical<K: fmt::Display>(parsed: K, key: &str) -> Result<K, ParseKeyError> {
    let canonical = parsed.to_string();
    if canonical != key {
        return Err(ParseKeyError::NotCanonical { canonical });
    }
    Ok(parsed)
}

type Segments<'a> = (Result<TopicPartition, TopicPartitionError>, LogId, &'a str);

/// Splits a key into its partition, its log id and its last segment.
fn segments(key: &str) -> Option<Segments<'_>> {
    let mut parts = key.split('/');
    let (topic, partition, log_id, name) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let (topic, log_id) = (decoded(topic)?, decoded(log_id)?);
    Some((TopicPartition::new(topic, number(partition)?), LogId::new(&log_id), name))
}

type NameParts = (OffsetRange, (i64, i64), Hash16);

fn name_parts(name: &str) -> Option<NameParts> {
    let mut parts = name.strip_suffix(".tar")?.split('_');
    let (offsets, times, hash) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let (base, last) = offsets.split_once('-')?;
    let (min, max) = times.split_once('-')?;
    let range = OffsetRange::new(number(base)?, number(last)?)?;
    Some((range, (number(min)?, number(max)?), Hash16::parsed(hash)?))
}

fn number<N: FromStr>(digits: &str) -> Option<N> {
    digits.parse().ok()
}

/// Percent-encodes a name for one segment of a key. `.` and `..` have a meaning in paths, so they are encoded
/// completely.
fn encoded(name: &str) -> String {
    match name {
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        _ => utf8_percent_encode(name, ENCODED).to_string(),
    }
}

fn decoded(segment: &str) -> Option<String> {
    Some(percent_decode_str(segment).decode_utf8().ok()?.into_owned())
}

/// Checks the parts that every key begins with.
fn check_front(partition: &TopicPartition, log_id: &LogId, base_offset: i64) -> Result<(), KeyError> {
    check_topic(partition.topic())?;
    check_log_id(log_id)?;
    match base_offset {
        0.. => Ok(()),
        offset => Err(KeyError::NegativeOffset { offset }),
    }
}

/// Checks that keys can hold this topic. If not, no bundle has it, and no store needs to be asked.
pub fn check_topic(topic: &str) -> Result<(), KeyError> {
    let bytes = encoded(topic).len();
    if bytes > ENCODED_BYTES_MAX {
        return Err(KeyError::TopicTooLong { bytes });
    }
    Ok(())
}

/// Checks that keys can hold this log id. It is better to refuse a setting than to refuse segments later.
pub fn check_log_id(log_id: &LogId) -> Result<(), KeyError> {
    let bytes = encoded(log_id.as_str()).len();
    if bytes > ENCODED_BYTES_MAX {
        return Err(KeyError::LogIdTooLong { bytes });
    }
    Ok(())
}

/// A prefix to list: whole segments of a key, from the left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPrefix(String);

impl KeyPrefix {
    /// Every bundle of the store.
    pub fn all() -> Self {
        Self(String::new())
    }

    /// The bundles of a topic.
    pub fn topic(topic: &str) -> Self {
        Self(encoded(topic))
    }

    /// The bundles of a partition, of all incarnations of its log.
    pub fn partition(partition: &TopicPartition) -> Self {
        Self(format!("{}/{}", encoded(partition.topic()), partition.partition()))
    }

    /// The bundles of a partition's log.
    pub fn log(partition: &TopicPartition, log_id: &LogId) -> Self {
        let mut prefix = Self::partition(partition).0;
        // Writing to a string cannot fail.
        let _ = write!(prefix, "/{}", encoded(log_id.as_str()));
        Self(prefix)
    }

    /// The prefix as a string, without a slash at its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Appends a key or prefix to `root`. This parses the path, because `Path::from` would encode each `%` again.
/// What this module prints, and what [`Store::open`](super::Store::open) accepts as a root, can always be
/// parsed.
pub(super) fn under(root: &Path, relative: &str) -> Result<Path, object_store::path::Error> {
    match (root.as_ref(), relative) {
        ("", relative) => Path::parse(relative),
        (root, "") => Path::parse(root),
        (root, relative) => Path::parse(format!("{root}/{relative}")),
    }
}

#[cfg(test)]
mod tests;
