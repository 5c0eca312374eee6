//! `verify`: whether stored bundles still are what their receipts said.

use futures::future::try_join_all;
use serde::Serialize;

use super::store::{self, StoreArgs, exit_of_archive, exit_of_store};
use super::{CliError, Exit, output, runtime};
use crate::registry::{self, Filter};
use crate::store::{BundleKey, Listed, Store, StoreError};
use crate::verify::{self, Outcome, VerifyError};

/// Check every byte, count and record of stored bundles.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// The bundles' keys.
    #[arg(required_unless_present = "all", value_name = "KEY", value_parser = store::key)]
    keys: Vec<BundleKey>,

    /// All bundles of the store: then a segment that has not all of its bundles is wrong, too.
    #[arg(long, env = "WAL_INDEXER_ALL", conflicts_with = "keys")]
    all: bool,

    /// Print what was found as JSON, one object a line: first each bundle, then what is wrong.
    #[arg(long, env = "WAL_INDEXER_JSON")]
    json: bool,

    #[command(flatten)]
    store: StoreArgs,
}

/// A bundle that was looked at.
#[derive(Serialize)]
struct BundleLine<'a> {
    bundle: &'a str,
    size_bytes: u64,
    records: u64,
    terms: u64,
    ok: bool,
}

/// Something that is wrong.
#[derive(Serialize)]
struct FindingLine<'a> {
    bundle: &'a str,
    finding: &'a str,
}

/// Verifies and prints; exits with 3 where anything is wrong.
pub fn run(args: &VerifyArgs) -> Result<(), CliError> {
    let store = args.store.open()?;
    let outcome = runtime()?.block_on(async {
        let listed = list(&store, args);
        let listed =
            listed.await.map_err(|error| CliError::new(exit_of_store(&error), "cannot verify", &error))?;
        let bar = output::progress(listed.iter().map(|one| one.size_bytes).sum(), "verifying");
        let outcome = verify::verify(&store, &listed, args.all, |bytes| bar.inc(bytes)).await;
        bar.finish_and_clear();
        outcome.map_err(|error| CliError::new(exit(&error), "cannot verify", &error))
    })?;
    if args.json {
        print_json(&outcome)?
    } else {
        print(&outcome)?
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

fn print_json(outcome: &Outcome) -> Result<(), CliError> {
    for one in &outcome.bundles {
        let ok = !outcome.findings.iter().any(|finding| finding.bundle == one.bundle);
        let (bundle, size_bytes) = (one.bundle.as_str(), one.size_bytes);
        output::json_line(&BundleLine { bundle, size_bytes, records: one.records, terms: one.terms, ok })?;
    }
    let mut findings = outcome.findings.iter();
    findings.try_for_each(|one| output::json_line(&FindingLine { bundle: &one.bundle, finding: &one.what }))
}

fn print(outcome: &Outcome) -> Result<(), CliError> {
    let mut table = output::table(&["", "size", "records", "terms found", "key"], &[1, 2, 3]);
    for one in &outcome.bundles {
        let wrong = outcome.findings.iter().any(|finding| finding.bundle == one.bundle);
        table.add_row([
            if wrong { "WRONG" } else { "ok" }.to_owned(),
            output::bytes(one.size_bytes),
            one.records.to_string(),
            one.terms.to_string(),
            one.bundle.clone(),
        ]);
    }
    if !outcome.bundles.is_empty() {
        output::line(&table.trim_fmt())?;
    }
    for finding in &outcome.findings {
        output::line(&format!("{}: {}", finding.bundle, finding.what))?;
    }
    let (whole, partly) = (outcome.segments_whole, outcome.segments_partly);
    output::line(&format!(
        "{} bundles, {} findings; {whole} segments restorable, {partly} not all of whose bundles were looked at",
        outcome.bundles.len(),
        outcome.findings.len()
    ))
}

fn exit(error: &VerifyError) -> Exit {
    match error {
        VerifyError::Archive(error) => exit_of_archive(error),
        VerifyError::Restore(_) => Exit::Failed,
    }
}
