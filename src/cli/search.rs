//! `search`: records that match a query.

mod highlight;
mod when;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use tracing::warn;
use url::Url;

use super::store::{self, exit_of_archive, exit_of_store};
use super::{CliError, Exit, endpoint, output, runtime, text};
use crate::archive::{ArchiveErrorKind, Shelf};
use crate::index::Query;
use crate::proto::v1;
use crate::proto::v1::search_request::Order;
use crate::rpc::search as rpc;
use crate::search::{self, SearchError};

use highlight::Highlighter;

/// Find records: newest first, one a line.
///
/// A query is words, "phrases", path:word, path:>100, path:[a TO b], key:x, header.name:x, offset:7, timestamp:>=2024-05-01, with AND,
/// OR, NOT and brackets. An empty one finds all records.
#[derive(Debug, clap::Args)]
pub struct SearchArgs {
    /// What to look for.
    #[arg(value_name = "QUERY", default_value = "")]
    query: String,

    /// Where to look.
    #[arg(long, env = "WAL_INDEXER_TOPIC", value_name = "TOPIC")]
    topic: String,

    /// Only this partition.
    #[arg(long, env = "WAL_INDEXER_PARTITION", value_name = "N")]
    partition: Option<i32>,

    /// Only this incarnation of the log.
    #[arg(long, env = "WAL_INDEXER_LOG_ID", value_name = "ID")]
    log_id: Option<String>,

    /// Only from this offset on.
    #[arg(long, env = "WAL_INDEXER_MIN_OFFSET", value_name = "OFFSET", allow_hyphen_values = true)]
    min_offset: Option<i64>,

    /// Only up to this offset, inclusive.
    #[arg(long, env = "WAL_INDEXER_MAX_OFFSET", value_name = "OFFSET", allow_hyphen_values = true)]
    max_offset: Option<i64>,

    /// Only from this time on: 2024-05-01, 2024-05-01T12:00:00Z, milliseconds since the epoch, or an age: 30s, 15m, 2h, 7d.
    #[arg(long, env = "WAL_INDEXER_SINCE", value_name = "TIME", value_parser = when::parse)]
    since: Option<i64>,

    /// Only up to this time, inclusive; written as --since is.
    #[arg(long, env = "WAL_INDEXER_UNTIL", value_name = "TIME", value_parser = when::parse)]
    until: Option<i64>,

    /// How many records to show, at most.
    #[arg(long, env = "WAL_INDEXER_LIMIT", default_value_t = 100, value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=search::LIMIT_MAX as i64))]
    limit: u32,

    /// Show the oldest first.
    #[arg(long, env = "WAL_INDEXER_OLDEST_FIRST")]
    oldest_first: bool,

    /// Only say how many records match.
    #[arg(long, env = "WAL_INDEXER_COUNT")]
    count: bool,

    /// Print records as protobuf JSON, one a line; with --count, the summary.
    #[arg(long, env = "WAL_INDEXER_JSON")]
    json: bool,

    /// Where the bundles are, to search them in this process.
    #[arg(long, env = "WAL_INDEXER_STORE", value_name = "URL", required_unless_present = "endpoint")]
    store: Option<Url>,

    /// Ask this worker instead, such as http://127.0.0.1:7070.
    #[arg(long, env = "WAL_INDEXER_ENDPOINT", value_name = "URL")]
    endpoint: Option<String>,
}

/// Searches and prints.
pub fn run(args: &SearchArgs) -> Result<(), CliError> {
    Query::parse(&args.query).map_err(|error| CliError::flag("QUERY", &error))?;
    let printer =
        Printer { args, highlighter: Highlighter::new(&args.query, std::io::stdout().is_terminal()) };
    let summary = runtime()?.block_on(async {
        match (&args.endpoint, &args.store) {
            (Some(endpoint), _) => ask(endpoint, args.request(), &printer).await,
            (None, Some(url)) => search_here(url, args.request(), &printer).await,
            (None, None) => Err(CliError::because(Exit::Usage, "--store or --endpoint is needed")),
        }
    })?;
    printer.summary(&summary)
}

impl SearchArgs {
    fn request(&self) -> v1::SearchRequest {
        let filter = v1::RecordFilter {
            topic: self.topic.clone(),
            partition: self.partition,
            min_offset: self.min_offset,
            max_offset: self.max_offset,
            min_timestamp_ms: self.since,
            max_timestamp_ms: self.until,
            log_id: self.log_id.clone(),
        };
        let order = if self.oldest_first { Order::OldestFirst } else { Order::NewestFirst };
        v1::SearchRequest {
            filter: Some(filter),
            query: self.query.clone(),
            limit: self.limit,
            order: order.into(),
            count_only: self.count,
            bucket_ms: None,
        }
    }
}

/// Searches the store in this process.
async fn search_here(
    url: &Url,
    request: v1::SearchRequest,
    printer: &Printer<'_>,
) -> Result<v1::SearchSummary, CliError> {
    let began = Instant::now();
    let store = store::open(url)?;
    let request =
        rpc::search_request(request).map_err(|status| CliError::status("cannot search", &status))?;
    let answer = search::search(&Shelf::new(store, 64 << 20), &request)
        .await
        .map_err(|error| CliError::new(exit(&error), "cannot search", &error))?;
    for conflict in &answer.summary.conflicts {
        let search::Conflict { partition, log_id, offset, bundles } = conflict;
        warn!(%partition, %log_id, offset, ?bundles, "bundles hold different records for one offset");
    }
    if answer.summary.phrases_as_words {
        warn!("the index does not know the places of words: phrases were looked for as words in any order");
    }
    answer.records.iter().try_for_each(|found| printer.record(&rpc::record(found)))?;
    Ok(rpc::summary(&answer.summary, began))
}

/// Asks a worker, and prints what it finds as it comes.
async fn ask(
    address: &str,
    request: v1::SearchRequest,
    printer: &Printer<'_>,
) -> Result<v1::SearchSummary, CliError> {
    let mut answers = endpoint::ask(address, async |client| client.search(request).await).await?;
    let mut summary = None;
    loop {
        let answer = answers.message().await.map_err(|status| CliError::status(address, &status))?;
        let Some(answer) = answer else { break };
        answer.records.iter().try_for_each(|record| printer.record(record))?;
        summary = answer.summary.or(summary);
    }
    summary.ok_or_else(|| CliError::because(Exit::Again, format!("{address}: the answer was cut off")))
}

fn exit(error: &SearchError) -> Exit {
    match error {
        SearchError::NoTopic
        | SearchError::LimitTooLarge { .. }
        | SearchError::TooBroad { .. }
        | SearchError::PrefixTooBroad { .. }
        | SearchError::AnswerTooLarge => Exit::Usage,
        SearchError::List(error) => exit_of_store(error),
        // It was listed: what is not there is lost.
        SearchError::Archive(error) if error.kind() == ArchiveErrorKind::NotFound => Exit::Corrupt,
        SearchError::Archive(error) => exit_of_archive(error),
    }
}

/// Prints what was found.
struct Printer<'a> {
    args: &'a SearchArgs,
    highlighter: Highlighter,
}

impl Printer<'_> {
    fn record(&self, record: &v1::Record) -> Result<(), CliError> {
        if self.args.json {
            return output::json_line(record);
        }
        let time = output::time_ms(record.timestamp_ms);
        let value = self.highlighter.mark(&text::value(record.value.as_deref()));
        let topic = text::one_line(&record.topic);
        output::line(&format!("{time} {topic}/{}@{} {value}", record.partition, record.offset))
    }

    fn summary(&self, summary: &v1::SearchSummary) -> Result<(), CliError> {
        if self.args.count {
            return match self.args.json {
                true => output::json_line(summary),
                false => output::line(&summary.matched.to_string()),
            };
        }
        if std::io::stderr().is_terminal() {
            let v1::SearchSummary { matched, bundles_searched, bundles_pruned, .. } = summary;
            let (read, took) =
                (output::bytes(summary.bytes_fetched), Duration::from_micros(summary.total_us));
            eprintln!(
                "{matched} records match; {bundles_searched} bundles searched, {bundles_pruned} passed over; {read} in {} requests, {}",
                summary.requests_to_store,
                output::duration(took)
            );
        }
        Ok(())
    }
}
