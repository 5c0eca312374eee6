//! Shows records as they arrive: lists the bundles again and again, and searches the new ones.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use prost::Message;
use roaring::RoaringTreemap;
use tracing::warn;

use super::source::Source;
use crate::cli::isolation::Isolation;
use crate::cli::{CliError, Exit};
use crate::proto::v1;
use crate::proto::v1::search_request::Order;

/// The pause between two listings.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The maximum number of records in one request.
const RECORDS_MAX: u32 = 5_000;

/// The maximum number of bytes of records that are held until their answer is complete. If there are more,
/// the range of offsets is split.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// A log: topic, partition, incarnation.
type Log = (String, i32, String);

/// The state of `search --follow`: what was searched and shown.
pub struct Follow {
    filter: v1::RecordFilter,
    query: String,
    isolation: Isolation,
    bundles: HashSet<String>,
    /// Searched bundles with records that were left out because their transactions had no end. A later bundle
    /// may have it.
    open: Vec<v1::ListBundlesResponse>,
    /// The offsets of the records that were shown. They are kept because bundles may overlap.
    shown: BTreeMap<Log, RoaringTreemap>,
}

impl Follow {
    /// Follows the records that match `filter` and `query`.
    pub fn new(filter: v1::RecordFilter, query: String, isolation: Isolation) -> Self {
        let (bundles, open, shown) = (HashSet::new(), Vec::new(), BTreeMap::new());
        Self { filter, query, isolation, bundles, open, shown }
    }

    /// Skips the bundles that are already there.
    pub async fn skip(&mut self, source: &mut Source) -> Result<(), CliError> {
        let listed = source.bundles(&self.filter).await?;
        self.bundles.extend(listed.into_iter().map(key));
        Ok(())
    }

    /// Shows records as they arrive, until a failure that a retry cannot solve.
    pub async fn run(
        &mut self,
        source: &mut Source,
        each: &mut impl FnMut(v1::Record) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        loop {
            match self.look(source, each).await {
                // A bundle that was not shown completely is searched again.
                Err(error) if error.exit() == Exit::Again => warn!(error = error.line(), "looking again"),
                looked => looked?,
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Shows the records of new bundles, the oldest bundle first.
    async fn look(
        &mut self,
        source: &mut Source,
        each: &mut impl FnMut(v1::Record) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let mut listed = source.bundles(&self.filter).await?;
        listed.retain(|one| !self.bundles.contains(&key(one.clone())));
        if !listed.is_empty() {
            listed.extend(self.open.iter().cloned());
        }
        listed.sort_by_key(|one| {
            let bundle = one.bundle.as_ref();
            bundle.map(|bundle| (bundle.min_timestamp_ms, bundle.base_offset, bundle.key.clone()))
        });
        for one in listed {
            let has_open = self.show(source, &one, each).await?;
            self.bundles.insert(key(one.clone()));
            self.open.retain(|other| key(other.clone()) != key(one.clone()));
            if has_open {
                self.open.push(one);
            }
        }
        Ok(())
    }

    /// Shows a bundle's records that were not shown yet. Returns whether records were left out that may be
    /// committed later. If there are too many records for one answer, or too many bytes to hold, it asks for
    /// each half of the offsets.
    async fn show(
        &mut self,
        source: &mut Source,
        one: &v1::ListBundlesResponse,
        each: &mut impl FnMut(v1::Record) -> Result<(), CliError>,
    ) -> Result<bool, CliError> {
        let Some(bundle) = &one.bundle else { return Ok(false) };
        let mut has_open = false;
        let min = self.filter.min_offset.map_or(bundle.base_offset, |min| min.max(bundle.base_offset));
        let max = self.filter.max_offset.map_or(bundle.last_offset, |max| max.min(bundle.last_offset));
        let log = (one.topic.clone(), one.partition, one.log_id.clone());
        let mut ranges = vec![(min, max)];
        while let Some((min, max)) = ranges.pop() {
            if min > max {
                continue;
            }
            let (mut records, mut bytes) = (Vec::new(), 0);
            let request = self.request(&log, min, max);
            let summary = source.search(request, |record| {
                bytes += record.encoded_len();
                if bytes <= KEPT_BYTES_MAX || min == max {
                    records.push(record);
                }
                Ok(())
            });
            let summary = summary.await?;
            let is_all = records.len() < RECORDS_MAX as usize && bytes <= KEPT_BYTES_MAX;
            if min < max && !(is_all && summary.bundles_left == 0) {
                let middle = min + (max - min) / 2;
                ranges.extend([(middle + 1, max), (min, middle)]);
                continue;
            }
            super::warn_of_conflicts(&summary);
            has_open |= summary.bundles_with_open_transactions > 0;
            let shown = self.shown.entry(log.clone()).or_default();
            // If bundles hold different records for one offset, they come in one answer.
            let is_new = |record: &v1::Record| !shown.contains(record.offset.cast_unsigned());
            let new: Vec<_> = records.into_iter().filter(is_new).collect();
            for record in new {
                shown.insert(record.offset.cast_unsigned());
                each(record)?;
            }
        }
        Ok(has_open)
    }

    fn request(&self, (topic, partition, log_id): &Log, min: i64, max: i64) -> v1::SearchRequest {
        let filter = v1::RecordFilter {
            topic: topic.clone(),
            partition: Some(*partition),
            log_id: Some(log_id.clone()),
            min_offset: Some(min),
            max_offset: Some(max),
            ..self.filter.clone()
        };
        v1::SearchRequest {
            filter: Some(filter),
            query: self.query.clone(),
            limit: RECORDS_MAX,
            order: self.isolation.order(Order::OldestFirst).into(),
            ..v1::SearchRequest::default()
        }
    }
}

fn key(one: v1::ListBundlesResponse) -> String {
    one.bundle.map(|bundle| bundle.key).unwrap_or_default()
}
