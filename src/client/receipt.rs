//! What an OK answer is worth: nothing, unless it is about the bytes that were read.

use serde::{Deserialize, Serialize};

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
