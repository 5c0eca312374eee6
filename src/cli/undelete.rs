//! `undelete`: makes hidden bundles visible again.

use std::io;
use std::num::NonZeroU64;

use serde::Serialize;

use super::hidden::{MarkerLine, and_without_bundle, in_words, print_outcome, print_table};
use super::report::{Report, bundles, print_json, print_line};
use super::store::{StoreArgs, exit_of_store};
use super::terminal_escaping::one_line;
use super::{CliError, output, runtime, stderr, time_argument};
use crate::hidden::undelete::{self, Outcome, Progress, Selection, Undeleted};
use crate::hidden::{Entry, Scope};
use crate::ids::LogId;
use crate::store::Store;

/// Bring back what `expire`, or the owner of a log, has deleted, as long as `purge` has not removed it.
///
/// The bundles are hidden, not gone: this removes the markers that hide them. Then they are in every answer
/// again, and a segment that is sent again gets its receipt. To avoid mistakes, only --store, --per-second
/// and --json can also be set by variables. Do not run it beside a `purge`.
#[derive(Debug, clap::Args)]
pub struct UndeleteArgs {
    /// Bring back bundles of this topic.
    #[arg(long, value_name = "TOPIC")]
    topic: String,

    /// Bring back only bundles of this partition. May be given several times. Default: all partitions.
    #[arg(long = "partition", value_name = "N")]
    partitions: Vec<i32>,

    /// Bring back only bundles of this incarnation of the log. Default: all.
    #[arg(long, value_name = "ID")]
    log_id: Option<String>,

    /// Bring back only the bundle that begins at this offset. May be given several times.
    #[arg(long = "base-offset", value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    base_offsets: Vec<i64>,

    /// Bring back only what was deleted at this time or later: 2024-05-01, 2024-05-01T12:00:00Z, milliseconds
    /// since the epoch, or an age: 12h, 30d.
    #[arg(long, value_name = "TIME", value_parser = time_argument::parse)]
    since: Option<i64>,

    /// Show what would come back, and change nothing.
    #[arg(long)]
    dry_run: bool,

    /// The maximum number of markers to remove per second, to leave capacity of the store to others.
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
    selected_markers: u64,
    undeleted_bundles: u64,
    undeleted_bytes: u64,
    without_bundle: u64,
    undeleted_before: u64,
    left_markers: u64,
}

/// Selects, removes the markers, and prints what came back. Fails if a marker is left; the same command then
/// continues there.
pub fn run(args: &UndeleteArgs) -> Result<(), CliError> {
    let store = args.store.open()?;
    let runtime = runtime()?;
    let entries = runtime.block_on(undelete::select(&store, &args.scope(), &args.selection()));
    let entries = entries.map_err(|error| CliError::new(exit_of_store(&error), "cannot list", &error))?;
    if args.dry_run {
        return args.print_plan(&entries, &store);
    }
    let report = Report::new();
    let outcome = runtime.block_on(undelete::apply(&entries, &store, args.per_second, |progress| {
        report.note(args.report(progress))
    }));
    report.note(args.report_summary(&entries, &outcome, &store));
    if let Some(error) = outcome.failures.first() {
        let what = format!("incomplete: {} left", super::hidden::markers(outcome.left));
        return Err(CliError::new(exit_of_store(error), &what, error));
    }
    report.end()
}

impl UndeleteArgs {
    fn scope(&self) -> Scope {
        Scope {
            topic: Some(self.topic.clone()),
            partitions: self.partitions.clone(),
            log_id: self.log_id.as_deref().map(LogId::new),
        }
    }

    fn selection(&self) -> Selection {
        Selection { since_ms: self.since, base_offsets: self.base_offsets.clone() }
    }

    fn print_plan(&self, entries: &[Entry], store: &Store) -> Result<(), CliError> {
        if self.json {
            entries.iter().try_for_each(|entry| output::json_line(&MarkerLine::new(entry, None)))?;
            return output::json_line(&self.summary(entries, &Outcome::default()));
        }
        if entries.is_empty() {
            return output::line(&self.nothing(store));
        }
        print_table(entries)?;
        output::line(&format!("would come back: {}; nothing was changed", in_words(entries)))
    }

    fn report(&self, progress: Progress<'_>) -> io::Result<()> {
        let (entry, undeleted) = match progress {
            Progress::Done(entry, undeleted) => (entry, undeleted),
            Progress::Failed(_, error) => return stderr::line(&error.to_string()),
        };
        let (outcome, words) = match undeleted {
            Undeleted::Visible { .. } => ("undeleted", "undeleted"),
            Undeleted::NoBundle => ("without_bundle", "no bundle any more, marker removed:"),
            Undeleted::Before => ("undeleted_before", "was undeleted"),
        };
        match self.json {
            true => print_json(&MarkerLine::new(entry, Some(outcome))),
            false => print_outcome(entry, words),
        }
    }

    fn report_summary(&self, entries: &[Entry], outcome: &Outcome, store: &Store) -> io::Result<()> {
        if self.json {
            return print_json(&self.summary(entries, outcome));
        }
        if entries.is_empty() {
            return print_line(&self.nothing(store));
        }
        let size = output::bytes(outcome.size_bytes);
        let without = and_without_bundle(outcome.without_bundle);
        print_line(&format!("undeleted: {}, {size}{without}", bundles(outcome.bundles)))
    }

    fn summary(&self, entries: &[Entry], outcome: &Outcome) -> SummaryLine {
        SummaryLine {
            dry_run: self.dry_run,
            selected_markers: entries.len() as u64,
            undeleted_bundles: outcome.bundles,
            undeleted_bytes: outcome.size_bytes,
            without_bundle: outcome.without_bundle,
            undeleted_before: outcome.before,
            left_markers: outcome.left,
        }
    }

    fn nothing(&self, store: &Store) -> String {
        format!("nothing of {} that is selected is hidden in {}", one_line(&self.topic), store.url())
    }
}
