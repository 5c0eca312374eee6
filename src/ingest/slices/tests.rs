use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::budget::Budget;
use crate::generate::{Size, Spec, generate};
use crate::ids::SegmentId;
use crate::segment::Splitter;
use crate::stats::Stats;

/// A chunk's memory, which says when it is given back.
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
    let reservation = budget.reserve(1, Duration::ZERO).await.expect("there is room");
    let segment_id = SegmentId::new("a").expect("short");
    Slices::new(Workshop {
        cpu: Cpu::start(NonZeroUsize::MIN).expect("a thread"),
        settings: Arc::default(),
        meter: Meter::new(reservation),
        segment_bytes: 1 << 30,
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
    Splitter::new(bytes.len() as u64, None).push(bytes, &mut frames).expect("a frame");
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
        // What else is in the chunk is another partition's, and long since built.
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
    assert_eq!(built[&partition].iter().map(|slice| slice.tally.batches).sum::<u64>(), 40);
}
