//! Finds the offsets of a log that several bundles may hold, as the bundles of two replicas do. It reads only
//! their keys.

use std::sync::Arc;

use crate::ids::OffsetRange;
use crate::store::Listed;

/// The offsets of a bundle that may occur more than once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Overlaps {
    /// All offsets: the bundle itself holds some of them more than once.
    All,
    /// The offsets in these ranges, which ascend: other bundles may hold them too.
    Within(Arc<[OffsetRange]>),
}

impl Overlaps {
    pub fn contain(&self, offset: i64) -> bool {
        match self {
            Self::All => true,
            Self::Within(ranges) => {
                let behind = ranges.partition_point(|range| range.last() < offset);
                ranges.get(behind).is_some_and(|range| range.first() <= offset)
            }
        }
    }

    /// Whether any offset of `range` may occur more than once.
    pub fn any_in(&self, range: OffsetRange) -> bool {
        match self {
            Self::All => true,
            Self::Within(ranges) => {
                let behind = ranges.partition_point(|one| one.last() < range.first());
                ranges.get(behind).is_some_and(|one| one.overlaps(&range))
            }
        }
    }
}

/// Returns the number of the log of each bundle, and, for each log, the ranges that more than one of its
/// bundles cover. `bundles` must be in the order of their keys.
pub(super) fn of_logs(bundles: &[Listed]) -> (Vec<u32>, Vec<Arc<[OffsetRange]>>) {
    let mut logs = Vec::with_capacity(bundles.len());
    let mut overlaps = Vec::new();
    let same_log =
        |a: &Listed, b: &Listed| (a.key.partition(), a.key.log_id()) == (b.key.partition(), b.key.log_id());
    for log in bundles.chunk_by(same_log) {
        logs.resize(logs.len() + log.len(), overlaps.len() as u32);
        overlaps.push(covered_twice(log.iter().map(|listed| listed.key.range()).collect()));
    }
    (logs, overlaps)
}

fn covered_twice(mut ranges: Vec<OffsetRange>) -> Arc<[OffsetRange]> {
    ranges.sort();
    let mut twice: Vec<OffsetRange> = Vec::new();
    let mut reached: Option<i64> = None;
    for range in ranges {
        let shared = reached.and_then(|reached| OffsetRange::new(range.first(), range.last().min(reached)));
        if let Some(shared) = shared {
            match twice.last_mut().filter(|last| shared.first() <= last.last()) {
                Some(last) => *last = last.cover(&shared),
                None => twice.push(shared),
            }
        }
        reached = reached.max(Some(range.last()));
    }
    twice.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(ranges: &[(i64, i64)]) -> Vec<OffsetRange> {
        ranges.iter().map(|(first, last)| OffsetRange::new(*first, *last).expect("a range")).collect()
    }

    #[test]
    fn what_two_bundles_cover_repeats() {
        for (bundles, expected) in [
            (&[][..], &[][..]),
            (&[(0, 9), (10, 19)], &[]),
            (&[(0, 10), (10, 19)], &[(10, 10)]),
            (&[(0, 99), (10, 19), (30, 39)], &[(10, 19), (30, 39)]),
            (&[(0, 99), (50, 149), (60, 70), (90, 200)], &[(50, 149)]),
            (&[(5, 5), (5, 5)], &[(5, 5)]),
        ] {
            assert_eq!(*covered_twice(ranges(bundles)), ranges(expected), "{bundles:?}");
        }
    }

    #[test]
    fn an_offset_is_looked_up_among_them() {
        let overlaps = Overlaps::Within(ranges(&[(10, 19), (30, 39)]).into());
        let found: Vec<i64> = (0..50).filter(|offset| overlaps.contain(*offset)).collect();
        assert_eq!(found, (10..20).chain(30..40).collect::<Vec<_>>());
        for (first, last, any) in
            [(0, 9, false), (0, 10, true), (20, 29, false), (39, 50, true), (40, 50, false)]
        {
            assert_eq!(overlaps.any_in(OffsetRange::new(first, last).expect("a range")), any);
        }
        assert!(Overlaps::All.contain(-5));
    }
}
