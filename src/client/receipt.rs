//! What an OK answer is worth: nothing, unless it is about the bytes that were read.

use std::fmt::Display;

use serde::{Deserialize, Serialize};

use super::Request;
use super::error::Mismatch;
use super::reading::Read;
use crate::proto::v1;
use crate::wording::hex;

/// What was read of a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// How many bytes.
    pub size_bytes: u64,
    /// Their CRC-32C.
    pub crc32c: u32,
    /// Their SHA-256.
    pub sha256: [u8; 32],
    /// Records, control records among them, as the frames' heads count them.
    pub records: u64,
    /// Bytes behind the last whole frame.
    pub torn_bytes: u64,
}

/// A worker's word that a segment is durable, searchable and restorable. Only an answer that matches what was read makes
/// one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    digest: Digest,
    keys: Vec<String>,
    data_records: u64,
    stored_bytes: u64,
    already_existed: bool,
    worker: String,
    attempts: u32,
}

impl Receipt {
    /// Of an answer that is about what was read, and says that it is stored as it was asked for.
    pub(super) fn new(
        answer: &v1::IndexSegmentResponse,
        read: &Read,
        request: &Request,
        worker: &str,
        attempts: u32,
    ) -> Result<Self, Mismatch> {
        check_bytes(answer, &read.digest)?;
        check_records(answer, read, request)?;
        let bundles = bundles(answer, request, read.digest.size_bytes)?;
        Ok(Self {
            digest: read.digest.clone(),
            keys: bundles.iter().map(|bundle| bundle.key.clone()).collect(),
            data_records: answer.record_count,
            stored_bytes: bundles.iter().map(|bundle| bundle.size_bytes).fold(0, u64::saturating_add),
            already_existed: !bundles.is_empty() && bundles.iter().all(|bundle| bundle.already_existed),
            worker: worker.to_owned(),
            attempts,
        })
    }

    /// What was read, and is stored.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The keys of the bundles that hold it.
    pub fn keys(&self) -> &[String] {
        &self.keys
    }

    /// Records without control records.
    pub fn data_records(&self) -> u64 {
        self.data_records
    }

    /// The bundles' sizes together.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// Whether all of it had been stored before.
    pub fn already_existed(&self) -> bool {
        self.already_existed
    }

    /// The address of the worker that gave it.
    pub fn worker(&self) -> &str {
        &self.worker
    }

    /// How many attempts it took.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

impl Mismatch {
    fn new(field: &'static str, read: impl Display, answered: impl Display) -> Self {
        Self { field, read: read.to_string(), answered: answered.to_string() }
    }

    /// An OK that came before the last byte had gone out.
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
    let answered = u128::from(answer.record_count) + u128::from(answer.control_record_count);
    if let Some(flaw) = &read.flaw {
        return Err(Mismatch::new("records", format!("what cannot be counted ({flaw})"), answered));
    }
    check("records", read.digest.records.into(), answered)?;
    let partitions: u128 = answer.partitions.iter().map(|one| u128::from(one.record_count)).sum();
    check("records", answer.record_count.into(), partitions)?;
    check("torn_tail_bytes", read.digest.torn_bytes, answer.torn_tail_bytes)?;
    if answer.torn_tail_bytes > 0 && !request.keep_torn_tail {
        return Err(Mismatch::new("torn_tail_bytes", "none to be kept", answer.torn_tail_bytes));
    }
    Ok(())
}

/// The request's partition is in one bundle that has a key, unless there was nothing to store; and nothing else is anywhere.
fn bundles<'a>(
    answer: &'a v1::IndexSegmentResponse,
    request: &Request,
    size_bytes: u64,
) -> Result<Vec<&'a v1::Bundle>, Mismatch> {
    let expected = if size_bytes == 0 { 0 } else { 1 };
    check("bundles", expected, answer.partitions.len())?;
    let bundle = |one: &'a v1::IndexedPartition| {
        let (partition, log_id) = (&request.partition, request.log_id.as_str());
        let answered = format!("{}/{} of log {:?}", one.topic, one.partition, one.log_id);
        check("bundles", format!("{partition} of log {log_id:?}"), answered)?;
        let bundle = one.bundle.as_ref().filter(|bundle| !bundle.key.is_empty());
        bundle.ok_or_else(|| Mismatch::new("bundles", format!("{partition} with a key"), "none"))
    };
    answer.partitions.iter().map(bundle).collect()
}
