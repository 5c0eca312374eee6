//! Checks an OK response. It becomes a receipt only if it is about the bytes that were read.

use std::fmt::Display;

use serde::{Deserialize, Serialize};

use super::error::Mismatch;
use super::source_reader::Read;
use super::{Request, saved};
use crate::formatting::hex;
use crate::ids::{LogId, OffsetRange, TopicPartition};
use crate::proto::v1;
use crate::segment::Anomaly;

/// What was read of a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// The number of bytes.
    pub size_bytes: u64,
    /// Their CRC-32C.
    pub crc32c: u32,
    /// Their SHA-256.
    pub sha256: [u8; 32],
    /// The number of records, with control records, as the frames' headers count them.
    pub records: u64,
    /// The number of bytes behind the last whole frame.
    pub torn_bytes: u64,
}

/// The object in the store that holds a segment's records, as the worker describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredBundle {
    /// The key, relative to the store's root.
    pub key: String,
    /// The number of bytes.
    pub size_bytes: u64,
    /// The CRC-32C of the bytes.
    pub crc32c: u32,
    /// Where the footer begins. One read from there to the end opens the bundle.
    pub footer_offset: u64,
}

/// A worker's confirmation that a segment is durable, searchable and restorable. It is made only of a
/// response that matches what was read.
///
/// A receipt can be written to a file and read again. Older files do not say where the records are: then
/// [`partition`](Self::partition), [`log_id`](Self::log_id), [`offsets`](Self::offsets) and
/// [`bundle`](Self::bundle) are `None`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    digest: Digest,
    #[serde(default, with = "saved::partition", skip_serializing_if = "Option::is_none")]
    partition: Option<TopicPartition>,
    #[serde(default, with = "saved::log_id", skip_serializing_if = "Option::is_none")]
    log_id: Option<LogId>,
    #[serde(default, with = "saved::offsets", skip_serializing_if = "Option::is_none")]
    offsets: Option<OffsetRange>,
    keys: Vec<String>,
    data_records: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    control_records: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bundle: Option<StoredBundle>,
    stored_bytes: u64,
    already_existed: bool,
    worker: String,
    attempts: u32,
}

impl Receipt {
    /// Makes a receipt of a response, if it is about what was read and says that this is stored as requested.
    pub(super) fn new(
        answer: &v1::IndexSegmentResponse,
        read: &Read,
        request: &Request,
        worker: &str,
        attempts: u32,
    ) -> Result<Self, Mismatch> {
        check_bytes(answer, &read.digest)?;
        check_records(answer, read, request)?;
        let stored = stored(answer, request, read.digest.size_bytes)?;
        let offsets = match stored {
            Some((one, _)) => offsets(one, read)?,
            None => None,
        };
        check_allowed(offsets, request)?;
        let bundle = stored.map(|(_, bundle)| bundle);
        Ok(Self {
            digest: read.digest.clone(),
            partition: Some(request.partition.clone()),
            log_id: Some(request.log_id.clone()),
            offsets,
            keys: bundle.iter().map(|bundle| bundle.key.clone()).collect(),
            data_records: answer.record_count,
            control_records: Some(answer.control_record_count),
            stored_bytes: bundle.map_or(0, |bundle| bundle.size_bytes),
            already_existed: bundle.is_some_and(|bundle| bundle.already_existed),
            bundle: bundle.map(StoredBundle::of),
            worker: worker.to_owned(),
            attempts,
        })
    }

    /// What was read and is stored.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The partition of the stored records. `None` in a receipt from an older file.
    pub fn partition(&self) -> Option<&TopicPartition> {
        self.partition.as_ref()
    }

    /// The incarnation of the log to which the offsets belong. `None` in a receipt from an older file.
    pub fn log_id(&self) -> Option<&LogId> {
        self.log_id.as_ref()
    }

    /// The offsets that the segment covers, by its frames' headers. They include offsets of control records
    /// and of records that compaction removed. `None` if no frame has offsets, as in a segment without a
    /// whole frame, and in a receipt from an older file.
    pub fn offsets(&self) -> Option<OffsetRange> {
        self.offsets
    }

    /// The bundle that holds the segment. `None` if there was nothing to store, and in a receipt from an
    /// older file.
    pub fn bundle(&self) -> Option<&StoredBundle> {
        self.bundle.as_ref()
    }

    /// The keys of the bundles that hold the segment.
    pub fn keys(&self) -> &[String] {
        &self.keys
    }

    /// The number of records without control records.
    pub fn data_records(&self) -> u64 {
        self.data_records
    }

    /// The number of control records, which mark the ends of transactions.
    pub fn control_records(&self) -> u64 {
        self.control_records.unwrap_or_else(|| self.digest.records.saturating_sub(self.data_records))
    }

    /// The total size of the bundles, in bytes.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// Whether the whole segment was already stored.
    pub fn already_existed(&self) -> bool {
        self.already_existed
    }

    /// The address of the worker that gave the receipt.
    pub fn worker(&self) -> &str {
        &self.worker
    }

    /// The number of attempts.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

impl Mismatch {
    fn new(field: &'static str, read: impl Display, answered: impl Display) -> Self {
        Self { field, read: read.to_string(), answered: answered.to_string() }
    }

    /// The mismatch of an OK response that came before the last byte was sent.
    pub(super) fn early(bytes_read: u64, size_bytes: u64) -> Self {
        Self::new("bytes_read", format!("not yet all of {size_bytes}"), bytes_read)
    }
}

fn check<T: PartialEq + Display>(field: &'static str, read: T, answered: T) -> Result<(), Mismatch> {
    if read == answered { Ok(()) } else { Err(Mismatch::new(field, read, answered)) }
}

fn check_bytes(answer: &v1::IndexSegmentResponse, read: &Digest) -> Result<(), Mismatch> {
    check("bytes_read", read.size_bytes, answer.bytes_read)?;
    check("crc32c", format!("{:08x}", read.crc32c), format!("{:08x}", answer.crc32c))?;
    check("sha256", hex(&read.sha256), hex(&answer.sha256))
}

fn check_records(answer: &v1::IndexSegmentResponse, read: &Read, request: &Request) -> Result<(), Mismatch> {
    let undecoded = answer.undecoded.as_ref().map_or(0, |undecoded| undecoded.claimed_record_count);
    let answered = u128::from(answer.record_count) + u128::from(answer.control_record_count);
    let answered = answered + u128::from(undecoded);
    if let Some(flaw) = &read.flaw {
        return Err(Mismatch::new("records", format!("an unknown number ({flaw})"), answered));
    }
    check("records", read.digest.records.into(), answered)?;
    let partitions: u128 = answer.partitions.iter().map(|one| u128::from(one.record_count)).sum();
    check("records", answer.record_count.into(), partitions)?;
    if let Some(undecoded) = answer.undecoded.as_ref().filter(|_| !request.keep_undecodable) {
        return Err(Mismatch::new("undecoded", "none to be kept", undecoded.frames));
    }
    check("torn_tail_bytes", read.digest.torn_bytes, answer.torn_tail_bytes)?;
    if answer.torn_tail_bytes > 0 && !request.keep_torn_tail {
        return Err(Mismatch::new("torn_tail_bytes", "none to be kept", answer.torn_tail_bytes));
    }
    Ok(())
}

/// Checks that the request's partition is in one bundle that has a key, or in none if there was nothing to
/// store, and that the response names no other partition.
fn stored<'a>(
    answer: &'a v1::IndexSegmentResponse,
    request: &Request,
    size_bytes: u64,
) -> Result<Option<(&'a v1::IndexedPartition, &'a v1::Bundle)>, Mismatch> {
    let expected = if size_bytes == 0 { 0 } else { 1 };
    check("bundles", expected, answer.partitions.len())?;
    let Some(one) = answer.partitions.first() else { return Ok(None) };
    let (partition, log_id) = (&request.partition, request.log_id.as_str());
    let answered = format!("{}/{} of log {:?}", one.topic, one.partition, one.log_id);
    check("bundles", format!("{partition} of log {log_id:?}"), answered)?;
    let bundle = one.bundle.as_ref().filter(|bundle| !bundle.key.is_empty());
    let bundle = bundle.ok_or_else(|| Mismatch::new("bundles", format!("{partition} with a key"), "none"))?;
    Ok(Some((one, bundle)))
}

/// A frame with one of these anomalies may cover more offsets than its header claims.
const ANOMALIES_BEYOND_HEADER: [Anomaly; 3] =
    [Anomaly::RecordOffset, Anomaly::KafkaMagic0, Anomaly::KafkaMagic1];

/// Checks the offsets of the partition and its bundle. They must be those that the frames' headers claim.
/// They may be more if headers do not claim all.
fn offsets(one: &v1::IndexedPartition, read: &Read) -> Result<Option<OffsetRange>, Mismatch> {
    let may_be_more = ANOMALIES_BEYOND_HEADER.iter().any(|kind| one.anomalies.contains_key(kind.name()))
        || one.undecoded.is_some();
    let Some(claimed) = read.offsets.or_else(|| covered(one).filter(|_| may_be_more)) else {
        return Ok(None);
    };
    // A response may name a bundle by its key alone. Then the numbers are zeros.
    let bundle = one.bundle.iter().map(|bundle| (bundle.base_offset, bundle.last_offset));
    let bundle = bundle.filter(|said| *said != (0, 0));
    for (first, last) in bundle.chain([(one.base_offset, one.last_offset)]) {
        let answered = OffsetRange::new(first, last);
        let is_right = answered == Some(claimed)
            || (may_be_more && answered.is_some_and(|answered| answered.cover(&claimed) == answered));
        if !is_right {
            let read = format!("{} to {}", claimed.first(), claimed.last());
            return Err(Mismatch::new("offsets", read, format!("{first} to {last}")));
        }
    }
    Ok(covered(one).or(Some(claimed)))
}

/// Checks the offsets here, because a worker of an earlier release does not know which offsets are allowed.
fn check_allowed(offsets: Option<OffsetRange>, request: &Request) -> Result<(), Mismatch> {
    match (offsets, request.allowed_offsets) {
        (Some(offsets), Some(allowed)) if allowed.cover(&offsets) != allowed => {
            let expected = format!("{} to {} at most", allowed.first(), allowed.last());
            Err(Mismatch::new("offsets", expected, format!("{} to {}", offsets.first(), offsets.last())))
        }
        _ => Ok(()),
    }
}

fn covered(one: &v1::IndexedPartition) -> Option<OffsetRange> {
    OffsetRange::new(one.base_offset, one.last_offset)
}

impl StoredBundle {
    fn of(bundle: &v1::Bundle) -> Self {
        Self {
            key: bundle.key.clone(),
            size_bytes: bundle.size_bytes,
            crc32c: bundle.crc32c,
            footer_offset: bundle.footer_offset,
        }
    }
}
