//! Chronik records of both versions: unchanged, and with corrected lengths and checksums.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use wal_indexer::ids::SegmentFormat::ChronikWal;
use wal_indexer_fuzz::{fix_checksums, read};

fuzz_target!(|data: &[u8]| {
    read(&Bytes::copy_from_slice(data), Some(ChronikWal));
    let mut fixed = data.to_vec();
    fix_checksums(&mut fixed, ChronikWal);
    read(&Bytes::from(fixed), None);
});
