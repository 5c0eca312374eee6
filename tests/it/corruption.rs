//! Segments that are damaged: a flipped bit, a cut. No damage gets a receipt, and none leaves anything in the
//! store.
//!
//! The loops over all bytes run the write path in this process, on a store in memory. A sample is sent to a
//! worker.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use tonic::Code;
use url::Url;
use wal_indexer::ingest::{Ingest, ReadError, Request, RequestParts, Timeouts, TornTail};
use wal_indexer::internals::budget::Budget;
use wal_indexer::internals::cpu::Cpu;
use wal_indexer::internals::index::Settings;
use wal_indexer::internals::rpc::{convert, status};
use wal_indexer::internals::stats::Stats;
use wal_indexer::proto::v1;
use wal_indexer::store::{BundleKey, KeyPrefix, Store};

use crate::truth::{ExpectedPartition, Fixture, check_reply, fixtures, frame_records, split};
use crate::worker::{Refusal, Worker, inline, send_inline};

/// Which bytes of each fixture are tested.
#[derive(Clone, Copy, PartialEq)]
enum Extent {
    /// About this many, spread out, and those around the starts of frames.
    About(usize),
    All,
}

const SHORT: Extent = Extent::About(40);

/// Every input gets an answer within this time.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// The write path on its own store.
struct Bench {
    ingest: Ingest,
}

impl Bench {
    fn new() -> Self {
        let store = Store::open(&Url::parse("memory:").expect("a URL")).expect("a store");
        let ingest = Ingest {
            store,
            cpu: Cpu::start(NonZeroUsize::new(2).expect("not zero")).expect("threads"),
            budget: Budget::new(64 << 20),
            settings: Arc::new(Settings::default()),
            stats: Stats::default(),
            timeouts: Timeouts::default(),
            spill: None,
        };
        Self { ingest }
    }

    /// Sends `bytes` to a new and empty store, in chunks that cut frames.
    async fn index(
        &mut self,
        fixture: &Fixture,
        bytes: &Bytes,
        torn_tail: TornTail,
    ) -> Result<v1::IndexSegmentResponse, Refusal> {
        self.ingest.store = Store::open(&Url::parse("memory:").expect("a URL")).expect("a store");
        let request = Request::new(RequestParts {
            segment_id: fixture.file.clone(),
            topic: fixture.named_partition.map(|(topic, _)| topic.to_owned()),
            partition: fixture.named_partition.map(|(_, partition)| partition),
            size_bytes: bytes.len() as u64,
            torn_tail,
            ..RequestParts::default()
        });
        let starts = (0..bytes.len()).step_by(7_001);
        let chunks = starts.map(|start| bytes.slice(start..bytes.len().min(start + 7_001)));
        let chunks = stream::iter(chunks.map(Ok::<_, ReadError>));
        let run = self.ingest.run(request.expect("a valid request"), chunks);
        let Ok(result) = tokio::time::timeout(ENDS_WITHIN, run).await else {
            panic!("{}: no end, {:?}", fixture.file, self.ingest.stats.snapshot());
        };
        // A receipt holds memory until it is converted.
        let result = result.map(|receipt| convert::receipt(&receipt));
        assert_eq!(self.ingest.budget.usage().reserved_bytes, 0, "{}: memory is given back", fixture.file);
        match result {
            Ok(reply) => Ok(reply),
            Err(error) => {
                let left = self.ingest.store.list(&KeyPrefix::all()).await.expect("a listing");
                assert!(left.is_empty(), "{}: {error}, and yet {left:?} is stored", fixture.file);
                Err(Refusal::of(&status::of_ingest(&error)))
            }
        }
    }

    /// Returns every object of the store, by key.
    async fn objects(&self) -> Vec<(String, Bytes)> {
        let mut objects = Vec::new();
        for listed in self.ingest.store.list(&KeyPrefix::all()).await.expect("a listing") {
            let key: &BundleKey = &listed.key;
            objects.push((key.to_string(), self.ingest.store.get(key, 1 << 30).await.expect("the object")));
        }
        objects
    }

    /// Compares a receipt with bytes that are `whole` bytes of frames and a torn tail.
    async fn check(
        &self,
        name: &str,
        reply: &v1::IndexSegmentResponse,
        fixture: &Fixture,
        bytes: &Bytes,
        whole: usize,
    ) {
        let objects = self.objects().await;
        let held = held(fixture, &bytes.slice(..whole));
        let format = if held.is_empty() { v1::SegmentFormat::Unspecified } else { fixture.format };
        assert_eq!(objects.len(), held.len(), "{name}: as many objects as partitions");
        check_reply(name, reply, (bytes, format, &held), "", |key| {
            objects.iter().find(|(found, _)| found == key).expect("the object").1.clone()
        });
    }
}

/// Returns the contents of sound bytes, by the decoders. `fixtures` compares the decoders with the makers of
/// the fixtures.
fn held(fixture: &Fixture, bytes: &Bytes) -> Vec<ExpectedPartition> {
    let mut all: Vec<ExpectedPartition> = Vec::new();
    for frame in split(bytes) {
        let told = || fixture.named_partition.map(|(topic, partition)| (topic.to_owned(), partition));
        let own = frame.partition.as_ref().map(|one| (one.topic().to_owned(), one.partition()));
        let (topic, partition) = own.or_else(told).expect("a partition");
        let decoded = frame.decode(1 << 30).expect("sound");
        let at = all.iter().position(|held| (&held.topic, held.partition) == (&topic, partition));
        let at = at.unwrap_or_else(|| {
            let (base_offset, last_offset) = (i64::MAX, i64::MIN);
            all.push(ExpectedPartition {
                topic,
                partition,
                base_offset,
                last_offset,
                ..ExpectedPartition::default()
            });
            all.len() - 1
        });
        let held = &mut all[at];
        let range = decoded.range.expect("it covers offsets");
        held.base_offset = held.base_offset.min(range.first());
        held.last_offset = held.last_offset.max(range.last());
        held.batches += 1;
        held.control_offsets.extend(&decoded.control_offsets);
        held.records.extend(frame_records(&frame));
    }
    all.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    all
}

/// Returns where the fixture's frames are.
fn frames(fixture: &Fixture) -> Vec<Range<usize>> {
    let range = |frame: wal_indexer::segment::Frame| {
        let start = frame.position as usize;
        start..start + frame.bytes.len()
    };
    split(&fixture.bytes).into_iter().map(range).collect()
}

/// Whether no checksum covers this byte. In a Kafka batch these are the base offset and the leader's epoch,
/// which brokers rewrite. The checksum covers only the bytes behind itself; damage to length and magic is
/// noticed in other ways. A Chronik record's checksum covers all.
fn is_uncovered(fixture: &Fixture, in_frame: usize) -> bool {
    fixture.format == v1::SegmentFormat::KafkaLog && matches!(in_frame, 0..8 | 12..16)
}

/// Returns the positions to test: byte by byte at the start of some frames, and some of all.
fn positions(fixture: &Fixture, frames: &[Range<usize>], extent: Extent) -> Vec<usize> {
    let len = fixture.bytes.len();
    let Extent::About(many) = extent else { return (0..len).collect() };
    let some = (0..len).step_by((len / many).max(1));
    let heads = [frames.first(), frames.last()].into_iter().flatten();
    let mut positions: Vec<_> =
        some.chain(heads.flat_map(|head| head.start..head.end.min(head.start + 24))).collect();
    positions.sort();
    positions.dedup();
    positions
}

/// The changes to a byte. The position selects one.
const MASKS: [u8; 5] = [0x01, 0x80, 0xff, 0x10, 0x03];

/// Flips bits of one byte after the other.
async fn check_flips(extent: Extent) {
    let mut bench = Bench::new();
    let mut tried = 0;
    for fixture in fixtures() {
        let frames = frames(&fixture);
        for at in positions(&fixture, &frames, extent) {
            let mut damaged = fixture.bytes.to_vec();
            damaged[at] ^= MASKS[at % MASKS.len()];
            check_flip(&mut bench, &fixture, &frames, at, &damaged.into()).await;
            tried += 1;
        }
    }
    println!("{tried} flips");
}

async fn check_flip(
    bench: &mut Bench,
    fixture: &Fixture,
    frames: &[Range<usize>],
    at: usize,
    damaged: &Bytes,
) {
    let frame = frames.iter().find(|frame| frame.contains(&at)).expect("frames leave no byte out");
    let name =
        format!("{}, byte {at} ({} of its frame) is {:#04x}", fixture.file, at - frame.start, damaged[at]);
    let result = bench.index(fixture, damaged, TornTail::Refuse).await;
    if is_uncovered(fixture, at - frame.start) {
        match result {
            Ok(reply) => bench.check(&name, &reply, fixture, damaged, damaged.len()).await,
            Err(refusal) => {
                assert_eq!(refusal.code, Code::DataLoss, "{name}: {refusal:?}");
                let reasons = ["BAD_OFFSETS", "UNKNOWN_FORMAT"];
                assert!(reasons.contains(&&*refusal.reason), "{name}: {refusal:?}");
            }
        }
        return;
    }
    let refusal = result.err().unwrap_or_else(|| panic!("{name}: a receipt"));
    assert_eq!(refusal.position(), Some(frame.start as u64), "{name}: {refusal:?}");
    assert_eq!(refusal.code, Code::DataLoss, "{name}: {refusal:?}");
}

/// Returns the start of the last frame of which a cut leaves something.
fn torn_frame(frames: &[Range<usize>], end: usize) -> usize {
    frames.iter().rfind(|frame| frame.start <= end).map_or(0, |frame| frame.start)
}

async fn check_cuts(extent: Extent) {
    let mut bench = Bench::new();
    let mut tried = 0;
    for fixture in fixtures() {
        let frames = frames(&fixture);
        for end in positions(&fixture, &frames, extent) {
            let (start, cut) = (torn_frame(&frames, end), fixture.bytes.slice(..end));
            let name = format!("{} cut to {end} bytes", fixture.file);
            let refused = bench.index(&fixture, &cut, TornTail::Refuse).await;
            if start == end {
                // Between two frames the cut gives a shorter segment. Nothing shows that there was more.
                bench.check(&name, &refused.expect(&name), &fixture, &cut, end).await;
            } else {
                let refusal = refused.err().unwrap_or_else(|| panic!("{name}: a receipt"));
                let told = (refusal.code, &*refusal.reason, refusal.position());
                assert_eq!(told, (Code::DataLoss, "TORN_TAIL", Some(start as u64)), "{name}: {refusal:?}");
            }
            tried += 1;
            // A kept tail is stored and read back, which takes ten times as long. So this runs only near the
            // heads, and at every 16th byte.
            if extent == Extent::All && end - start > 64 && end % 16 != 0 {
                continue;
            }
            let kept = bench.index(&fixture, &cut, TornTail::Keep).await;
            if start == 0 && end > 0 {
                let refusal = kept.err().unwrap_or_else(|| panic!("{name}, to be kept: a receipt"));
                let told = (refusal.code, &*refusal.reason, refusal.position());
                assert_eq!(told, (Code::DataLoss, "NO_WHOLE_FRAME", Some(0)), "{name}: {refusal:?}");
            } else {
                let reply = kept.unwrap_or_else(|refusal| panic!("{name}, to be kept: {refusal:?}"));
                assert_eq!(reply.torn_tail_bytes, (end - start) as u64, "{name}");
                bench.check(&format!("{name}, kept"), &reply, &fixture, &cut, start).await;
            }
        }
    }
    println!("{tried} cuts");
}

#[tokio::test]
async fn a_flipped_bit_is_refused_by_place_and_reason_and_leaves_nothing_behind() {
    check_flips(SHORT).await;
}

#[tokio::test]
#[ignore = "minutes; make test-long runs it"]
async fn long_every_flipped_byte_is_refused_by_place_and_reason() {
    check_flips(Extent::All).await;
}

#[tokio::test]
async fn a_cut_segment_is_refused_or_kept_whole_as_the_caller_says() {
    check_cuts(SHORT).await;
}

#[tokio::test]
#[ignore = "minutes; make test-long runs it"]
async fn long_every_cut_is_refused_or_kept_whole_as_the_caller_says() {
    check_cuts(Extent::All).await;
}

#[tokio::test]
async fn a_torn_tail_is_kept_only_where_no_whole_frame_lies_behind_its_start() {
    let mut bench = Bench::new();
    for fixture in fixtures() {
        let frames = frames(&fixture);
        let [.., before_last, _] = &frames[..] else { continue };
        // A frame before the last one claims far more bytes than there are.
        let mut damaged = fixture.bytes.to_vec();
        let high = before_last.start + if fixture.format == v1::SegmentFormat::KafkaLog { 8 } else { 7 };
        damaged[high] = 0x7f;
        let kept = bench.index(&fixture, &damaged.into(), TornTail::Keep).await;
        let refusal = kept.err().unwrap_or_else(|| panic!("{}: a receipt", fixture.file));
        let told = (refusal.code, refusal.position());
        assert_eq!(told, (Code::DataLoss, Some(before_last.start as u64)), "{}: {refusal:?}", fixture.file);
    }
}

#[tokio::test]
async fn damage_is_told_over_the_wire_and_the_worker_lives_on() {
    let worker = Worker::start();
    let mut client = worker.client().await;
    let mut refused = 0;
    for fixture in fixtures().iter().filter(|fixture| !fixture.bytes.is_empty()) {
        let (frames, len) = (frames(fixture), fixture.bytes.len());
        let last = frames.last().expect("a frame");
        let header = |size: usize| inline(size as u64, fixture.named_partition);
        for at in [last.start + 40, last.end - 1] {
            let mut damaged = fixture.bytes.to_vec();
            damaged[at] ^= 0x20;
            let status = send_inline(&mut client, header(len), &damaged, 3_000).await;
            let refusal = Refusal::of(&status.err().unwrap_or_else(|| panic!("{}: a receipt", fixture.file)));
            let told = (refusal.code, &*refusal.reason, refusal.position());
            let expected = (Code::DataLoss, "CRC_MISMATCH", Some(last.start as u64));
            assert_eq!(told, expected, "{}: {refusal:?}", fixture.file);
            refused += 1;
        }
        let cut = &fixture.bytes[..len - 1];
        let status = send_inline(&mut client, header(cut.len()), cut, 3_000).await;
        let refusal = Refusal::of(&status.err().unwrap_or_else(|| panic!("{}: a receipt", fixture.file)));
        let told = (refusal.code, &*refusal.reason, refusal.position());
        let expected = (Code::DataLoss, "TORN_TAIL", Some(last.start as u64));
        assert_eq!(told, expected, "{}: {refusal:?}", fixture.file);
        refused += 1;
    }
    assert_eq!(worker.keys(), Vec::<String>::new(), "nothing was stored");
    let stats = client.get_stats(v1::GetStatsRequest {}).await.expect("statistics").into_inner();
    assert_eq!(stats.rejected.get("DATA_LOSS"), Some(&refused), "{stats:?}");
    assert_eq!((stats.segments_processed, stats.errors), (0, 0), "{stats:?}");
}
