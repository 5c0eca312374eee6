//! `index`: runs the write path in this process.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use futures::StreamExt;
use tokio::fs::File;

use super::{CliError, Exit, output, pipeline, runtime};
use crate::ids::SegmentFormat;
use crate::ingest::{Ingest, Request, RequestParts, TornTail, Undecodable, file_chunks};
use crate::proto::v1;
use crate::rpc::{convert, status};

/// Index segment files in this process, without a server.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The segment files.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// The topic. Required if the bytes do not contain it (Kafka log segments, Chronik V1 records); otherwise
    /// compared with them.
    #[arg(long, env = "WAL_INDEXER_TOPIC", value_name = "TOPIC")]
    topic: Option<String>,

    /// The partition. Same rules as for --topic.
    #[arg(long, env = "WAL_INDEXER_PARTITION", value_name = "N")]
    partition: Option<i32>,

    /// The incarnation of the log that the offsets belong to. It becomes part of the keys.
    #[arg(long, env = "WAL_INDEXER_LOG_ID", default_value = "0", value_name = "ID")]
    log_id: String,

    /// The format of the segments. Default: detected from the first bytes.
    #[arg(long, env = "WAL_INDEXER_FORMAT", value_name = "FORMAT")]
    format: Option<Format>,

    /// What to do if a segment ends inside a frame.
    #[arg(long, env = "WAL_INDEXER_TORN_TAIL", default_value = "refuse", value_name = "WHAT")]
    torn_tail: Torn,

    /// What to do with frames whose checksums are right but that cannot be decoded.
    #[arg(long, env = "WAL_INDEXER_UNDECODABLE", default_value = "refuse", value_name = "WHAT")]
    undecodable: Undecoded,

    /// Print receipts as JSON, one per line.
    #[arg(long, env = "WAL_INDEXER_JSON")]
    json: bool,

    #[command(flatten)]
    pipeline: pipeline::PipelineArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    ChronikWal,
    KafkaLog,
}

/// What to do with the bytes of a frame that is cut off at the end of a segment.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Torn {
    /// Refuse the segment.
    Refuse,
    /// Keep the bytes with the segment.
    Keep,
}

/// What to do with frames that cannot be decoded.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Undecoded {
    /// Refuse the segment.
    Refuse,
    /// Keep the frames as they are, under the offsets in their headers. None of their records is indexed.
    Keep,
}

/// Indexes the files one after the other. All are tried. The exit code comes from the first failure.
pub fn run(args: Args) -> Result<(), CliError> {
    runtime()?.block_on(index_all(args))
}

async fn index_all(args: Args) -> Result<(), CliError> {
    args.check()?;
    let ingest = args.pipeline.start().await?;
    let (mut receipts, mut failures) = (Vec::new(), Vec::new());
    for path in &args.paths {
        match index_file(&ingest, &args, path).await {
            Ok(receipt) if args.json => output::json_line(&receipt)?,
            Ok(receipt) => receipts.push(receipt),
            Err(error) => failures.push(error),
        }
    }
    if !receipts.is_empty() {
        output::line(&output::receipts(&receipts))?;
    }
    let Some(last) = failures.pop() else { return Ok(()) };
    for failure in &failures {
        failure.report();
    }
    let exit = failures.first().map_or(last.exit(), CliError::exit);
    Err(CliError::because(exit, last.line()))
}

impl Args {
    /// The request fields that are the same for all files.
    fn parts(&self) -> RequestParts {
        RequestParts {
            format: self.format.map(|format| match format {
                Format::ChronikWal => SegmentFormat::ChronikWal,
                Format::KafkaLog => SegmentFormat::KafkaLog,
            }),
            topic: self.topic.clone(),
            partition: self.partition,
            log_id: self.log_id.clone(),
            torn_tail: match self.torn_tail {
                Torn::Refuse => TornTail::Refuse,
                Torn::Keep => TornTail::Keep,
            },
            undecodable: match self.undecodable {
                Undecoded::Refuse => Undecodable::Refuse,
                Undecoded::Keep => Undecodable::Keep,
            },
            ..RequestParts::default()
        }
    }

    /// Checks the names first. A name that cannot be part of a key is an error of the command line, not of a
    /// file.
    fn check(&self) -> Result<(), CliError> {
        let request = Request::new(self.parts());
        request.map(drop).map_err(|error| CliError::flag("--topic, --partition or --log-id", &error))
    }
}

async fn index_file(ingest: &Ingest, args: &Args, path: &Path) -> Result<v1::IndexSegmentResponse, CliError> {
    let name = path.display().to_string();
    let unreadable = |error: std::io::Error| {
        let exit = if error.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failed };
        CliError::new(exit, &name, &error)
    };
    let file = File::open(path).await.map_err(unreadable)?;
    let meta = file.metadata().await.map_err(unreadable)?;
    if !meta.is_file() {
        return Err(CliError::because(Exit::Failed, format!("{name}: not a file")));
    }
    let segment_id = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let parts = RequestParts { segment_id, size_bytes: meta.len(), ..args.parts() };
    let request =
        Request::new(parts).map_err(|error| CliError::status(&name, &status::of_request(&error)))?;
    let bar = output::progress(meta.len(), &name);
    let chunks =
        file_chunks(file).inspect(|chunk| bar.inc(chunk.as_ref().map_or(0, |bytes| bytes.len() as u64)));
    let receipt = ingest.run(request, Box::pin(chunks)).await;
    bar.finish_and_clear();
    receipt.map(|receipt| convert::receipt(&receipt)).map_err(|error| CliError::ingest(&name, &error))
}
