use std::num::NonZeroU64;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::*;
use crate::budget::Budget;
use crate::generate::{Size, Spec, generate};
use crate::ids::{CallerId, SegmentId};
use crate::index::TopicSettings;
use crate::ingest::RequestParts;
use crate::ingest::memory_account::MemoryAccount;
use crate::ingest::slice::{self, Piece, Slice};
use crate::segment::FrameSplitter;
use crate::stats::Stats;

#[tokio::test]
async fn the_gaps_of_a_compacted_log_are_counted_with_the_bundle_that_lists_them() {
    let (records, mut bytes) = (5_000, Vec::new());
    let (size, gap_every) = (Size::Records(records), NonZeroU64::new(1));
    generate(&Spec { size, gap_every, ..Spec::default() }, &mut bytes).expect("in memory");
    let sha256 = Sha256::digest(&bytes).into();
    let source = Source {
        format: Some(SegmentFormat::KafkaLog),
        bytes_read: bytes.len() as u64,
        crc32c: crc32c::crc32c(&bytes),
        sha256,
        torn_tail_bytes: 0,
    };
    let mut frames = Vec::new();
    FrameSplitter::new(source.bytes_read, None).push(bytes.into(), &mut frames).expect("frames");
    let account = MemoryAccount::new(
        Budget::new(1 << 30).reserve(&CallerId::default(), 1, Duration::ZERO).await.expect("room"),
    );
    let job = Arc::new(Stats::default().job_started(&SegmentId::new("a").expect("short"), source.bytes_read));
    let settings = TopicSettings::default();
    let (mut reader, mut packer) =
        slice::begin(&settings, &account, crate::ingest::Undecodable::Refuse, &job).expect("a beginning");
    let pieces: Vec<Piece> = frames.into_iter().map(Piece::Frame).collect();
    let facts = reader.add(&pieces).expect("read");
    packer.add(pieces, &facts).expect("packed");
    let (read, packed) = (reader.finish().expect("an index"), packer.finish().expect("blocks"));
    let slice = Slice::new(read, packed).expect("a slice");
    let built = slice.memory.bytes();

    let request = Request::new(RequestParts::default()).expect("a request");
    let segment = SegmentFacts {
        id: String::new(),
        format: SegmentFormat::KafkaLog,
        size_bytes: source.bytes_read,
        crc32c: source.crc32c,
        sha256,
        torn_tail_bytes: 0,
        partitions: 1,
    };
    let partition = TopicPartition::new("compacted", 0).expect("a partition");
    let packed = pack_partition(
        &request,
        &Origin { segment, source, attachments: Vec::new() },
        partition,
        vec![slice],
        &settings,
    );
    let packed = packed.expect("a bundle");
    let gaps = packed.manifest.gaps.len();
    assert!(gaps as u64 >= records - 1, "{gaps}");
    let json = packed.manifest.encode().expect("JSON").len();
    let held: u64 = packed.memory.iter().map(Share::bytes).sum();
    assert!(held - built >= (gaps * size_of::<OffsetRange>() + json / 2) as u64, "{held} after {built}");
}
