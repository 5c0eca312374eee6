//! `export`: writes a bundle's index for other tools.

use std::path::PathBuf;

use super::store::{self, StoreArgs, exit_of_archive};
use super::{CliError, Exit, output, runtime};
use crate::archive::{Archive, Source};
use crate::export::{self, ExportError};
use crate::store::BundleKey;

/// Write a bundle's index and manifest as a tar.gz, as Chronik's embedded indexer uploads them.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// The bundle's key.
    #[arg(value_name = "KEY", value_parser = store::key)]
    key: BundleKey,

    /// The file to write.
    #[arg(long, env = "WAL_INDEXER_OUT", value_name = "FILE.tar.gz")]
    out: PathBuf,

    #[command(flatten)]
    store: StoreArgs,
}

/// Exports and prints a summary.
pub fn run(args: &ExportArgs) -> Result<(), CliError> {
    let store = args.store.open()?;
    let exported = runtime()?.block_on(async {
        let archive = Archive::open(Source::of_key(&store, &args.key).await?).await?;
        export::export(&archive, &args.out).await
    });
    let exported = exported.map_err(|error| CliError::new(exit(&error), "cannot export", &error))?;
    let (out, bytes) = (args.out.display(), output::bytes(exported.bytes));
    output::line(&format!("{out}: {} files, {bytes} unpacked", exported.files))
}

fn exit(error: &ExportError) -> Exit {
    match error {
        ExportError::Archive(error) => exit_of_archive(error),
        ExportError::Write { .. } => Exit::Failed,
    }
}
