//! Searches one bundle: opens it, and searches the leaves of its index that may have matches.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::context::SearchContext;
use super::hit_collector::Owner;
use super::leaf::{Task, search_leaf};
use super::overlaps::Overlaps;
use super::schedule::{RecordRanges, schedule};
use super::top_hits::SortKey;
use super::{PATHS_USUAL, SearchError, TAIL_BYTES, read_error};
use crate::archive::{Archive, Fault, catalog};
use crate::index::{FieldCatalog, Opening, Outline, Plan, ReadError, Step};
use crate::spans;
use crate::store::Listed;

/// How many leaves of a bundle are searched at a time.
const LEAVES_AT_ONCE: usize = 4;

/// A bundle that may have matches.
#[derive(Clone, Debug)]
pub(super) struct Bundle {
    pub listed: Arc<Listed>,
    pub owner: Owner,
    /// No record of the bundle sorts before this place.
    pub first_place: SortKey,
}

/// Searches a bundle. Returns whether some of its leaves were not searched, because enough records were found
/// without them.
pub(super) async fn search_bundle(context: &SearchContext, bundle: Bundle) -> Result<bool, SearchError> {
    let opening = context.bundle_cache.open(&bundle.listed, &context.traffic);
    let archive = spans::stage(spans::open(&bundle.listed.key), opening).await?;
    let manifest = archive.manifest();
    if manifest.record_count == 0 {
        return Ok(false);
    }
    // Bundles of version 1 have no checksums for parts of index files, so the files are read whole: one such
    // bundle at a time.
    let is_whole = archive.footer().hot().is_none() && bundle.listed.size_bytes > TAIL_BYTES;
    let _alone = if is_whole { Some(context.memory.alone().await) } else { None };
    let outline = outline(&archive).await.map_err(|error| read_error(&archive, error))?;
    let (stated, found) = (manifest.record_count, outline.documents());
    if stated != found {
        return Err(archive.error(Fault::Documents { stated, found }).into());
    }
    let catalog = catalog(manifest);
    // Memory for the plans of smaller catalogs is reserved at the start of the search.
    let paths = catalog.values().count();
    let _large_plan = if paths > PATHS_USUAL {
        let plan_bytes = Plan::mem_usage_max(&context.request.query, paths);
        Some(context.hold_extra(plan_bytes)?)
    } else {
        None
    };
    let plan = plan(context, &archive, &outline, catalog).await?;
    plan.ends_with(context.ended.flag());
    if plan.phrases_as_words() {
        context.phrases_as_words.store(true, Ordering::Relaxed);
    }
    if plan.is_unsure() {
        context.note_unsure(&bundle.listed.key.to_string());
    }
    if plan.is_impossible() {
        return Ok(false);
    }
    let mut owner = bundle.owner;
    if repeats_offsets(&archive) {
        owner.overlaps = Overlaps::All;
    }
    owner.left_out = context.transactions.left_out(context, &archive).await?;
    let _left_out = context.hold_extra(owner.left_out.mem_usage() as u64)?;
    let left = search_leaves(context, &archive, outline, plan, owner).await?;
    Ok(left > 0)
}

async fn outline(archive: &Archive) -> Result<Outline, ReadError> {
    let mut opening = Opening::new(archive.index_parts());
    loop {
        match opening.open()? {
            Step::Done(outline) => return Ok(outline),
            Step::Missing => opening.fetch().await.map_err(ReadError::Parts)?,
        }
    }
}

async fn plan(
    context: &SearchContext,
    archive: &Archive,
    outline: &Outline,
    catalog: FieldCatalog,
) -> Result<Plan, SearchError> {
    let (query, outline) = (context.request.query.clone(), outline.clone());
    let scored = context.is_scored();
    let planned = context.memory.run(move || outline.plan(&query, &catalog, scored)).await;
    planned.map_err(|fault| archive.error(fault))?.map_err(|error| read_error(archive, error))
}

async fn search_leaves(
    context: &SearchContext,
    archive: &Archive,
    outline: Outline,
    plan: Plan,
    owner: Owner,
) -> Result<usize, SearchError> {
    let filter = &context.request.filter;
    let spans = outline.leaves().iter().map(|leaf| RecordRanges::of_leaf(leaf, archive.blocks().entries()));
    let mut leaves: Vec<(SortKey, usize, RecordRanges)> = spans
        .enumerate()
        .filter(|(_, span)| span.may_hold(filter))
        .map(|(number, span)| (span.first_place(context.request.order, owner.log), number, span))
        .collect();
    leaves.sort_unstable_by_key(|(place, number, _)| (*place, *number));
    let outline = Arc::new(outline);
    let task = |number, span: RecordRanges| Task {
        archive: archive.clone(),
        outline: Arc::clone(&outline),
        plan: plan.clone(),
        number,
        counts_alone: context.is_unbounded()
            && !span.overlaps(&owner.overlaps)
            && !span.meets(&owner.left_out),
        owner: owner.clone(),
    };
    schedule(
        leaves,
        LEAVES_AT_ONCE,
        context.needs_all(),
        |(place, ..)| context.may_keep(place),
        |_| usize::MAX,
        |(_, number, span)| spans::stage(spans::leaf(number), search_leaf(context, task(number, span))),
    )
    .await
}

/// Whether the bundle holds an offset more than once. That is possible if frames of its segment overlap: then
/// it has more records than offsets with records.
fn repeats_offsets(archive: &Archive) -> bool {
    let manifest = archive.manifest();
    let offsets = i128::from(manifest.last_offset) - i128::from(manifest.base_offset) + 1;
    let gaps: i128 =
        manifest.gaps.iter().map(|gap| i128::from(gap.last()) - i128::from(gap.first()) + 1).sum();
    i128::from(manifest.record_count) > offsets - gaps
}
