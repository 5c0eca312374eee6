//! The worker's certificate, and the authorities of callers' certificates, from files that may be renewed at
//! any time. This module knows nothing of connections.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use time::OffsetDateTime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tracing::warn;

use super::hot_reload::{HotReloaded, Reloadable};
use super::not_after::not_after;
use crate::metrics;

/// The only protocol that is used over TLS.
const HTTP_2: &[u8] = b"h2";

/// The PEM files of a worker: its certificate and key, and the authorities of callers' certificates.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The worker's certificate, followed by the intermediate certificates up to its authority.
    pub certificate: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
    /// The authorities that callers' certificates must come from. If there is no such file, callers need no
    /// certificate.
    pub client_authorities: Option<PathBuf>,
}

/// One of [`TlsFiles`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFile {
    /// The certificate.
    Certificate,
    /// Its key.
    Key,
    /// The authorities of callers' certificates.
    ClientAuthorities,
}

/// Why the files cannot be used for TLS. The error repeats nothing of their contents.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct TlsError {
    /// The file that has the problem.
    pub file: TlsFile,
    /// The path of the file.
    pub path: PathBuf,
    /// What is wrong with it.
    #[source]
    pub problem: TlsProblem,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum TlsProblem {
    /// It cannot be read.
    #[error("cannot be read")]
    Unreadable(#[source] io::Error),
    /// It holds no certificate.
    #[error("holds no certificate in PEM")]
    NoCertificate,
    /// It holds no private key.
    #[error("holds no private key in PEM")]
    NoKey,
    /// The key is of a kind that is not supported, or it belongs to another certificate.
    #[error("does not belong to the certificate")]
    Key(#[source] rustls::Error),
    /// A certificate in it cannot be an authority.
    #[error("holds a certificate that cannot be an authority")]
    Authority(#[source] rustls::Error),
}

impl TlsFiles {
    fn blame(&self, file: TlsFile, problem: TlsProblem) -> TlsError {
        let path = match file {
            TlsFile::Certificate => Some(&self.certificate),
            TlsFile::Key => Some(&self.key),
            TlsFile::ClientAuthorities => self.client_authorities.as_ref(),
        };
        TlsError { file, path: path.cloned().unwrap_or_default(), problem }
    }
}

/// The current TLS settings for new connections.
pub(super) struct Tls(Arc<ServerConfig>);

impl HotReloaded<Tls> {
    /// Returns the TLS settings for one connection. Open connections keep the settings that they began with.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.now().0))
    }
}

impl Reloadable for Tls {
    const WHAT: &'static str = "certificate";
    type Files = TlsFiles;
    type Error = TlsError;

    fn paths(files: &TlsFiles) -> Vec<PathBuf> {
        [&files.certificate, &files.key].into_iter().chain(&files.client_authorities).cloned().collect()
    }

    fn unreadable(files: &TlsFiles, index: usize, source: io::Error) -> TlsError {
        let file = match index {
            0 => TlsFile::Certificate,
            1 => TlsFile::Key,
            _ => TlsFile::ClientAuthorities,
        };
        files.blame(file, TlsProblem::Unreadable(source))
    }

    fn parse(files: &TlsFiles, contents: &[Vec<u8>]) -> Result<Self, TlsError> {
        let pem = |index: usize| contents.get(index).map_or(&[][..], Vec::as_slice);
        let chain = certificates(pem(0))
            .ok_or_else(|| files.blame(TlsFile::Certificate, TlsProblem::NoCertificate))?;
        let ends = chain.first().and_then(not_after);
        let key = PrivateKeyDer::from_pem_slice(pem(1))
            .map_err(|_| files.blame(TlsFile::Key, TlsProblem::NoKey))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let refused =
            |file, problem: fn(rustls::Error) -> TlsProblem| move |error| files.blame(file, problem(error));
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(refused(TlsFile::Key, TlsProblem::Key))?;
        let builder = match files.client_authorities {
            None => builder.with_no_client_auth(),
            Some(_) => {
                let file = TlsFile::ClientAuthorities;
                let authorities =
                    certificates(pem(2)).ok_or_else(|| files.blame(file, TlsProblem::NoCertificate))?;
                let mut roots = RootCertStore::empty();
                for authority in authorities {
                    roots.add(authority).map_err(refused(file, TlsProblem::Authority))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                let unsuitable =
                    |error: rustls::server::VerifierBuilderError| rustls::Error::General(error.to_string());
                builder.with_client_cert_verifier(
                    verifier.map_err(unsuitable).map_err(refused(file, TlsProblem::Authority))?,
                )
            }
        };
        let mut config =
            builder.with_single_cert(chain, key).map_err(refused(TlsFile::Key, TlsProblem::Key))?;
        config.alpn_protocols = vec![HTTP_2.to_vec()];
        if let Some(ends) = ends {
            // An expired certificate is used nevertheless: there may be no better one, and a clock may be
            // wrong.
            if ends < OffsetDateTime::now_utc() {
                warn!(%ends, certificate = %files.certificate.display(), "the certificate has expired: callers will not accept it");
            }
            metrics::listener::certificate_ends(ends.unix_timestamp());
        }
        Ok(Self(Arc::new(config)))
    }
}

/// Returns all certificates of a file. `None` if one of them is not valid, or there is none.
fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().ok()?;
    (!all.is_empty()).then_some(all)
}
