//! What verbs print: tables for people, one JSON object per line for programs, progress bars on terminals
//! only.

mod blocks;
mod record;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::time::Duration;

use bytesize::ByteSize;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::terminal_escaping::one_line;
use super::{CliError, Exit, stderr};
use crate::proto::v1;

pub use blocks::{end, in_blocks, print};
pub use record::{Contents, record};

/// Prints one JSON object on a line of its own, on standard output.
pub fn json_line(value: &impl Serialize) -> Result<(), CliError> {
    let mut line = serde_json::to_vec(value)
        .map_err(|error| CliError::new(Exit::Failed, "cannot write JSON", &error))?;
    line.push(b'\n');
    print(&line)
}

/// Returns whether output to this stream may have colours: on a terminal that supports them, unless
/// `NO_COLOR` is set (<https://no-color.org>).
pub fn has_colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && may_colour()
}

/// The same rule for help and the errors of the command line. Clap has a different rule: where `CI` is set,
/// it assumes that every terminal supports colours.
pub fn help_colours() -> clap::ColorChoice {
    if may_colour() { clap::ColorChoice::Auto } else { clap::ColorChoice::Never }
}

/// Returns whether the environment allows colours.
fn may_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && !is_dumb()
}

/// Returns whether the terminal supports no escape sequences at all (`TERM=dumb`).
pub fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// Prints a line on standard output.
pub fn line(text: &str) -> Result<(), CliError> {
    print(format!("{text}\n").as_bytes())
}

/// Prints a line on standard error, beside the answer.
pub fn note(text: &str) -> Result<(), CliError> {
    // The output that is printed before this line must appear before it.
    blocks::write_waiting()?;
    stderr::line(text).map_err(|error| CliError::new(Exit::Failed, "standard error", &error))
}

/// A table without borders. `right` has the numbers of the columns that are aligned right.
pub fn table(header: &[&str], right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.to_vec());
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// `12.3 MiB`.
pub fn bytes(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

/// `1.2s`, `350ms`.
pub fn duration(duration: Duration) -> String {
    match duration.as_millis() {
        ..1_000 => format!("{}ms", duration.as_millis()),
        _ => format!("{:.1}s", duration.as_secs_f64()),
    }
}

/// RFC 3339, always with three digits of milliseconds, so that lines sort in the order of time.
const MILLISECONDS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// A time in milliseconds since the Unix epoch, as RFC 3339; `-` if there is none.
pub fn time_ms(ms: Option<i64>) -> String {
    let time = ms.and_then(|ms| OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok());
    time.and_then(|time| time.format(MILLISECONDS).ok())
        .unwrap_or_else(|| ms.map_or("-".into(), |ms| ms.to_string()))
}

/// The leader epochs of the different records at one offset, in the order in which they are printed: `7 8`. A
/// record without one is `-`. `None` if a worker of an earlier release does not say.
pub fn leader_epochs(conflict: &v1::Conflict) -> Option<String> {
    let epoch = |version: &v1::conflict::Version| {
        version.leader_epoch.map_or_else(|| "-".to_owned(), |epoch| epoch.to_string())
    };
    let epochs: Vec<_> = conflict.versions.iter().map(epoch).collect();
    Some(epochs.join(" ")).filter(|epochs| !epochs.is_empty())
}

/// Counts by kind: `2 EMPTY_FRAME, 1 BYTES_LEFT_OVER`; `-` if there are none.
pub fn counts<'a, K: AsRef<str> + 'a>(counts: impl IntoIterator<Item = (&'a K, &'a u64)>) -> String {
    let counts: Vec<_> =
        counts.into_iter().map(|(kind, count)| format!("{count} {}", one_line(kind.as_ref()))).collect();
    if counts.is_empty() { "-".to_owned() } else { counts.join(", ") }
}

/// The receipts of several segments as a table, with one row for each partition. Anomalies and undecoded
/// frames follow the table.
pub fn receipts(receipts: &[v1::IndexSegmentResponse]) -> String {
    let header = ["segment", "bytes", "partition", "offsets", "records", "bundle", "took", "key"];
    let mut table = table(&header, &[1, 4, 5, 6]);
    for receipt in receipts {
        let took = Duration::from_micros(receipt.timings.map_or(0, |timings| timings.total_us));
        let (segment, size) = (receipt.segment_id.clone(), bytes(receipt.bytes_read));
        if receipt.partitions.is_empty() {
            table.add_row([
                segment,
                size,
                "-".into(),
                "-".into(),
                "0".into(),
                "-".into(),
                duration(took),
                "-".into(),
            ]);
            continue;
        }
        for one in &receipt.partitions {
            let bundle = one.bundle.clone().unwrap_or_default();
            table.add_row([
                segment.clone(),
                size.clone(),
                format!("{}/{}", one.topic, one.partition),
                format!("{}..{}", one.base_offset, one.last_offset),
                one.record_count.to_string(),
                format!(
                    "{}{}",
                    bytes(bundle.size_bytes),
                    if bundle.already_existed { " (was there)" } else { "" }
                ),
                duration(took),
                bundle.key,
            ]);
        }
    }
    let mut text = table.trim_fmt();
    for receipt in receipts {
        let segment = &receipt.segment_id;
        if !receipt.anomalies.is_empty() {
            let anomalies: BTreeMap<_, _> = receipt.anomalies.iter().collect();
            let anomalies = counts(anomalies.iter().map(|(kind, count)| (*kind, *count)));
            text.push_str(&format!("\n{segment}: anomalies: {anomalies}"));
        }
        if let Some(undecoded) = &receipt.undecoded {
            let (frames, reasons) = (undecoded.frames, undecoded.reasons.iter().collect::<BTreeMap<_, _>>());
            let reasons = counts(reasons.iter().map(|(kind, count)| (*kind, *count)));
            text.push_str(&format!("\n{segment}: {frames} frames not decoded, kept as they are: {reasons}"));
        }
    }
    text
}

/// A progress bar over bytes, on standard error if that is a terminal; otherwise a hidden bar.
pub fn progress(total_bytes: u64, what: &str) -> ProgressBar {
    if !io::stderr().is_terminal() || is_dumb() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(
        "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total_bytes).with_style(style).with_message(what.to_owned())
}
