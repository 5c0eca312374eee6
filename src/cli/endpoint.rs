//! The flags that name a worker, and asking it something.

use tonic::Code;

use super::security::SecurityArgs;
use super::{CliError, Exit};
use crate::client::{Connection, ConnectionError, Endpoint, EndpointError, Security};

/// Which worker.
#[derive(Debug, clap::Args)]
pub struct EndpointArgs {
    /// The worker's address, such as http://127.0.0.1:7070.
    #[arg(long, env = "WAL_INDEXER_ENDPOINT", default_value = "http://127.0.0.1:7070", value_name = "URL")]
    endpoint: String,

    #[command(flatten)]
    security: SecurityArgs,
}

impl EndpointArgs {
    /// Connects, and asks what only workers that index have an answer to.
    pub async fn ask_indexer<T>(
        &self,
        question: impl AsyncFnOnce(&mut Connection) -> Result<T, ConnectionError>,
    ) -> Result<T, CliError> {
        let worker = self.worker()?;
        let mut connection = worker.connect().await?;
        question(&mut connection).await.map_err(|error| worker.failed_to_tell(error))
    }

    /// The worker, to be asked more than once.
    pub fn worker(&self) -> Result<Worker, CliError> {
        Worker::new(&self.endpoint, &self.security)
    }
}

/// A worker, and how to talk to it.
#[derive(Clone, Debug)]
pub struct Worker {
    endpoint: Endpoint,
    name: String,
    security: Security,
}

impl Worker {
    /// What was given is not repeated where it does not read: it may hold a password.
    pub fn new(endpoint: &str, security: &SecurityArgs) -> Result<Self, CliError> {
        let read = endpoint.parse::<Endpoint>();
        let endpoint = read.map_err(|error| CliError::flag("--endpoint", &error))?;
        Ok(Self { name: endpoint.to_string(), endpoint, security: security.security() })
    }

    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Connects.
    pub async fn connect(&self) -> Result<Connection, CliError> {
        Connection::connect_with(&self.endpoint, &self.security).await.map_err(|error| self.failed(error))
    }

    /// Connects and asks.
    pub async fn ask<T>(
        &self,
        question: impl AsyncFnOnce(&mut Connection) -> Result<T, ConnectionError>,
    ) -> Result<T, CliError> {
        let mut connection = self.connect().await?;
        question(&mut connection).await.map_err(|error| self.failed(error))
    }

    /// What came in the place of an answer to what only workers that index are asked.
    pub fn failed_to_tell(&self, error: ConnectionError) -> CliError {
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

/// What is wrong with the flags that say how to talk to workers.
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
