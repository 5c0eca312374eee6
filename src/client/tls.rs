//! TLS for connections to workers: which certificates to trust, and which one to send. The files may be
//! renewed at any time.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tracing::warn;

use super::endpoint::{EndpointError, Security};
use crate::formatting::chain;

/// The only protocol that is used over TLS.
const HTTP_2: &[u8] = b"h2";

/// Sets up TLS on connections.
#[derive(Debug)]
pub(super) struct Tls {
    security: Security,
    /// The system's authorities. Empty if a file with other authorities is configured.
    system: Arc<RootCertStore>,
    last: Mutex<Known>,
}

/// The contents of the files when they were last valid.
#[derive(Debug)]
struct Known {
    contents: Vec<Vec<u8>>,
    config: Arc<ClientConfig>,
}

impl Tls {
    /// Reads the files for the first time.
    pub(super) async fn open(security: &Security) -> Result<Self, EndpointError> {
        let system = match security.ca_file {
            Some(_) => RootCertStore::empty(),
            None => systems()?,
        };
        let system = Arc::new(system);
        let contents = read(security).await?;
        let config = Arc::new(parse(security, &system, &contents)?);
        Ok(Self { security: security.clone(), system, last: Mutex::new(Known { contents, config }) })
    }

    /// The settings by the current files. If these are not valid, the last valid settings are used.
    async fn config(&self) -> Arc<ClientConfig> {
        let contents = read(&self.security).await;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match contents {
            Ok(contents) if contents == last.contents => {}
            Ok(contents) => match parse(&self.security, &self.system, &contents) {
                Ok(config) => *last = Known { contents, config: Arc::new(config) },
                Err(error) => warn!(error = chain(&error), "the previous certificates stay in use"),
            },
            Err(error) => warn!(error = chain(&error), "the previous certificates stay in use"),
        }
        Arc::clone(&last.config)
    }

    /// Does the TLS handshake: verifies the worker, and sends the certificate if the worker asks for one.
    pub(super) async fn connect(
        &self,
        name: ServerName<'static>,
        stream: TcpStream,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TlsConnector::from(self.config().await).connect(name, stream).await?;
        match stream.get_ref().1.alpn_protocol() {
            Some(HTTP_2) => Ok(stream),
            _ => Err(std::io::Error::other("the worker offers no HTTP/2 over TLS")),
        }
    }
}

fn systems() -> Result<RootCertStore, EndpointError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(EndpointError::NoAuthorities) } else { Ok(roots) }
}

/// Reads the configured files, in a fixed order.
async fn read(security: &Security) -> Result<Vec<Vec<u8>>, EndpointError> {
    let pair = security.certificate.iter().flat_map(|pair| [&pair.certificate, &pair.key]);
    let mut contents = Vec::new();
    for path in security.ca_file.iter().chain(pair) {
        let read = tokio::fs::read(path).await;
        contents.push(read.map_err(|source| EndpointError::File { path: path.clone(), source })?);
    }
    Ok(contents)
}

fn parse(
    security: &Security,
    system: &Arc<RootCertStore>,
    contents: &[Vec<u8>],
) -> Result<ClientConfig, EndpointError> {
    let mut contents = contents.iter();
    let mut next = || contents.next().map_or(&[][..], Vec::as_slice);
    let roots = match &security.ca_file {
        None => Arc::clone(system),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path, next())? {
                roots.add(authority).map_err(EndpointError::Tls)?;
            }
            Arc::new(roots)
        }
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(EndpointError::Tls)?
        .with_root_certificates(roots);
    let mut config = match &security.certificate {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let certificates = certificates(&pair.certificate, next())?;
            let key = PrivateKeyDer::from_pem_slice(next());
            let key = key.map_err(|_| EndpointError::NoKey { path: pair.key.clone() })?;
            builder.with_client_auth_cert(certificates, key).map_err(EndpointError::Tls)?
        }
    };
    config.alpn_protocols = vec![HTTP_2.to_vec()];
    Ok(config)
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, EndpointError> {
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().unwrap_or_default();
    if all.is_empty() { Err(EndpointError::NoCertificate { path: path.to_owned() }) } else { Ok(all) }
}
