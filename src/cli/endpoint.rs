//! The flags that name a worker, and calls to it.

use tonic::Code;

use super::security::SecurityArgs;
use super::{CliError, Exit};
use crate::client::{Connection, ConnectionError, Endpoint, EndpointError, Security};

/// Which worker to call.
#[derive(Debug, clap::Args)]
pub struct EndpointArgs {
    /// The worker's address, such as http://127.0.0.1:7070.
    #[arg(long, env = "WAL_INDEXER_ENDPOINT", default_value = "http://127.0.0.1:7070", value_name = "URL")]
    endpoint: String,

    #[command(flatten)]
    security: SecurityArgs,
}

impl EndpointArgs {
    /// Connects, and makes a call that only workers with the role `index` can answer.
    pub async fn ask_indexer<T>(
        &self,
        question: impl AsyncFnOnce(&mut Connection) -> Result<T, ConnectionError>,
    ) -> Result<T, CliError> {
        let worker = self.worker()?;
        let mut connection = worker.connect().await?;
        question(&mut connection).await.map_err(|error| worker.indexer_call_error(error))
    }

    /// The worker, for more than one call.
    pub fn worker(&self) -> Result<Worker, CliError> {
        Worker::new(&self.endpoint, &self.security)
    }
}

/// A worker's endpoint and the settings to connect to it.
#[derive(Clone, Debug)]
pub struct Worker {
    endpoint: Endpoint,
    name: String,
    security: Security,
}

impl Worker {
    /// Errors do not repeat the value: it may hold a password.
    pub fn new(endpoint: &str, security: &SecurityArgs) -> Result<Self, CliError> {
        let read = endpoint.parse::<Endpoint>();
        let endpoint = read.map_err(|error| CliError::flag("--endpoint", &error))?;
        Ok(Self { name: endpoint.to_string(), endpoint, security: security.security() })
    }

    /// The worker's name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Connects.
    pub async fn connect(&self) -> Result<Connection, CliError> {
        Connection::connect_with(&self.endpoint, &self.security).await.map_err(|error| self.failed(error))
    }

    /// Connects and makes one call.
    pub async fn ask<T>(
        &self,
        question: impl AsyncFnOnce(&mut Connection) -> Result<T, ConnectionError>,
    ) -> Result<T, CliError> {
        let mut connection = self.connect().await?;
        question(&mut connection).await.map_err(|error| self.failed(error))
    }

    /// The error of a call that only workers with the role `index` can answer.
    pub fn indexer_call_error(&self, error: ConnectionError) -> CliError {
        match error.code() {
            Some(Code::Unimplemented) => {
                let line = "this worker does not index (serve --roles), and has neither statistics nor this health; \
                    grpc.health.v1.Health says whether it searches";
                CliError::because(Exit::NotFound, format!("{}: {line}", self.name))
            }
            _ => self.failed(error),
        }
    }

    fn failed(&self, error: ConnectionError) -> CliError {
        match error {
            ConnectionError::Status(status) => CliError::status(&self.name, &status),
            ConnectionError::Connect { .. } => CliError::new(Exit::Again, "no worker", &error),
            ConnectionError::Endpoint(error) => unusable(&error),
            ConnectionError::File(_) => CliError::new(Exit::Failed, &self.name, &error),
        }
    }
}

/// The error for flags of a connection that cannot be used.
pub fn unusable(error: &EndpointError) -> CliError {
    let flags = match error {
        EndpointError::NoneGiven
        | EndpointError::NotAUrl(_)
        | EndpointError::OtherScheme
        | EndpointError::HoldsCredentials
        | EndpointError::HoldsMore
        | EndpointError::NoName { .. } => "--endpoint",
        EndpointError::NoAuthorities => "--tls-ca",
        EndpointError::NoToken { .. } => "--token-file",
        EndpointError::NoKey { .. } => "--tls-key",
        EndpointError::NoCertificate { .. } => "--tls-ca or --tls-cert",
        EndpointError::Tls(_) => "--tls-ca, --tls-cert or --tls-key",
        EndpointError::File { .. } => "--tls-ca, --tls-cert, --tls-key or --token-file",
    };
    CliError::flag(flags, error)
}
