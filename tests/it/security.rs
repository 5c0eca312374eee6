//! Access to a worker over the network: with which certificate, with which token, and to which methods.

mod age;
mod callers;
mod connections;
mod crowd;
mod paths;
mod probes;
mod tls;
mod tokens;

use std::time::{Duration, Instant};

use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use crate::authority::{Authority, Pair};
use crate::worker::Worker;

/// How long anything here may take.
const SOON: Duration = Duration::from_secs(60);

/// A path as a flag's value.
fn text(path: &std::path::Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

/// Starts a worker with TLS. If `clients` is given, callers need a certificate of that authority.
fn secure(pair: &Pair, clients: Option<&Authority>, flags: &[&str]) -> Worker {
    let (certificate, key) = (text(&pair.certificate), text(&pair.key));
    let clients = clients.map(|authority| text(&authority.file()));
    let mut all = vec!["--tls-cert", &certificate, "--tls-key", &key];
    all.extend(clients.iter().flat_map(|file| ["--tls-client-ca", file]));
    all.extend(flags);
    Worker::start_with(&all)
}

/// Returns the TLS settings of a client that trusts an authority.
fn trust(authority: &Authority) -> ClientTlsConfig {
    ClientTlsConfig::new().ca_certificate(authority.certificate())
}

/// Connects by TLS, or returns the error. A client certificate is refused only after a successful handshake,
/// at the first call.
async fn connect(worker: &Worker, tls: ClientTlsConfig) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("https://{}", worker.address())).expect("an address");
    let channel = endpoint.tls_config(tls).expect("it reads").connect().await;
    let channel = channel.map_err(|error| chain(&error))?;
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    let asked = health.check(tonic_health::pb::HealthCheckRequest::default()).await;
    asked.map(|_| channel).map_err(|status| chain(&status))
}

/// An error and its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Waits until `look` returns a value.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        match look().await {
            Some(found) => return found,
            None => assert!(Instant::now() < deadline, "never: {what}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
