//! Splitting: chunks of any size must give the same frames, the same tail and the same error.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use wal_indexer::ids::SegmentFormat::{ChronikWal, KafkaLog};
use wal_indexer_fuzz::{fix_checksums, split};

fuzz_target!(|data: &[u8]| {
    // The last bytes choose the format, whether to correct checksums, and the chunks.
    let Some((data, choice)) = data.split_last_chunk::<6>() else { return };
    let format = if choice[0] & 1 == 0 { ChronikWal } else { KafkaLog };
    let mut bytes = data.to_vec();
    if choice[0] & 2 != 0 {
        // All bytes except a few at the end, which stay torn.
        let whole = bytes.len().saturating_sub((choice[0] >> 4).into());
        fix_checksums(&mut bytes[..whole], format);
    }
    let bytes = Bytes::from(bytes);
    let announced = (choice[0] & 4 != 0).then_some(format);
    let expected = split(&bytes, announced, || usize::MAX);
    let mut lengths = choice[1..].iter().cycle().map(|length| usize::from(*length) + 1);
    let found = split(&bytes, announced, || lengths.next().unwrap_or(1));
    assert_eq!(expected.0.len(), found.0.len());
    for (one, other) in expected.0.iter().zip(&found.0) {
        assert_eq!(
            (one.position, one.ordinal, &one.partition),
            (other.position, other.ordinal, &other.partition)
        );
        assert_eq!(one.bytes, other.bytes);
    }
    match (expected.1, found.1) {
        (Ok(one), Ok(other)) => {
            assert_eq!(one.format, other.format);
            let place =
                |torn: wal_indexer::segment::TornTail| (torn.position, torn.ordinal, torn.bytes, torn.needed);
            assert_eq!(one.torn.map(place), other.torn.map(place));
        }
        (Err(one), Err(other)) => assert_eq!(one, other),
        (one, other) => panic!("{one:?} in one chunk, {other:?} in many"),
    }
});
