//! Where workers are, and how to talk to them.

use std::path::PathBuf;
use std::str::FromStr;

/// `http://HOST:PORT` or `https://HOST:PORT`. A host given by name stands for all its addresses, now and later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {}

/// What makes a connection safe.
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// PEM file with the authorities that workers' certificates come from; without one, the system's.
    pub ca_file: Option<PathBuf>,
    /// The file with the token that is sent with each call, read again for each connection.
    pub token_file: Option<PathBuf>,
}

/// Why an endpoint cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let _ = text;
        todo!()
    }
}
