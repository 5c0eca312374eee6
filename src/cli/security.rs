//! Flags for what a worker requires from its callers, and for what a caller presents to workers.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::warn;

use super::duration_argument::positive_seconds;
use super::{CliError, Exit, output};
use crate::client::{CertificateFiles, Security};
use crate::server::{ConnectionPolicy, TlsFile, TlsFiles};

/// The connection policy of a worker.
#[derive(Debug, clap::Args)]
pub struct ConnectionPolicyArgs {
    /// A PEM file with the worker's certificate and its intermediate certificates. With it, the worker
    /// accepts TLS connections only. All these files are read again when they change.
    #[arg(long, env = "WAL_INDEXER_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// A PEM file with the certificate's private key.
    #[arg(long, env = "WAL_INDEXER_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// A PEM file with the authorities that must have issued the callers' certificates. Default: callers need
    /// no certificate.
    #[arg(long, env = "WAL_INDEXER_TLS_CLIENT_CA", value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,

    /// A file with the tokens that calls must carry, one per line: `NAME ROLE[,ROLE] TOKEN`. The roles are
    /// index, search and stats. Default: calls need no token.
    #[arg(long, env = "WAL_INDEXER_TOKENS", value_name = "FILE")]
    tokens: Option<PathBuf>,

    /// The maximum age of a connection in seconds, plus or minus ten percent. Calls in flight are finished.
    #[arg(long, env = "WAL_INDEXER_MAX_CONNECTION_AGE", default_value = "1800", value_name = "SECONDS",
        value_parser = positive_seconds)]
    max_connection_age: Duration,

    /// A separate address that serves only grpc.health.v1, without TLS and tokens, for probes that have
    /// neither. The line `health on HOST:PORT` on standard output shows the address. Default: grpc.health.v1
    /// is served at --listen only.
    #[arg(long, env = "WAL_INDEXER_HEALTH_LISTEN", value_name = "HOST:PORT")]
    health_listen: Option<String>,
}

impl ConnectionPolicyArgs {
    /// Reads the files now, when they change, and each time that `reloads` changes.
    pub async fn open(&self, reloads: watch::Receiver<u32>) -> Result<ConnectionPolicy, CliError> {
        let mut policy = ConnectionPolicy::default();
        policy.reloads = Some(reloads);
        policy.connection_age_max = self.max_connection_age;
        if let (Some(certificate), Some(key)) = (self.tls_cert.clone(), self.tls_key.clone()) {
            let files = TlsFiles { certificate, key, client_authorities: self.tls_client_ca.clone() };
            let refused = |error: crate::server::TlsError| {
                let flag = match error.file {
                    TlsFile::Certificate => "--tls-cert",
                    TlsFile::Key => "--tls-key",
                    TlsFile::ClientAuthorities => "--tls-client-ca",
                };
                CliError::flag(flag, &error)
            };
            policy = policy.with_tls(files).await.map_err(refused)?;
        }
        if let Some(tokens) = self.tokens.clone() {
            let opened = policy.with_tokens(tokens).await;
            policy = opened.map_err(|error| CliError::flag("--tokens", &error))?;
        }
        if let Some(listen) = &self.health_listen {
            let bound = TcpListener::bind(listen).await;
            policy.probes =
                Some(bound.map_err(|error| CliError::flag(&format!("--health-listen {listen}"), &error))?);
        }
        Ok(policy)
    }
}

/// Prints the address for probes, and warns if tokens are sent without encryption.
pub fn announce(policy: &ConnectionPolicy, listening: IpAddr) -> Result<(), CliError> {
    if policy.has_tokens() && !policy.has_tls() && !listening.is_loopback() {
        warn!("tokens are sent over connections that are not encrypted: see --tls-cert");
    }
    let Some(probes) = &policy.probes else { return Ok(()) };
    let address = probes.local_addr();
    let address = address.map_err(|error| CliError::new(Exit::Failed, "--health-listen", &error))?;
    output::line(&format!("health on {address}"))
}

/// What to present to workers, and which workers to trust.
#[derive(Clone, Debug, clap::Args)]
pub struct SecurityArgs {
    /// A PEM file with the authorities that issue the workers' certificates. Default: those of the system.
    #[arg(long, env = "WAL_INDEXER_TLS_CA", value_name = "FILE")]
    tls_ca: Option<PathBuf>,

    /// A PEM file with the client certificate for workers that ask for one, and its intermediate
    /// certificates.
    #[arg(long, env = "WAL_INDEXER_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// A PEM file with the certificate's private key.
    #[arg(long, env = "WAL_INDEXER_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// A file with the token to send with each call.
    #[arg(long, env = "WAL_INDEXER_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl SecurityArgs {
    /// The settings for a client connection.
    pub fn security(&self) -> Security {
        let pair = self.tls_cert.clone().zip(self.tls_key.clone());
        Security {
            ca_file: self.tls_ca.clone(),
            certificate: pair.map(|(certificate, key)| CertificateFiles { certificate, key }),
            token_file: self.token_file.clone(),
        }
    }
}
