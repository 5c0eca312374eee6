//! Refuses calls with too much metadata, without a known token, or with a token that does not have the
//! required role. This happens before any of a call's body is read, so that no memory is reserved for unknown
//! callers.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::http::header::AUTHORIZATION;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use tower::{Layer, Service};
use tracing::debug;

use super::hot_reload::HotReloaded;
use super::tokens::{Role, Tokens};
use crate::rpc::caller::Caller;
use crate::rpc::status::DOMAIN;

/// The limits of metadata that is not refused. Above them a call is refused with a message. Above twice the
/// bytes HTTP/2 refuses it without a message.
const METADATA_BYTES_MAX: usize = 8 << 10;
const METADATA_ENTRIES_MAX: usize = 64;

/// What HTTP counts for an entry in addition to its name and value, in bytes.
const ENTRY_BYTES: usize = 32;

/// What a call requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Nothing: probes have no token.
    Nothing,
    /// Any known token.
    Token,
    /// A token with this role.
    Role(Role),
}

fn need(path: &str) -> Need {
    let called = path.strip_prefix('/').and_then(|path| path.split_once('/'));
    match called {
        Some(("grpc.health.v1.Health", _)) => Need::Nothing,
        Some(("walindexer.v1.IndexerService", "GetStats" | "Health")) => Need::Role(Role::Stats),
        Some(("walindexer.v1.IndexerService", _)) => Need::Role(Role::Index),
        Some(("walindexer.v1.SearchService", _)) => Need::Role(Role::Search),
        Some(("walindexer.v1.ArchiveService", _)) => Need::Role(Role::Archive),
        // Reflection and unknown methods. A caller without a token must not learn which methods exist.
        _ => Need::Token,
    }
}

/// The authorization layer. Without tokens every call is allowed.
#[derive(Clone, Debug)]
pub(super) struct AuthorizationLayer(pub(super) Option<HotReloaded<Tokens>>);

impl<S> Layer<S> for AuthorizationLayer {
    type Service = Authorization<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Authorization { inner, tokens: self.0.clone() }
    }
}

/// A service behind the authorization layer.
#[derive(Clone, Debug)]
pub(super) struct Authorization<S> {
    inner: S,
    tokens: Option<HotReloaded<Tokens>>,
}

impl<S, B> Service<Request<B>> for Authorization<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Error: Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match self.admit(&mut request) {
            Ok(()) => Box::pin(self.inner.call(request)),
            Err(status) => {
                debug!(path = request.uri().path(), error = status.message(), "a call is refused");
                Box::pin(std::future::ready(Ok(status.into_http())))
            }
        }
    }
}

impl<S> Authorization<S> {
    /// Checks a request, and puts its caller into its extensions. The token is removed, so that nothing
    /// behind this layer can reveal it.
    fn admit<B>(&self, request: &mut Request<B>) -> Result<(), Status> {
        check_size(request.headers())?;
        let authorization = request.headers_mut().remove(AUTHORIZATION);
        let Some(tokens) = &self.tokens else { return Ok(()) };
        let need = need(request.uri().path());
        if need == Need::Nothing {
            return Ok(());
        }
        let Some(authorization) = authorization else { return Err(unauthenticated("TOKEN_MISSING")) };
        let tokens = tokens.now();
        let grant = bearer(authorization.as_bytes()).and_then(|token| tokens.grant(token));
        let Some(grant) = grant else { return Err(unauthenticated("TOKEN_UNKNOWN")) };
        if let Need::Role(role) = need
            && !grant.has(role)
        {
            return Err(denied(role, &grant.name));
        }
        request.extensions_mut().insert(Caller::Named(grant.name.clone()));
        Ok(())
    }
}

/// The scheme's case does not matter (RFC 7235).
fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = authorization.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token.trim_ascii())
}

fn check_size(headers: &HeaderMap) -> Result<(), Status> {
    let bytes: usize =
        headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ENTRY_BYTES).sum();
    if bytes <= METADATA_BYTES_MAX && headers.len() <= METADATA_ENTRIES_MAX {
        return Ok(());
    }
    let details = ErrorDetails::with_error_info("METADATA_TOO_LARGE", DOMAIN, HashMap::new());
    let message =
        format!("metadata is at most {METADATA_ENTRIES_MAX} entries and {METADATA_BYTES_MAX} bytes");
    Err(Status::with_error_details(Code::InvalidArgument, message, details))
}

fn unauthenticated(reason: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    let message = match reason {
        "TOKEN_MISSING" => "no token: authorization is \"Bearer TOKEN\"",
        _ => "the token is not known here",
    };
    Status::with_error_details(Code::Unauthenticated, message, details)
}

fn denied(role: Role, name: &str) -> Status {
    let place = HashMap::from([("role".to_owned(), role.name().to_owned())]);
    let details = ErrorDetails::with_error_info("ROLE_MISSING", DOMAIN, place);
    let message = format!("{name} does not have the role {}", role.name());
    Status::with_error_details(Code::PermissionDenied, message, details)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_to_a_service_takes_its_role_and_other_paths_a_token() {
        for (path, expected) in [
            ("/grpc.health.v1.Health/Check", Need::Nothing),
            ("/grpc.health.v1.Health/Watch", Need::Nothing),
            ("/walindexer.v1.IndexerService/IndexSegment", Need::Role(Role::Index)),
            ("/walindexer.v1.IndexerService/Added", Need::Role(Role::Index)),
            ("/walindexer.v1.IndexerService/GetStats", Need::Role(Role::Stats)),
            ("/walindexer.v1.IndexerService/Health", Need::Role(Role::Stats)),
            ("/walindexer.v1.SearchService/Search", Need::Role(Role::Search)),
            ("/walindexer.v1.SearchService/Added", Need::Role(Role::Search)),
            ("/walindexer.v1.ArchiveService/CopySegment", Need::Role(Role::Archive)),
            ("/walindexer.v1.ArchiveService/Added", Need::Role(Role::Archive)),
            ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Need::Token),
            ("/grpc.health.v1.Healthy/Check", Need::Token),
            ("//grpc.health.v1.Health/Check", Need::Token),
            ("grpc.health.v1.Health/Check", Need::Token),
            ("/", Need::Token),
            ("", Need::Token),
        ] {
            assert_eq!(need(path), expected, "{path}");
        }
    }

    #[test]
    fn a_token_comes_behind_its_scheme() {
        for (authorization, expected) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            ("Basic abc", None),
            ("Bearer", None),
            ("abc", None),
            ("", None),
        ] {
            assert_eq!(bearer(authorization.as_bytes()), expected.map(str::as_bytes), "{authorization}");
        }
    }
}
