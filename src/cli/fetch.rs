//! `fetch`: reads a partition's records, or batches, from an offset on.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use tonic::Status;
use tracing::warn;

use super::isolation::{self, Isolation};
use super::store_or_endpoint::{StoreOrEndpoint, StoreOrEndpointArgs};
use super::{CliError, Exit, output, runtime, terminal_escaping};
use crate::atomic_file::AtomicFile;
use crate::fetch::Memory;
use crate::proto::v1;
use crate::rpc::search::fetch as rpc;

/// The maximum number of other logs of the partition that are named.
const LOGS_SHOWN_MAX: usize = 10;

/// The pause of `--follow` after a page without progress.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// Read a partition from an offset on, as a consumer does: in offset order, each offset once.
///
/// The answer is one page. The offset of the next page is printed to standard error or, with --json, as the
/// last line.
#[derive(Debug, clap::Args)]
pub struct FetchArgs {
    /// The topic.
    #[arg(long, env = "WAL_INDEXER_TOPIC", value_name = "TOPIC", value_parser = NonEmptyStringValueParser::new())]
    topic: String,

    /// The partition.
    #[arg(long, env = "WAL_INDEXER_PARTITION", value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: i32,

    /// The first offset to read.
    #[arg(long, env = "WAL_INDEXER_OFFSET", value_name = "OFFSET", default_value_t = 0,
        value_parser = clap::value_parser!(i64).range(0..))]
    offset: i64,

    /// The maximum number of records to read.
    #[arg(long, env = "WAL_INDEXER_MAX_RECORDS", value_name = "N", default_value_t = rpc::MAX_RECORDS_DEFAULT as u32,
        value_parser = clap::value_parser!(u32).range(1..))]
    max_records: u32,

    /// The maximum number of bytes to read. The first record or batch is returned even if it is larger.
    #[arg(long, env = "WAL_INDEXER_MAX_BYTES", value_name = "SIZE", default_value = "1MiB")]
    max_bytes: bytesize::ByteSize,

    /// The incarnation of the log. Default: the one of the bundle that was stored last.
    #[arg(long, env = "WAL_INDEXER_LOG_ID", value_name = "ID")]
    log_id: Option<String>,

    /// Whether to read records of transactions that are not committed. `committed` leaves out the records of
    /// aborted transactions, and ends before the first record of a transaction whose end is not stored.
    #[arg(long, env = "WAL_INDEXER_ISOLATION", default_value = "uncommitted", value_name = "LEVEL")]
    isolation: Isolation,

    /// Write the producers' own batches, byte for byte, to --out.
    #[arg(long, env = "WAL_INDEXER_KAFKA_BATCHES", requires = "out")]
    kafka_batches: bool,

    /// The file for the batches.
    #[arg(long, env = "WAL_INDEXER_OUT", value_name = "FILE", requires = "kafka_batches")]
    out: Option<PathBuf>,

    /// Read page after page, and wait for what is stored later. Ends when the process is stopped.
    #[arg(long, env = "WAL_INDEXER_FOLLOW", conflicts_with = "kafka_batches")]
    follow: bool,

    /// Print JSON: one record per line, with keys, values and headers as JSON or text where possible. The
    /// last line has the rest of the answer: nextOffset, logId, conflicts, otherLogs, openTransactionOffset.
    #[arg(long, env = "WAL_INDEXER_JSON")]
    json: bool,

    /// With --json: always print keys, values and headers in base64.
    #[arg(long, env = "WAL_INDEXER_BASE64", requires = "json")]
    base64: bool,

    #[command(flatten)]
    place: StoreOrEndpointArgs,
}

/// Reads and prints.
pub fn run(args: &FetchArgs) -> Result<(), CliError> {
    let place = args.place.open()?;
    if !args.follow {
        output::in_blocks();
    }
    runtime()?.block_on(async {
        match &args.out {
            Some(out) => write_batches(args, &place, out).await,
            None => print_records(args, &place).await,
        }
    })
}

impl FetchArgs {
    fn request(&self) -> v1::FetchRequest {
        v1::FetchRequest {
            topic: self.topic.clone(),
            partition: self.partition,
            offset: self.offset,
            max_records: self.max_records,
            max_bytes: self.max_bytes.as_u64().max(1),
            form: self.isolation.form(self.kafka_batches).into(),
            log_id: self.log_id.clone(),
        }
    }

    /// Notes that the partition has more logs than the one that was read.
    fn note_other_logs(&self, last: &v1::FetchResponse) -> Result<(), CliError> {
        if last.other_logs.is_empty() {
            return Ok(());
        }
        let shown = last.other_logs.iter().take(LOGS_SHOWN_MAX).map(|log| {
            format!(
                "{} (offsets {}..{})",
                terminal_escaping::one_line(&log.log_id),
                log.base_offset(),
                log.last_offset()
            )
        });
        let mut others: Vec<_> = shown.collect();
        if last.other_logs.len() > LOGS_SHOWN_MAX {
            others.push("and more".to_owned());
        }
        let others = others.join(", ");
        let read = match last.log_id.as_str() {
            "" => String::new(),
            log_id => format!("this is log {}; ", terminal_escaping::one_line(log_id)),
        };
        output::note(&format!("{read}other logs of the partition: {others}; --log-id says which is read"))
    }

    /// Prints what follows the records: conflicts, notes, and the next offset.
    fn conclude(&self, last: &v1::FetchResponse) -> Result<(), CliError> {
        for conflict in &last.conflicts {
            let v1::Conflict { offset, bundle_keys, .. } = conflict;
            let leader_epochs = output::leader_epochs(conflict);
            warn!(offset, ?bundle_keys, leader_epochs, "bundles hold different records for one offset");
        }
        if last.log_id.is_empty() {
            output::note(&format!(
                "nothing is stored{}",
                terminal_escaping::of(Some(&self.topic), Some(self.partition))
            ))?;
        }
        self.note_other_logs(last)?;
        note_open(last)?;
        if self.json {
            return output::json_line(last);
        }
        output::note(&format!("next offset: {}", last.next_offset()))
    }
}

/// Notes that the answer ends before a record whose transaction may be committed later.
fn note_open(last: &v1::FetchResponse) -> Result<(), CliError> {
    match last.open_transaction_offset {
        None => Ok(()),
        Some(offset) => output::note(&format!(
            "offset {offset} belongs to a transaction whose end is not stored: a later fetch goes on there"
        )),
    }
}

async fn print_records(args: &FetchArgs, place: &StoreOrEndpoint) -> Result<(), CliError> {
    let (mut request, mut has_begun, mut waits_at) = (args.request(), false, None);
    loop {
        let mut answered_to = request.offset;
        let last = page(place, &request, |message| {
            message.records.into_iter().try_for_each(|record| {
                answered_to = record.offset.saturating_add(1);
                print(args, record)
            })
        });
        let last = match last.await {
            Err(error) if args.follow && has_begun && error.exit() == Exit::Again => {
                warn!(error = error.line(), "looking again");
                request.offset = answered_to;
                tokio::time::sleep(FOLLOW_EVERY).await;
                continue;
            }
            last => last?,
        };
        if !args.follow {
            return args.conclude(&last);
        }
        if !has_begun {
            args.note_other_logs(&last)?;
        }
        if last.open_transaction_offset.is_some() && last.open_transaction_offset != waits_at {
            note_open(&last)?;
        }
        waits_at = last.open_transaction_offset;
        has_begun = true;
        // If the page only passed over gaps and aborted records, more records may follow.
        let is_all = request.offset == last.next_offset();
        request.offset = last.next_offset();
        // Continues with the log of the first page, whichever logs are stored later.
        request.log_id = request.log_id.or(Some(last.log_id).filter(|log_id| !log_id.is_empty()));
        if is_all {
            tokio::time::sleep(FOLLOW_EVERY).await;
        }
    }
}

fn print(args: &FetchArgs, record: v1::Record) -> Result<(), CliError> {
    if args.json {
        return output::record(record, output::Contents::of(args.base64));
    }
    let (time, topic) = (output::time_ms(record.timestamp_ms), terminal_escaping::one_line(&record.topic));
    let value = record
        .omitted_bytes
        .map_or_else(|| terminal_escaping::value(record.value.as_deref()), terminal_escaping::omitted);
    let mark = isolation::mark(&record);
    output::line(&format!("{time} {topic}/{}@{} {mark}{value}", record.partition, record.offset))
}

async fn write_batches(args: &FetchArgs, place: &StoreOrEndpoint, out: &Path) -> Result<(), CliError> {
    let failed = |error| CliError::new(Exit::Failed, &format!("cannot write {}", out.display()), &error);
    let partial = AtomicFile::create(out).map_err(failed)?;
    let (file, request): (Arc<File>, _) = (partial.file(), args.request());
    let write = |message: v1::FetchResponse| (&*file).write_all(&message.kafka_batches).map_err(failed);
    let last = page(place, &request, write).await?;
    partial.keep().map_err(failed)?;
    args.conclude(&last)
}

/// Reads one answer. Passes each message to `each`, except the last one, which is returned.
async fn page(
    place: &StoreOrEndpoint,
    request: &v1::FetchRequest,
    mut each: impl FnMut(v1::FetchResponse) -> Result<(), CliError>,
) -> Result<v1::FetchResponse, CliError> {
    let failed = |status: Status| CliError::question(place.name(), &status);
    let mut messages = ask(place, request.clone()).await?;
    while let Some(message) = messages.next().await {
        let message = message.map_err(failed)?;
        if message.next_offset.is_some() {
            return Ok(message);
        }
        each(message)?;
    }
    Err(CliError::because(Exit::Again, format!("{}: the answer was cut off", place.name())))
}

async fn ask(
    place: &StoreOrEndpoint,
    request: v1::FetchRequest,
) -> Result<BoxStream<'static, Result<v1::FetchResponse, Status>>, CliError> {
    match place {
        StoreOrEndpoint::Worker(worker) => {
            Ok(worker.ask(async |client| client.fetch(request).await).await?.boxed())
        }
        StoreOrEndpoint::Store(bundle_cache) => {
            let failed = |status| CliError::question(place.name(), &status);
            let request = rpc::request(request).map_err(failed)?;
            // This process reads the store alone, so it needs no limit on memory.
            let messages = rpc::messages(bundle_cache, request, Memory::default()).await.map_err(failed)?;
            Ok(messages.map_ok(|held| held.message).boxed())
        }
    }
}
