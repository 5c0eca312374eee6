//! Chronik records of both versions: unchanged, and with corrected lengths and checksums.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use wal_indexer::ids::SegmentFormat::ChronikWal;
use wal_indexer_fuzz::{mend, read};

fuzz_target!(|data: &[u8]| {
    read(&Bytes::copy_from_slice(data), Some(ChronikWal));
    let mut mended = data.to_vec();
    mend(&mut mended, ChronikWal);
    read(&Bytes::from(mended), None);
});
