//! What `ls --deleted`, `undelete` and `purge` print: a line for each marker.

use std::io;

use serde::Serialize;

use super::report::{bundles, print_line};
use super::terminal_escaping::one_line;
use super::{CliError, output};
use crate::hidden::Entry;

/// A marker, with what it hides, as JSON.
#[derive(Serialize)]
pub struct MarkerLine<'a> {
    /// What was done with it; absent in a listing.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'a str>,
    topic: &'a str,
    partition: i32,
    log_id: &'a str,
    base_offset: i64,
    reason: &'a str,
    hidden_at_ms: i64,
    /// The key of the marker.
    marker: String,
    bundles: Vec<BundleLine>,
}

#[derive(Serialize)]
struct BundleLine {
    key: String,
    size_bytes: u64,
}

impl<'a> MarkerLine<'a> {
    /// The line for a marker, and what was done with it.
    pub fn new(Entry { listed, marker }: &'a Entry, outcome: Option<&'a str>) -> Self {
        let bundles = listed.hides.iter();
        Self {
            outcome,
            topic: listed.key.partition().topic(),
            partition: listed.key.partition().partition(),
            log_id: listed.key.log_id().as_str(),
            base_offset: listed.key.base_offset(),
            reason: marker.reason.name(),
            hidden_at_ms: marker.hidden_at_ms,
            marker: listed.key.to_string(),
            bundles: bundles
                .map(|bundle| BundleLine { key: bundle.key.to_string(), size_bytes: bundle.size_bytes })
                .collect(),
        }
    }
}

/// Prints what is hidden as a table: a row for each bundle, and for each marker without a bundle.
pub fn print_table(entries: &[Entry]) -> Result<(), CliError> {
    let header = ["partition", "log", "offsets", "hidden", "why", "size", "key"];
    let mut table = output::table(&header, &[5]);
    for Entry { listed, marker } in entries {
        let row = |offsets: String, size: String, key: String| {
            [
                one_line(&listed.key.partition().to_string()).into_owned(),
                one_line(listed.key.log_id().as_str()).into_owned(),
                offsets,
                output::time_ms(Some(marker.hidden_at_ms)),
                marker.reason.name().to_owned(),
                size,
                key,
            ]
        };
        if listed.hides.is_empty() {
            let offsets = format!("{}..", listed.key.base_offset());
            table.add_row(row(offsets, "no bundle".to_owned(), listed.key.to_string()));
        }
        for bundle in &listed.hides {
            let range = bundle.key.range();
            let offsets = format!("{}..{}", range.first(), range.last());
            table.add_row(row(offsets, output::bytes(bundle.size_bytes), bundle.key.to_string()));
        }
    }
    output::line(&table.trim_fmt())
}

/// Prints a line for each bundle of a marker, or one for the marker if it has none.
pub fn print_outcome(entry: &Entry, what: &str) -> io::Result<()> {
    if entry.listed.hides.is_empty() {
        return print_line(&format!("{what} {} (no bundle)", entry.listed.key));
    }
    entry.listed.hides.iter().try_for_each(|bundle| print_line(&format!("{what} {}", bundle.key)))
}

/// The bundles of markers in words: `3 bundles, 905.5 KiB, and 1 marker without a bundle`.
pub fn in_words(entries: &[Entry]) -> String {
    let count = entries.iter().map(|entry| entry.listed.hides.len() as u64).sum();
    let size_bytes = entries.iter().map(Entry::size_bytes).sum();
    let without = entries.iter().filter(|entry| entry.listed.hides.is_empty()).count() as u64;
    format!("{}, {}{}", bundles(count), output::bytes(size_bytes), and_without_bundle(without))
}

/// `, and 1 marker without a bundle`, or nothing.
pub fn and_without_bundle(count: u64) -> String {
    match count {
        0 => String::new(),
        count => format!(", and {} without a bundle", markers(count)),
    }
}

/// `1 marker`, `2 markers`.
pub fn markers(count: u64) -> String {
    format!("{count} marker{}", if count == 1 { "" } else { "s" })
}
