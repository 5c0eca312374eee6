//! `verify`: checks whether stored bundles still match their receipts.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::num::NonZeroU64;

use bytesize::ByteSize;
use futures::future::try_join_all;
use serde::Serialize;

use super::store::{self, StoreArgs, exit_of_archive, exit_of_store};
use super::terminal_escaping::one_line;
use super::{CliError, Exit, output, runtime};
use crate::registry::{self, Filter, Log, Timed};
use crate::store::{BundleKey, Listed, Store, StoreError};
use crate::verify::{self, Checked, Finding, Outcome, Progress, VerifyError, VerifyOptions};

/// Check every byte, count and record of stored bundles.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// The keys of the bundles.
    #[arg(required_unless_present = "all", value_name = "KEY", value_parser = store::key)]
    keys: Vec<BundleKey>,

    /// Check all bundles of the store. Then a segment with a missing bundle is also a finding.
    #[arg(long, env = "WAL_INDEXER_ALL", conflicts_with = "keys")]
    all: bool,

    /// Some bundles were deleted by `expire`. A segment with a missing bundle is counted, but is not a
    /// finding.
    #[arg(long, env = "WAL_INDEXER_EXPIRED", requires = "all")]
    expired: bool,

    /// The maximum number of bytes to read per second, to leave capacity of the store to others: 50MiB.
    #[arg(long, env = "WAL_INDEXER_RATE", value_name = "SIZE", value_parser = rate)]
    rate: Option<NonZeroU64>,

    /// Print JSON, one object per line: each bundle, followed by its findings; then segments, gaps and
    /// overlaps.
    #[arg(long, env = "WAL_INDEXER_JSON")]
    json: bool,

    #[command(flatten)]
    store: StoreArgs,
}

/// The result for one bundle.
#[derive(Serialize)]
struct BundleLine<'a> {
    bundle: &'a str,
    size_bytes: u64,
    records: u64,
    terms: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    anomalies: &'a BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "is_zero")]
    undecoded_frames: u64,
    ok: bool,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// One finding.
#[derive(Serialize)]
struct FindingLine<'a> {
    bundle: &'a str,
    finding: &'a str,
}

/// Offsets of a log that no bundle covers, or that two bundles cover.
#[derive(Serialize)]
struct BordersLine<'a> {
    what: &'a str,
    topic: &'a str,
    partition: i32,
    log_id: &'a str,
    first_offset: i64,
    last_offset: i64,
    bundles: [String; 2],
}

/// Verifies and prints. The exit code is 3 if there is any finding. Gaps and overlaps between bundles are
/// reported, but they are not findings: compaction makes gaps, and replicas make overlaps.
pub fn run(args: &VerifyArgs) -> Result<(), CliError> {
    let store = args.store.open()?;
    let (listed, outcome) = runtime()?.block_on(async {
        let listed = list(&store, args);
        let listed =
            listed.await.map_err(|error| CliError::new(exit_of_store(&error), "cannot verify", &error))?;
        let bar = output::progress(listed.iter().map(|one| one.size_bytes).sum(), "verifying");
        let options = VerifyOptions { all: args.all && !args.expired, bytes_per_second: args.rate };
        let printed = Cell::new(Ok(()));
        let print = |line: &dyn Fn() -> Result<(), CliError>| {
            printed.set(printed.replace(Ok(())).and_then(|()| bar.suspend(line)));
        };
        let outcome = verify::verify(&store, &listed, options, |progress| match progress {
            Progress::Bytes(bytes) => bar.inc(bytes),
            Progress::Bundle(checked, findings) => print(&|| print_bundle(args.json, checked, findings)),
            Progress::Segment(finding) => print(&|| print_finding(args.json, finding)),
        });
        let outcome = outcome.await;
        bar.finish_and_clear();
        printed.into_inner()?;
        outcome
            .map(|outcome| (listed, outcome))
            .map_err(|error| CliError::new(exit(&error), "cannot verify", &error))
    })?;
    if args.all {
        let listed: Vec<_> = listed.into_iter().map(Timed::by_key).collect();
        registry::logs(&listed).iter().try_for_each(|log| print_borders(args.json, log))?;
    }
    if !args.json {
        print_summary(&outcome)?;
    }
    match outcome.findings.len() {
        0 => Ok(()),
        1 => Err(CliError::because(Exit::Corrupt, "one thing is wrong")),
        count => Err(CliError::because(Exit::Corrupt, format!("{count} things are wrong"))),
    }
}

async fn list(store: &Store, args: &VerifyArgs) -> Result<Vec<Listed>, StoreError> {
    if args.all {
        return Ok(registry::find(store, &Filter::default()).await?.bundles);
    }
    try_join_all(args.keys.iter().map(|key| store.head(key))).await
}

fn print_bundle(json: bool, checked: &Checked, findings: &[Finding]) -> Result<(), CliError> {
    let Checked { bundle, size_bytes, records, terms, anomalies, undecoded_frames } = checked;
    let (ok, undecoded_frames) = (findings.is_empty(), *undecoded_frames);
    if json {
        let (size_bytes, records, terms) = (*size_bytes, *records, *terms);
        let line = BundleLine { bundle, size_bytes, records, terms, anomalies, undecoded_frames, ok };
        output::json_line(&line)?;
    } else {
        let (mark, size) = (if ok { "ok" } else { "WRONG" }, output::bytes(*size_bytes));
        output::line(&format!("{mark:<5} {size:>10} {records:>9} records {terms:>9} terms found  {bundle}"))?;
        if !anomalies.is_empty() {
            output::line(&format!("      anomalies: {}", output::counts(anomalies)))?;
        }
        if undecoded_frames > 0 {
            output::line(&format!("      {undecoded_frames} frames not decoded"))?;
        }
    }
    findings.iter().try_for_each(|finding| print_finding(json, finding))
}

fn print_finding(json: bool, Finding { bundle, what }: &Finding) -> Result<(), CliError> {
    match json {
        true => output::json_line(&FindingLine { bundle, finding: what }),
        false => output::line(&format!("{bundle}: {what}")),
    }
}

fn print_borders(json: bool, log: &Log) -> Result<(), CliError> {
    let gaps = log.gaps.iter().map(|gap| ("gap", gap.range, [&gap.before, &gap.behind]));
    let overlaps = log.overlaps.iter().map(|one| ("overlap", one.range, [&one.first, &one.second]));
    for (what, range, bundles) in gaps.chain(overlaps) {
        let (partition, log_id) = (&log.partition, log.log_id.as_str());
        let (first_offset, last_offset) = (range.first(), range.last());
        let bundles = bundles.map(BundleKey::to_string);
        if json {
            let (topic, partition) = (partition.topic(), partition.partition());
            let line = BordersLine { what, topic, partition, log_id, first_offset, last_offset, bundles };
            output::json_line(&line)?;
        } else {
            let ([a, b], name) = (bundles, one_line(&partition.to_string()).into_owned());
            let log_id = one_line(log_id);
            output::line(&format!(
                "{what}: {name} log {log_id}, offsets {first_offset}..{last_offset}: {a} and {b}"
            ))?;
        }
    }
    Ok(())
}

fn print_summary(outcome: &Outcome) -> Result<(), CliError> {
    let (whole, partly) = (outcome.segments_whole, outcome.segments_partly);
    output::line(&format!(
        "{} bundles, {} findings; {whole} segments restorable, {partly} not all of whose bundles were looked at",
        outcome.bundles.len(),
        outcome.findings.len()
    ))
}

fn rate(text: &str) -> Result<NonZeroU64, String> {
    let size: ByteSize = text.parse()?;
    NonZeroU64::new(size.as_u64()).ok_or_else(|| "the rate must be more than zero".to_owned())
}

fn exit(error: &VerifyError) -> Exit {
    match error {
        VerifyError::Archive(error) => exit_of_archive(error),
        VerifyError::Restore(_) => Exit::Failed,
    }
}
