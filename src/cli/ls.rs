//! `ls`: lists the logs and bundles in a store.

use clap::builder::NonEmptyStringValueParser;
use futures::TryStreamExt;

use super::hidden::{MarkerLine, print_table};
use super::store::{exit_of_archive, exit_of_store};
use super::store_or_endpoint::{StoreOrEndpoint, StoreOrEndpointArgs};
use super::terminal_escaping::{of, one_line};
use super::{CliError, Exit, output, runtime};
use crate::hidden::{self, Scope};
use crate::ids::LogId;
use crate::proto::v1;
use crate::registry::{self, Filter, Log, Timed, Times};
use crate::rpc::search::listed;
use crate::store::Listed;

/// The maximum number of gaps shown for a log. All gaps are counted.
const GAPS_SHOWN_MAX: usize = 3;

/// The maximum number of bundles with unknown times that are named.
const UNKNOWN_SHOWN_MAX: usize = 10;

/// The maximum number of named logs that `--log-id` excludes.
const LOGS_SHOWN_MAX: usize = 10;

/// List the stored topics, partitions and their logs, or the bundles of these.
#[derive(Debug, clap::Args)]
pub struct LsArgs {
    /// List only this topic.
    #[arg(long, env = "WAL_INDEXER_TOPIC", value_name = "TOPIC", value_parser = NonEmptyStringValueParser::new())]
    topic: Option<String>,

    /// List only this partition.
    #[arg(long, env = "WAL_INDEXER_PARTITION", value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,

    /// List only this incarnation of the log.
    #[arg(long, env = "WAL_INDEXER_LOG_ID", value_name = "ID")]
    log_id: Option<String>,

    /// List only the bundles of the segment with this SHA-256.
    #[arg(long, env = "WAL_INDEXER_SEGMENT", value_name = "HEX", value_parser = sha256)]
    segment: Option<[u8; 32]>,

    /// Show every bundle, instead of one line for each log.
    #[arg(long, env = "WAL_INDEXER_BUNDLES")]
    bundles: bool,

    /// Show what is deleted and not purged yet instead: each hidden bundle, since when and why, and markers
    /// without a bundle.
    #[arg(long, conflicts_with_all = ["bundles", "segment"])]
    deleted: bool,

    /// Print bundles as protobuf messages in JSON, one per line. With --deleted: markers with their bundles.
    #[arg(long, env = "WAL_INDEXER_JSON")]
    json: bool,

    #[command(flatten)]
    place: StoreOrEndpointArgs,
}

/// Lists and prints.
pub fn run(args: &LsArgs) -> Result<(), CliError> {
    let place = args.place.open()?;
    output::in_blocks();
    if args.deleted {
        return list_deleted(args, &place);
    }
    let (bundles, others) = runtime()?.block_on(async {
        let bundles = list(args, &place, args.log_id.as_deref()).await?;
        Ok::<_, CliError>((bundles, args.others(&place).await?))
    })?;
    if let Some(wanted) = &args.log_id
        && !others.is_empty()
    {
        output::note(&format!("there are more logs than {}: {}", one_line(wanted), in_words(&others)))?;
    }
    if bundles.is_empty() {
        // The note is on standard error. The answer on standard output has no lines then.
        let of = of(args.topic.as_deref(), args.partition);
        return output::note(&format!("no bundles{of} in {}", place.name()));
    }
    note_unknown_times(&bundles)?;
    if args.json {
        return bundles.iter().try_for_each(output::json_line);
    }
    if args.bundles || args.segment.is_some() {
        return print_bundles(&bundles);
    }
    print_logs(&registry::logs(&bundles.iter().map(from_wire).collect::<Result<Vec<_>, _>>()?))
}

impl LsArgs {
    /// Returns the logs that `--log-id` excludes.
    async fn others(&self, place: &StoreOrEndpoint) -> Result<Vec<Log>, CliError> {
        let Some(wanted) = self.log_id.as_deref().map(LogId::new) else { return Ok(Vec::new()) };
        let all = list(self, place, None).await?;
        let mut logs = registry::logs(&all.iter().map(from_wire).collect::<Result<Vec<_>, _>>()?);
        logs.retain(|log| log.log_id != wanted);
        Ok(logs)
    }

    fn filter(&self, log_id: Option<&str>) -> Filter {
        Filter {
            topic: self.topic.clone(),
            partition: self.partition,
            log_id: log_id.map(LogId::new),
            segment_sha256: self.segment,
            ..Filter::default()
        }
    }

    fn request(&self, log_id: Option<&str>) -> v1::ListBundlesRequest {
        let filter = v1::RecordFilter {
            topic: self.topic.clone().unwrap_or_default(),
            partition: self.partition,
            log_id: log_id.map(str::to_owned),
            ..v1::RecordFilter::default()
        };
        let segment_sha256 = self.segment.map(|hash| hash.to_vec().into());
        v1::ListBundlesRequest { filter: Some(filter), segment_sha256 }
    }
}

/// Lists what is hidden. Workers do not list it, so it needs the store itself.
fn list_deleted(args: &LsArgs, place: &StoreOrEndpoint) -> Result<(), CliError> {
    let StoreOrEndpoint::Store(bundle_cache) = place else {
        return Err(CliError::because(Exit::Usage, "--deleted needs --store"));
    };
    let scope = Scope {
        topic: args.topic.clone(),
        partitions: args.partition.into_iter().collect(),
        log_id: args.log_id.as_deref().map(LogId::new),
    };
    let found = runtime()?.block_on(hidden::find(bundle_cache.store(), &scope));
    let found = found.map_err(|error| CliError::new(exit_of_store(&error), "cannot list", &error))?;
    if args.json {
        return found.iter().try_for_each(|entry| output::json_line(&MarkerLine::new(entry, None)));
    }
    if found.is_empty() {
        let of = of(args.topic.as_deref(), args.partition);
        return output::note(&format!("nothing{of} is hidden in {}", place.name()));
    }
    print_table(&found)
}

async fn list(
    args: &LsArgs,
    place: &StoreOrEndpoint,
    log_id: Option<&str>,
) -> Result<Vec<v1::ListBundlesResponse>, CliError> {
    match place {
        StoreOrEndpoint::Store(bundle_cache) => {
            let found = registry::find_timed(bundle_cache, &args.filter(log_id)).await;
            let found = found.map_err(|error| CliError::new(exit_of_store(&error), "cannot list", &error))?;
            let bundles = found.map_ok(|one| listed(bundle_cache.store(), &one)).try_collect().await;
            bundles.map_err(|error| CliError::new(exit_of_archive(&error), "cannot list", &error))
        }
        StoreOrEndpoint::Worker(worker) => {
            let asked = worker.ask(async |client| client.list_bundles(args.request(log_id)).await);
            let failed = |status| CliError::status(worker.name(), &status);
            asked.await?.try_collect().await.map_err(failed)
        }
    }
}

/// Names the bundles whose times are not known. They are listed too.
fn note_unknown_times(bundles: &[v1::ListBundlesResponse]) -> Result<(), CliError> {
    let mut unknown = bundles.iter().filter(|one| !one.times_unknown.is_empty());
    let shown = unknown.by_ref().take(UNKNOWN_SHOWN_MAX);
    shown.into_iter().try_for_each(|one| {
        output::note(&format!("its times are not known: {}", one_line(&one.times_unknown)))
    })?;
    match unknown.count() {
        0 => Ok(()),
        more => output::note(&format!("and the times of {more} more bundles are not known")),
    }
}

/// Converts a listed bundle. All facts come from its key, except the times and the size.
fn from_wire(message: &v1::ListBundlesResponse) -> Result<Timed, CliError> {
    let bundle = message.bundle.clone().unwrap_or_default();
    let key = bundle.key.parse().map_err(|error| CliError::new(Exit::Failed, &bundle.key, &error))?;
    let times = match message.times_unknown.as_str() {
        "" => bundle.min_timestamp_ms.zip(bundle.max_timestamp_ms).into(),
        why => Times::Unknown { why: why.to_owned() },
    };
    let listed = Listed { key, size_bytes: bundle.size_bytes, e_tag: Some(bundle.e_tag), stored_at_ms: 0 };
    Ok(Timed { listed, times })
}

fn print_logs(logs: &[Log]) -> Result<(), CliError> {
    let header = ["partition", "log", "bundles", "offsets", "from", "to", "size", "not covered"];
    let mut table = output::table(&header, &[2, 6]);
    for log in logs {
        let (from, to) = log.times_ms.unzip();
        table.add_row([
            one_line(&log.partition.to_string()).into_owned(),
            one_line(log.log_id.as_str()).into_owned(),
            log.bundles.to_string(),
            format!("{}..{}", log.range.first(), log.range.last()),
            time_or_unknown(from, log.unknown_times > 0),
            time_or_unknown(to, log.unknown_times > 0),
            output::bytes(log.size_bytes),
            gaps(log),
        ]);
    }
    output::line(&table.trim_fmt())
}

/// A time, followed by `?` if the times of some bundles are not known and may lie beyond it.
fn time_or_unknown(ms: Option<i64>, is_unknown: bool) -> String {
    match (ms, is_unknown) {
        (None, true) => "?".to_owned(),
        (Some(_), true) => format!("{}?", output::time_ms(ms)),
        (_, false) => output::time_ms(ms),
    }
}

/// Logs and their offsets: `orders/3 log 0, offsets 0..2; …`.
fn in_words(logs: &[Log]) -> String {
    let shown = logs.iter().take(LOGS_SHOWN_MAX);
    let mut words: Vec<_> = shown
        .map(|log| {
            let (partition, log_id) = (log.partition.to_string(), one_line(log.log_id.as_str()));
            format!(
                "{} log {log_id}, offsets {}..{}",
                one_line(&partition),
                log.range.first(),
                log.range.last()
            )
        })
        .collect();
    if logs.len() > LOGS_SHOWN_MAX {
        words.push(format!("and {} more", logs.len() - LOGS_SHOWN_MAX));
    }
    words.join("; ")
}

fn gaps(log: &Log) -> String {
    let shown = log.gaps.iter().take(GAPS_SHOWN_MAX);
    let mut words: Vec<_> = shown.map(|gap| format!("{}..{}", gap.range.first(), gap.range.last())).collect();
    match log.gaps.len() {
        0 => words.push("-".to_owned()),
        count if count > GAPS_SHOWN_MAX => words.push(format!("and {} more", count - GAPS_SHOWN_MAX)),
        _ => {}
    }
    words.join(", ")
}

fn print_bundles(bundles: &[v1::ListBundlesResponse]) -> Result<(), CliError> {
    let mut table = output::table(&["partition", "log", "offsets", "from", "to", "size", "key"], &[5]);
    for one in bundles {
        let (bundle, is_unknown) = (one.bundle.clone().unwrap_or_default(), !one.times_unknown.is_empty());
        table.add_row([
            format!("{}/{}", one_line(&one.topic), one.partition),
            one_line(&one.log_id).into_owned(),
            format!("{}..{}", bundle.base_offset, bundle.last_offset),
            time_or_unknown(bundle.min_timestamp_ms, is_unknown),
            time_or_unknown(bundle.max_timestamp_ms, is_unknown),
            output::bytes(bundle.size_bytes),
            bundle.key,
        ]);
    }
    output::line(&table.trim_fmt())
}

fn sha256(text: &str) -> Result<[u8; 32], String> {
    let mut hash = [0; 32];
    let is_hex = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)).take_while(|_| is_hex) {
        let digits = str::from_utf8(digits).unwrap_or_default();
        *byte = u8::from_str_radix(digits, 16).map_err(|error| error.to_string())?;
    }
    if is_hex { Ok(hash) } else { Err("64 hexadecimal digits are needed".to_owned()) }
}
