//! Files that may be replaced while the worker runs. They are read at the start, and again when their
//! contents change. Contents that are not valid are not used. This module knows nothing of what is in the
//! files.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::formatting::chain;
use crate::metrics;

/// How often the files are checked. Contents are compared, not times: Kubernetes replaces a mounted secret by
/// changing a link, others write into the file.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A value that is read from files.
pub(super) trait Reloadable: Sized + Send + Sync + 'static {
    /// The name of the value, in metrics and in the log.
    const WHAT: &'static str;
    /// Which files hold it.
    type Files: Clone + Send + Sync + 'static;
    /// Why the files are not valid. The error must not repeat what is in them.
    type Error: Error + Send + 'static;

    /// The paths of the files.
    fn paths(files: &Self::Files) -> Vec<PathBuf>;

    /// The error for a file that cannot be read. `index` counts from 0.
    fn unreadable(files: &Self::Files, index: usize, source: io::Error) -> Self::Error;

    /// Parses the contents of the files, which are in the order of the paths.
    fn parse(files: &Self::Files, contents: &[Vec<u8>]) -> Result<Self, Self::Error>;
}

/// The value in the files when they were last valid. Clones are cheap.
pub(super) struct HotReloaded<T> {
    latest: watch::Receiver<Arc<T>>,
    /// The task that watches the files. It ends with the last clone.
    following: Arc<Watcher>,
}

struct Watcher(AbortHandle);

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T> Clone for HotReloaded<T> {
    fn clone(&self) -> Self {
        Self { latest: self.latest.clone(), following: Arc::clone(&self.following) }
    }
}

/// Does not show what is in the files.
impl<T> fmt::Debug for HotReloaded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HotReloaded").finish_non_exhaustive()
    }
}

impl<T: Reloadable> HotReloaded<T> {
    /// Reads the files for the first time, and then checks them in the background: at an interval, and when
    /// `asked` changes.
    pub(super) async fn start(
        files: T::Files,
        asked: Option<watch::Receiver<u32>>,
    ) -> Result<Self, T::Error> {
        let contents = contents::<T>(&files).await?;
        let value = T::parse(&files, &contents)?;
        metrics::listener::reload_failing(T::WHAT, false);
        let (sender, latest) = watch::channel(Arc::new(value));
        let following = tokio::spawn(follow(files, digest(&contents), sender, asked)).abort_handle();
        Ok(Self { latest, following: Arc::new(Watcher(following)) })
    }

    /// The current value.
    pub(super) fn now(&self) -> Arc<T> {
        Arc::clone(&self.latest.borrow())
    }
}

async fn contents<T: Reloadable>(files: &T::Files) -> Result<Vec<Vec<u8>>, T::Error> {
    let mut contents = Vec::new();
    for (index, path) in T::paths(files).into_iter().enumerate() {
        contents.push(read(path).await.map_err(|source| T::unreadable(files, index, source))?);
    }
    Ok(contents)
}

/// Reads a regular file, and nothing else: reading a pipe would wait for ever for a writer.
async fn read(path: PathBuf) -> io::Result<Vec<u8>> {
    match tokio::fs::metadata(&path).await?.is_file() {
        true => tokio::fs::read(path).await,
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file")),
    }
}

/// Returns a hash, to compare contents without keeping them.
fn digest(contents: &[Vec<u8>]) -> [u8; 32] {
    let each = contents.iter().map(Sha256::digest);
    each.fold(Sha256::new(), |all, one| all.chain_update(one)).finalize().into()
}

/// Waits until a check is requested. If none can be requested, waits for ever.
async fn changed(asked: &mut Option<watch::Receiver<u32>>) {
    if let Some(receiver) = asked
        && receiver.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Replaces the value when the new contents are valid. Logs contents that are not valid once.
async fn follow<T: Reloadable>(
    files: T::Files,
    first: [u8; 32],
    latest: watch::Sender<Arc<T>>,
    mut asked: Option<watch::Receiver<u32>>,
) {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut seen, mut complained) = (Some(first), false);
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = changed(&mut asked) => {}
        }
        let read = match contents::<T>(&files).await {
            Ok(contents) if seen == Some(digest(&contents)) => continue,
            Ok(contents) => {
                seen = Some(digest(&contents));
                T::parse(&files, &contents)
            }
            // This is logged already. The files are checked again at the next tick.
            Err(_) if complained && seen.is_none() => continue,
            Err(error) => {
                seen = None;
                Err(error)
            }
        };
        complained = read.is_err();
        metrics::listener::reload_failing(T::WHAT, complained);
        match read {
            Ok(value) => {
                info!(what = T::WHAT, "reloaded from its files");
                latest.send_replace(Arc::new(value));
            }
            Err(error) => {
                warn!(what = T::WHAT, error = chain(&error), "does not fit: the one before stays in use");
            }
        }
    }
}
