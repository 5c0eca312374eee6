use super::*;

const MIB: u64 = 1 << 20;

async fn reserve(budget: &Budget, bytes: u64, wait_max: Duration) -> Result<Reservation, BudgetError> {
    budget.reserve(&CallerId::default(), bytes, wait_max).await
}

fn with_permits(total_bytes: u64, permits_bytes: u64, small_permits_bytes: u64) -> Budget {
    Budget::with_limits(Limits { total_bytes, permits_bytes, small_permits_bytes, ..Limits::default() })
}

/// Waits until so many requests wait.
async fn until_waiting(budget: &Budget, requests: u64) {
    while budget.usage().waiting_requests != requests {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_can_never_fit_is_refused_at_once_and_for_good() {
    let budget = Budget::new(MIB);
    let error = reserve(&budget, MIB + 1, Duration::MAX).await.expect_err("too much");
    assert_eq!(error, BudgetError::NeverFits { wanted_bytes: MIB + 1, budget_bytes: MIB });
}

#[tokio::test]
async fn a_request_waits_for_room_and_gets_it_when_another_ends() {
    let budget = Budget::new(MIB);
    let first = reserve(&budget, MIB, Duration::ZERO).await.expect("the budget is free");
    let refused = reserve(&budget, 1, Duration::from_millis(5)).await;
    assert!(matches!(refused, Err(BudgetError::NoRoom { .. })));
    let waiting = tokio::spawn({
        let budget = budget.clone();
        async move { reserve(&budget, MIB, Duration::from_secs(60)).await.map(|r| r.bytes()) }
    });
    until_waiting(&budget, 1).await;
    assert_eq!(budget.usage().waiting_bytes, MIB);
    drop(first);
    assert_eq!(waiting.await.expect("no panic"), Ok(MIB));
    assert_eq!(budget.usage().reserved_bytes, 0);
    assert_eq!(budget.usage().waiting_requests, 0);
}

#[tokio::test]
async fn whoever_hangs_up_leaves_the_queue_and_what_it_was_just_given() {
    let budget = Budget::new(MIB);
    let first = reserve(&budget, MIB, Duration::ZERO).await.expect("free");
    let mut large = Box::pin(reserve(&budget, MIB, Duration::MAX));
    let mut small = Box::pin(reserve(&budget, 1, Duration::MAX));
    for waiting in [&mut large, &mut small] {
        assert!(timeout(Duration::from_millis(1), waiting).await.is_err(), "nothing is left");
    }
    drop(first);
    assert_eq!(budget.usage().reserved_bytes, MIB, "given to the large one, which has not looked yet");
    drop(large);
    assert_eq!(small.await.expect("the large one has gone").bytes(), 1);
}

#[tokio::test]
async fn a_claimant_that_was_limited_to_half_gets_more_when_the_other_stays_away() {
    let (budget, [one, other]) = (Budget::new(4), ["one", "other"].map(CallerId::new));
    let _held = budget.reserve(&one, 2, Duration::ZERO).await.expect("free");
    drop(budget.reserve(&other, 1, Duration::ZERO).await.expect("free"));
    let refused = budget.reserve(&one, 1, Duration::ZERO).await;
    assert!(matches!(refused, Err(BudgetError::NoRoom { .. })), "{refused:?}");
    budget.reserve(&one, 1, Duration::from_secs(60)).await.expect("the other does not come back");
}

#[tokio::test]
async fn no_more_wait_than_may() {
    let budget = Budget::with_limits(Limits { waiting_max: 1, ..Limits::default() });
    let _held = reserve(&budget, 1, Duration::ZERO).await.expect("free");
    let waiting = reserve(&budget, 1, Duration::from_secs(60));
    let refused = reserve(&budget, 1, Duration::from_secs(60));
    tokio::select! {
        biased;
        _ = waiting => panic!("nothing is given back"),
        refused = refused => {
            assert!(matches!(refused, Err(BudgetError::TooManyWait { waiting_max: 1, .. })), "{refused:?}");
        }
    }
    assert_eq!(budget.usage().waiting_requests, 0);
}

#[tokio::test]
async fn permits_do_not_depend_on_reservations_and_take_nothing_of_them() {
    let budget = with_permits(MIB, 4 * MIB, 0);
    let _all = reserve(&budget, MIB, Duration::ZERO).await.expect("free");
    let (one, other) = (budget.permit(MIB).await, budget.permit(3 * MIB).await);
    assert_eq!((one.bytes(), other.bytes()), (MIB, 3 * MIB));
    assert!(budget.try_permit(1).is_none());
    let mut third = Box::pin(budget.permit(9 * MIB));
    assert!(timeout(Duration::from_millis(5), &mut third).await.is_err(), "nothing is left");
    drop((one, other));
    assert_eq!(third.await.bytes(), 4 * MIB, "all there is");
    assert_eq!(Budget::new(MIB).permit(MIB).await.bytes(), 0, "nothing is set aside");
}

#[tokio::test]
async fn a_reservation_grows_at_once_or_not_at_all_and_shrinks() {
    let budget = Budget::new(4 * MIB);
    let mut one = reserve(&budget, MIB, Duration::ZERO).await.expect("free");
    let other = reserve(&budget, 2 * MIB, Duration::ZERO).await.expect("free");
    one.grow(MIB).expect("one MiB is left");
    assert!(matches!(one.grow(1), Err(BudgetError::NoRoom { .. })));
    drop(other);
    assert!(matches!(one.grow(3 * MIB), Err(BudgetError::NeverFits { .. })));
    one.grow(2 * MIB).expect("the other has gone");
    one.shrink_to(MIB);
    assert_eq!((one.bytes(), budget.usage().reserved_bytes), (MIB, MIB));
    let part = one.split(MIB / 4);
    assert_eq!((one.bytes(), part.bytes(), budget.usage().reserved_bytes), (MIB / 4 * 3, MIB / 4, MIB));
    drop(one);
    assert_eq!(budget.usage().reserved_bytes, MIB / 4);
}

#[tokio::test]
async fn what_waits_for_readers_holds_no_more_than_half_of_what_is_set_aside() {
    let budget = with_permits(1, 64 << 10, 0);
    let mut first =
        Delivery { delivery: budget.delivery(u64::MAX).await, permit: budget.permit(64 << 10).await };
    assert_eq!(first.delivery.bytes(), 32 << 10);
    first.shrink_to(24 << 10);
    let second = budget.delivery(8 << 10).await;
    assert!(
        timeout(Duration::from_millis(20), budget.delivery(4 << 10)).await.is_err(),
        "both halves of the half are held"
    );
    assert!(budget.try_permit(40 << 10).is_some(), "and the other half is free");
    drop((first, second));
    assert_eq!(budget.delivery(32 << 10).await.bytes(), 32 << 10);
}

#[tokio::test]
async fn a_small_permit_waits_for_no_large_one() {
    let budget = with_permits(1, 64 << 10, 8 << 10);
    assert_eq!((budget.permits_bytes(), budget.largest_permit()), (64 << 10, 56 << 10));
    let mut first = budget.permit(u64::MAX).await;
    assert_eq!(first.bytes(), 56 << 10);
    let mut second = Box::pin(budget.permit(12 << 10));
    assert!(
        timeout(Duration::from_millis(5), &mut second).await.is_err(),
        "the large ones share what is left for them"
    );
    let mut small = budget.try_permit(4 << 10).expect("kept free for small ones");
    assert!(budget.try_grow_permit(&mut small, 8 << 10), "and still a small one");
    assert!(!budget.try_grow_permit(&mut small, 12 << 10) && small.bytes() == 8 << 10, "a large one now");
    assert!(budget.try_permit(4 << 10).is_none(), "all is held");
    first.shrink_to(40 << 10);
    assert_eq!(second.await.bytes(), 12 << 10);
}
