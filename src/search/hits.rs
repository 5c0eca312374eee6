//! One bundle, searched: which of its records match.

use crate::archive::{Archive, Shelf, TrafficCounter, open_index};
use crate::index::{Bounds, Hits, ReadError as IndexReadError};
use crate::registry::Filter;
use crate::store::{BundleKey, Listed};

use super::{Request, SearchError};

/// A bundle that comes into question.
pub(super) struct Bundle {
    listed: Listed,
    /// Whether another one covers some of its offsets too: then what it finds may be found twice, and all of it is needed to tell.
    overlaps: bool,
}

/// What a bundle's index found.
pub(super) struct BundleHits {
    pub archive: Archive,
    /// The best, or all of them where offsets may repeat; in order.
    pub hits: Hits,
    /// Whether records found here may be found again, here or in another bundle.
    pub repeats: bool,
    pub phrases_as_words: bool,
}

/// Marks the bundles that share offsets with another one of their log. They come sorted by key, so by log, then by first offset.
pub(super) fn with_overlaps(bundles: Vec<Listed>) -> Vec<Bundle> {
    let mut marked: Vec<Bundle> =
        bundles.into_iter().map(|listed| Bundle { listed, overlaps: false }).collect();
    marked.sort_by(|a, b| order_in_log(&a.listed.key).cmp(&order_in_log(&b.listed.key)));
    // The bundle so far that reaches furthest in its log.
    let mut furthest = 0;
    for at in 1..marked.len() {
        let (before, key) = (&marked[furthest].listed.key, &marked[at].listed.key);
        let same_log = (before.partition(), before.log_id()) == (key.partition(), key.log_id());
        if same_log && before.range().overlaps(&key.range()) {
            (marked[furthest].overlaps, marked[at].overlaps) = (true, true);
        }
        let further = marked[at].listed.key.range().last() > marked[furthest].listed.key.range().last();
        if !same_log || further {
            furthest = at;
        }
    }
    marked
}

fn order_in_log(key: &BundleKey) -> impl Ord + '_ {
    (key.partition(), key.log_id(), key.range(), key.hash())
}

/// Opens a bundle and asks its index.
pub(super) async fn search_bundle(
    shelf: &Shelf,
    bundle: Bundle,
    request: &Request,
    traffic: &TrafficCounter,
) -> Result<BundleHits, SearchError> {
    let archive = shelf.open(&bundle.listed, traffic).await?;
    let repeats = bundle.overlaps || repeats_offsets(&archive);
    let reader = open_index(&archive).await?;
    let (query, order, bounds) = (request.query.clone(), request.order, bounds(&request.filter));
    let limit = if repeats { usize::MAX } else { request.limit };
    let searched = archive.blocking(move || reader.search(&query, &bounds, order, limit)).await?;
    let hits = searched.map_err(|error| match error {
        IndexReadError::TooBroad { paths } => SearchError::TooBroad { bundle: archive.name(), paths },
        IndexReadError::PrefixTooBroad => SearchError::PrefixTooBroad { bundle: archive.name() },
        error => archive.error(error).into(),
    })?;
    Ok(BundleHits { phrases_as_words: hits.phrases_as_words, hits, archive, repeats })
}

/// Frames of one segment can overlap: then it holds more records than it has offsets with records.
fn repeats_offsets(archive: &Archive) -> bool {
    let manifest = archive.manifest();
    let offsets = i128::from(manifest.last_offset) - i128::from(manifest.base_offset) + 1;
    let gaps: i128 =
        manifest.gaps.iter().map(|gap| i128::from(gap.last()) - i128::from(gap.first()) + 1).sum();
    i128::from(manifest.record_count) > offsets - gaps
}

fn bounds(filter: &Filter) -> Bounds {
    Bounds {
        min_offset: filter.min_offset,
        max_offset: filter.max_offset,
        min_timestamp_ms: filter.min_timestamp_ms,
        max_timestamp_ms: filter.max_timestamp_ms,
    }
}
