//! `agent`: sends the sealed segments of a broker's WAL directories to workers, and deletes them.

mod check;
mod deletion;
mod setup;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Subcommand;
use futures::future;
use tracing::info;
use url::Url;

use deletion::DeletionArgs;
use setup::{AgentSetup, Observer, Running, StateLocation};

use super::duration_argument::{positive_seconds, seconds};
use super::file_mode::FileModeArgs;
use super::index::{Torn, Undecoded};
use super::metrics::{Collected, MetricsArgs};
use super::otlp::{OtlpArgs, process_name};
use super::progress::{Progress, When};
use super::security::SecurityArgs;
use super::signals::Signals;
use super::{CliError, Exit, endpoint, runtime};
use crate::agent::{InFlightLimit, Settings, Summary};
use crate::client::{Client, Endpoint, Timeouts};
use crate::ids::{LogId, LogIds};
use crate::store;
use crate::telemetry::Otlp;
use crate::wal::dir::WalDir;
use crate::wal::rejection_note::{self, RejectionNoteError, RejectionNotes};

/// Send a broker's sealed segments to workers, and delete each one after its receipt.
#[derive(Debug, clap::Args)]
#[command(subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    decision: Option<Decision>,

    #[command(flatten)]
    wal: WalArgs,

    #[command(flatten)]
    workers: WorkerArgs,

    #[command(flatten)]
    schedule: ScheduleArgs,

    #[command(flatten)]
    deletion: DeletionArgs,

    /// Do all that can be done now, then exit: 0 if all segments are stored (and deleted, if they are to be),
    /// 5 if a segment is left that may go later, 3 if a segment is rejected, 1 if a directory or a partition
    /// could not be read.
    #[arg(long, env = "WAL_INDEXER_ONCE")]
    once: bool,

    /// Print what would be sent, what is left alone, and why. Sends and deletes nothing, and needs no worker.
    /// Exits with 2 if a directory holds no partition.
    #[arg(long, conflicts_with = "once")]
    check: bool,

    #[command(flatten)]
    file_mode: FileModeArgs,

    #[command(flatten)]
    metrics: MetricsArgs,

    #[command(flatten)]
    otlp: OtlpArgs,

    /// Whether to print a line for each segment on standard output, instead of log lines. `auto`: only on a
    /// terminal.
    #[arg(long, env = "WAL_INDEXER_PROGRESS", default_value = "auto", value_name = "WHEN")]
    progress: When,
}

/// What an operator decides about rejected segments.
#[derive(Debug, Subcommand)]
enum Decision {
    /// Accept that these segments are not stored. They stay where they are, and the segments after them may
    /// be deleted.
    Skip(Segments),
    /// Try these rejected or skipped segments again.
    Retry(Segments),
}

/// The segments that a decision is about.
#[derive(Debug, clap::Args)]
struct Segments {
    /// The segment files.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// The --state-dir of the agent, if it has one. Decisions are kept there if no file can be written beside
    /// the segments.
    #[arg(long, env = "WAL_INDEXER_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// The WAL directories and their state.
#[derive(Debug, clap::Args)]
struct WalArgs {
    /// A directory with a broker's log, in Chronik's or Kafka's layout. May be given several times.
    #[arg(
        long = "wal-dir",
        env = "WAL_INDEXER_WAL_DIR",
        value_name = "DIR",
        value_delimiter = ',',
        required = true
    )]
    wal_dirs: Vec<PathBuf>,

    /// The incarnation of the log that the offsets belong to, if the directory does not contain it (Kafka's
    /// does). It becomes part of the keys. TOPIC=ID is for the topics that match TOPIC, a pattern with * and
    /// ? as in file names; the first match counts. ID alone is for all other topics (default: 0). May be
    /// given several times.
    #[arg(
        long = "log-id",
        env = "WAL_INDEXER_LOG_ID",
        value_name = "[TOPIC=]ID",
        value_delimiter = ',',
        value_parser = log_id
    )]
    log_ids: Vec<LogIdArg>,

    /// Also send a partition's newest segment after it has not changed for this time, in seconds. It is never
    /// deleted.
    #[arg(long, env = "WAL_INDEXER_SEAL_IDLE_AFTER", value_name = "SECONDS", value_parser = positive_seconds)]
    seal_idle_after: Option<Duration>,

    /// Where workers see the WAL directory, if they share its storage: a URL under one of their source roots.
    /// Workers then read the segments there, and the agent sends no bytes.
    #[arg(long, env = "WAL_INDEXER_POINT_TO", value_name = "URL")]
    point_to: Option<String>,

    /// The directory for the record of what is stored. Default: the WAL directory.
    #[arg(long, env = "WAL_INDEXER_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// The workers, and how to reach them.
#[derive(Debug, clap::Args)]
struct WorkerArgs {
    /// A worker, or a name with several addresses: all of them are used, and the name is resolved again and
    /// again. May be given several times.
    #[arg(
        long = "endpoint",
        env = "WAL_INDEXER_ENDPOINT",
        value_name = "URL",
        value_delimiter = ',',
        required_unless_present = "check"
    )]
    endpoints: Vec<String>,

    /// How long to wait for one worker's answer, in seconds, plus one second for each MiB.
    #[arg(long, env = "WAL_INDEXER_ATTEMPT_TIMEOUT", default_value = "120", value_name = "SECONDS", value_parser = positive_seconds)]
    attempt_timeout: Duration,

    /// How long to try workers, one after the other, before a segment is left for later, in seconds.
    #[arg(long, env = "WAL_INDEXER_RETRY_FOR", default_value = "300", value_name = "SECONDS", value_parser = positive_seconds)]
    retry_for: Duration,

    /// How often to resolve names again, in seconds.
    #[arg(long, env = "WAL_INDEXER_RESOLVE_EVERY", default_value = "5", value_name = "SECONDS", value_parser = positive_seconds)]
    resolve_every: Duration,

    #[command(flatten)]
    security: SecurityArgs,
}

/// Intervals, limits, and what to do with damaged segments.
#[derive(Debug, clap::Args)]
struct ScheduleArgs {
    /// How often to look for segments, in seconds.
    #[arg(long, env = "WAL_INDEXER_INTERVAL", default_value = "30", value_name = "SECONDS", value_parser = positive_seconds)]
    interval: Duration,

    /// How long a segment must be unchanged before it is sent, in seconds.
    #[arg(long, env = "WAL_INDEXER_MIN_SEGMENT_AGE", default_value = "10", value_name = "SECONDS", value_parser = seconds)]
    min_segment_age: Duration,

    /// The maximum number of segments of one directory that are sent in one run.
    #[arg(long, env = "WAL_INDEXER_MAX_SEGMENTS_PER_RUN", default_value = "100", value_name = "N")]
    max_segments_per_run: NonZeroUsize,

    /// The maximum number of segments that are sent at the same time, over all directories.
    #[arg(long, env = "WAL_INDEXER_MAX_CONCURRENT_TASKS", default_value = "4", value_name = "N")]
    max_concurrent_tasks: NonZeroUsize,

    /// What to do if a segment ends inside a frame.
    #[arg(long, env = "WAL_INDEXER_TORN_TAIL", default_value = "refuse", value_name = "WHAT")]
    torn_tail: Torn,

    /// What to do with frames whose checksums are right but that workers cannot decode.
    #[arg(long, env = "WAL_INDEXER_UNDECODABLE", default_value = "refuse", value_name = "WHAT")]
    undecodable: Undecoded,

    /// How long segments in flight may take after SIGTERM, in seconds.
    #[arg(long, env = "WAL_INDEXER_DRAIN_TIMEOUT", default_value = "30", value_name = "SECONDS", value_parser = seconds)]
    drain_timeout: Duration,
}

/// Records a decision, or runs the agents until SIGTERM, SIGINT or SIGQUIT.
pub fn run(args: Args, otlp: Option<&Otlp>) -> Result<(), CliError> {
    match args.decision {
        Some(Decision::Skip(segments)) => segments.decide(rejection_note::skip),
        Some(Decision::Retry(segments)) => segments.decide(rejection_note::retry),
        None => {
            let runtime = runtime()?;
            let result = runtime.block_on(look_after(args, otlp));
            // A thread that hangs in a system call must not delay the end of the process.
            runtime.shutdown_timeout(Duration::from_secs(1));
            result
        }
    }
}

/// A log id, and the pattern of the topics that it is for. `None`: all topics that no pattern matches.
#[derive(Clone, Debug)]
struct LogIdArg {
    topics: Option<String>,
    log_id: LogId,
}

/// Parses one value of `--log-id`. A wrong id is refused here, because workers would reject each segment for
/// it.
fn log_id(text: &str) -> Result<LogIdArg, String> {
    let (topics, log_id) = text.split_once('=').map_or((None, text), |(topics, id)| (Some(topics), id));
    if topics.is_some_and(str::is_empty) {
        return Err("a topic is missing before '='".to_owned());
    }
    if topics.is_some() && log_id.is_empty() {
        return Err("a log id is missing behind '='".to_owned());
    }
    let log_id = LogId::new(log_id);
    store::check_log_id(&log_id).map_err(|error| error.to_string())?;
    Ok(LogIdArg { topics: topics.map(str::to_owned), log_id })
}

impl Segments {
    fn decide(
        &self,
        decision: fn(&Path, &RejectionNotes) -> Result<(), RejectionNoteError>,
    ) -> Result<(), CliError> {
        let failed =
            |error| CliError::new(Exit::Failed, "nothing decided for this segment and later ones", &error);
        for path in &self.paths {
            let notes = match &self.state_dir {
                None => RejectionNotes::default(),
                Some(state) => {
                    StateLocation::of(&rejection_note::root_of(path).map_err(failed)?, Some(state))?.notes()
                }
            };
            decision(path, &notes).map_err(failed)?;
        }
        Ok(())
    }
}

async fn look_after(args: Args, otlp: Option<&Otlp>) -> Result<(), CliError> {
    let failed = |what: &str, error: &dyn std::error::Error| CliError::new(Exit::Failed, what, error);
    if args.check {
        return check::print(&args).await;
    }
    let args = Arc::new(args);
    args.file_mode.apply();
    let metrics = args.metrics.collect(otlp).await?;
    let signals = Arc::new(Signals::listen()?);
    let progress = args.progress.is_wanted().then(|| Progress::start(args.wal.wal_dirs.len() > 1));
    let progress = progress.transpose().map_err(|error| failed("cannot start a thread", &error))?;
    let work = args.agents(progress.as_ref(), &signals).await?;
    metrics.map(Collected::serve).transpose()?;
    info!(wal_dirs = ?args.wal.wal_dirs, endpoints = args.workers.endpoints.len(), "looking after sealed segments");
    let summaries = tokio::select! {
        summaries = future::join_all(work) => summaries,
        () = signals.nth(2) => return Err(CliError::because(Exit::Again, "stopped at once")),
    };
    let printed = progress.map_or(Ok(()), Progress::finish);
    if args.once {
        conclude(&summaries)?;
    }
    printed.map_err(|error| failed("standard output", &error))
}

impl Args {
    /// Starts to send traces and measurements to a collector, if one is configured.
    pub fn otlp(&self) -> Result<Option<Otlp>, CliError> {
        match self.decision {
            None => self.otlp.start("wal-indexer-agent", process_name()),
            Some(_) => Ok(None),
        }
    }

    /// Makes one agent for each directory. None of them runs before this returns. A directory that cannot be
    /// used at present does not stop the others, but at least one must be usable now or not exist yet.
    async fn agents(
        self: &Arc<Self>,
        progress: Option<&Progress>,
        signals: &Arc<Signals>,
    ) -> Result<Vec<Running>, CliError> {
        if self.wal.point_to.is_some() && self.wal.wal_dirs.len() > 1 {
            return Err(CliError::because(Exit::Usage, "--point-to goes with one --wal-dir only"));
        }
        let point_to = self.wal.point_to()?;
        self.wal.check_log_ids()?;
        let client = self.workers.client().await?;
        let in_flight_limit = InFlightLimit::new(self.schedule.max_concurrent_tasks);
        let (mut agents, mut late) = (Vec::new(), Vec::new());
        for dir in &self.wal.wal_dirs {
            let setup = AgentSetup {
                args: Arc::clone(self),
                dir: dir.clone(),
                point_to: point_to.clone(),
                client: client.clone(),
                in_flight_limit: in_flight_limit.clone(),
                observer: progress.map(|progress| Arc::new(progress.observer()) as Observer),
                signals: Arc::clone(signals),
            };
            match setup.begin().await {
                Ok(running) => agents.push(running),
                Err(why) => late.push((setup, why)),
            }
        }
        let is_hopeless = agents.is_empty() && late.iter().all(|(setup, _)| setup.is_there());
        for (setup, why) in late {
            if is_hopeless {
                return Err(why);
            }
            agents.push(setup.retry_start(why));
        }
        Ok(agents)
    }

    fn settings(&self) -> Settings {
        Settings {
            interval: self.schedule.interval,
            min_segment_age: self.schedule.min_segment_age,
            max_segments_per_run: self.schedule.max_segments_per_run.get(),
            delete_after_index: self.deletion.delete_after_index,
            retention: self.deletion.retention(),
            keep_torn_tail: matches!(self.schedule.torn_tail, Torn::Keep),
            keep_undecodable: matches!(self.schedule.undecodable, Undecoded::Keep),
            drain_max: self.schedule.drain_timeout,
        }
    }
}

impl WalArgs {
    fn open(&self, dir: &Path, point_to: Option<Url>) -> WalDir {
        let wal = WalDir::new(dir, self.log_ids());
        let state = self.state_dir.as_deref().map(|state| StateLocation::of(dir, Some(state)));
        // A directory that does not exist has no notes.
        let notes = state.and_then(Result::ok).map(|state| state.notes()).unwrap_or_default();
        wal.seal_idle_after(self.seal_idle_after).seen_at(point_to).notes(notes)
    }

    /// The values of `--log-id`.
    fn log_ids(&self) -> LogIds {
        let (mut default, mut by_pattern) = (LogId::new(""), Vec::new());
        for LogIdArg { topics, log_id } in self.log_ids.iter().cloned() {
            match topics {
                Some(topics) => by_pattern.push((topics, log_id)),
                None => default = log_id,
            }
        }
        LogIds::new(default, by_pattern)
    }

    fn check_log_ids(&self) -> Result<(), CliError> {
        match self.log_ids.iter().filter(|one| one.topics.is_none()).count() {
            0 | 1 => Ok(()),
            _ => Err(CliError::because(Exit::Usage, "--log-id: two ids without a topic: write TOPIC=ID")),
        }
    }

    /// Checks `--point-to` here, because workers would reject each segment for a wrong URL. The error does
    /// not repeat the value: it may hold a password.
    fn point_to(&self) -> Result<Option<Url>, CliError> {
        let checked = self.point_to.as_deref().map(store::check_source_root).transpose();
        checked.map_err(|error| CliError::flag("--point-to", &error))
    }
}

impl WorkerArgs {
    async fn client(&self) -> Result<Client, CliError> {
        // Errors do not repeat the value: it may hold a password.
        let endpoint =
            |text: &String| text.parse::<Endpoint>().map_err(|error| CliError::flag("--endpoint", &error));
        let endpoints = self.endpoints.iter().map(endpoint).collect::<Result<Vec<_>, _>>()?;
        let timeouts = Timeouts {
            attempt: self.attempt_timeout,
            segment: self.retry_for,
            resolve_every: self.resolve_every,
        };
        let started = Client::start(endpoints, self.security.security(), timeouts).await;
        started.map_err(|error| endpoint::unusable(&error))
    }
}

/// Maps the summaries of one run over all directories to the exit code.
fn conclude(summaries: &[Summary]) -> Result<(), CliError> {
    let sum = |count: fn(&Summary) -> u64| summaries.iter().map(count).sum::<u64>();
    let (left, rejected) = (sum(|one| one.left), sum(|one| one.rejected));
    if rejected > 0 {
        let line = format!("segments that are rejected: {rejected}; that stay for later: {left}");
        return Err(CliError::because(Exit::Corrupt, line));
    }
    if !summaries.iter().all(|one| one.is_listed) {
        return Err(CliError::because(Exit::Failed, "the segments could not be listed"));
    }
    let halted = sum(|one| one.halted);
    if halted > 0 {
        let line = format!("halted partitions: {halted}; segments that stay for later: {left}");
        return Err(CliError::because(Exit::Failed, line));
    }
    match left {
        0 => Ok(()),
        left => Err(CliError::because(Exit::Again, format!("segments that stay for later: {left}"))),
    }
}
