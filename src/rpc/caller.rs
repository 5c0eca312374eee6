//! Identifies the caller, so that resources are shared between callers. It is not used to allow or refuse
//! anything.

use std::net::IpAddr;
use std::sync::Arc;

use tonic::Request;

use crate::ids::CallerId;

/// A caller with its own share of what is shared by caller. All that use one token are one caller. If no
/// token is required, each host is one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Caller {
    /// The name of its token, never the token itself.
    Named(Arc<str>),
    /// The address that it calls from.
    Host(IpAddr),
    /// Nothing is known about it.
    Unknown,
}

impl Caller {
    /// Returns the caller of a request: the one that the layer that checks tokens has stored in it, or else
    /// the host.
    pub fn of<T>(request: &Request<T>) -> Self {
        if let Some(caller) = request.extensions().get::<Self>() {
            return caller.clone();
        }
        request.remote_addr().map_or(Self::Unknown, |address| Self::Host(address.ip().to_canonical()))
    }

    /// Returns the id whose share its calls use. The kind is a part of the id, since a token may have the
    /// name of a host.
    pub fn caller_id(&self) -> CallerId {
        match self {
            Self::Named(name) => CallerId::new(format!("token {name}")),
            Self::Host(address) => CallerId::new(format!("host {address}")),
            Self::Unknown => CallerId::default(),
        }
    }
}
