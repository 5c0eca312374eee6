//! A WAL directory with its agent. The directory may not exist yet.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tracing::{error, info};
use url::Url;

use super::super::signals::Signals;
use super::super::{CliError, Exit};
use super::Args;
use super::deletion::Wal;
use crate::agent::{Agent, Checkpoint, CheckpointError, Event, InFlightLimit, Summary};
use crate::client::Client;
use crate::formatting::hex;
use crate::metrics;
use crate::wal::SealedSegments;
use crate::wal::rejection_note::RejectionNotes;

/// The name of the files that an agent keeps in the WAL directory, without the extension.
const STATE_NAME: &str = ".wal-indexer";

/// An agent that runs.
pub(super) type Running = Pin<Box<dyn Future<Output = Summary> + Send>>;

/// Receives the events of segments.
pub(super) type Observer = Arc<dyn Fn(&Event<'_>) + Send + Sync>;

/// A WAL directory, and all that its agent needs.
pub(super) struct AgentSetup {
    pub args: Arc<Args>,
    pub dir: PathBuf,
    pub point_to: Option<Url>,
    pub client: Client,
    pub in_flight_limit: InFlightLimit,
    pub observer: Option<Observer>,
    pub signals: Arc<Signals>,
}

/// Where an agent keeps the state of a WAL directory: the directory, and the name of the files.
pub(super) struct StateLocation {
    pub dir: PathBuf,
    pub name: String,
}

impl StateLocation {
    /// The place for the agent of `wal_dir`, which must exist.
    pub(super) fn of(wal_dir: &Path, state_dir: Option<&Path>) -> Result<Self, CliError> {
        let whole = wal_dir.canonicalize().map_err(|error| failed("--wal-dir", wal_dir, &error))?;
        Ok(match state_dir {
            None => Self { dir: whole, name: STATE_NAME.to_owned() },
            // One state directory may serve several WAL directories.
            Some(state) => {
                let hash = Sha256::digest(whole.as_os_str().as_encoded_bytes());
                Self { dir: state.to_owned(), name: format!("wal-indexer-{}", hex(&hash[..8])) }
            }
        })
    }
}

impl StateLocation {
    /// Where notes about rejected segments are.
    pub(super) fn notes(&self) -> RejectionNotes {
        RejectionNotes::or_in(self.dir.join(format!("{}.rejected", self.name)))
    }
}

fn failed(flag: &str, path: &Path, error: &std::io::Error) -> CliError {
    CliError::new(Exit::Failed, &format!("{flag} {}", path.display()), error)
}

impl AgentSetup {
    /// Makes the agent. It does not run yet.
    pub(super) async fn begin(&self) -> Result<Running, CliError> {
        let wal = self.args.wal.open(&self.dir, self.point_to.clone());
        let wal = wal
            .min_segment_age(self.args.schedule.min_segment_age)
            .writer_check(self.args.deletion.writer_check());
        let checkpoint = self.checkpoint().await?;
        Ok(match self.args.deletion.with_log_start(wal).await? {
            Wal::Dir(wal) => self.running(wal, checkpoint),
            #[cfg(feature = "delete-records")]
            Wal::LogStart(wal) => self.running(wal, checkpoint),
        })
    }

    /// Returns whether the directory exists.
    pub(super) fn is_there(&self) -> bool {
        self.dir.is_dir()
    }

    /// Retries at each interval until the agent can begin. The reason `why` is logged again only when it
    /// changes.
    pub(super) fn retry_start(self, mut why: CliError) -> Running {
        let shutdown = self.signals.nth(1);
        Box::pin(async move {
            let (name, mut reported) = (self.dir.display().to_string(), String::new());
            metrics::agent::watched(&name);
            let mut shutdown = std::pin::pin!(shutdown);
            loop {
                metrics::agent::listing_failed(&name);
                let line = why.line().to_owned();
                if line != reported {
                    error!(wal_dir = name, error = line, "nothing is done with this directory");
                    reported = line;
                }
                if self.args.once {
                    return Summary::default();
                }
                tokio::select! {
                    () = tokio::time::sleep(self.args.schedule.interval) => {}
                    () = &mut shutdown => return Summary::default(),
                }
                match self.begin().await {
                    Ok(running) => {
                        info!(wal_dir = name, "looking after this directory from now on");
                        return running.await;
                    }
                    Err(error) => why = error,
                }
            }
        })
    }

    fn running<W: SealedSegments>(&self, wal: W, checkpoint: Checkpoint) -> Running {
        let (name, client) = (self.dir.display().to_string(), self.client.clone());
        let agent =
            Agent::new(&name, wal, client, checkpoint, self.in_flight_limit.clone(), self.args.settings());
        let agent = match self.observer.clone() {
            Some(observer) => agent.observed_by(move |event| observer(event)),
            None => agent,
        };
        let shutdown = self.signals.nth(1);
        match self.args.once {
            true => Box::pin(agent.run_once(shutdown)),
            false => Box::pin(agent.run(shutdown)),
        }
    }

    async fn checkpoint(&self) -> Result<Checkpoint, CliError> {
        let state_dir = self.args.wal.state_dir.as_deref();
        let location = StateLocation::of(&self.dir, state_dir)?;
        if let Some(state) = state_dir {
            std::fs::create_dir_all(state).map_err(|error| failed("--state-dir", state, &error))?;
        }
        let opened = Checkpoint::open(&location.dir, &location.name).await;
        let opened = opened.and_then(|checkpoint| match state_dir {
            None => Ok(checkpoint),
            // Another agent may have a different state directory. Both would use the same WAL directory, so
            // that is locked too.
            Some(_) => checkpoint.locked_by(&self.dir.join(format!("{STATE_NAME}.lock"))),
        });
        opened.map_err(|error| match error {
            CheckpointError::Locked { .. } => CliError::new(Exit::Again, "cannot start", &error),
            CheckpointError::Foreign { .. } => CliError::new(Exit::Failed, "cannot start", &error),
            CheckpointError::Io { .. } if state_dir.is_none() => {
                CliError::new(Exit::Failed, "the WAL directory takes no files (see --state-dir)", &error)
            }
            CheckpointError::Io { .. } => CliError::new(Exit::Failed, "--state-dir", &error),
        })
    }
}
