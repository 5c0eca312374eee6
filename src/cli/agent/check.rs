//! `agent --check`: prints what an agent would do, without doing it.

use std::collections::BTreeMap;
use std::io::{self, Write};

use bytesize::ByteSize;

use super::super::{CliError, Exit};
use super::Args;
use super::setup::StateLocation;
use crate::agent::{Check, PlannedAction, check};
use crate::wal::dir::WalDir;

/// Prints, for each directory, what would be sent, what is left alone, and why. It is an error if a directory
/// has no partition.
pub(super) async fn print(args: &Args) -> Result<(), CliError> {
    let mut empty = Vec::new();
    for dir in &args.wal.wal_dirs {
        let failed = |error: &dyn std::error::Error| {
            CliError::new(Exit::Failed, &format!("--wal-dir {}", dir.display()), error)
        };
        if !dir.is_dir() {
            empty.push(format!("there is no directory {}", dir.display()));
            continue;
        }
        let location = StateLocation::of(dir, args.wal.state_dir.as_deref())?;
        let wal = args.wal.open(dir, None);
        let found = check(&wal, (&location.dir, &location.name), &args.settings()).await;
        let found = found.map_err(|error| failed(&error))?;
        let listed = found.segments.iter().map(|(segment, _)| segment.clone()).collect();
        let left = wal.ignored_names(listed).await.map_err(|error| failed(&error))?;
        let lines = lines(&wal, &found, &left);
        let printed = io::stdout().lock().write_all(lines.as_bytes());
        printed.map_err(|error| CliError::new(Exit::Failed, "standard output", &error))?;
        if found.listing.partitions == Some(0) {
            let hint = found.listing.hint.map(|hint| format!(": {hint}")).unwrap_or_default();
            empty.push(format!("there is no partition in {}{hint}", dir.display()));
        }
    }
    if empty.is_empty() { Ok(()) } else { Err(CliError::because(Exit::Usage, empty.join("; "))) }
}

/// One line for each segment and directory: what would happen, the name, and the reason or the size,
/// separated by tabs.
fn lines(wal: &WalDir, found: &Check, left: &BTreeMap<String, String>) -> String {
    let mut lines = format!("{}\n", wal.root().display());
    let mut line =
        |what: &str, name: &str, about: &str| lines.push_str(&format!("{what}\t{name}\t{about}\n"));
    let (mut sent, mut bytes) = (0_u64, 0_u64);
    for (segment, prospect) in &found.segments {
        let size = ByteSize::b(segment.version.size_bytes).to_string();
        match prospect {
            PlannedAction::Send => {
                (sent, bytes) = (sent + 1, bytes + segment.version.size_bytes);
                line("send", &segment.name, &size);
            }
            PlannedAction::Stored => line("stored", &segment.name, &size),
            PlannedAction::Young => {
                line("wait", &segment.name, "it changed too recently (--min-segment-age)")
            }
            PlannedAction::Rejected => {
                line("rejected", &segment.name, "workers refused it: see the note beside it")
            }
            PlannedAction::Skipped => line("skipped", &segment.name, "an operator decided so"),
            PlannedAction::Halted => line("halted", &segment.name, "its partition is halted"),
        }
    }
    for halted in &found.listing.halted {
        line("halted", &halted.name, &halted.halt.to_string());
    }
    for (partition, hold) in &found.listing.held {
        line("keep", &partition.to_string(), &format!("nothing of it is deleted: {hold}"));
    }
    for (name, why) in left {
        line("leave", name, why);
    }
    let partitions = found.listing.partitions.unwrap_or_default();
    let bytes = ByteSize::b(bytes);
    lines.push_str(&format!("{partitions} partitions; {sent} segments, {bytes}, would be sent\n"));
    lines
}
