//! What callers must show, and for how long a connection is theirs. Knows nothing of what they call.

use std::path::PathBuf;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;

use super::hot_reload::HotReloaded;
use super::tls::{Tls, TlsError, TlsFiles};
use super::tokens::{Tokens, TokensError};

/// Who gets in, and how. By default: everybody, without TLS.
#[derive(Debug)]
pub struct ConnectionPolicy {
    pub(super) tls: Option<HotReloaded<Tls>>,
    pub(super) tokens: Option<HotReloaded<Tokens>>,
    /// For how long a connection is used, give or take a tenth. Calls in hand are finished then, and new ones come over a new
    /// connection: to another worker, perhaps, or with a renewed certificate.
    pub connection_age_max: Duration,
    /// Where `grpc.health.v1` is served to probes, which neither speak TLS nor have a token.
    pub probes: Option<TcpListener>,
    /// Files are looked at whenever this changes, beside every few seconds: a signal to the process, say. Counts for what is added
    /// after it.
    pub reloads: Option<watch::Receiver<u32>>,
}

impl Default for ConnectionPolicy {
    fn default() -> Self {
        let connection_age_max = Duration::from_secs(30 * 60);
        Self { tls: None, tokens: None, connection_age_max, probes: None, reloads: None }
    }
}

impl ConnectionPolicy {
    /// Speaks TLS only, as these files say: now, and when they change.
    ///
    /// # Errors
    /// They make no TLS.
    pub async fn with_tls(self, files: TlsFiles) -> Result<Self, TlsError> {
        Ok(Self { tls: Some(HotReloaded::start(files, self.reloads.clone()).await?), ..self })
    }

    /// Asks for tokens, which this file lists: now, and when it changes. Each line of it is `NAME ROLE[,ROLE] TOKEN`, with the roles
    /// `index`, `search` and `stats`; what begins with `#` is a comment.
    ///
    /// # Errors
    /// It lists none.
    pub async fn with_tokens(self, file: PathBuf) -> Result<Self, TokensError> {
        Ok(Self { tokens: Some(HotReloaded::start(file, self.reloads.clone()).await?), ..self })
    }

    /// Whether lines are encrypted.
    pub fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether calls need tokens.
    pub fn has_tokens(&self) -> bool {
        self.tokens.is_some()
    }
}
