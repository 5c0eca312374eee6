//! A connection whose first received bytes must be HTTP/2. If they are something else, the error says what:
//! the error of the HTTP/2 library would only mention the size of a frame.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The maximum length of the first line of a response in an error, in bytes.
const LINE_BYTES_MAX: usize = 100;

/// A connection that checks the first bytes that it receives.
#[derive(Debug)]
pub(super) struct Http2Check<S> {
    stream: S,
    is_checked: bool,
}

impl<S> Http2Check<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, is_checked: false }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Http2Check<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if !self.is_checked {
            self.is_checked = true;
            if let Some(what) = otherwise(&buf.filled()[before..]) {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, what)));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Http2Check<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Describes the first bytes if they are certainly not HTTP/2.
fn otherwise(first: &[u8]) -> Option<String> {
    if first.starts_with(b"HTTP/1") {
        let line = first.split(|byte| byte.is_ascii_control()).next().unwrap_or_default();
        let line = String::from_utf8_lossy(&line[..line.len().min(LINE_BYTES_MAX)]);
        return Some(format!("the other end speaks HTTP/1 and not HTTP/2: it answers {line:?}"));
    }
    // A TLS record of the type "alert", version 3.x.
    let is_alert = first.starts_with(&[0x15, 0x03]);
    is_alert.then(|| "the other end expects TLS: the endpoint must begin with https://".to_owned())
}
