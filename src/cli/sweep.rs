//! `sweep`: shows the partial files that killed writers left behind, and removes them only with `--delete`.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::store::{StoreArgs, exit_of_store};
use super::{CliError, output, runtime, time_argument};
use crate::orphan_cleanup::{self, AGE_MIN};
use crate::store::{Orphan, Store, StoreError};

/// Remove the partial files that killed writers left on a local disk: files named like a bundle, followed by
/// a number.
#[derive(Debug, clap::Args)]
pub struct SweepArgs {
    /// Only files not written to for at least this long: 12h, 1d. The minimum is one hour. Choose more than
    /// the longest time that a writer may work on one file.
    #[arg(long, env = "WAL_INDEXER_OLDER_THAN", value_name = "AGE", default_value = "1d", value_parser = age)]
    older_than: Duration,

    /// Remove the files.
    #[arg(long)]
    delete: bool,

    /// Print JSON, one object per line.
    #[arg(long, env = "WAL_INDEXER_JSON")]
    json: bool,

    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Serialize)]
struct LeftoverLine {
    path: String,
    size_bytes: u64,
    age_seconds: u64,
    object_is_there: bool,
    removed: bool,
}

/// Finds the files, prints them, and removes them with `--delete`.
pub fn run(args: &SweepArgs) -> Result<(), CliError> {
    let store = args.store.open()?;
    let failed = |error: StoreError| CliError::new(exit_of_store(&error), "cannot sweep", &error);
    let runtime = runtime()?;
    let Some(found) = runtime.block_on(orphan_cleanup::find(&store, args.older_than)).map_err(failed)? else {
        return match args.json {
            true => Ok(()),
            false => output::line(&format!(
                "no partial files in {}: this store creates each object as a whole",
                store.url()
            )),
        };
    };
    let (mut removed, mut bytes) = (0_u64, 0);
    for one in &found {
        let gone = args.delete && runtime.block_on(store.remove_orphan(one)).map_err(failed)?;
        removed += u64::from(gone);
        bytes += one.size_bytes;
        args.report(one, gone)?;
    }
    if args.json { Ok(()) } else { args.report_sum(&store, found.len(), removed, bytes) }
}

impl SweepArgs {
    fn report(&self, one: &Orphan, removed: bool) -> Result<(), CliError> {
        let age = SystemTime::now().duration_since(one.changed_at).unwrap_or_default();
        let path = one.path.display().to_string();
        if self.json {
            let (size_bytes, age_seconds) = (one.size_bytes, age.as_secs());
            let object_is_there = one.object_is_there;
            return output::json_line(&LeftoverLine {
                path,
                size_bytes,
                age_seconds,
                object_is_there,
                removed,
            });
        }
        let what = match (self.delete, removed) {
            (true, true) => "removed ",
            (true, false) => "changed meanwhile ",
            (false, _) => "",
        };
        let hours = age.as_secs() / 3_600;
        output::line(&format!("{what}{path} ({}, {hours} h old)", output::bytes(one.size_bytes)))
    }

    fn report_sum(&self, store: &Store, found: usize, removed: u64, bytes: u64) -> Result<(), CliError> {
        output::line(&match (self.delete, found) {
            (_, 0) => format!("nothing was left in {}", store.url()),
            (true, _) => format!("removed: {removed} of {found}"),
            (false, _) => {
                format!("left: {found}, {}; nothing was removed: --delete does it", output::bytes(bytes))
            }
        })
    }
}

fn age(text: &str) -> Result<Duration, String> {
    let age = time_argument::age_ms(text).and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
    age.filter(|age| *age >= AGE_MIN)
        .ok_or_else(|| "an age of an hour or more is needed, such as 12h or 1d".to_owned())
}
