//! The times of a bundle's records: those that its key says, or those that its manifest says where the key has zeros.
//!
//! A key has room for times from 1970 on only. Zeros in it stand for records without a time, for a time before 1970, and for the
//! time 0. The manifest tells these apart.

use bytes::Bytes;

use super::bundle_cache::BundleCache;
use super::cached_parts::{CachedParts, Part};
use super::error::ArchiveError;
use super::read::Archive;
use super::source::Source;
use crate::bundle::Manifest;
use crate::store::Listed;

impl BundleCache {
    /// The least and the greatest time of a bundle's records in milliseconds since the Unix epoch; `None` where no record has one. A
    /// bundle is opened only where its key has zeros. The answer is kept, the opened bundle is not: a listing of many such bundles
    /// leaves in memory what searches need.
    pub async fn times_ms(&self, listed: &Listed) -> Result<Option<(i64, i64)>, ArchiveError> {
        if let Some(times_ms) = listed.key.times_ms() {
            return Ok(Some(times_ms));
        }
        let cached = CachedParts::new(self.memory(), listed);
        let read = async {
            let archive = Archive::open(Source::listed(self.store(), listed)).await?;
            Ok(to_bytes(archive.manifest()))
        };
        Ok(from_bytes(&cached.part(Part::Times, read).await?))
    }
}

/// Both times, or nothing.
fn to_bytes(manifest: &Manifest) -> Bytes {
    match manifest.min_timestamp_ms.zip(manifest.max_timestamp_ms) {
        Some((min_ms, max_ms)) => [min_ms.to_le_bytes(), max_ms.to_le_bytes()].concat().into(),
        None => Bytes::new(),
    }
}

fn from_bytes(bytes: &[u8]) -> Option<(i64, i64)> {
    let (min_ms, rest) = bytes.split_first_chunk()?;
    let (max_ms, _) = rest.split_first_chunk()?;
    Some((i64::from_le_bytes(*min_ms), i64::from_le_bytes(*max_ms)))
}
