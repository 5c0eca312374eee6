//! `purge`: frees the space of what has been hidden for long enough.

use std::io;
use std::num::NonZeroU64;
use std::time::Duration;

use serde::Serialize;

use super::hidden::{MarkerLine, in_words, markers, print_outcome, print_table};
use super::report::{Report, bundles, print_json, print_line};
use super::store::{StoreArgs, exit_of_store};
use super::{CliError, output, runtime, stderr, time_argument};
use crate::hidden::Scope;
use crate::hidden::purge::{AFTER_MIN, Outcome, Plan, PlanError, Progress, Purged};
use crate::ids::LogId;
use crate::ingest::REQUEST_TIME_MAX;
use crate::store::Store;

// A marker must outlive every request that began before it.
const _: () = assert!(AFTER_MIN.as_secs() > REQUEST_TIME_MAX.as_secs());

/// Delete for good what has been deleted for long enough. This cannot be undone.
///
/// What `expire`, or the owner of a log, deletes is only hidden by a marker at first. This deletes the
/// bundle, then the marker, of every marker that is old enough, and markers without a bundle. To avoid
/// mistakes, only --store, --per-second and --json can also be set by variables.
#[derive(Debug, clap::Args)]
pub struct PurgeArgs {
    /// How long a bundle must have been hidden: 24h, 7d. Until then `undelete` brings it back. The minimum is
    /// 6h, since a request may take nearly as long: a bundle that arrives after its marker is gone would be
    /// visible.
    #[arg(long, value_name = "AGE", value_parser = time_argument::age)]
    after: Duration,

    /// Purge only this topic. Default: all topics.
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,

    /// Purge only this partition. May be given several times. Default: all partitions.
    #[arg(long = "partition", value_name = "N", requires = "topic")]
    partitions: Vec<i32>,

    /// Purge only this incarnation of the log. Default: all.
    #[arg(long, value_name = "ID", requires = "topic")]
    log_id: Option<String>,

    /// Show what would be deleted, and change nothing.
    #[arg(long)]
    dry_run: bool,

    /// The maximum number of bundles to delete per second, to leave capacity of the store to others.
    #[arg(long, env = "WAL_INDEXER_PER_SECOND", value_name = "N")]
    per_second: Option<NonZeroU64>,

    /// Print JSON, one object per line: each marker with its bundles, then a summary.
    #[arg(long, env = "WAL_INDEXER_JSON")]
    json: bool,

    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Serialize)]
struct SummaryLine {
    dry_run: bool,
    due_markers: u64,
    younger_markers: u64,
    purged_bundles: u64,
    purged_bytes: u64,
    purged_markers: u64,
    changed_markers: u64,
    left_markers: u64,
}

/// Plans, deletes unless it is a dry run, and prints. Fails if something is left that should have been
/// deleted; the same command then continues there.
pub fn run(args: &PurgeArgs) -> Result<(), CliError> {
    let store = args.store.open()?;
    let runtime = runtime()?;
    let plan = runtime.block_on(Plan::new(&store, &args.scope(), args.after)).map_err(no_plan)?;
    if args.dry_run {
        return args.print_plan(&plan, &store);
    }
    let report = Report::new();
    let outcome =
        runtime.block_on(plan.apply(&store, args.per_second, |progress| report.note(args.report(progress))));
    report.note(args.report_summary(&plan, &outcome, &store));
    if let Some(error) = outcome.failures.first() {
        let what = format!("incomplete: {} left", markers(outcome.left));
        return Err(CliError::new(exit_of_store(error), &what, error));
    }
    report.end()
}

fn no_plan(error: PlanError) -> CliError {
    match &error {
        PlanError::TooShort { .. } => CliError::flag("--after", &error),
        PlanError::List(cause) => CliError::new(exit_of_store(cause), "cannot list", &error),
    }
}

impl PurgeArgs {
    fn scope(&self) -> Scope {
        Scope {
            topic: self.topic.clone(),
            partitions: self.partitions.clone(),
            log_id: self.log_id.as_deref().map(LogId::new),
        }
    }

    fn print_plan(&self, plan: &Plan, store: &Store) -> Result<(), CliError> {
        if self.json {
            plan.due.iter().try_for_each(|entry| output::json_line(&MarkerLine::new(entry, None)))?;
            return output::json_line(&self.summary(plan, &Outcome::default()));
        }
        if plan.due.is_empty() {
            return output::line(&nothing(plan, store));
        }
        print_table(&plan.due)?;
        let younger = younger(plan);
        output::line(&format!("would be purged: {}{younger}; nothing was deleted", in_words(&plan.due)))
    }

    fn report(&self, progress: Progress<'_>) -> io::Result<()> {
        let (entry, purged) = match progress {
            Progress::Done(entry, purged) => (entry, purged),
            Progress::Failed(_, error) => return stderr::line(&error.to_string()),
        };
        let (outcome, words) = match purged {
            Purged::Deleted { .. } => ("purged", "purged"),
            Purged::Changed => ("changed", "changed meanwhile, left:"),
        };
        match self.json {
            true => print_json(&MarkerLine::new(entry, Some(outcome))),
            false => print_outcome(entry, words),
        }
    }

    fn report_summary(&self, plan: &Plan, outcome: &Outcome, store: &Store) -> io::Result<()> {
        if self.json {
            return print_json(&self.summary(plan, outcome));
        }
        if plan.due.is_empty() {
            return print_line(&nothing(plan, store));
        }
        let (size, younger) = (output::bytes(outcome.size_bytes), younger(plan));
        let (bundles, markers) = (bundles(outcome.bundles), markers(outcome.markers));
        print_line(&format!("purged: {bundles}, {size}, {markers}{younger}"))
    }

    fn summary(&self, plan: &Plan, outcome: &Outcome) -> SummaryLine {
        SummaryLine {
            dry_run: self.dry_run,
            due_markers: plan.due.len() as u64,
            younger_markers: plan.younger.len() as u64,
            purged_bundles: outcome.bundles,
            purged_bytes: outcome.size_bytes,
            purged_markers: outcome.markers,
            changed_markers: outcome.changed,
            left_markers: outcome.left,
        }
    }
}

fn nothing(plan: &Plan, store: &Store) -> String {
    format!("nothing is due in {}{}", store.url(), younger(plan))
}

/// What is hidden, and too young to be purged, in words.
fn younger(plan: &Plan) -> String {
    match plan.younger.is_empty() {
        true => String::new(),
        false => format!("; younger, and left: {}", in_words(&plan.younger)),
    }
}
