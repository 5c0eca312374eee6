//! Makes connections to workers, with timeouts, TLS and a token.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{self, Uri};
use tower::{Service, service_fn};
use tracing::warn;

use super::endpoint::{Endpoint, EndpointError, Security, Target};
use super::http2_check::Http2Check;
use super::proxy::GrpcChannel;
use super::tls::Tls;

/// The timeout for a TCP connection to a worker, and also for the TLS handshake.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// How long a worker may send nothing before it gets a ping, and how long the reply may take. After that its
/// calls fail. A stopped process, or a host that is gone, does not close its connections.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Makes connections.
#[derive(Debug)]
pub(super) struct WorkerConnector {
    tls: Option<Arc<Tls>>,
    token: Option<Arc<Token>>,
}

impl WorkerConnector {
    /// Reads the files that are configured. `endpoints` are those to which it will connect.
    pub(super) async fn new(security: &Security, endpoints: &[Endpoint]) -> Result<Self, EndpointError> {
        let has_files = security.ca_file.is_some() || security.certificate.is_some();
        let tls = match has_files || endpoints.iter().any(Endpoint::is_secure) {
            true => Some(Arc::new(Tls::open(security).await?)),
            false => None,
        };
        let token = match &security.token_file {
            Some(path) => Some(Arc::new(Token::new(path).await?)),
            None => None,
        };
        for endpoint in endpoints {
            if endpoint.is_secure() {
                endpoint.certified_name()?;
            } else if token.is_some() && !endpoint.is_loopback() {
                warn!(%endpoint, "the token is sent over a connection that is not encrypted");
            }
        }
        Ok(Self { tls, token })
    }

    /// The token that calls carry, if there is one.
    pub(super) fn token(&self) -> Option<&Arc<Token>> {
        self.token.as_ref()
    }

    /// Returns a connection to one of an endpoint's addresses, which uses the endpoint's name. It is made at
    /// its first use, and made again after it breaks.
    pub(super) fn connect(
        &self,
        endpoint: &Endpoint,
        address: SocketAddr,
    ) -> Result<GrpcChannel, EndpointError> {
        let connector = self.connector(endpoint, Target::Address(address))?;
        Ok(GrpcChannel::new(settings(endpoint).connect_with_connector_lazy(connector)))
    }

    /// Connects at once, to the first of an endpoint's addresses that answers.
    pub(super) async fn connect_now(
        &self,
        endpoint: &Endpoint,
    ) -> Result<Result<GrpcChannel, transport::Error>, EndpointError> {
        let connector = self.connector(endpoint, endpoint.target())?;
        Ok(settings(endpoint).connect_with_connector(connector).await.map(GrpcChannel::new))
    }

    fn connector(&self, endpoint: &Endpoint, target: Target) -> Result<impl Connector, EndpointError> {
        let safe = match (endpoint.is_secure(), &self.tls) {
            (false, _) => None,
            (true, Some(tls)) => Some((Arc::clone(tls), endpoint.certified_name()?)),
            (true, None) => return Err(EndpointError::NoAuthorities),
        };
        Ok(service_fn(move |_: Uri| open(target.clone(), safe.clone()).map_ok(TokioIo::new).boxed()))
    }
}

/// What tonic uses to make connections.
trait Connector:
    Service<
        Uri,
        Response = TokioIo<Line>,
        Error = io::Error,
        Future = BoxFuture<'static, io::Result<TokioIo<Line>>>,
    > + Send
    + 'static
{
}

impl<T> Connector for T where
    T: Service<
            Uri,
            Response = TokioIo<Line>,
            Error = io::Error,
            Future = BoxFuture<'static, io::Result<TokioIo<Line>>>,
        > + Send
        + 'static
{
}

/// The connection below HTTP/2.
type Line = Box<dyn ReadWrite>;

trait ReadWrite: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ReadWrite for T {}

/// Returns the settings of a connection. TLS is not among them, because tonic reads certificates only once.
fn settings(endpoint: &Endpoint) -> transport::Endpoint {
    transport::Endpoint::from_static("http://worker")
        .origin(endpoint.origin())
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
}

async fn open(target: Target, safe: Option<(Arc<Tls>, ServerName<'static>)>) -> io::Result<Line> {
    let connect = async {
        match target {
            Target::Address(address) => TcpStream::connect(address).await,
            Target::Name(name, port) => TcpStream::connect((name, port)).await,
        }
    };
    let stream = in_time("no connection", connect).await?;
    stream.set_nodelay(true)?;
    match safe {
        None => Ok(Box::new(Http2Check::new(stream))),
        Some((tls, name)) => {
            let stream = in_time("TLS handshake not finished", tls.connect(name, stream)).await?;
            Ok(Box::new(Http2Check::new(stream)))
        }
    }
}

async fn in_time<T>(otherwise: &str, step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("{otherwise} within {CONNECT_MAX:?}"));
    timeout(CONNECT_MAX, step).await.map_err(late)?
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

    /// The value of `authorization`, as the file has it now. If the file cannot be read, the last value is
    /// used.
    pub(super) async fn authorization(&self) -> MetadataValue<Ascii> {
        let read = read(&self.path).await;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(token) => *last = token,
            Err(error) => warn!(%error, "cannot read the token: the previous one stays in use"),
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
