//! What callers must present, and how long a connection lasts. It knows nothing of what they call.

use std::path::PathBuf;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;

use super::hot_reload::HotReloaded;
use super::tls::{Tls, TlsError, TlsFiles};
use super::tokens::{Tokens, TokensError};

/// Which callers are accepted, and how. By default all callers are accepted, without TLS.
#[derive(Debug)]
pub struct ConnectionPolicy {
    pub(super) tls: Option<HotReloaded<Tls>>,
    pub(super) tokens: Option<HotReloaded<Tokens>>,
    /// How long a connection is used, plus or minus a tenth. Then calls in flight are finished, and new calls
    /// need a new connection: perhaps to another worker, or with a renewed certificate.
    pub connection_age_max: Duration,
    /// The listener that serves `grpc.health.v1` to probes, which have neither TLS nor a token.
    pub probes: Option<TcpListener>,
    /// A change of this value makes the worker check its files at once, for example after a signal. They are
    /// also checked every few seconds. It applies only to files that are added after it is set.
    pub reloads: Option<watch::Receiver<u32>>,
}

impl Default for ConnectionPolicy {
    fn default() -> Self {
        let connection_age_max = Duration::from_secs(30 * 60);
        Self { tls: None, tokens: None, connection_age_max, probes: None, reloads: None }
    }
}

impl ConnectionPolicy {
    /// Requires TLS with the certificates in these files. The files are read again when they change.
    ///
    /// # Errors
    /// The files cannot be used for TLS.
    pub async fn with_tls(self, files: TlsFiles) -> Result<Self, TlsError> {
        Ok(Self { tls: Some(HotReloaded::start(files, self.reloads.clone()).await?), ..self })
    }

    /// Requires tokens that this file lists. The file is read again when it changes. Each line is
    /// `NAME ROLE[,ROLE] TOKEN`, with the roles `index`, `search` and `stats`. A line that begins with `#` is
    /// a comment.
    ///
    /// # Errors
    /// The file cannot be read, or it is not a valid list of tokens.
    pub async fn with_tokens(self, file: PathBuf) -> Result<Self, TokensError> {
        Ok(Self { tokens: Some(HotReloaded::start(file, self.reloads.clone()).await?), ..self })
    }

    /// Whether connections are encrypted.
    pub fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether calls need tokens.
    pub fn has_tokens(&self) -> bool {
        self.tokens.is_some()
    }
}
