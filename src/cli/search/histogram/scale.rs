//! Chooses the times that a histogram shows: those of most records. A few records far away from all others,
//! for example from a broken clock, are outliers. With them, all the other records would be in one bar.

use super::Times;

/// The number of records that may be outliers: at least this many, however few records there are,
const OUTLIERS_MIN: u64 = 3;

/// or one out of this many records, if that is more,
const OUTLIERS_SHARE: u64 = 50;

/// but never more than one out of this many records.
const OUTLIERS_SHARE_MAX: u64 = 4;

/// An outlier is further away from the core than this many times the width of the core. Also, the remaining
/// times must be at most 1/`FAR` of all times.
const FAR: i128 = 10;

/// Returns the times of most records, if the others are few, far away, and at least `others_min`; otherwise
/// `None`. `buckets` are those within `all`, ascending, none of them empty. Each is `step` milliseconds wide.
pub fn narrower(all: Times, step: u64, buckets: &[(i64, u64)], others_min: u64) -> Option<Times> {
    let (total, step) = (count(buckets), i128::from(step));
    let few = OUTLIERS_MIN.max(total / OUTLIERS_SHARE).min(total / OUTLIERS_SHARE_MAX);
    // The core is what remains without `few` records at each end.
    let (first, last) = (nth_record(buckets, few)?, nth_record(buckets, (total - few).checked_sub(1)?)?);
    let reach = FAR * (last + step - first);
    let is_near = |&&(from, _): &&(i64, u64)| (first - reach..=last + reach).contains(&i128::from(from));
    let near: Vec<_> = buckets.iter().filter(is_near).copied().collect();
    let (from, last) = (near.first()?.0, near.last()?.0);
    let to = i128::from(last) + step - 1;
    let are_few = (others_min..=few).contains(&(total - count(&near)));
    let is_far = FAR * (to + 1 - i128::from(from)) <= i128::from(all.to) - i128::from(all.from);
    let rest = Times { from: from.max(all.from), to: i64::try_from(to).unwrap_or(i64::MAX).min(all.to) };
    (are_few && is_far).then_some(rest)
}

fn count(buckets: &[(i64, u64)]) -> u64 {
    buckets.iter().map(|(_, count)| count).sum()
}

/// Returns the time at which the bucket begins that holds this record, counted from 0.
fn nth_record(buckets: &[(i64, u64)], nth: u64) -> Option<i128> {
    let mut before = 0;
    let mut buckets = buckets.iter();
    let found = buckets.find(|(_, count)| {
        before += count;
        before > nth
    });
    found.map(|(from, _)| i128::from(*from))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_760_000_000_000;
    const DAY: i64 = 86_400_000;

    fn of(counts: &[(i64, u64)]) -> Option<(i64, i64)> {
        let all = Times { from: counts[0].0, to: counts[counts.len() - 1].0 };
        narrower(all, 1, counts, 1).map(|times| (times.from, times.to))
    }

    #[test]
    fn a_few_records_far_from_all_others_are_outliers() {
        let usual = |count: u64| (0..100).map(move |nth| (NOW + nth * 1_000, count));
        let with = |before: &[(i64, u64)], count, behind: &[(i64, u64)]| -> Vec<(i64, u64)> {
            before.iter().copied().chain(usual(count)).chain(behind.iter().copied()).collect()
        };
        let rest = Some((NOW, NOW + 99_000));
        assert_eq!(of(&with(&[], 1, &[])), None);
        assert_eq!(of(&with(&[(-2, 1)], 1, &[])), rest);
        assert_eq!(of(&with(&[], 1, &[(i64::MAX, 1)])), rest);
        assert_eq!(of(&with(&[(i64::MIN, 1), (0, 1)], 1, &[(NOW + 365 * DAY, 1)])), rest);
        // Too many to be mistakes.
        assert_eq!(of(&with(&[(-2, 4)], 1, &[])), None);
        assert_eq!(of(&with(&[(-2, 150)], 100, &[])), rest);
        assert_eq!(of(&with(&[(-2, 250)], 100, &[])), None);
        // Not far enough away.
        assert_eq!(of(&with(&[(NOW - 900_000, 1)], 1, &[])), None);
    }

    #[test]
    fn of_few_records_one_may_be_an_outlier_and_half_of_them_may_not() {
        assert_eq!(of(&[(0, 1), (NOW, 1), (NOW + 1, 1), (NOW + 2, 1)]), Some((NOW, NOW + 2)));
        assert_eq!(of(&[(0, 1), (NOW, 1)]), None);
        assert_eq!(of(&[(0, 1), (NOW, 1), (NOW + 1, 1)]), None);
        assert_eq!(of(&[(0, 2), (NOW, 2)]), None);
        assert_eq!(narrower(Times { from: 0, to: 0 }, 1, &[], 0), None);
        let (wide, narrow) = (Times { from: 0, to: NOW }, Times { from: 50, to: 60 });
        assert_eq!(narrower(wide, 1, &[(50, 1), (60, 1)], 0), Some(narrow));
        assert_eq!(of(&[(i64::MIN, 1), (i64::MAX, 1)]), None);
    }
}
