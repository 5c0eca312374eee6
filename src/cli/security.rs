//! Flags for what a worker asks its callers for, and for what a caller shows to workers.

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

/// Who gets in.
#[derive(Debug, clap::Args)]
pub struct EntranceArgs {
    /// A PEM file with the worker's certificate, and those between it and its authority. With it, the worker speaks TLS only. Read
    /// again when it changes, as the other files are.
    #[arg(long, env = "WAL_INDEXER_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// A PEM file with the certificate's private key.
    #[arg(long, env = "WAL_INDEXER_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// A PEM file with the authorities that callers' certificates must come from. Default: callers need no certificate.
    #[arg(long, env = "WAL_INDEXER_TLS_CLIENT_CA", value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,

    /// A file of the tokens that calls must carry, each a line `NAME ROLE[,ROLE] TOKEN`, with the roles index, search and stats.
    /// Default: calls need none.
    #[arg(long, env = "WAL_INDEXER_TOKENS", value_name = "FILE")]
    tokens: Option<PathBuf>,

    /// For how long a connection is used, in seconds, give or take a tenth. Calls in hand are finished.
    #[arg(long, env = "WAL_INDEXER_MAX_CONNECTION_AGE", default_value = "1800", value_name = "SECONDS",
        value_parser = positive_seconds)]
    max_connection_age: Duration,

    /// Where to serve grpc.health.v1 alone, without TLS and tokens, for probes that have neither. `health on HOST:PORT` on standard
    /// output says where. Default: beside all else only.
    #[arg(long, env = "WAL_INDEXER_HEALTH_LISTEN", value_name = "HOST:PORT")]
    health_listen: Option<String>,
}

impl EntranceArgs {
    /// Reads the files: now, when they change, and whenever `reloads` changes.
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

/// Says where probes are answered, and what should not be so.
pub fn announce(policy: &ConnectionPolicy, listening: IpAddr) -> Result<(), CliError> {
    if policy.has_tokens() && !policy.has_tls() && !listening.is_loopback() {
        warn!("tokens come over lines that are not encrypted: see --tls-cert");
    }
    let Some(probes) = &policy.probes else { return Ok(()) };
    let address = probes.local_addr();
    let address = address.map_err(|error| CliError::new(Exit::Failed, "--health-listen", &error))?;
    output::line(&format!("health on {address}"))
}

/// What to show to workers, and whom to trust.
#[derive(Clone, Debug, clap::Args)]
pub struct SecurityArgs {
    /// A PEM file with the authorities that workers' certificates come from. Default: the system's.
    #[arg(long, env = "WAL_INDEXER_TLS_CA", value_name = "FILE")]
    tls_ca: Option<PathBuf>,

    /// A PEM file with a certificate to show to workers that ask for one, and those between it and its authority.
    #[arg(long, env = "WAL_INDEXER_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// A PEM file with the certificate's private key.
    #[arg(long, env = "WAL_INDEXER_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// A file with the token to send along.
    #[arg(long, env = "WAL_INDEXER_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl SecurityArgs {
    /// As connections take it.
    pub fn security(&self) -> Security {
        let pair = self.tls_cert.clone().zip(self.tls_key.clone());
        Security {
            ca_file: self.tls_ca.clone(),
            certificate: pair.map(|(certificate, key)| CertificateFiles { certificate, key }),
            token_file: self.token_file.clone(),
        }
    }
}
