//! The flag that names a worker, and asking it something.

use super::{CliError, Exit};
use crate::client::{Client, ClientError};

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
        question: impl AsyncFnOnce(&mut Client) -> Result<T, ClientError>,
    ) -> Result<T, CliError> {
        ask(&self.endpoint, question).await
    }
}

/// Connects to `endpoint` and asks.
pub async fn ask<T>(
    endpoint: &str,
    question: impl AsyncFnOnce(&mut Client) -> Result<T, ClientError>,
) -> Result<T, CliError> {
    let failed = |error: ClientError| match error {
        ClientError::Status(status) => CliError::status(endpoint, &status),
        ClientError::Connect { .. } => CliError::new(Exit::Again, "no worker", &error),
        ClientError::File(_) => CliError::new(Exit::Failed, endpoint, &error),
    };
    let mut client = Client::connect(endpoint).await.map_err(failed)?;
    question(&mut client).await.map_err(failed)
}
