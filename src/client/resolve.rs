//! The addresses behind a name, looked up again and again.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::pool::Pool;
use crate::metrics;

/// How long a lookup may take.
const LOOKUP_MAX: Duration = Duration::from_secs(5);

/// Between two lookups, whatever the settings say.
const LOOKUP_EVERY_MIN: Duration = Duration::from_millis(10);

/// Finds the addresses behind a name. [`Names`] asks the system; a broker that knows its workers from elsewhere offers its own.
pub trait Resolve: Send + Sync + 'static {
    /// All addresses of `host`, with `port`, in any order. An error leaves those that are known as they are, and so does an
    /// empty answer: workers that are all away come back, and no address is no place to send to.
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// The system's resolver: DNS, the hosts file, and whatever else it is set up to ask.
#[derive(Clone, Copy, Debug, Default)]
pub struct Names;

impl Resolve for Names {
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}

/// Keeps the addresses of one endpoint in the pool as they are.
pub(super) struct Watch {
    /// Where they go.
    pub pool: Arc<Pool>,
    /// Who is asked.
    pub resolver: Arc<dyn Resolve>,
    /// Which of the pool's endpoints it is.
    pub endpoint: usize,
    /// The name.
    pub host: String,
    /// The port behind it.
    pub port: u16,
    /// What the last lookup came to: each change is worth one line in the log.
    pub last: Result<Vec<SocketAddr>, String>,
}

impl Watch {
    /// Looks up the name once. A lookup that fails changes nothing.
    pub(super) async fn look(&mut self) {
        let looked = match timeout(LOOKUP_MAX, self.resolver.resolve(&self.host, self.port)).await {
            Ok(Ok(addresses)) if addresses.is_empty() => Err("it has no addresses".to_owned()),
            Ok(Ok(mut addresses)) => {
                addresses.sort_unstable();
                addresses.dedup();
                Ok(addresses)
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {LOOKUP_MAX:?}")),
        };
        if looked.is_err() {
            metrics::client::lookup_failed(&self.host);
        }
        match &looked {
            looked if *looked == self.last => {}
            Ok(addresses) => {
                info!(host = self.host, ?addresses, "workers' addresses");
                self.pool.update(self.endpoint, addresses.clone());
            }
            Err(error) => warn!(host = self.host, error, "cannot look up workers: those known stay"),
        }
        if let Err(error) = &looked {
            self.pool.lookup_failed(self.endpoint, error.clone());
        }
        self.last = looked;
    }

    /// Looks up the name for ever.
    pub(super) async fn run(mut self, every: Duration) {
        loop {
            sleep(every.max(LOOKUP_EVERY_MIN)).await;
            self.look().await;
        }
    }
}
