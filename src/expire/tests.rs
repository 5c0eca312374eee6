use std::cell::RefCell;

use url::Url;

use super::*;
use crate::ids::OffsetRange;
use crate::store::{BundleKey, KeyHash};

fn one(partition: i32, log_id: &str, offsets: (i64, i64), times: Option<(i64, i64)>) -> Timed {
    let (partition, log_id) = (TopicPartition::new("t", partition).expect("a name"), LogId::new(log_id));
    let hash = KeyHash::new(&[3; 32], &log_id, &partition).hash16();
    let range = OffsetRange::new(offsets.0, offsets.1).expect("a range");
    let key = BundleKey::new(partition, log_id, range, times, hash).expect("a key");
    Timed { listed: Listed { key, size_bytes: 10, e_tag: None, stored_at_ms: 0 }, times: times.into() }
}

fn ranges(bundles: &[Timed]) -> Vec<(i64, i64)> {
    let ranges = bundles.iter().map(|one| one.listed.key.range());
    ranges.map(|range| (range.first(), range.last())).collect()
}

#[test]
fn a_bundle_is_past_a_limit_only_with_its_last_record() {
    let bundle = one(0, "", (10, 19), Some((1_000, 2_000)));
    for (is_past, limit) in [
        (false, Limit::BeforeMs(1_500)),
        (false, Limit::BeforeMs(2_000)),
        (true, Limit::BeforeMs(2_001)),
        (false, Limit::BelowOffset(15)),
        (false, Limit::BelowOffset(19)),
        (true, Limit::BelowOffset(20)),
    ] {
        assert_eq!(limit.is_past(&bundle), is_past, "{limit:?}");
    }
    let untimed = one(0, "", (10, 19), None);
    assert!(!Limit::BeforeMs(i64::MAX).is_past(&untimed));
    assert!(Limit::BelowOffset(20).is_past(&untimed));
    let unknown = Timed { times: Times::Unknown { why: "damaged".to_owned() }, ..untimed };
    assert!(!Limit::BeforeMs(i64::MAX).is_past(&unknown));
    let before_1970 = one(0, "", (10, 19), Some((-5, -2)));
    assert!(Limit::BeforeMs(-1).is_past(&before_1970) && !Limit::BeforeMs(-2).is_past(&before_1970));
}

#[test]
fn a_plan_parts_each_log_by_itself_and_tells_what_may_surprise() {
    let bundles = [
        one(0, "b", (20, 29), Some((700, 800))),
        one(0, "b", (0, 9), Some((100, 200))),
        one(0, "b", (10, 19), Some((850, 900))),
        one(0, "b", (30, 39), None),
        one(0, "a", (0, 9), Some((100, 200))),
        one(1, "a", (0, 9), Some((900, 1_000))),
    ];
    let plan = Plan::of(bundles.into_iter(), Limit::BeforeMs(801));
    assert_eq!(plan.expired(), (3, 30));
    let [a, b, other] = &plan.logs[..] else { panic!("{plan:?}") };
    assert_eq!((ranges(&a.expired), ranges(&a.kept)), (vec![(0, 9)], vec![]));
    assert_eq!(ranges(&b.expired), [(0, 9), (20, 29)], "the oldest first");
    assert_eq!(ranges(&b.kept), [(10, 19), (30, 39)]);
    assert_eq!((b.behind_kept(), b.untimed()), (1, 1));
    assert_eq!((ranges(&other.expired), ranges(&other.kept)), (vec![], vec![(0, 9)]));
    assert_eq!((a.behind_kept(), a.untimed(), other.behind_kept()), (0, 0, 0));
}

#[tokio::test]
async fn what_is_hidden_already_counts_apart() {
    let store = Store::open(&Url::parse("memory:").expect("a URL")).expect("a store");
    let marker = MarkerKey::of(&one(0, "", (0, 9), None).listed.key);
    store.hide(&marker, HiddenReason::Deleted).await.expect("a marker");
    let plan = Plan::of([one(0, "", (0, 9), None)].into_iter(), Limit::BelowOffset(10));
    let heard = RefCell::new(Vec::new());
    let outcome = plan.apply(&store, NonZeroU64::new(1_000), |progress| {
        heard.borrow_mut().push(matches!(progress, Progress::HiddenBefore(_)));
    });
    let outcome = outcome.await;
    assert_eq!(heard.into_inner(), [true]);
    assert_eq!(outcome, Outcome { hidden_before: 1, ..Outcome::default() });
    let marker = store.hidden(&marker).await.expect("an answer").expect("a marker");
    assert_eq!(marker.reason, HiddenReason::Deleted, "the first reason stays");
}
