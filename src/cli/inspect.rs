//! `inspect`: shows what is in a segment file or a bundle.

use std::io::ErrorKind;
use std::path::Path;

use url::Url;

use super::store::{self, exit_of_archive};
use super::terminal_escaping::{one_line, value};
use super::{CliError, Exit, output, runtime};
use crate::archive::{Archive, Source, StoredRecord};
use crate::formatting::hex;
use crate::inspect::{self, BundleReport, SegmentReport};
use crate::store::BundleKey;

/// Show what is in a segment file (format, frames, partitions, offsets) or a bundle (manifest, members,
/// blocks).
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// A segment file, a bundle file, or with --store the key of a bundle.
    #[arg(value_name = "PATH|KEY")]
    what: String,

    /// Where the bundle is, if you give a key.
    #[arg(long, env = "WAL_INDEXER_STORE", value_name = "URL", value_parser = crate::store::parse_url)]
    store: Option<Url>,

    /// How many of a segment's first records to show.
    #[arg(long, env = "WAL_INDEXER_RECORDS", default_value_t = 5, value_name = "N")]
    records: usize,

    /// Print the whole report as JSON.
    #[arg(long, env = "WAL_INDEXER_JSON")]
    json: bool,
}

/// Inspects and prints. The exit code is 3 if a segment cannot be read to its end.
pub fn run(args: &InspectArgs) -> Result<(), CliError> {
    let path = Path::new(&args.what);
    match (&args.store, args.what.parse::<BundleKey>()) {
        (Some(url), Ok(key)) if !path.exists() => {
            let store = store::open(url)?;
            print_bundle(
                args,
                runtime()?.block_on(async { Archive::open(Source::of_key(&store, &key).await?).await }),
            )
        }
        (None, Ok(_)) if !path.exists() => {
            Err(CliError::because(Exit::Usage, "this is a bundle's key: --store says where it is"))
        }
        _ => run_file(args, path),
    }
}

fn run_file(args: &InspectArgs, path: &Path) -> Result<(), CliError> {
    let unreadable = |error: std::io::Error| {
        let exit = if error.kind() == ErrorKind::NotFound { Exit::NotFound } else { Exit::Failed };
        CliError::new(exit, &args.what, &error)
    };
    if inspect::is_bundle(path).map_err(unreadable)? {
        return print_bundle(args, runtime()?.block_on(async { Archive::open(Source::file(path)?).await }));
    }
    let bar = output::progress(path.metadata().map_err(unreadable)?.len(), &args.what);
    let report = inspect::segment(path, args.records, |bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let report = report.map_err(unreadable)?;
    if args.json {
        output::json_line(&report)?
    } else {
        output::line(&segment_text(&report))?
    }
    match report.error {
        None => Ok(()),
        Some(error) => Err(CliError::because(Exit::Corrupt, format!("{}: {error}", args.what))),
    }
}

fn print_bundle(
    args: &InspectArgs,
    opened: Result<Archive, crate::archive::ArchiveError>,
) -> Result<(), CliError> {
    let archive = opened.map_err(|error| CliError::new(exit_of_archive(&error), "cannot open", &error))?;
    let report = inspect::bundle(&archive);
    if args.json { output::json_line(&report) } else { output::line(&bundle_text(&report)) }
}

fn segment_text(report: &SegmentReport) -> String {
    let mut facts = output::table(&["", ""], &[]);
    let counts = |counts: Vec<String>| if counts.is_empty() { "-".to_owned() } else { counts.join(", ") };
    let kinds = report.kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let codecs = report.codecs.iter().map(|(codec, count)| format!("{count} {codec}")).collect();
    let unknown = if report.error.is_some() { "unknown" } else { "too short to tell" };
    facts.add_row(["format".to_owned(), report.format.unwrap_or(unknown).to_owned()]);
    facts.add_row(["size".to_owned(), format!("{} bytes", report.size_bytes)]);
    facts.add_row(["sha256".to_owned(), report.sha256.clone()]);
    facts.add_row(["crc32c".to_owned(), report.crc32c.clone()]);
    facts.add_row(["frames".to_owned(), counts(kinds)]);
    facts.add_row(["compression".to_owned(), counts(codecs)]);
    if !report.anomalies.is_empty() {
        facts.add_row(["anomalies".to_owned(), output::counts(&report.anomalies)]);
    }
    if !report.undecodable.is_empty() {
        facts.add_row(["not decodable".to_owned(), output::counts(&report.undecodable)]);
    }
    facts.add_row(["torn tail".to_owned(), format!("{} bytes", report.torn_tail_bytes)]);
    let header = ["partition", "frames", "bytes", "offsets", "records", "control", "from", "to"];
    let mut partitions = output::table(&header, &[1, 2, 4, 5]);
    for part in &report.partitions {
        let name = part.topic.as_deref().zip(part.partition);
        partitions.add_row([
            name.map_or("(not in the frames)".to_owned(), |(topic, n)| format!("{}/{n}", one_line(topic))),
            part.frames.to_string(),
            part.bytes.to_string(),
            offsets_text(part.base_offset, part.last_offset),
            part.records.to_string(),
            part.control_records.to_string(),
            output::time_ms(part.min_timestamp_ms),
            output::time_ms(part.max_timestamp_ms),
        ]);
    }
    let mut text = facts.trim_fmt();
    if !report.partitions.is_empty() {
        text = format!("{text}\n\n{}", partitions.trim_fmt());
    }
    if !report.first_records.is_empty() {
        text = format!("{text}\n\n{}", records_text(&report.first_records));
    }
    text
}

fn records_text(records: &[StoredRecord]) -> String {
    let mut table = output::table(&["offset", "time", "key", "headers", "value"], &[0]);
    for record in records {
        let headers = record.headers.iter();
        let headers: Vec<_> =
            headers.map(|(name, of)| format!("{}={}", value(Some(name)), value(of.as_deref()))).collect();
        table.add_row([
            record.offset.to_string(),
            output::time_ms(record.timestamp_ms),
            value(record.key.as_deref()),
            headers.join(" "),
            value(record.value.as_deref()),
        ]);
    }
    table.trim_fmt()
}

fn bundle_text(report: &BundleReport) -> String {
    let (manifest, segment) = (&report.manifest, &report.manifest.segment);
    let mut facts = output::table(&["", ""], &[]);
    let sha256 = hex(&segment.sha256);
    for (name, fact) in [
        ("bundle", report.bundle.clone()),
        ("size", format!("{} bytes, footer at {}", report.size_bytes, report.footer_offset)),
        ("written by", format!("{}, format {}", one_line(&manifest.created_by), manifest.format_version)),
        (
            "partition",
            format!("{}/{} of log {:?}", one_line(&manifest.topic), manifest.partition, manifest.log_id),
        ),
        (
            "offsets",
            format!(
                "{}, {} gaps",
                offsets_text(manifest.base_offset, manifest.last_offset),
                manifest.gaps.len()
            ),
        ),
        (
            "times",
            format!(
                "{} .. {}",
                output::time_ms(manifest.min_timestamp_ms),
                output::time_ms(manifest.max_timestamp_ms)
            ),
        ),
        ("records", format!("{}, and {} control", manifest.record_count, manifest.control_record_count)),
        ("batches", manifest.batch_count.to_string()),
        ("segment", format!("{:?}, {}, {} bytes", segment.id, segment.format.name(), segment.size_bytes)),
        ("", format!("sha256 {sha256}, crc32c {:08x}", segment.crc32c)),
        ("", format!("{} partitions, {} torn bytes", segment.partitions, segment.torn_tail_bytes)),
        ("index", one_line(&manifest.tantivy.version).into_owned()),
        ("fields", fields(report)),
        ("not searchable", unsearchable(report)),
    ] {
        facts.add_row([name.to_owned(), fact]);
    }
    if !manifest.anomalies.is_empty() {
        facts.add_row(["anomalies".to_owned(), output::counts(&manifest.anomalies)]);
    }
    let undecoded = &manifest.undecoded;
    if !undecoded.is_empty() {
        let reasons = output::counts(&undecoded.reasons);
        let fact = format!("{} frames of {} bytes: {reasons}", undecoded.frames, undecoded.bytes);
        facts.add_row(["not decoded".to_owned(), fact]);
    }
    let mut members = output::table(&["member", "position", "bytes", "crc32c"], &[1, 2]);
    for one in &report.members {
        members.add_row([
            one.name.clone(),
            one.position.to_string(),
            one.bytes.to_string(),
            one.crc32c.clone(),
        ]);
    }
    let header = ["block", "bytes", "opened", "frames", "records", "offsets", "source byte"];
    let mut blocks = output::table(&header, &[0, 1, 2, 3, 4, 6]);
    for one in &report.blocks {
        let offsets = one.first_offset.zip(one.last_offset);
        blocks.add_row([
            one.position.to_string(),
            one.bytes.to_string(),
            one.plain_bytes.to_string(),
            one.frames.to_string(),
            one.records.to_string(),
            match offsets {
                Some((first, last)) if one.is_undecoded => format!("{first}..{last}, not decoded"),
                Some((first, last)) => format!("{first}..{last}"),
                None if one.frames == 0 => "torn tail".to_owned(),
                None => "none".to_owned(),
            },
            one.source_position.to_string(),
        ]);
    }
    format!("{}\n\n{}\n\n{}", facts.trim_fmt(), members.trim_fmt(), blocks.trim_fmt())
}

/// A range of offsets. If `last` is below `first`, there are none.
fn offsets_text(first: i64, last: i64) -> String {
    if first <= last { format!("{first}..{last}") } else { format!("none, at {first}") }
}

fn fields(report: &BundleReport) -> String {
    let fields = &report.manifest.index.fields;
    let shown: Vec<_> = fields.iter().take(12).map(|field| one_line(&field.path).into_owned()).collect();
    match fields.len().saturating_sub(shown.len()) {
        0 if shown.is_empty() => "-".to_owned(),
        0 => shown.join(", "),
        more => format!("{}, and {more} more", shown.join(", ")),
    }
}

fn unsearchable(report: &BundleReport) -> String {
    let counts = report.manifest.index.unsearchable.iter().filter(|(_, count)| **count > 0);
    let counts: Vec<_> = counts.map(|(what, count)| format!("{count} {}", one_line(what))).collect();
    if counts.is_empty() { "-".to_owned() } else { counts.join(", ") }
}
