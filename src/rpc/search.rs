//! The service `walindexer.v1.SearchService`, and the conversion of results to proto.

pub mod fetch;
pub mod find;
mod read_timeout;

use std::num::NonZeroU64;
use std::time::Instant;

use futures::StreamExt;
use tonic::{Request, Response, Status};
use tracing::warn;

use super::body::{self, Answers};
use super::caller::Caller;
use super::convert::micros;
use super::status;
use crate::archive::{BundleCache, StoredRecord};
use crate::fetch::Memory;
use crate::formatting;
use crate::ids::{LogId, TopicPartition};
use crate::index::{Order, Query};
use crate::proto::v1;
use crate::proto::v1::search_service_server::SearchService;
use crate::registry::{self, Filter, Timed, Times};
use crate::search::{self, FetchMemory, Found, Searcher, Summary};
use crate::store::{self, Store};
use crate::transactions::{Isolation, TransactionState};

/// Responses are split into messages of about this size in bytes, well below what clients accept as one
/// message.
const MESSAGE_BYTES: usize = 512 << 10;

/// Serves searches, fetches and lists of one store.
#[derive(Clone, Debug)]
pub struct Reader {
    searcher: Searcher,
}

impl Reader {
    /// Creates the service. `searcher` reads the store that the workers write to.
    pub fn new(searcher: Searcher) -> Self {
        Self { searcher }
    }

    fn bundle_cache(&self) -> &BundleCache {
        self.searcher.bundle_cache()
    }
}

#[tonic::async_trait]
impl SearchService for Reader {
    type SearchStream = Answers<v1::SearchResponse>;
    type FetchStream = Answers<v1::FetchResponse>;
    type ListBundlesStream = Answers<v1::ListBundlesResponse>;

    async fn search(
        &self,
        request: Request<v1::SearchRequest>,
    ) -> Result<Response<Self::SearchStream>, Status> {
        let time_max = find::time_max(request.metadata());
        let searcher = self.searcher.for_caller(Caller::of(&request).caller_id());
        let request = search_request(request.into_inner())?;
        let messages = find::messages(&searcher, request, time_max).await?;
        Ok(body::answer(read_timeout::in_time(messages, None, read_timeout::SILENCE_MAX)))
    }

    async fn fetch(&self, request: Request<v1::FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let searcher = self.searcher.for_caller(Caller::of(&request).caller_id());
        let request = fetch::request(request.into_inner())?.within(searcher.fetches_bytes());
        let held = searcher.reserve_for_fetch(request.memory_estimate()).await;
        let FetchMemory { reservation, permit } =
            held.map_err(|error| status::of_search(&error)).inspect_err(fetch::log_refusal)?;
        let memory = Memory::of(searcher.budget().clone());
        let messages =
            fetch::messages(self.bundle_cache(), request, memory).await.inspect_err(fetch::log_refusal)?;
        let messages = messages.inspect(move |message| {
            // Released when the last message has been made.
            let _held = &permit;
            fetch::log(message);
        });
        Ok(body::answer(read_timeout::in_time(messages, Some(reservation), read_timeout::SILENCE_MAX)))
    }

    async fn list_bundles(
        &self,
        request: Request<v1::ListBundlesRequest>,
    ) -> Result<Response<Self::ListBundlesStream>, Status> {
        let filter = list_filter(request.into_inner())?;
        let found = registry::find_timed(self.bundle_cache(), &filter).await.map_err(|error| {
            warn!(error = formatting::chain(&error), "listing failed");
            status::of_store(&error)
        })?;
        let store = self.bundle_cache().store().clone();
        let bundles = found.map(move |one| match one {
            Ok(one) => Ok(listed(&store, &one)),
            Err(error) => {
                warn!(error = formatting::chain(&error), "listing failed");
                Err(status::of_archive(&error))
            }
        });
        Ok(Response::new(bundles.boxed()))
    }
}

/// Converts a request. Unknown values are errors: the request of a newer caller must not be misunderstood
/// silently.
pub fn search_request(request: v1::SearchRequest) -> Result<search::Request, Status> {
    let (order, isolation) = match v1::search_request::Order::try_from(request.order) {
        Ok(order) => order_of(order),
        Err(_) => {
            let line = format!("order has the unknown value {}", request.order);
            return Err(status::invalid("UNKNOWN_VALUE", line));
        }
    };
    let query = Query::parse(&request.query).map_err(|error| status::of_query(&error))?;
    let limit = match request.limit {
        _ if request.count_only => 0,
        0 => search::LIMIT_DEFAULT,
        limit => limit as usize,
    };
    let bucket_ms = request.bucket_ms.map(|width| {
        NonZeroU64::new(width).ok_or_else(|| status::invalid("BUCKET", "bucket_ms must not be 0".to_owned()))
    });
    Ok(search::Request {
        filter: filter(request.filter.unwrap_or_default())?,
        query,
        limit,
        order,
        bucket_ms: bucket_ms.transpose()?,
        isolation,
    })
}

fn order_of(order: v1::search_request::Order) -> (Order, Isolation) {
    use v1::search_request::Order as Asked;
    match order {
        Asked::Unspecified | Asked::NewestFirst => (Order::NewestFirst, Isolation::Uncommitted),
        Asked::OldestFirst => (Order::OldestFirst, Isolation::Uncommitted),
        Asked::ByScore => (Order::ByScore, Isolation::Uncommitted),
        Asked::NewestFirstCommitted => (Order::NewestFirst, Isolation::Committed),
        Asked::OldestFirstCommitted => (Order::OldestFirst, Isolation::Committed),
        Asked::ByScoreCommitted => (Order::ByScore, Isolation::Committed),
    }
}

fn list_filter(request: v1::ListBundlesRequest) -> Result<Filter, Status> {
    let segment_sha256 = request.segment_sha256.map(|hash| <[u8; 32]>::try_from(hash.as_ref())).transpose();
    let segment_sha256 = segment_sha256
        .map_err(|_| status::invalid("SEGMENT_SHA256", "segment_sha256 must have 32 bytes".to_owned()))?;
    Ok(Filter { segment_sha256, ..filter(request.filter.unwrap_or_default())? })
}

/// Converts a filter. An empty topic means no topic.
fn filter(filter: v1::RecordFilter) -> Result<Filter, Status> {
    let log_id = log_id(filter.log_id.as_deref())?;
    store::check_topic(&filter.topic).map_err(|error| status::of_name(&error))?;
    Ok(Filter {
        topic: Some(filter.topic).filter(|topic| !topic.is_empty()),
        partition: filter.partition,
        log_id,
        min_offset: filter.min_offset,
        max_offset: filter.max_offset,
        min_timestamp_ms: filter.min_timestamp_ms,
        max_timestamp_ms: filter.max_timestamp_ms,
        segment_sha256: None,
    })
}

/// Reads and checks a log id. Without the check the store would be asked for a name that no key can have, of
/// any length.
fn log_id(asked: Option<&str>) -> Result<Option<LogId>, Status> {
    let Some(log_id) = asked.map(LogId::new) else { return Ok(None) };
    store::check_log_id(&log_id).map_err(|error| status::of_name(&error))?;
    Ok(Some(log_id))
}

/// Converts a record that was found.
pub fn record(found: &Found) -> v1::Record {
    let record = record_of(&found.partition, &found.log_id, &found.record, found.transaction);
    v1::Record { score: found.score, ..record }
}

/// Converts a record. Header names that are not UTF-8 get replacement characters: in the proto they are text.
fn record_of(
    partition: &TopicPartition,
    log_id: &LogId,
    record: &StoredRecord,
    transaction: Option<TransactionState>,
) -> v1::Record {
    let transaction = match transaction {
        None => v1::record::Transaction::Unspecified,
        Some(TransactionState::Aborted) => v1::record::Transaction::Aborted,
        Some(TransactionState::Open) => v1::record::Transaction::Open,
    };
    let headers = record.headers.iter().map(|(name, value)| v1::Header {
        name: String::from_utf8_lossy(name).into_owned(),
        value: value.clone(),
    });
    v1::Record {
        topic: partition.topic().to_owned(),
        partition: partition.partition(),
        offset: record.offset,
        timestamp_ms: record.timestamp_ms,
        key: record.key.clone(),
        value: record.value.clone(),
        headers: headers.collect(),
        score: None,
        log_id: log_id.as_str().to_owned(),
        transaction: transaction.into(),
        omitted_bytes: record.omitted.map(|omitted| omitted.bytes),
        leader_epoch: record.leader_epoch,
    }
}

/// Converts a listed bundle: what LIST and the key say about it, and its times. Its counts and checksums are
/// in its manifest.
pub fn listed(store: &Store, Timed { listed, times }: &Timed) -> v1::ListBundlesResponse {
    let key = &listed.key;
    let (min_timestamp_ms, max_timestamp_ms) = times.range_ms().unzip();
    let bundle = v1::Bundle {
        key: key.to_string(),
        url: store.url_of(key),
        size_bytes: listed.size_bytes,
        e_tag: listed.e_tag.clone().unwrap_or_default(),
        base_offset: key.range().first(),
        last_offset: key.range().last(),
        min_timestamp_ms,
        max_timestamp_ms,
        ..v1::Bundle::default()
    };
    v1::ListBundlesResponse {
        topic: key.partition().topic().to_owned(),
        partition: key.partition().partition(),
        log_id: key.log_id().as_str().to_owned(),
        bundle: Some(bundle),
        times_unknown: match times {
            Times::Unknown { why } => why.clone(),
            Times::Range { .. } | Times::Absent => String::new(),
        },
    }
}

/// Converts the summary. `began` is the time of the request's arrival.
pub fn summary(summary: &Summary, began: Instant) -> v1::SearchSummary {
    v1::SearchSummary {
        matched: summary.matched,
        bundles_searched: summary.bundles_searched,
        bundles_pruned: summary.bundles_pruned,
        bytes_fetched: summary.traffic.bytes,
        requests_to_store: summary.traffic.requests,
        total_us: micros(began.elapsed()),
        bundles_left: summary.bundles_left,
        conflicts: summary.conflicts.iter().map(conflict).collect(),
        phrases_as_words: summary.phrases_as_words,
        unsure_bundle_keys: summary.unsure.clone(),
        bundles_with_open_transactions: summary.bundles_with_open,
        buckets: summary
            .buckets
            .iter()
            .map(|&(from_ms, matched)| v1::TimeBucket { from_ms, matched })
            .collect(),
    }
}

/// Converts what is known of the different records at one offset.
fn versions(versions: &[(String, Option<i32>)]) -> Vec<v1::conflict::Version> {
    let version = |(bundle_key, leader_epoch): &(String, Option<i32>)| v1::conflict::Version {
        bundle_key: bundle_key.clone(),
        leader_epoch: *leader_epoch,
    };
    versions.iter().map(version).collect()
}

fn conflict(conflict: &search::Conflict) -> v1::Conflict {
    v1::Conflict {
        topic: conflict.partition.topic().to_owned(),
        partition: conflict.partition.partition(),
        log_id: conflict.log_id.as_str().to_owned(),
        offset: conflict.offset,
        bundle_keys: conflict.bundles.clone(),
        versions: versions(&conflict.versions),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_newer_caller_means_is_not_guessed() {
        let request = v1::SearchRequest { order: 77, ..v1::SearchRequest::default() };
        assert_eq!(
            search_request(request).map(|_| ()).map_err(|s| s.code()),
            Err(tonic::Code::InvalidArgument)
        );
        let request = v1::ListBundlesRequest { segment_sha256: Some(vec![1; 31].into()), filter: None };
        assert_eq!(list_filter(request).map(|_| ()).map_err(|s| s.code()), Err(tonic::Code::InvalidArgument));
    }

    #[test]
    fn a_query_that_does_not_read_says_where() {
        let request = v1::SearchRequest { query: "a AND (b".into(), ..v1::SearchRequest::default() };
        let status = search_request(request).map(|_| ()).expect_err("an open bracket");
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().contains("character 6"), "{}", status.message());
    }
}
