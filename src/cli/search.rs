//! `search`: finds the records that match a query.

mod caret;
mod follow;
mod highlight;
mod histogram;
mod source;

use std::io::IsTerminal;
use std::time::Duration;

use clap::ValueEnum;
use clap::builder::NonEmptyStringValueParser;
use tracing::warn;
use url::Url;

use super::endpoint::Worker;
use super::isolation::{self, Isolation};
use super::security::SecurityArgs;
use super::{CliError, Exit, output, runtime, terminal_escaping, time_argument};
use crate::index::Query;
use crate::proto::v1;
use crate::proto::v1::search_request::Order;
use crate::search;

use follow::Follow;
use highlight::Highlighter;
use histogram::{COLUMNS_DEFAULT, Histogram, Times};
use source::Source;

/// Find records. Prints the newest first, one per line.
///
/// A query has words, "phrases", prefixes*, path:word, path:>100, path:[a TO b], path:(a OR b), path:*,
/// key:x, header.name:x, offset:7, timestamp:>=2024-05-01, with AND, OR, NOT or -, and brackets. An empty
/// query finds all records. docs/search.md has more.
#[derive(Debug, clap::Args)]
pub struct SearchArgs {
    /// The query. If it begins with a minus, write it last, after `--`: -- -level:info.
    #[arg(value_name = "QUERY", default_value = "")]
    query: String,

    /// The topic to search.
    #[arg(long, env = "WAL_INDEXER_TOPIC", value_name = "TOPIC", value_parser = NonEmptyStringValueParser::new())]
    topic: String,

    /// Search only this partition.
    #[arg(long, env = "WAL_INDEXER_PARTITION", value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,

    /// Search only this incarnation of the log.
    #[arg(long, env = "WAL_INDEXER_LOG_ID", value_name = "ID")]
    log_id: Option<String>,

    /// Search only from this offset on.
    #[arg(long, env = "WAL_INDEXER_MIN_OFFSET", value_name = "OFFSET", allow_hyphen_values = true)]
    min_offset: Option<i64>,

    /// Search only up to this offset, inclusive.
    #[arg(long, env = "WAL_INDEXER_MAX_OFFSET", value_name = "OFFSET", allow_hyphen_values = true)]
    max_offset: Option<i64>,

    /// Search only from this time on: 2024-05-01, 2024-05-01T12:00:00Z, milliseconds or seconds since the
    /// epoch, or an age: 30s, 15m, 2h, 7d.
    #[arg(long, env = "WAL_INDEXER_SINCE", value_name = "TIME", value_parser = time_argument::parse, allow_negative_numbers = true)]
    since: Option<i64>,

    /// Search only up to this time, inclusive. Same formats as --since.
    #[arg(long, env = "WAL_INDEXER_UNTIL", value_name = "TIME", value_parser = time_argument::parse, allow_negative_numbers = true)]
    until: Option<i64>,

    /// The maximum number of records to show.
    #[arg(long, env = "WAL_INDEXER_LIMIT", default_value_t = 100, value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=search::LIMIT_MAX as i64))]
    limit: u32,

    /// The order of the records. `score`: records with the rarest words come first.
    #[arg(long, env = "WAL_INDEXER_ORDER", default_value = "newest", value_name = "ORDER")]
    order: OrderArg,

    /// Same as --order oldest.
    #[arg(long, env = "WAL_INDEXER_OLDEST_FIRST", conflicts_with = "order")]
    oldest_first: bool,

    /// Whether to find records of transactions that are not committed. `committed` leaves out the records of
    /// aborted transactions, and of transactions whose end is not stored.
    #[arg(long, env = "WAL_INDEXER_ISOLATION", default_value = "uncommitted", value_name = "LEVEL")]
    isolation: Isolation,

    /// Print only the number of matching records.
    #[arg(long, env = "WAL_INDEXER_COUNT")]
    count: bool,

    /// Draw the number of matching records over time. If standard output is not a terminal, print one line
    /// for each step.
    #[arg(long, env = "WAL_INDEXER_HISTOGRAM", conflicts_with = "count")]
    histogram: bool,

    /// Show new records as they arrive, until the program is stopped. Starts now, or at --since.
    #[arg(long, env = "WAL_INDEXER_FOLLOW", conflicts_with_all = ["count", "histogram", "limit", "order", "oldest_first"])]
    follow: bool,

    /// Print JSON: one record per line, with keys, values and headers as JSON or text where possible. With
    /// --count and --histogram: the summary.
    #[arg(long, env = "WAL_INDEXER_JSON")]
    json: bool,

    /// With --json: always print keys, values and headers in base64.
    #[arg(long, env = "WAL_INDEXER_BASE64", requires = "json")]
    base64: bool,

    /// Where the bundles are. They are searched in this process.
    #[arg(long, env = "WAL_INDEXER_STORE", value_name = "URL", value_parser = crate::store::parse_url, required_unless_present = "endpoint")]
    store: Option<Url>,

    /// Send the search to this worker instead, such as http://127.0.0.1:7070.
    #[arg(long, env = "WAL_INDEXER_ENDPOINT", value_name = "URL")]
    endpoint: Option<String>,

    #[command(flatten)]
    security: SecurityArgs,
}

/// The order in which records are shown.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum OrderArg {
    /// The latest first.
    Newest,
    /// The earliest first.
    Oldest,
    /// The best matches first.
    Score,
}

/// Searches and prints.
pub fn run(args: &SearchArgs) -> Result<(), CliError> {
    let query = Query::parse(&args.query)
        .map_err(|error| CliError::because(Exit::Usage, caret::point_at(&args.query, &error)))?;
    if let (Some(since), Some(until)) = (args.since, args.until)
        && since > until
    {
        let times = format!("{} and {}", output::time_ms(Some(since)), output::time_ms(Some(until)));
        return Err(CliError::because(Exit::Usage, format!("--since is after --until: {times}")));
    }
    if !args.follow {
        output::in_blocks();
    }
    let printer =
        Printer { args, highlighter: Highlighter::new(query, output::has_colours(&std::io::stdout())) };
    runtime()?.block_on(async {
        let worker = args.endpoint.as_deref().map(|endpoint| Worker::new(endpoint, &args.security));
        let mut source = Source::open(worker.transpose()?, args.store.as_ref()).await?;
        if args.follow {
            // The handler runs in a task of its own. A reader that stops reading blocks the output, but it
            // must not block the end of the program.
            tokio::spawn(async {
                if tokio::signal::ctrl_c().await.is_ok() {
                    std::process::exit(0);
                }
            });
            follow(args, &mut source, &printer).await
        } else if args.histogram {
            draw(args, &mut source).await
        } else {
            let summary = source.search(args.request(), |record| printer.record(record)).await?;
            warn_of_conflicts(&summary);
            args.note_absence(&summary)?;
            note_open(&summary)?;
            printer.summary(&summary)
        }
    })
}

async fn follow(args: &SearchArgs, source: &mut Source, printer: &Printer<'_>) -> Result<(), CliError> {
    let mut follow = Follow::new(args.filter(), args.query.clone(), args.isolation);
    if args.since.is_none() {
        follow.skip(source).await?;
    }
    follow.run(source, &mut |record| printer.record(record)).await
}

/// Counts the matches by time, and draws them.
async fn draw(args: &SearchArgs, source: &mut Source) -> Result<(), CliError> {
    let columns = terminal_size::terminal_size().map_or(COLUMNS_DEFAULT, |(width, _)| usize::from(width.0));
    // Leaves space for counts below a million. Higher counts do not make the drawing wider than the terminal.
    let room = columns.saturating_sub(histogram::label_columns(999_999));
    let Some(mut times) = args.times(source).await? else { return print_count_only(args, source).await };
    let mut step = times.step(room);
    let mut summary = args.count_by_time(source, step).await?;
    // Each round looks closer at the remaining times, which are at most a tenth of the times before.
    let mut is_rest = false;
    while let Some(rest) = times.without_outliers(step, &counts(&summary), is_rest) {
        (times, is_rest) = (rest, true);
        step = times.fine_step();
        summary = args.count_by_time(source, step).await?;
    }
    if step != times.step(room) {
        step = times.step(room);
        summary = args.count_by_time(source, step).await?;
    }
    warn_of_conflicts(&summary);
    note_open(&summary)?;
    if args.json {
        return output::json_line(&summary);
    }
    let histogram = Histogram::new(times, step, counts(&summary), summary.matched);
    if !std::io::stdout().is_terminal() {
        return histogram.lines().iter().try_for_each(|line| output::line(line));
    }
    let lines = histogram.draw(columns).into_iter().chain(histogram.beside());
    lines.into_iter().try_for_each(|line| output::line(&line))?;
    output::line(&format!("{} records match; a bar is {}", summary.matched, histogram.step_in_words()))
}

/// Prints the number of matches if no bundle has a time.
async fn print_count_only(args: &SearchArgs, source: &mut Source) -> Result<(), CliError> {
    let summary = args.count_by_time(source, 1).await?;
    warn_of_conflicts(&summary);
    match summary.matched {
        _ if args.json => output::json_line(&summary),
        0 => output::line("no records with a time"),
        matched => output::line(&format!("- {matched}")),
    }
}

fn counts(summary: &v1::SearchSummary) -> Vec<(i64, u64)> {
    summary.buckets.iter().map(|bucket| (bucket.from_ms, bucket.matched)).collect()
}

impl SearchArgs {
    fn filter(&self) -> v1::RecordFilter {
        v1::RecordFilter {
            topic: self.topic.clone(),
            partition: self.partition,
            min_offset: self.min_offset,
            max_offset: self.max_offset,
            min_timestamp_ms: self.since,
            max_timestamp_ms: self.until,
            log_id: self.log_id.clone(),
        }
    }

    /// Notes that there is nothing to search. That is no error: the first segment of a topic may not have
    /// arrived yet.
    fn note_absence(&self, summary: &v1::SearchSummary) -> Result<(), CliError> {
        if summary.bundles_searched + summary.bundles_pruned + summary.bundles_left == 0 {
            output::note(&format!(
                "nothing is stored{}",
                terminal_escaping::of(Some(&self.topic), self.partition)
            ))?;
        }
        Ok(())
    }

    fn request(&self) -> v1::SearchRequest {
        let order = match self.order {
            _ if self.oldest_first => Order::OldestFirst,
            OrderArg::Newest => Order::NewestFirst,
            OrderArg::Oldest => Order::OldestFirst,
            OrderArg::Score => Order::ByScore,
        };
        v1::SearchRequest {
            filter: Some(self.filter()),
            query: self.query.clone(),
            limit: self.limit,
            order: self.isolation.order(order).into(),
            count_only: self.count,
            bucket_ms: None,
        }
    }

    /// Counts the matching records in each step of time, over all their times.
    async fn count_by_time(&self, source: &mut Source, step: u64) -> Result<v1::SearchSummary, CliError> {
        let request = v1::SearchRequest { count_only: true, bucket_ms: Some(step), ..self.request() };
        source.search(request, |_| Ok(())).await
    }

    /// Returns the time of the first record, in this order, that matches.
    async fn first_time(&self, source: &mut Source, order: Order) -> Result<Option<i64>, CliError> {
        let mut first = None;
        let request =
            v1::SearchRequest { limit: 1, order: self.isolation.order(order).into(), ..self.request() };
        let each = |record: v1::Record| {
            first = record.timestamp_ms;
            Ok(())
        };
        source.search(request, each).await?;
        Ok(first)
    }

    /// Returns the times in which matches may lie: the requested times, limited to those of the bundles.
    /// `None`: no bundle has a time.
    async fn times(&self, source: &mut Source) -> Result<Option<Times>, CliError> {
        let bundles = source.bundles(&self.filter()).await?;
        let each = || bundles.iter().filter_map(|one| one.bundle.as_ref());
        let mut min = each().filter_map(|bundle| bundle.min_timestamp_ms).min();
        let mut max = each().filter_map(|bundle| bundle.max_timestamp_ms).max();
        // A key holds no times if one of them is before 1970. Then the records are searched for their times.
        if each().any(|bundle| bundle.min_timestamp_ms.is_none() || bundle.max_timestamp_ms.is_none()) {
            min = min.into_iter().chain(self.first_time(source, Order::OldestFirst).await?).min();
            max = max.into_iter().chain(self.first_time(source, Order::NewestFirst).await?).max();
        }
        Ok(min.zip(max).map(|(min, max)| {
            let from = self.since.map_or(min, |since| since.max(min));
            Times { from, to: self.until.map_or(max, |until| until.min(max)).max(from) }
        }))
    }
}

/// Notes that records were left out whose transactions may be committed later.
fn note_open(summary: &v1::SearchSummary) -> Result<(), CliError> {
    match summary.bundles_with_open_transactions {
        0 => Ok(()),
        bundles => output::note(&format!(
            "{bundles} bundles hold records of transactions whose end is not stored: these are left out"
        )),
    }
}

/// Warns about bundles that contradict each other, and about inexact answers.
fn warn_of_conflicts(summary: &v1::SearchSummary) {
    for conflict in &summary.conflicts {
        let v1::Conflict { topic, partition, log_id, offset, bundle_keys, versions: _ } = conflict;
        warn!(
            topic,
            partition,
            log_id,
            offset,
            bundles = bundle_keys.join(" "),
            leader_epochs = output::leader_epochs(conflict),
            "bundles hold different records for one offset"
        );
    }
    if summary.phrases_as_words {
        warn!("the index has no word positions: phrases were looked for as words in any order");
    }
    if !summary.unsure_bundle_keys.is_empty() {
        let bundles = summary.unsure_bundle_keys.join(" ");
        warn!(bundles, "matches in these bundles may be inexact: an earlier release wrote their indexes");
    }
}

/// Prints records and the summary.
struct Printer<'a> {
    args: &'a SearchArgs,
    highlighter: Highlighter,
}

impl Printer<'_> {
    fn record(&self, record: v1::Record) -> Result<(), CliError> {
        if self.args.json {
            return output::record(record, output::Contents::of(self.args.base64));
        }
        let time = output::time_ms(record.timestamp_ms);
        let value = || self.highlighter.value(record.value.as_deref());
        let value = record.omitted_bytes.map_or_else(value, terminal_escaping::omitted);
        let topic = terminal_escaping::one_line(&record.topic);
        let mark = isolation::mark(&record);
        output::line(&format!("{time} {topic}/{}@{} {mark}{value}", record.partition, record.offset))
    }

    fn summary(&self, summary: &v1::SearchSummary) -> Result<(), CliError> {
        if self.args.count {
            return match self.args.json {
                true => output::json_line(summary),
                false => output::line(&summary.matched.to_string()),
            };
        }
        // Also a reader of a pipe must learn that there are more matches.
        let is_cut = summary.bundles_left > 0 || summary.matched > u64::from(self.args.limit);
        if is_cut || std::io::stderr().is_terminal() {
            output::note(&in_words(summary))?;
        }
        Ok(())
    }
}

/// Describes the cost of the search, and whether more records may match.
fn in_words(summary: &v1::SearchSummary) -> String {
    let v1::SearchSummary { matched, bundles_searched, bundles_left, bundles_pruned, .. } = summary;
    let (read, took) = (output::bytes(summary.bytes_fetched), Duration::from_micros(summary.total_us));
    let (requests, took) = (summary.requests_to_store, output::duration(took));
    let least = if *bundles_left > 0 { "at least " } else { "" };
    let left = match bundles_left {
        0 => String::new(),
        left => format!(", {left} not opened: more may match, --count counts all"),
    };
    format!(
        "{least}{matched} records match; {bundles_searched} bundles searched, {bundles_pruned} passed over{left}; \
         {read} in {requests} requests, {took}"
    )
}
