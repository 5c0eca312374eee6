//! The hits of all bundles as one list, best first.

use std::cmp::Ordering;
use std::collections::HashSet;

use super::hits::BundleHits;
use crate::index::{Hit, Order};

/// A hit, and the number of its bundle.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub bundle: usize,
    pub hit: Hit,
}

/// The hits of all bundles.
#[derive(Debug)]
pub(super) struct Candidates {
    /// In order.
    pub hits: Vec<Candidate>,
    /// How many records match, those left out above included.
    pub matched: u64,
}

/// Lets go of hits that cannot be answered, once they are more than those that can: each bundle has found as many as are asked
/// for, and there may be thousands of bundles. Where offsets repeat all are needed.
pub(super) fn prune(found: &mut [BundleHits], order: Order, limit: usize) {
    let alone = found.iter().filter(|bundle| !bundle.repeats).map(|bundle| &bundle.hits.hits);
    if limit == 0 || alone.clone().map(Vec::len).sum::<usize>() <= limit.saturating_mul(2) {
        return;
    }
    let mut hits: Vec<Hit> = alone.flatten().copied().collect();
    let (_, last, _) = hits.select_nth_unstable_by(limit - 1, |a, b| compare(order, a, b));
    for bundle in found.iter_mut().filter(|bundle| !bundle.repeats) {
        let hits = &mut bundle.hits.hits;
        hits.truncate(hits.partition_point(|hit| compare(order, hit, last).is_le()));
        hits.shrink_to_fit();
    }
}

/// Merges what the bundles found. Where offsets repeat, all hits are here, and each offset and time of a log counts once.
pub(super) fn merge(found: &[BundleHits], order: Order) -> Candidates {
    let (mut hits, mut matched, mut counted) = (Vec::new(), 0, HashSet::new());
    for (bundle, found) in found.iter().enumerate() {
        if found.repeats {
            let log = (found.archive.partition(), found.archive.log_id());
            let new =
                found.hits.hits.iter().filter(|hit| counted.insert((log, hit.offset, hit.timestamp_ms)));
            matched += new.count() as u64;
        } else {
            matched += found.hits.matched;
        }
        hits.extend(found.hits.hits.iter().map(|hit| Candidate { bundle, hit: *hit }));
    }
    let name = |candidate: &Candidate| {
        let archive = &found[candidate.bundle].archive;
        (archive.partition(), archive.log_id(), candidate.bundle)
    };
    hits.sort_by(|a, b| compare(order, &a.hit, &b.hit).then_with(|| name(a).cmp(&name(b))));
    Candidates { hits, matched }
}

/// The index's order, but for ordinals, which mean nothing between bundles.
fn compare(order: Order, a: &Hit, b: &Hit) -> Ordering {
    order.compare(&Hit { ordinal: 0, ..*a }, &Hit { ordinal: 0, ..*b })
}
