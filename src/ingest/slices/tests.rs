use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::budget::{Budget, BudgetError};
use crate::generate::kafka::{self, BatchHead};
use crate::generate::{Codec, Size, Spec, generate};
use crate::ids::{CallerId, SegmentId};
use crate::record::{RecordBatch, RecordSpans, Span};
use crate::segment::FrameSplitter;
use crate::stats::Stats;

/// The memory of a chunk, which shows when it is freed.
struct Chunk {
    bytes: Vec<u8>,
    _alive: Arc<()>,
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

async fn slices(budget: &Budget) -> Slices {
    let reservation = budget.reserve(&CallerId::default(), 1, Duration::ZERO).await.expect("there is room");
    let segment_id = SegmentId::new("a").expect("short");
    Slices::new(SliceContext {
        cpu: Cpu::start(NonZeroUsize::MIN).expect("a thread"),
        settings: Arc::default(),
        account: MemoryAccount::new(reservation),
        segment_bytes: 1 << 30,
        undecodable: Undecodable::Refuse,
        spill: None,
        job: Arc::new(Stats::default().job_started(&segment_id, 1 << 30)),
    })
}

/// A short Kafka segment of one frame.
fn one_frame() -> Vec<u8> {
    let mut bytes = Vec::new();
    generate(&Spec { size: Size::Records(1), ..Spec::default() }, &mut bytes).expect("in memory");
    bytes
}

fn frame_at(position: u64, bytes: Bytes) -> Piece {
    let mut frames = Vec::new();
    FrameSplitter::new(bytes.len() as u64, None).push(bytes, &mut frames).expect("a frame");
    let mut frame = frames.remove(0);
    frame.position = position;
    Piece::Frame(frame)
}

#[tokio::test]
async fn a_frame_that_waits_for_others_keeps_no_more_of_its_chunk_than_itself() {
    let (budget, alive) = (Budget::new(64 << 20), Arc::new(()));
    let (mut slices, partition) =
        (slices(&budget).await, TopicPartition::new("cold", 0).expect("a partition"));
    let frame = one_frame();
    for nth in 0..40 {
        // The rest of the chunk belongs to another partition, and was built long ago.
        let mut bytes = frame.clone();
        bytes.resize(1 << 20, 0);
        let chunk = Bytes::from_owner(Chunk { bytes, _alive: Arc::clone(&alive) });
        slices.add(&partition, frame_at(nth << 20, chunk.slice(..frame.len()))).await.expect("added");
        drop(chunk);
        slices.keep_up().await.expect("in step");
        assert_eq!(Arc::strong_count(&alive), 1, "the chunk is still in memory");
    }
    let held = slices.pending_memory.bytes();
    assert!(held >= 40 * (frame.len() + size_of::<Piece>()) as u64, "{held}");
    let built = slices.finish().await.expect("built");
    assert_eq!(built[&partition].iter().map(|slice| slice.counts.batches).sum::<u64>(), 40);
}

/// A zstd batch of one record of 1 MiB that does not compress. Its decompressed size is estimated as 4 MiB.
fn compressed_batch(offset: i64) -> Piece {
    let mut state = offset as u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()
    });
    let noise: Vec<u8> = noise.take(1 << 17).flatten().collect();
    let value = Some(Span { start: 0, len: noise.len() as u32 });
    let record = RecordSpans { offset, timestamp_ms: None, key: None, value, headers: 0..0 };
    let batch = RecordBatch { bytes: noise.into(), records: vec![record], headers: Vec::new() };
    let mut bytes = Vec::new();
    kafka::encode(&BatchHead::default(), &batch, Codec::Zstd, &mut bytes).expect("a batch");
    frame_at(u64::from(offset as u32) << 21, bytes.into())
}

#[tokio::test]
async fn a_slice_of_compressed_frames_ends_by_what_they_open_to() {
    let partition = TopicPartition::new("logs", 0).expect("a partition");
    let mut slices = slices(&Budget::new(256 << 20)).await;
    for offset in 0..18 {
        slices.add(&partition, compressed_batch(offset)).await.expect("added");
    }
    let built = slices.finish().await.expect("built");
    let batches: Vec<u64> = built[&partition].iter().map(|slice| slice.counts.batches).collect();
    assert_eq!(batches, [8, 8, 2], "32 MiB of four each");
}

#[tokio::test]
async fn what_will_not_fit_is_refused_when_the_first_slice_tells() {
    let partition = TopicPartition::new("logs", 0).expect("a partition");
    let mut slices = slices(&Budget::new(256 << 20)).await;
    for offset in 0..8 {
        slices.add(&partition, compressed_batch(offset)).await.expect("added");
    }
    let refused = loop {
        match slices.keep_up().await {
            Err(refused) => break refused,
            Ok(()) => tokio::task::yield_now().await,
        }
    };
    let IngestError::Budget(BudgetError::NeverFits { wanted_bytes, .. }) = refused else {
        panic!("{refused:?}");
    };
    let segment = slices.context.segment_bytes;
    assert!(wanted_bytes > segment && wanted_bytes < segment + segment / 8, "{wanted_bytes}");
}
