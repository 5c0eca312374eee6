//! Who calls, as far as shares are concerned: nothing is allowed or refused by it.

use std::net::IpAddr;
use std::sync::Arc;

use tonic::Request;

use crate::ids::CallerId;

/// Whoever shares with nobody else what is shared out by caller: whoever shows one token, or one host where no token is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Caller {
    /// What its token is called; never the token.
    Named(Arc<str>),
    /// Where it calls from.
    Host(IpAddr),
    /// Nothing is known of it.
    Unknown,
}

impl Caller {
    /// Who called: as the layer that checks tokens has put it into the request, or else the host.
    pub fn of<T>(request: &Request<T>) -> Self {
        if let Some(caller) = request.extensions().get::<Self>() {
            return caller.clone();
        }
        request.remote_addr().map_or(Self::Unknown, |address| Self::Host(address.ip().to_canonical()))
    }

    /// Whose share its calls take. A token may be called like a host.
    pub fn caller_id(&self) -> CallerId {
        match self {
            Self::Named(name) => CallerId::new(format!("token {name}")),
            Self::Host(address) => CallerId::new(format!("host {address}")),
            Self::Unknown => CallerId::default(),
        }
    }
}
