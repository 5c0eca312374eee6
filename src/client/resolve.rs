//! Looks up the addresses of a name, again and again.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::pool::Pool;
use crate::metrics;

/// The timeout of a look-up.
const LOOKUP_MAX: Duration = Duration::from_secs(5);

/// The minimum time between two look-ups, whatever the settings say.
const LOOKUP_EVERY_MIN: Duration = Duration::from_millis(10);

/// Finds the addresses of a name. [`Names`] uses the system's resolver. A broker that knows its workers from
/// another source can implement its own.
pub trait Resolve: Send + Sync + 'static {
    /// Returns all addresses of `host`, with `port`, in any order. After an error or an empty result the
    /// known addresses stay in use: an empty result gives nowhere to send to, while workers that are all
    /// unreachable may come back.
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// The system's resolver: DNS, the hosts file, and other configured sources.
#[derive(Clone, Copy, Debug, Default)]
pub struct Names;

impl Resolve for Names {
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}

/// Keeps the addresses of one endpoint in the pool up to date.
pub(super) struct Watch {
    /// The pool to update.
    pub pool: Arc<Pool>,
    /// The resolver.
    pub resolver: Arc<dyn Resolve>,
    /// The index of the endpoint in the pool.
    pub endpoint: usize,
    /// The name to look up.
    pub host: String,
    /// The port of the addresses.
    pub port: u16,
    /// The result of the last look-up. Each change is logged once.
    pub last: Result<Vec<SocketAddr>, String>,
}

impl Watch {
    /// Looks up the name once. A look-up that fails changes no addresses.
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
            Err(error) => warn!(host = self.host, error, "cannot look up workers: known ones are kept"),
        }
        if let Err(error) = &looked {
            self.pool.lookup_failed(self.endpoint, error.clone());
        }
        self.last = looked;
    }

    /// Looks up the name at an interval, for ever.
    pub(super) async fn run(mut self, every: Duration) {
        loop {
            sleep(every.max(LOOKUP_EVERY_MIN)).await;
            self.look().await;
        }
    }
}
