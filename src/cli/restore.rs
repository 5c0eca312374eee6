//! `restore`: makes a segment from its bundles.

use std::path::PathBuf;

use super::store::{self, StoreArgs, exit_of_archive};
use super::{CliError, Exit, output, runtime};
use crate::formatting;
use crate::restore::{self, RestoreError};
use crate::store::BundleKey;

/// Restore a segment, byte for byte, from its bundles.
#[derive(Debug, clap::Args)]
pub struct RestoreArgs {
    /// The keys of all bundles of one segment, in any order. The segment's receipt and `ls --segment` list
    /// them.
    #[arg(required = true, value_name = "KEY", value_parser = store::key)]
    keys: Vec<BundleKey>,

    /// The file to write. It gets this name only after its hash is checked.
    #[arg(long, env = "WAL_INDEXER_OUT", value_name = "FILE")]
    out: PathBuf,

    #[command(flatten)]
    store: StoreArgs,
}

/// Restores the segment and prints a summary.
pub fn run(args: &RestoreArgs) -> Result<(), CliError> {
    let store = args.store.open()?;
    let restored = runtime()?.block_on(async {
        let bar = output::progress(0, "restoring");
        let progress = |more, of| {
            bar.set_length(of);
            bar.inc(more);
        };
        let restored = restore::restore(&store, &args.keys, &args.out, progress).await;
        bar.finish_and_clear();
        restored
    });
    let restored = restored.map_err(|error| CliError::new(exit(&error), "cannot restore", &error))?;
    let segment = restored.segment;
    let bundles = match restored.bundles {
        1 => "1 bundle".to_owned(),
        several => format!("{several} bundles"),
    };
    let size = output::bytes(segment.size_bytes);
    let (out, sha256) = (args.out.display(), formatting::hex(&segment.sha256));
    output::line(&format!("{out}: segment {:?}, {size} from {bundles}, sha256 {sha256}", segment.id))
}

fn exit(error: &RestoreError) -> Exit {
    match error {
        RestoreError::Archive(error) => exit_of_archive(error),
        RestoreError::NoBundles
        | RestoreError::OtherSegment { .. }
        | RestoreError::SamePartition { .. }
        | RestoreError::Missing { .. }
        | RestoreError::TooMany { .. } => Exit::Usage,
        RestoreError::Hole { .. } | RestoreError::Overlap { .. } | RestoreError::HashDiffers { .. } => {
            Exit::Corrupt
        }
        RestoreError::Write { .. } | RestoreError::Panicked => Exit::Failed,
    }
}
