//! The addresses of workers, and the security settings of connections.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::transport::Uri;
use url::{Host, Url};

/// `http://HOST:PORT` or `https://HOST:PORT`. A host given by name stands for all its addresses, now and
/// later. The default port is that of the scheme.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    host: Host,
    port: u16,
    is_secure: bool,
}

/// Where to connect to: one address, or any address of a name.
#[derive(Clone, Debug)]
pub(super) enum Target {
    Address(SocketAddr),
    Name(String, u16),
}

/// The security settings of connections: certificates and a token.
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// The PEM file with the certificate authorities of the workers. If there is none, the system's
    /// authorities are used. This file and the files of `certificate` are read again for each connection, so
    /// that they can be renewed.
    pub ca_file: Option<PathBuf>,
    /// The certificate for workers that ask for one.
    pub certificate: Option<CertificateFiles>,
    /// The file with the token that is sent with each call. It is read again for each attempt, so that it can
    /// be replaced.
    pub token_file: Option<PathBuf>,
}

/// PEM files with a certificate and its key.
#[derive(Clone, Debug)]
pub struct CertificateFiles {
    /// The certificate, followed by the intermediate certificates up to its authority.
    pub certificate: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
}

/// Why an endpoint cannot be used. No message repeats a part that may be a password.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// No endpoint is given.
    #[error("no endpoint is given")]
    NoneGiven,
    /// It is not a URL.
    #[error("an endpoint is a URL such as http://HOST:PORT")]
    NotAUrl(#[source] url::ParseError),
    /// It is a URL with another scheme.
    #[error("an endpoint starts with http:// or https://")]
    OtherScheme,
    /// It holds a user or password. URLs are shown and logged, so they must not hold a password.
    #[error("an endpoint holds no user or password: a token belongs in a file of its own")]
    HoldsCredentials,
    /// It has something after the port.
    #[error("an endpoint has no path, query or fragment")]
    HoldsMore,
    /// A file that [`Security`] names cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The file holds no certificate.
    #[error("{} holds no certificate in PEM", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The file holds no private key.
    #[error("{} holds no private key in PEM", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// The system has no certificate authorities, so no worker can be verified.
    #[error("the system has no certificate authorities for TLS")]
    NoAuthorities,
    /// The token cannot be sent in a header.
    #[error("{} holds no token: one line of visible ASCII", path.display())]
    NoToken {
        /// The file.
        path: PathBuf,
    },
    /// TLS cannot be set up with these files.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// The host's name cannot occur in a certificate.
    #[error("a certificate cannot hold the name of {endpoint}")]
    NoName {
        /// The endpoint.
        endpoint: Endpoint,
    },
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let url = Url::parse(text).map_err(EndpointError::NotAUrl)?;
        let is_secure = match url.scheme() {
            "http" => false,
            "https" => true,
            _ => return Err(EndpointError::OtherScheme),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(EndpointError::HoldsCredentials);
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(EndpointError::HoldsMore);
        }
        let empty = || EndpointError::NotAUrl(url::ParseError::EmptyHost);
        let host = url.host().ok_or_else(empty)?.to_owned();
        let port = url.port_or_known_default().ok_or_else(empty)?;
        Ok(Self { host, port, is_secure })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secure { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

impl Endpoint {
    /// The scheme and authority of requests.
    pub(super) fn origin(&self) -> Uri {
        // A URL's scheme, host and port are always a valid URI.
        self.to_string().parse().unwrap_or_default()
    }

    /// Where to connect to.
    pub(super) fn target(&self) -> Target {
        match &self.host {
            Host::Domain(name) => Target::Name(name.clone(), self.port),
            Host::Ipv4(address) => Target::Address(SocketAddr::new(IpAddr::V4(*address), self.port)),
            Host::Ipv6(address) => Target::Address(SocketAddr::new(IpAddr::V6(*address), self.port)),
        }
    }

    /// Whether connections to it are encrypted.
    pub(super) fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// The name that the worker's certificate must have.
    pub(super) fn certified_name(&self) -> Result<ServerName<'static>, EndpointError> {
        match &self.host {
            Host::Domain(name) => ServerName::try_from(name.clone())
                .map_err(|_| EndpointError::NoName { endpoint: self.clone() }),
            Host::Ipv4(address) => Ok(ServerName::from(IpAddr::V4(*address))),
            Host::Ipv6(address) => Ok(ServerName::from(IpAddr::V6(*address))),
        }
    }

    /// Whether connections to it stay on this machine.
    pub(super) fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Domain(name) => name == "localhost",
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => address.is_loopback(),
        }
    }

    /// The host name and the port. `None` for an address.
    pub(super) fn name(&self) -> Option<(&str, u16)> {
        match &self.host {
            Host::Domain(name) => Some((name, self.port)),
            Host::Ipv4(_) | Host::Ipv6(_) => None,
        }
    }

    /// The address. `None` for a name.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self.target() {
            Target::Address(address) => Some(address),
            Target::Name(..) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, &str>) {
        let read = text.parse::<Endpoint>();
        let shown = read.as_ref().map(ToString::to_string).map_err(ToString::to_string);
        match (&shown, expected) {
            (Ok(shown), Ok(expected)) => assert_eq!(shown, expected),
            (Err(error), Err(part)) => assert!(error.contains(part), "{text}: {error}"),
            _ => panic!("{text}: {shown:?}"),
        }
        if let Err(error) = read {
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
    }

    #[test]
    fn an_endpoint_is_a_scheme_a_host_and_a_port() {
        check("http://127.0.0.1:7070", Ok("http://127.0.0.1:7070"));
        check("http://127.0.0.1:7070/", Ok("http://127.0.0.1:7070"));
        check("https://workers.logs.svc:7070", Ok("https://workers.logs.svc:7070"));
        check("https://workers", Ok("https://workers:443"));
        check("http://[::1]:80", Ok("http://[::1]:80"));
    }

    #[test]
    fn an_endpoint_is_nothing_more() {
        check("127.0.0.1:7070", Err("http://HOST:PORT"));
        check("workers:7070", Err("http:// or https://"));
        check("ftp://workers:7070", Err("http:// or https://"));
        check("http://workers:7070/v1", Err("no path"));
        check("http://workers:7070?a=b", Err("no path"));
        check("http://workers:7070#a", Err("no path"));
        check("http://", Err("http://HOST:PORT"));
        check("", Err("http://HOST:PORT"));
    }

    #[test]
    fn lesson_20_a_password_in_an_endpoint_is_refused_and_not_repeated() {
        check("http://user:hunter2@workers:7070", Err("no user or password"));
        check("http://hunter2@workers:7070", Err("no user or password"));
        check("http://user:hunter2@workers:port", Err("http://HOST:PORT"));
    }
}
