//! `reconcile`: compares the copies in a store with Kafka's metadata, and hides those that Kafka does not
//! use.

use std::fs::File;
use std::io::{self, BufReader};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::report::{Report, bundles, print_json, print_line};
use super::store::{StoreArgs, exit_of_archive, exit_of_store};
use super::terminal_escaping::one_line;
use super::{CliError, Exit, output, runtime, stderr, time_argument};
use crate::hidden::purge::AFTER_MIN;
use crate::reconcile::{
    KafkaMetadata, LogPlan, MetadataError, Missing, Outcome, Plan, PlanError, Progress, Scope, Sum, Unused,
};
use crate::store::{Listed, Store};

/// Compare the copies in a store with what Kafka's metadata say, and hide the copies that Kafka does not
/// use.
///
/// A broker that dies after a worker's receipt, and before it notes the copy in Kafka's metadata, leaves a
/// copy that nobody deletes. This finds it, and finds copies that Kafka needs and that are missing. Kafka's
/// own console consumer prints the metadata: the topic __remote_log_metadata from its beginning, with Kafka's
/// RemoteLogMetadataFormatter. docs/kafka.md has the command.
///
/// Without --hide nothing is changed. What is hidden is in no answer any more; `undelete` brings it back
/// until `purge` frees its space. Exit code 3: copies that Kafka needs are missing, or bundles cannot be
/// read. To avoid mistakes, only --store, --per-second and --json can also be set by variables.
#[derive(Debug, clap::Args)]
pub struct ReconcileArgs {
    /// The file with the metadata; - for standard input.
    #[arg(long, value_name = "FILE")]
    kafka_metadata: PathBuf,

    /// Compare only this topic. Default: all topics that the metadata name.
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,

    /// How long the metadata must have been silent about a copy that Kafka did not finish: 24h, 7d. Until
    /// then it may still finish. The minimum is 6h, since a request may take nearly as long.
    #[arg(long, value_name = "AGE", default_value = "24h", value_parser = after)]
    after: Duration,

    /// A time before the console consumer was started: an RFC 3339 time, milliseconds since the epoch, or an
    /// age such as 15m. Default: the time of the last event about any log in the same partition of the topic,
    /// which in a quiet cluster may be long ago.
    #[arg(long, value_name = "TIME", value_parser = as_of)]
    as_of: Option<i64>,

    /// Hide the copies that Kafka does not use.
    #[arg(long)]
    hide: bool,

    /// The maximum number of copies to hide per second, to leave capacity of the store to others.
    #[arg(long, env = "WAL_INDEXER_PER_SECOND", value_name = "N")]
    per_second: Option<NonZeroU64>,

    /// Print JSON, one object per line: each log, each copy that is hidden, then a summary.
    #[arg(long, env = "WAL_INDEXER_JSON")]
    json: bool,

    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Serialize)]
struct LogLine<'a> {
    topic: &'a str,
    partition: i32,
    log_id: &'a str,
    used: SumLine,
    undecided: SumLine,
    undeleted: SumLine,
    others: SumLine,
    unused: Vec<UnusedLine<'a>>,
    missing: Vec<MissingLine<'a>>,
    unreadable: Vec<UnreadableLine<'a>>,
}

#[derive(Serialize)]
struct SumLine {
    bundles: u64,
    size_bytes: u64,
}

/// A copy that Kafka does not use.
#[derive(Serialize)]
struct UnusedLine<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'a str>,
    key: String,
    size_bytes: u64,
    copy_id: &'a str,
    /// Kafka's name for the copy's state; absent if Kafka's metadata do not name the copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'a str>,
}

#[derive(Serialize)]
struct MissingLine<'a> {
    copy_id: &'a str,
    base_offset: Option<i64>,
    /// Why it is hidden; absent if it is not in the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    hidden: Option<&'a str>,
}

#[derive(Serialize)]
struct UnreadableLine<'a> {
    key: String,
    why: &'a str,
}

#[derive(Serialize)]
struct SummaryLine {
    dry_run: bool,
    used_bundles: u64,
    unused_bundles: u64,
    unused_bytes: u64,
    missing_bundles: u64,
    unreadable_bundles: u64,
    hidden_bundles: u64,
    hidden_bytes: u64,
    left_bundles: u64,
}

/// Compares, prints, and hides with `--hide`. Fails if something is missing or unreadable, or if a copy is
/// left that should have been hidden; the same command then continues there.
pub fn run(args: &ReconcileArgs) -> Result<(), CliError> {
    let store = args.store.open()?;
    let metadata = read(&args.kafka_metadata).map_err(|error| match error {
        MetadataError::Io(_) => CliError::flag("--kafka-metadata", &error),
        _ => CliError::new(Exit::Corrupt, "--kafka-metadata", &error),
    })?;
    let runtime = runtime()?;
    let plan = runtime.block_on(Plan::new(&store, &metadata, &args.scope())).map_err(no_plan)?;
    args.print_plan(&plan, &store)?;
    let report = Report::new();
    let outcome = match args.hide {
        true => runtime
            .block_on(plan.apply(&store, args.per_second, |progress| report.note(args.report(progress)))),
        false => Outcome::default(),
    };
    report.note(args.report_summary(&plan, &outcome));
    if let Some(error) = outcome.failures.first() {
        let what = format!("incomplete: {} left", bundles(outcome.left));
        return Err(CliError::new(exit_of_store(error), &what, error));
    }
    report.end()?;
    let (missing, unreadable) =
        (count(&plan, |log| log.missing.len()), count(&plan, |log| log.unreadable.len()));
    match (missing, unreadable) {
        (0, 0) => Ok(()),
        (0, unreadable) => {
            Err(CliError::because(Exit::Corrupt, format!("{} cannot be read", bundles(unreadable))))
        }
        (missing, _) => Err(CliError::because(
            Exit::Corrupt,
            format!("{} that Kafka needs: not visible in the store", copies(missing)),
        )),
    }
}

fn read(path: &Path) -> Result<KafkaMetadata, MetadataError> {
    match path.as_os_str() == "-" {
        true => KafkaMetadata::read(io::stdin().lock()),
        false => KafkaMetadata::read(BufReader::new(File::open(path)?)),
    }
}

fn no_plan(error: PlanError) -> CliError {
    let exit = match &error {
        PlanError::List(error) => exit_of_store(error),
        PlanError::Archive(error) => exit_of_archive(error),
    };
    CliError::new(exit, "cannot compare", &error)
}

impl ReconcileArgs {
    fn scope(&self) -> Scope {
        Scope { topic: self.topic.clone(), after: self.after, as_of_ms: self.as_of }
    }

    fn print_plan(&self, plan: &Plan, store: &Store) -> Result<(), CliError> {
        if self.json {
            return plan.logs.iter().try_for_each(|log| output::json_line(&LogLine::of(log)));
        }
        if plan.logs.is_empty() {
            return output::line(&format!(
                "the metadata name no such topic; nothing is compared in {}",
                store.url()
            ));
        }
        print_table(plan)?;
        for log in &plan.logs {
            let name = one_line(&log.partition.to_string()).into_owned();
            log.missing.iter().try_for_each(|one| output::line(&missing_in_words(&name, one)))?;
            let unreadable = |(listed, why): &(_, String)| unreadable_in_words(listed, why);
            log.unreadable.iter().try_for_each(|one| output::line(&unreadable(one)))?;
        }
        if self.hide {
            return Ok(());
        }
        plan.unused()
            .try_for_each(|one| output::line(&format!("unused   {}  {}", one.listed.key, state(one))))
    }

    fn report(&self, progress: Progress<'_>) -> io::Result<()> {
        let unused = match progress {
            Progress::Hidden(unused) => unused,
            Progress::Failed(unused, error) => {
                return stderr::line(&format!("{}: {error}", unused.listed.key));
            }
        };
        match self.json {
            true => print_json(&UnusedLine::new(unused, Some("hidden"))),
            false => print_line(&format!("hidden   {}  {}", unused.listed.key, state(unused))),
        }
    }

    fn report_summary(&self, plan: &Plan, outcome: &Outcome) -> io::Result<()> {
        let (used_bundles, missing_bundles) =
            (plan.logs.iter().map(|log| log.used.bundles).sum(), count(plan, |log| log.missing.len()));
        let unused_bundles = plan.unused().count() as u64;
        let unused_bytes = plan.unused().map(|one| one.listed.size_bytes).sum();
        if self.json {
            return print_json(&SummaryLine {
                dry_run: !self.hide,
                used_bundles,
                unused_bundles,
                unused_bytes,
                missing_bundles,
                unreadable_bundles: count(plan, |log| log.unreadable.len()),
                hidden_bundles: outcome.hidden.bundles,
                hidden_bytes: outcome.hidden.size_bytes,
                left_bundles: outcome.left,
            });
        }
        let size = output::bytes(unused_bytes);
        let of_kafka = format!("{} that Kafka uses", copies(used_bundles));
        print_line(&match (self.hide, unused_bundles) {
            (_, 0) => format!("{of_kafka}; none that it does not use"),
            (false, count) => {
                format!("{of_kafka}; {count} that it does not use, {size}: --hide hides them")
            }
            (true, _) => format!(
                "{of_kafka}; hidden: {}, {}, until `purge` frees the space",
                copies(outcome.hidden.bundles),
                output::bytes(outcome.hidden.size_bytes)
            ),
        })
    }
}

impl<'a> LogLine<'a> {
    fn of(log: &'a LogPlan) -> Self {
        let missing = |one: &'a Missing| MissingLine {
            copy_id: one.copy.id.as_str(),
            base_offset: one.copy.base_offset,
            hidden: one.hidden.as_ref().map(|reason| reason.name()),
        };
        let unreadable = log.unreadable.iter();
        Self {
            topic: log.partition.topic(),
            partition: log.partition.partition(),
            log_id: log.log_id.as_str(),
            used: log.used.into(),
            undecided: log.undecided.into(),
            undeleted: log.undeleted.into(),
            others: log.others.into(),
            unused: log.unused.iter().map(|one| UnusedLine::new(one, None)).collect(),
            missing: log.missing.iter().map(missing).collect(),
            unreadable: unreadable
                .map(|(one, why)| UnreadableLine { key: one.key.to_string(), why })
                .collect(),
        }
    }
}

impl<'a> UnusedLine<'a> {
    fn new(unused: &'a Unused, outcome: Option<&'a str>) -> Self {
        Self {
            outcome,
            key: unused.listed.key.to_string(),
            size_bytes: unused.listed.size_bytes,
            copy_id: unused.copy_id.as_str(),
            state: unused.state.map(|state| state.name()),
        }
    }
}

impl From<Sum> for SumLine {
    fn from(Sum { bundles, size_bytes }: Sum) -> Self {
        Self { bundles, size_bytes }
    }
}

fn print_table(plan: &Plan) -> Result<(), CliError> {
    let header =
        ["partition", "log", "used", "size", "missing", "unused", "undecided", "undeleted", "others"];
    let mut table = output::table(&header, &[2, 3, 4, 5, 6, 7, 8]);
    for log in &plan.logs {
        table.add_row([
            one_line(&log.partition.to_string()).into_owned(),
            one_line(log.log_id.as_str()).into_owned(),
            log.used.bundles.to_string(),
            output::bytes(log.used.size_bytes),
            log.missing.len().to_string(),
            log.unused.len().to_string(),
            log.undecided.bundles.to_string(),
            log.undeleted.bundles.to_string(),
            log.others.bundles.to_string(),
        ]);
    }
    output::line(&table.trim_fmt())
}

fn missing_in_words(partition: &str, Missing { copy, hidden }: &Missing) -> String {
    let offset = copy.base_offset.map_or(String::new(), |offset| format!(" from offset {offset}"));
    let why = hidden
        .as_ref()
        .map_or("it is not in the store".to_owned(), |reason| format!("it is hidden ({reason})"));
    format!("missing  {partition}{offset}, copy {}: {why}", copy.id.as_str())
}

fn unreadable_in_words(listed: &Listed, why: &str) -> String {
    format!("unknown  {}: {}", listed.key, one_line(why))
}

/// What Kafka knows of a copy that it does not use.
fn state(unused: &Unused) -> String {
    unused.state.map_or("not in Kafka's metadata".to_owned(), |state| state.name().to_owned())
}

fn copies(count: u64) -> String {
    format!("{count} {}", if count == 1 { "copy" } else { "copies" })
}

fn count(plan: &Plan, of: impl Fn(&LogPlan) -> usize) -> u64 {
    plan.logs.iter().map(|log| of(log) as u64).sum()
}

fn after(text: &str) -> Result<Duration, String> {
    let age = time_argument::age(text)?;
    match age < AFTER_MIN {
        true => Err(format!("shorter than a request may take; the least is {} s", AFTER_MIN.as_secs())),
        false => Ok(age),
    }
}

fn as_of(text: &str) -> Result<i64, String> {
    let ms = time_argument::parse(text)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    match u128::try_from(ms).is_ok_and(|ms| ms > now.as_millis()) {
        true => Err("it is in the future".to_owned()),
        false => Ok(ms),
    }
}
