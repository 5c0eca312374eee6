//! Makes connections to workers: time limits, TLS, token.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{self, Certificate, Channel, ClientTlsConfig, Uri};
use tracing::warn;

use super::endpoint::{Endpoint, EndpointError, Security};

/// How long a worker may take to accept a connection, and as long again for TLS.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// A worker that says nothing for so long is asked whether it is there; with no word in as long again its calls fail. A
/// stopped process, or a host that is gone, closes no connection.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Makes connections.
#[derive(Debug)]
pub(super) struct Dialer {
    authorities: Option<Certificate>,
}

impl Dialer {
    /// Reads the authorities' file, if there is one.
    pub(super) async fn new(security: &Security) -> Result<Self, EndpointError> {
        let Some(path) = &security.ca_file else { return Ok(Self { authorities: None }) };
        let pem = tokio::fs::read_to_string(path).await;
        let pem = pem.map_err(|source| EndpointError::File { path: path.clone(), source })?;
        if !pem.contains("-----BEGIN CERTIFICATE-----") {
            return Err(EndpointError::NoCertificate { path: path.clone() });
        }
        Ok(Self { authorities: Some(Certificate::from_pem(pem)) })
    }

    /// Whether connections to `endpoint` can be made at all.
    pub(super) fn check(&self, endpoint: &Endpoint) -> Result<(), EndpointError> {
        let any = SocketAddr::from(([127, 0, 0, 1], 1));
        let tls = |source| EndpointError::Tls { endpoint: endpoint.clone(), source };
        self.dial(endpoint, any).map(drop).map_err(tls)
    }

    /// A connection to one of an endpoint's addresses, by the endpoint's name. It is made when it is first used, and made again
    /// when it breaks.
    pub(super) fn connect(
        &self,
        endpoint: &Endpoint,
        address: SocketAddr,
    ) -> Result<Channel, transport::Error> {
        Ok(self.dial(endpoint, address)?.connect_lazy())
    }

    fn dial(
        &self,
        endpoint: &Endpoint,
        address: SocketAddr,
    ) -> Result<transport::Endpoint, transport::Error> {
        let scheme = if endpoint.is_secure() { "https" } else { "http" };
        let mut dial = transport::Endpoint::from_shared(format!("{scheme}://{address}"))?
            .connect_timeout(CONNECT_MAX)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true);
        if let Ok(origin) = endpoint.to_string().parse::<Uri>() {
            dial = dial.origin(origin);
        }
        if !endpoint.is_secure() {
            return Ok(dial);
        }
        let tls = ClientTlsConfig::new().domain_name(endpoint.host()).timeout(CONNECT_MAX);
        dial.tls_config(match &self.authorities {
            Some(authorities) => tls.ca_certificate(authorities.clone()),
            None => tls.with_native_roots(),
        })
    }
}

/// The token that calls carry, from a file that may be replaced at any time.
#[derive(Debug)]
pub(super) struct Token {
    path: PathBuf,
    last: Mutex<MetadataValue<Ascii>>,
}

impl Token {
    /// Reads the file for the first time.
    pub(super) async fn new(path: &Path) -> Result<Self, EndpointError> {
        let last = Mutex::new(read(path).await?);
        Ok(Self { path: path.to_owned(), last })
    }

    /// The value of `authorization`, as the file has it now; where it cannot be read, as it was the last time.
    pub(super) async fn authorization(&self) -> MetadataValue<Ascii> {
        let read = read(&self.path).await;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(token) => *last = token,
            Err(error) => warn!(%error, "the token is the one read before"),
        }
        last.clone()
    }
}

async fn read(path: &Path) -> Result<MetadataValue<Ascii>, EndpointError> {
    let path = || path.to_owned();
    let text = tokio::fs::read_to_string(path()).await;
    let text = text.map_err(|source| EndpointError::File { path: path(), source })?;
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(EndpointError::NoToken { path: path() });
    }
    let value = MetadataValue::try_from(format!("Bearer {token}"));
    let mut value = value.map_err(|_| EndpointError::NoToken { path: path() })?;
    value.set_sensitive(true);
    Ok(value)
}
