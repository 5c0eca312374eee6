//! The flag that names a worker, and asking it something.

use super::{CliError, Exit};
use crate::client::{Connection, ConnectionError};

/// Which worker.
#[derive(Debug, clap::Args)]
pub struct EndpointArgs {
    /// The worker's address, such as http://127.0.0.1:7070.
    #[arg(long, env = "WAL_INDEXER_ENDPOINT", default_value = "http://127.0.0.1:7070", value_name = "URL")]
    endpoint: String,
}

impl EndpointArgs {
    /// Connects and asks.
    pub async fn ask<T>(
        &self,
        question: impl AsyncFnOnce(&mut Connection) -> Result<T, ConnectionError>,
    ) -> Result<T, CliError> {
        ask(&self.endpoint, question).await
    }
}

/// Connects to `endpoint` and asks.
pub async fn ask<T>(
    endpoint: &str,
    question: impl AsyncFnOnce(&mut Connection) -> Result<T, ConnectionError>,
) -> Result<T, CliError> {
    let failed = |error: ConnectionError| match error {
        ConnectionError::Status(status) => CliError::status(endpoint, &status),
        ConnectionError::Connect { .. } => CliError::new(Exit::Again, "no worker", &error),
        ConnectionError::File(_) => CliError::new(Exit::Failed, endpoint, &error),
    };
    let mut client = Connection::connect(endpoint).await.map_err(failed)?;
    question(&mut client).await.map_err(failed)
}
