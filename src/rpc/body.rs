//! HTTP/2 bodies for streamed responses, in place of tonic's.
//!
//! Tonic copies each message into a buffer, and keeps the buffer until the stream ends. The buffer stays as
//! large as the largest message. Here a large value is sent from the buffer that it is in, and the memory of
//! a message is released when its last byte has been sent.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use http_body::Frame;
use tonic::codegen::http::{self, HeaderMap};
use tonic::{Code, Response, Status};

use super::parts::{Parted, Parts};

/// A message, and the memory that it holds until its bytes have been sent.
#[derive(Debug)]
pub struct MessageWithMemory<T, M> {
    /// The message.
    pub message: T,
    /// Released with the last byte of the message.
    pub memory: Option<M>,
}

/// The stream of messages of a response, in the type that tonic's services use.
pub type Answers<T> = BoxStream<'static, Result<T, Status>>;

/// Creates a response with these messages. Its stream gives them one by one. [`own_body`] replaces that
/// stream by a body that does not copy large values.
pub fn answer<T, M>(
    messages: impl Stream<Item = Result<MessageWithMemory<T, M>, Status>> + Send + 'static,
) -> Response<Answers<T>>
where
    T: Parted + Send + 'static,
    M: Send + Sync + 'static,
{
    let messages = Arc::new(Mutex::new(Some(messages.boxed())));
    let one_by_one = Arc::clone(&messages);
    let body = move || take(&messages).map(|messages| Body::new(messages.map(|held| encode(held?))));
    let taken = stream::once(async move { stream::iter(take(&one_by_one)).flatten() }).flatten();
    let mut response = Response::new(taken.map(|held| held.map(|held| held.message)).boxed());
    response.extensions_mut().insert(BodyFactory(Arc::new(body)));
    response
}

/// Replaces the body that tonic has made for an [`answer`], unless a message of it was already taken.
pub fn own_body(mut response: http::Response<tonic::body::Body>) -> http::Response<tonic::body::Body> {
    let factory = response.extensions_mut().remove();
    match factory.and_then(|BodyFactory(body)| body()) {
        Some(body) => response.map(|_| tonic::body::Body::new(body)),
        None => response,
    }
}

/// Creates the body of a response, once. It is shared by an `Arc`, because extensions of a response must be
/// cloneable.
#[derive(Clone)]
struct BodyFactory(Arc<dyn Fn() -> Option<Body> + Send + Sync>);

/// Returns the value to the first caller, and `None` to all others.
fn take<S>(waiting: &Mutex<Option<S>>) -> Option<S> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Length in bytes of what comes before a message: a byte that says whether the message is compressed, and
/// the message's length as a big-endian `u32` (gRPC over HTTP2, "Length-Prefixed-Message").
const PREFIX_BYTES: usize = 5;

/// Returns a message in parts, after its prefix. A message whose length does not fit the prefix is an error.
fn encode<T: Parted, M: Send + Sync + 'static>(held: MessageWithMemory<T, M>) -> Result<Vec<Bytes>, Status> {
    let MessageWithMemory { message, memory } = held;
    let len = message.encoded_len();
    let Ok(prefix) = u32::try_from(len) else {
        return Err(Status::out_of_range(format!("a message of {len} bytes is longer than gRPC allows")));
    };
    let mut parts = Parts::with_capacity(PREFIX_BYTES + len - message.large_bytes());
    parts.put(&[0]);
    parts.put(&prefix.to_be_bytes());
    message.write(&mut parts);
    let parts = parts.finish();
    let Some(memory) = memory.map(Arc::new) else { return Ok(parts) };
    let held = |bytes| Bytes::from_owner(HeldBytes { bytes, _memory: Arc::clone(&memory) });
    Ok(parts.into_iter().map(held).collect())
}

/// Bytes that keep the memory of their message reserved.
struct HeldBytes<M> {
    bytes: Bytes,
    _memory: Arc<M>,
}

impl<M> AsRef<[u8]> for HeldBytes<M> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The body of a response: the parts of all messages, then the status as trailers.
struct Body {
    messages: BoxStream<'static, Result<Vec<Bytes>, Status>>,
    parts: VecDeque<Bytes>,
    is_over: bool,
}

impl Body {
    fn new(messages: impl Stream<Item = Result<Vec<Bytes>, Status>> + Send + 'static) -> Self {
        Self { messages: messages.boxed(), parts: VecDeque::new(), is_over: false }
    }

    fn end(&mut self, status: &Status) -> Option<Result<Frame<Bytes>, Status>> {
        self.is_over = true;
        let mut trailers = HeaderMap::new();
        Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers)))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(part) = self.parts.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(part))));
            }
            if self.is_over {
                return Poll::Ready(None);
            }
            match std::task::ready!(self.messages.poll_next_unpin(cx)) {
                Some(Ok(parts)) => self.parts.extend(parts),
                Some(Err(status)) => return Poll::Ready(self.end(&status)),
                None => return Poll::Ready(self.end(&Status::new(Code::Ok, ""))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_over && self.parts.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;

    use super::*;
    use crate::budget::{Budget, Limits, Permit};
    use crate::proto::v1;

    type Message = MessageWithMemory<v1::FetchResponse, Permit>;

    fn batches(len: usize) -> v1::FetchResponse {
        v1::FetchResponse { kafka_batches: vec![b'x'; len].into(), ..v1::FetchResponse::default() }
    }

    /// Returns the body that is sent for these messages.
    fn body(messages: Vec<Result<Message, Status>>) -> tonic::body::Body {
        let served = answer(stream::iter(messages)).map(|_| tonic::body::Body::empty());
        let (metadata, empty, extensions) = served.into_parts();
        let mut response = http::Response::new(empty);
        (*response.headers_mut(), *response.extensions_mut()) = (metadata.into_headers(), extensions);
        own_body(response).into_body()
    }

    async fn frame(body: &mut tonic::body::Body) -> Option<Frame<Bytes>> {
        std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx))
            .await
            .map(|frame| frame.expect("a frame"))
    }

    fn data(frame: Option<Frame<Bytes>>) -> Bytes {
        frame.expect("one more").into_data().expect("data")
    }

    fn trailers(frame: Option<Frame<Bytes>>) -> HeaderMap {
        frame.expect("one more").into_trailers().expect("trailers")
    }

    #[tokio::test]
    async fn what_a_message_holds_is_given_back_with_the_last_of_its_bytes() {
        let budget = Budget::with_limits(Limits { permits_bytes: 8 << 20, ..Limits::default() });
        let memory = Some(budget.permit(8 << 20).await);
        let mut body = body(vec![Ok(MessageWithMemory { message: batches(1 << 20), memory })]);
        let (head, value) = (data(frame(&mut body).await), data(frame(&mut body).await));
        assert_eq!((head[..5].to_vec(), value.len()), (vec![0, 0, 16, 0, 4], 1 << 20));
        let part = value.slice(1_000..);
        for held in [head, value] {
            assert!(budget.try_permit(1).is_none());
            drop(held);
        }
        assert_eq!(trailers(frame(&mut body).await)["grpc-status"], "0");
        assert!(budget.try_permit(1).is_none(), "a part of it is still on its way");
        drop(part);
        assert!(budget.try_permit(8 << 20).is_some());
    }

    #[tokio::test]
    async fn an_answer_that_fails_ends_with_why() {
        let small = || Ok(MessageWithMemory { message: batches(2), memory: None });
        let mut body = body(vec![small(), Err(Status::data_loss("a block is gone")), small()]);
        assert_eq!(data(frame(&mut body).await), [0, 0, 0, 0, 4, 0x12, 2, b'x', b'x'][..]);
        let end = trailers(frame(&mut body).await);
        assert_eq!(
            (&end["grpc-status"], &end["grpc-message"]),
            (&"15".parse().expect("a value"), &"a%20block%20is%20gone".parse().expect("a value"))
        );
        assert!(body.is_end_stream() && frame(&mut body).await.is_none());
    }

    #[tokio::test]
    async fn whoever_takes_an_answer_message_by_message_has_the_same() {
        let messages = [
            Ok(MessageWithMemory { message: batches(1), memory: None::<Permit> }),
            Err(Status::aborted("why")),
        ];
        let taken: Vec<_> = answer(stream::iter(messages)).into_inner().collect().await;
        let [Ok(first), Err(status)] = &taken[..] else { panic!("{taken:?}") };
        assert_eq!((first, status.code()), (&batches(1), Code::Aborted));
    }
}
