//! `expire`: retention and erasure. Shows what would be deleted, and hides it only with `--delete`.

use std::io;
use std::num::NonZeroU64;

use serde::Serialize;

use super::report::{Report, bundles, print_json, print_line};
use super::store::{StoreArgs, exit_of_archive, exit_of_store};
use super::terminal_escaping::one_line;
use super::{CliError, Exit, output, runtime, stderr, time_argument};
use crate::expire::{Limit, LogPlan, Outcome, Plan, PlanError, Progress, Scope};
use crate::ids::LogId;
use crate::registry::{self, Log, Timed};
use crate::store::{Listed, Store};

/// Delete the bundles of a topic that lie wholly before a time or an offset.
///
/// Without --delete nothing is deleted: the program shows what would be deleted and what would stay. A bundle
/// is deleted only as a whole, so one with a single newer record stays. What is deleted is hidden: it is in
/// no answer any more, and `undelete` brings it back until `purge` frees its space. To avoid mistakes, only
/// --store, --per-second and --json can also be set by variables; all other flags must be on the command
/// line.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("limit").required(true))]
pub struct ExpireArgs {
    /// Delete from this topic.
    #[arg(long, value_name = "TOPIC")]
    topic: String,

    /// Delete only from this partition. May be given several times. Default: all partitions.
    #[arg(long = "partition", value_name = "N")]
    partitions: Vec<i32>,

    /// Delete only from this incarnation of the log. Default: all.
    #[arg(long, value_name = "ID")]
    log_id: Option<String>,

    /// Delete bundles whose latest record is older than this: 2024-05-01, 2024-05-01T12:00:00Z, milliseconds
    /// since the epoch, or an age: 12h, 30d. Bundles whose records have no times stay, and so do bundles
    /// whose times cannot be read.
    #[arg(long, group = "limit", value_name = "TIME", value_parser = time_argument::parse, allow_negative_numbers = true)]
    before: Option<i64>,

    /// Delete bundles whose last offset is below this offset.
    #[arg(long, group = "limit", value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    offset: Option<i64>,

    /// Delete the bundles: hide them until `purge` frees their space.
    #[arg(long)]
    delete: bool,

    /// The maximum number of bundles to delete per second, to leave capacity of the store to others.
    #[arg(long, env = "WAL_INDEXER_PER_SECOND", value_name = "N")]
    per_second: Option<NonZeroU64>,

    /// Show every bundle that would be deleted, instead of one line for each log.
    #[arg(long)]
    bundles: bool,

    /// Print JSON, one object per line: each log (or bundle) of the plan, each deletion, then a summary.
    #[arg(long, env = "WAL_INDEXER_JSON")]
    json: bool,

    #[command(flatten)]
    store: StoreArgs,
}

/// What would be deleted and what would stay, for one log.
#[derive(Serialize)]
struct LogLine<'a> {
    topic: &'a str,
    partition: i32,
    log_id: &'a str,
    expired: Option<Sum>,
    kept: Option<Sum>,
    /// The number of kept bundles without a record that has a time.
    kept_untimed: usize,
    /// The number of kept bundles whose times cannot be read.
    kept_unknown: usize,
    /// The number of expired bundles that come after a kept one.
    expired_behind_kept: usize,
}

#[derive(Serialize)]
struct Sum {
    bundles: u64,
    size_bytes: u64,
    first_offset: i64,
    last_offset: i64,
    min_timestamp_ms: Option<i64>,
    max_timestamp_ms: Option<i64>,
    first_key: String,
    last_key: String,
}

/// A bundle of the plan.
#[derive(Serialize)]
struct BundleLine {
    expires: String,
    size_bytes: u64,
}

/// The outcome for one bundle.
#[derive(Serialize)]
struct DeletionLine {
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gone_before: Option<String>,
    size_bytes: u64,
}

#[derive(Serialize)]
struct SummaryLine {
    dry_run: bool,
    expired_bundles: u64,
    expired_bytes: u64,
    deleted_bundles: u64,
    deleted_bytes: u64,
    gone_before: u64,
    left_bundles: u64,
}

/// Plans, prints, and deletes with `--delete`. Fails if a bundle is left that should have been deleted; the
/// same command then continues there.
pub fn run(args: &ExpireArgs) -> Result<(), CliError> {
    let store = args.store.open()?;
    let runtime = runtime()?;
    let plan = runtime.block_on(Plan::new(&store, &args.scope(), args.limit()?));
    let plan = plan.map_err(no_plan)?;
    note_unknown(&plan)?;
    args.print_plan(&plan, &store)?;
    let report = Report::new();
    let outcome = match args.delete {
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
    match plan.logs.iter().map(|log| log.unknown().count() as u64).sum() {
        0 => Ok(()),
        count => {
            let line = format!("{} kept, since their times cannot be read", bundles(count));
            Err(CliError::because(Exit::Corrupt, line))
        }
    }
}

fn no_plan(error: PlanError) -> CliError {
    let exit = match &error {
        PlanError::List(error) => exit_of_store(error),
        PlanError::Archive(error) => exit_of_archive(error),
    };
    CliError::new(exit, "cannot list", &error)
}

/// Names the bundles that stay because their times cannot be read.
fn note_unknown(plan: &Plan) -> Result<(), CliError> {
    let mut unknown = plan.logs.iter().flat_map(LogPlan::unknown);
    let line = |why: &str| format!("stays, since its times cannot be read: {}", one_line(why));
    unknown.try_for_each(|(_, why)| output::note(&line(why)))
}

impl ExpireArgs {
    fn scope(&self) -> Scope {
        Scope {
            topic: self.topic.clone(),
            partitions: self.partitions.clone(),
            log_id: self.log_id.as_deref().map(LogId::new),
        }
    }

    fn limit(&self) -> Result<Limit, CliError> {
        match (self.before, self.offset) {
            (Some(ms), _) => Ok(Limit::BeforeMs(ms)),
            (None, Some(offset)) => Ok(Limit::BelowOffset(offset)),
            (None, None) => Err(CliError::because(Exit::Usage, "--before or --offset is needed")),
        }
    }

    /// The limit in words.
    fn words(&self) -> String {
        match (self.before, self.offset) {
            (Some(ms), _) => format!("before {}", output::time_ms(Some(ms))),
            (None, offset) => format!("below offset {}", offset.unwrap_or_default()),
        }
    }

    fn print_plan(&self, plan: &Plan, store: &Store) -> Result<(), CliError> {
        if self.bundles {
            let all = plan.logs.iter().flat_map(|log| &log.expired);
            return all.into_iter().try_for_each(|one| self.print_bundle(one));
        }
        if self.json {
            return plan.logs.iter().try_for_each(|log| output::json_line(&LogLine::of(log)));
        }
        if plan.logs.is_empty() {
            return output::line(&format!("no such bundles in {}", store.url()));
        }
        print_table(plan)
    }

    fn print_bundle(&self, Timed { listed: one, .. }: &Timed) -> Result<(), CliError> {
        let (expires, size_bytes) = (one.key.to_string(), one.size_bytes);
        match self.json {
            true => output::json_line(&BundleLine { expires, size_bytes }),
            false => output::line(&format!("{:>10}  {expires}", output::bytes(size_bytes))),
        }
    }

    fn report(&self, progress: Progress<'_>) -> io::Result<()> {
        let printed = |one: &Listed| (one.key.to_string(), one.size_bytes);
        let ((key, size_bytes), before) = match progress {
            Progress::Hidden(one) => (printed(one), false),
            Progress::HiddenBefore(one) => (printed(one), true),
            Progress::Failed(one, error) => return stderr::line(&format!("{}: {error}", one.key)),
        };
        match (self.json, before) {
            (false, false) => print_line(&format!("deleted {key}")),
            (false, true) => print_line(&format!("was gone {key}")),
            (true, false) => print_json(&DeletionLine { deleted: Some(key), gone_before: None, size_bytes }),
            (true, true) => print_json(&DeletionLine { deleted: None, gone_before: Some(key), size_bytes }),
        }
    }

    fn report_summary(&self, plan: &Plan, outcome: &Outcome) -> io::Result<()> {
        let (expired_bundles, expired_bytes) = plan.expired();
        let &Outcome { hidden, hidden_bytes, hidden_before, left, .. } = outcome;
        if self.json {
            return print_json(&SummaryLine {
                dry_run: !self.delete,
                expired_bundles,
                expired_bytes,
                deleted_bundles: hidden,
                deleted_bytes: hidden_bytes,
                gone_before: hidden_before,
                left_bundles: left,
            });
        }
        let size = output::bytes(if self.delete { hidden_bytes } else { expired_bytes });
        let words = self.words();
        print_line(&match (self.delete, expired_bundles) {
            (_, 0) => format!("nothing of {} lies wholly {words}", one_line(&self.topic)),
            (false, count) => {
                let count = bundles(count);
                format!("{count}, {size}, wholly {words}; nothing was deleted: --delete does it")
            }
            (true, _) => {
                format!("deleted: {}, {size}; hidden until `purge` frees the space", bundles(hidden))
            }
        })
    }
}

impl Sum {
    fn of(bundles: &[Timed]) -> Option<Self> {
        let log = sum(bundles)?;
        let (min_timestamp_ms, max_timestamp_ms) = log.times_ms.unzip();
        Some(Self {
            bundles: log.bundles,
            size_bytes: log.size_bytes,
            first_offset: log.range.first(),
            last_offset: log.range.last(),
            min_timestamp_ms,
            max_timestamp_ms,
            first_key: bundles.first()?.listed.key.to_string(),
            last_key: bundles.last()?.listed.key.to_string(),
        })
    }
}

impl<'a> LogLine<'a> {
    fn of(log: &'a LogPlan) -> Self {
        Self {
            topic: log.partition.topic(),
            partition: log.partition.partition(),
            log_id: log.log_id.as_str(),
            expired: Sum::of(&log.expired),
            kept: Sum::of(&log.kept),
            kept_untimed: log.untimed(),
            kept_unknown: log.unknown().count(),
            expired_behind_kept: log.behind_kept(),
        }
    }
}

/// The summary of the bundles of one log.
fn sum(bundles: &[Timed]) -> Option<Log> {
    registry::logs(bundles).into_iter().next()
}

fn print_table(plan: &Plan) -> Result<(), CliError> {
    let header = ["partition", "log", "go", "offsets", "from", "to", "size", "stay", "offsets", "notes"];
    let mut table = output::table(&header, &[2, 6, 7]);
    for log in &plan.logs {
        let (go, stay) = (sum(&log.expired), sum(&log.kept));
        let (from, to) = go.as_ref().and_then(|go| go.times_ms).unzip();
        let offsets = |sum: &Option<Log>| {
            let range = sum.as_ref().map(|sum| sum.range);
            range.map_or("-".to_owned(), |range| format!("{}..{}", range.first(), range.last()))
        };
        table.add_row([
            one_line(&log.partition.to_string()).into_owned(),
            one_line(log.log_id.as_str()).into_owned(),
            log.expired.len().to_string(),
            offsets(&go),
            output::time_ms(from),
            output::time_ms(to),
            output::bytes(go.as_ref().map_or(0, |go| go.size_bytes)),
            log.kept.len().to_string(),
            offsets(&stay),
            notes(log),
        ]);
    }
    output::line(&table.trim_fmt())
}

/// The notes about bundles that a user may not expect to stay or to be deleted.
fn notes(log: &LogPlan) -> String {
    let notes = [
        (log.untimed(), "stay, having no times"),
        (log.unknown().count(), "stay, since their times cannot be read"),
        (log.behind_kept(), "go from behind one that stays"),
    ];
    let printed = notes.into_iter().filter(|(count, _)| *count > 0);
    printed.map(|(count, what)| format!("{what}: {count}")).collect::<Vec<_>>().join("; ")
}
