//! Works through items log by log: the items of a log one after the other, several logs at a time. If an item
//! fails, the rest of its log is left, and the other logs continue. So an interrupted run leaves no gap in a
//! log, and the next run continues there. Does not know what is done with an item.

use std::num::NonZeroU64;

use futures::{StreamExt, stream};

use crate::rate_limit::RateLimit;
use crate::store::StoreError;

/// The number of logs that are worked on concurrently.
const LOGS_AT_ONCE: usize = 16;

/// The outcome.
#[derive(Debug)]
pub struct Worked<R> {
    /// The results, in no order.
    pub done: Vec<R>,
    /// The number of items that are left because of a failure.
    pub left: u64,
    /// The first failure of each log.
    pub failures: Vec<StoreError>,
}

/// Does `work` with the items of each log, at most `per_second_max` of all items per second. `progress` gets
/// each item with its result.
pub async fn log_by_log<'a, T: 'a, R>(
    logs: impl Iterator<Item = &'a [T]>,
    per_second_max: Option<NonZeroU64>,
    work: impl AsyncFn(&'a T) -> Result<R, StoreError>,
    progress: impl Fn(&'a T, Result<&R, &StoreError>),
) -> Worked<R> {
    let rate_limit = RateLimit::new(per_second_max);
    let of_log = async |items: &'a [T]| {
        let mut worked = Worked { done: Vec::new(), left: 0, failures: Vec::new() };
        for (nth, item) in items.iter().enumerate() {
            rate_limit.wait(1).await;
            let result = work(item).await;
            progress(item, result.as_ref());
            match result {
                Ok(done) => worked.done.push(done),
                Err(error) => {
                    worked.left = (items.len() - nth) as u64;
                    worked.failures.push(error);
                    break;
                }
            }
        }
        worked
    };
    let all = stream::iter(logs).map(of_log).buffer_unordered(LOGS_AT_ONCE).collect::<Vec<_>>().await;
    all.into_iter().fold(Worked { done: Vec::new(), left: 0, failures: Vec::new() }, |mut sum, of_log| {
        sum.done.extend(of_log.done);
        sum.left += of_log.left;
        sum.failures.extend(of_log.failures);
        sum
    })
}
