use std::time::Duration;

use super::*;
use crate::budget::{Budget, BudgetError};
use crate::generate::{Size, Spec, generate};
use crate::ids::{CallerId, SegmentId};
use crate::segment::FrameSplitter;
use crate::stats::Stats;

#[tokio::test]
async fn a_slice_that_is_built_in_one_go_grows_past_its_reservation_no_further_than_a_few_frames() {
    let mut bytes = Vec::new();
    generate(&Spec { size: Size::Bytes(16 << 20), ..Spec::default() }, &mut bytes).expect("in memory");
    let size = bytes.len() as u64;
    let mut frames = Vec::new();
    FrameSplitter::new(size, None).push(bytes.into(), &mut frames).expect("frames");
    let budget = Budget::new(5 << 20);
    let account =
        MemoryAccount::new(budget.reserve(&CallerId::default(), 1, Duration::ZERO).await.expect("room"));
    let stats = Stats::default();
    let job = Arc::new(stats.job_started(&SegmentId::new("a").expect("short"), size));
    let (mut reader, _) =
        begin(&TopicSettings::default(), &account, Undecodable::Refuse, &job).expect("a slice");
    let pieces: Vec<Piece> = frames.into_iter().map(Piece::Frame).collect();
    let refused = reader.add(&pieces).expect_err("it does not fit");
    assert!(matches!(refused, IngestError::Budget(BudgetError::NeverFits { .. })), "{refused:?}");
    let done = stats.snapshot().jobs[0].bytes_done;
    assert!(done < size / 2, "{done} of {size} bytes were built before anybody asked");
}
