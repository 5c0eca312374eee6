//! Handles HTTP responses that are not gRPC. They come from something between this client and the workers,
//! such as a proxy that has no worker for the call, or that does not accept so large a body.
//!
//! The codes are those of gRPC's own mapping
//! (<https://grpc.github.io/grpc/core/md_doc_http-grpc-status-mapping.html>). The message has the status and
//! the text of the response, because an operator of the proxy knows that text.

use std::error::Error;
use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, future};
use http_body::Body as _;
use tokio::time::{Instant, timeout_at};
use tonic::body::Body;
use tonic::codegen::http::header::CONTENT_TYPE;
use tonic::codegen::http::{HeaderMap, Request, Response, StatusCode};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tower::Service;

/// The maximum size of the text that is read of a proxy's response, in bytes.
const WORDS_READ_MAX: usize = 16 << 10;

/// The maximum time to wait for that text.
const WORDS_WAIT_MAX: Duration = Duration::from_secs(2);

/// The maximum length of that text in an error, in characters.
const WORDS_SHOWN_MAX: usize = 200;

/// A channel on which every response comes from a worker. Any other response becomes an error that says so.
#[derive(Clone, Debug)]
pub(super) struct GrpcChannel {
    channel: Channel,
}

impl GrpcChannel {
    pub(super) fn new(channel: Channel) -> Self {
        Self { channel }
    }
}

type BoxError = Box<dyn Error + Send + Sync>;

impl Service<Request<Body>> for GrpcChannel {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.channel.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = self.channel.call(request);
        async move {
            let answer = answer.await?;
            match is_grpc(answer.status(), answer.headers()) {
                true => Ok(answer),
                false => Err(ProxyAnswer::read(answer).await.status().into()),
            }
        }
        .boxed()
    }
}

/// Whether a response comes from a gRPC server. Such responses have the status 200 and the content type of
/// gRPC. A response with a `grpc-status` header is one in any case.
fn is_grpc(status: StatusCode, headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(|value| value.as_bytes());
    let is_named =
        content_type.is_some_and(|value| value.to_ascii_lowercase().starts_with(b"application/grpc"));
    headers.contains_key(Status::GRPC_STATUS) || (status == StatusCode::OK && is_named)
}

/// A response that is not gRPC. It is the source of the [`Status`] that it becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProxyAnswer {
    status: StatusCode,
    /// The text, on one line, without tags and control characters, and limited in length.
    words: String,
}

impl ProxyAnswer {
    /// Returns the proxy's response that a call ended with, if a proxy ended it.
    pub(super) fn behind(status: &Status) -> Option<&Self> {
        status.source()?.downcast_ref()
    }

    /// Whether the proxy does not accept a request body as large as this one.
    pub(super) fn is_body_limit(&self) -> bool {
        self.status == StatusCode::PAYLOAD_TOO_LARGE
    }

    /// A stable reason, as errors of workers have one.
    pub(super) fn reason(&self) -> &'static str {
        if self.is_body_limit() { "PROXY_BODY_LIMIT" } else { "NOT_GRPC" }
    }

    async fn read(answer: Response<Body>) -> Self {
        let (head, body) = answer.into_parts();
        Self { status: head.status, words: words(&read_some(body).await) }
    }

    fn code(&self) -> Code {
        match self.status {
            StatusCode::BAD_REQUEST => Code::Internal,
            StatusCode::UNAUTHORIZED => Code::Unauthenticated,
            StatusCode::FORBIDDEN => Code::PermissionDenied,
            StatusCode::NOT_FOUND => Code::Unimplemented,
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Code::Unavailable,
            _ => Code::Unknown,
        }
    }

    fn status(self) -> Status {
        let mut status = Status::new(self.code(), self.to_string());
        status.set_source(Arc::new(self));
        status
    }
}

impl fmt::Display for ProxyAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_body_limit() {
            true => write!(f, "a proxy in front of the worker takes no request body so large")?,
            false => write!(f, "an answer that is not gRPC, as from a proxy in front of the worker")?,
        }
        write!(f, ": HTTP status {}", self.status.as_u16())?;
        let standard = self.status.canonical_reason().unwrap_or_default();
        if !standard.is_empty() {
            write!(f, " {standard}")?;
        }
        if self.words.is_empty() { Ok(()) } else { write!(f, ": {}", self.words) }
    }
}

impl Error for ProxyAnswer {}

/// Reads the first bytes of a body, as many as come in time.
async fn read_some(body: Body) -> Vec<u8> {
    let (mut body, mut read) = (pin!(body), Vec::new());
    let until = Instant::now() + WORDS_WAIT_MAX;
    while read.len() < WORDS_READ_MAX {
        let frame = future::poll_fn(|cx| Pin::as_mut(&mut body).poll_frame(cx));
        // A body that breaks off or is too late is left as it is: the status has the important information.
        let Ok(Some(Ok(frame))) = timeout_at(until, frame).await else { break };
        if let Some(data) = frame.data_ref() {
            let wanted = WORDS_READ_MAX - read.len();
            read.extend_from_slice(&data[..data.len().min(wanted)]);
        }
    }
    read
}

/// Returns the visible text of a page, on one line.
fn words(page: &[u8]) -> String {
    let page = String::from_utf8_lossy(page);
    let mut shown = String::new();
    for word in without_tags(&page).split(|c: char| c.is_whitespace() || c.is_control()) {
        if word.is_empty() {
            continue;
        }
        if !shown.is_empty() {
            shown.push(' ');
        }
        shown.push_str(word);
    }
    match shown.char_indices().nth(WORDS_SHOWN_MAX) {
        Some((end, _)) => format!("{}…", &shown[..end]),
        None => shown,
    }
}

/// Returns text without HTML tags, comments, and the contents of `<style>` and `<script>`. A `<` that begins
/// no tag is text.
fn without_tags(page: &str) -> String {
    let (mut text, mut rest) = (String::new(), page);
    while let Some((before, tag)) = rest.split_once('<') {
        text.push_str(before);
        if !tag.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '!' | '?')) {
            text.push('<');
            rest = tag;
            continue;
        }
        text.push(' ');
        let closed = |end: &str| tag.find(end).map(|at| at + end.len());
        // ASCII lower case does not change the length.
        let closed_by = |end: &str| tag.to_ascii_lowercase().find(end).map(|at| at + end.len());
        let end = match tag {
            _ if tag.starts_with("!--") => closed("-->"),
            _ if begins_with_name(tag, "style") => closed_by("</style>"),
            _ if begins_with_name(tag, "script") => closed_by("</script>"),
            _ => closed(">"),
        };
        rest = end.map_or("", |end| &tag[end..]);
    }
    text.push_str(rest);
    text
}

fn begins_with_name(tag: &str, name: &str) -> bool {
    let rest = tag.get(..name.len()).filter(|start| start.eq_ignore_ascii_case(name));
    rest.is_some() && !tag[name.len()..].starts_with(|c: char| c.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_told_as_the_words_that_a_person_sees() {
        let long = "é".repeat(1_000);
        for (page, shown) in [
            ("", ""),
            ("no healthy upstream", "no healthy upstream"),
            (
                "<html>\r\n<head><title>413 Too Large</title></head>\n<body><h1>Sorry</h1></body>",
                "413 Too Large Sorry",
            ),
            ("<style>h1 { color: red }</style><!-- a > b --><SCRIPT>x()</Script>gone", "gone"),
            ("<strong>5 < 6</strong>", "5 < 6"),
            ("a\u{1b}[31mb\0c", "a [31mb c"),
            ("cut <off", "cut"),
            ("<script>never closed", ""),
        ] {
            assert_eq!(words(page.as_bytes()), shown, "{page:?}");
        }
        assert_eq!(words(long.as_bytes()), format!("{}…", "é".repeat(WORDS_SHOWN_MAX)));
        assert_eq!(words(b"\xff\xfe!"), "\u{fffd}\u{fffd}!");
    }

    #[test]
    fn an_http_status_becomes_the_code_of_grpcs_mapping() {
        for (status, code) in [
            (400, Code::Internal),
            (401, Code::Unauthenticated),
            (403, Code::PermissionDenied),
            (404, Code::Unimplemented),
            (429, Code::Unavailable),
            (502, Code::Unavailable),
            (503, Code::Unavailable),
            (504, Code::Unavailable),
            (200, Code::Unknown),
            (302, Code::Unknown),
            (413, Code::Unknown),
            (500, Code::Unknown),
        ] {
            let answer =
                ProxyAnswer { status: StatusCode::from_u16(status).expect("a status"), words: String::new() };
            assert_eq!(answer.status().code(), code, "{status}");
        }
    }
}
