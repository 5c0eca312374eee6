//! The times of a bundle's records. They come from its key, or from its manifest if the key has zeros.
//!
//! A key can hold only times from 1970 on. Zeros in a key mean that no record has a time, or that a time is
//! before 1970, or that the greatest time is 0. The manifest distinguishes these cases.

use bytes::Bytes;

use super::bundle_cache::BundleCache;
use super::cached_parts::{CachedParts, Part};
use super::error::ArchiveError;
use super::read::Archive;
use super::source::Source;
use crate::bundle::Manifest;
use crate::store::Listed;

impl BundleCache {
    /// Returns the smallest and the greatest time of a bundle's records in milliseconds since the Unix epoch;
    /// `None` if no record has a time. A bundle is opened only if its key has zeros.
    ///
    /// The cache keeps the times, but not the opened bundle. So a listing of many such bundles does not evict
    /// the parts that searches need.
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

/// Both times, or no bytes.
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
