//! A peer of a later release: a proxy that adds unknown fields to every message and to all messages within
//! it, and, if asked, sets unknown values in every enum.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use bytes::{Buf, BufMut, Bytes};
use futures::{Stream, StreamExt};
use protox::prost_reflect::prost::Message;
use protox::prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use protox::prost_reflect::prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
};
use protox::prost_reflect::{
    DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor, ReflectMessage, Value,
};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status, Streaming};
use wal_indexer::proto::DESCRIPTORS;

/// A value that no enum has.
pub const UNKNOWN: i32 = 99;

/// What is changed, in which direction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Skew {
    pub requests: bool,
    pub answers: bool,
    /// Unknown values in the enums of answers.
    pub enums: bool,
    /// This many calls are refused with an unknown reason, before any is passed on.
    pub refusals: u32,
}

/// The proxy in front of a worker. It stops when dropped.
pub struct Later {
    pub endpoint: String,
    serving: JoinHandle<()>,
}

impl Drop for Later {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Later {
    pub async fn start(worker: &str, skew: Skew) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let channel = Endpoint::from_shared(worker.to_owned()).expect("an address").connect_lazy();
        let refusals = Arc::new(AtomicU32::new(skew.refusals));
        let front = Front { channel, pool: pool(), skew, refusals };
        let service = tower::service_fn(move |request: tonic::codegen::http::Request<axum::body::Body>| {
            let front = front.clone();
            async move { Ok::<_, Infallible>(front.answer(request).await) }
        });
        let routes = tonic::service::Routes::from(axum::Router::new().fallback_service(service));
        let serving = tokio::spawn(async move {
            let served = Server::builder().add_routes(routes);
            served.serve_with_incoming(TcpListenerStream::new(listener)).await.expect("it serves");
        });
        Self { endpoint, serving }
    }
}

#[derive(Clone)]
struct Front {
    channel: Channel,
    pool: DescriptorPool,
    skew: Skew,
    refusals: Arc<AtomicU32>,
}

impl Front {
    async fn answer(
        self,
        request: tonic::codegen::http::Request<axum::body::Body>,
    ) -> tonic::codegen::http::Response<tonic::body::Body> {
        let path = request.uri().path().to_owned();
        let pass = tower::service_fn(move |request: Request<Streaming<Bytes>>| {
            let (front, path) = (self.clone(), path.clone());
            async move { front.pass(&path, request).await }
        });
        tonic::server::Grpc::new(Raw).streaming(pass, request).await
    }

    async fn pass(
        self,
        path: &str,
        request: Request<Streaming<Bytes>>,
    ) -> Result<Response<impl Stream<Item = Result<Bytes, Status>> + Send + use<>>, Status> {
        if self.refusals.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(later_refusal());
        }
        let method = self.method(path).ok_or_else(|| Status::unimplemented("no such method"))?;
        let (input, output) = (method.input(), method.output());
        let requests = request.into_inner().map(move |message| {
            let message = message.expect("it came whole");
            if self.skew.requests { later(&input, message, false) } else { message }
        });
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        client.ready().await.expect("the worker is there");
        let answers = client.streaming(Request::new(requests), path.parse().expect("a path"), Raw).await?;
        Ok(answers.map(|messages| {
            messages.map(move |message| match self.skew.answers {
                true => Ok(later(&output, message?, self.skew.enums)),
                false => message,
            })
        }))
    }

    fn method(&self, path: &str) -> Option<MethodDescriptor> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        self.pool.get_service_by_name(service)?.methods().find(|one| one.name() == method)
    }
}

/// Returns a refusal with an unknown reason and with unknown kinds of details.
fn later_refusal() -> Status {
    use tonic_types::StatusExt;
    let details = tonic_types::ErrorDetails::with_error_info(
        "OF_TOMORROW",
        "wal-indexer",
        [("why".to_owned(), "because".to_owned())],
    );
    let status = Status::with_error_details(Code::Unavailable, "said by a later worker", details);
    let mut encoded = status.details().to_vec();
    // google.rpc.Status, field 3: one more Any.
    let any = [&[0x0a, 11][..], b"later/Hint2", &[0x12, 3, 1, 2, 3]].concat();
    encoded.extend([0x1a, any.len() as u8]);
    encoded.extend(any);
    Status::with_details(Code::Unavailable, status.message(), encoded.into())
}

/// Returns a message with fields that a later release may add, to it and to all messages within it.
fn later(kind: &MessageDescriptor, message: Bytes, enums: bool) -> Bytes {
    let (bytes, mut message) =
        (message.len(), DynamicMessage::decode(kind.clone(), message).expect("a message"));
    add(&mut message, enums);
    let more = message.encode_to_vec();
    assert!(more.len() > bytes, "something was added");
    more.into()
}

fn add(message: &mut DynamicMessage, enums: bool) {
    let fields: Vec<_> =
        message.descriptor().fields().filter(|field| !field.name().starts_with("later_")).collect();
    for field in fields {
        if enums && field.kind().as_enum().is_some() && !field.is_list() {
            message.set_field(&field, Value::EnumNumber(UNKNOWN));
        } else if message.has_field(&field) && field.kind().as_message().is_some() && !field.is_map() {
            match message.get_field_mut(&field) {
                Value::Message(within) => add(within, enums),
                Value::List(list) => {
                    list.iter_mut().filter_map(Value::as_message_mut).for_each(|one| add(one, enums))
                }
                other => panic!("{other:?}"),
            }
        }
    }
    message.set_field_by_name("later_number", Value::U64(u64::MAX));
    message.set_field_by_name("later_fixed", Value::F64(0.5));
    message.set_field_by_name("later_checksum", Value::U32(7));
    message.set_field_by_name("later_text", Value::List(vec![Value::String("a later release's".to_owned())]));
}

/// Returns today's contract with an additional field in each message.
fn pool() -> DescriptorPool {
    let mut files = FileDescriptorSet::decode(DESCRIPTORS).expect("sound");
    for file in &mut files.file {
        if file.package() == "walindexer.v1" {
            file.message_type.iter_mut().for_each(extend);
            file.enum_type.iter_mut().for_each(extend_enum);
        }
    }
    DescriptorPool::from_file_descriptor_set(files).expect("sound")
}

fn extend(message: &mut DescriptorProto) {
    if message.options.as_ref().is_some_and(|options| options.map_entry()) {
        return;
    }
    message.nested_type.iter_mut().for_each(extend);
    message.enum_type.iter_mut().for_each(extend_enum);
    for (number, name, kind, label) in [
        (1_001, "later_number", Type::Uint64, Label::Optional),
        (1_002, "later_fixed", Type::Double, Label::Optional),
        (1_003, "later_checksum", Type::Fixed32, Label::Optional),
        (1_004, "later_text", Type::String, Label::Repeated),
    ] {
        message.field.push(FieldDescriptorProto {
            name: Some(name.to_owned()),
            number: Some(number),
            r#type: Some(kind.into()),
            label: Some(label.into()),
            ..FieldDescriptorProto::default()
        });
    }
}

fn extend_enum(values: &mut EnumDescriptorProto) {
    let name = format!("{}_LATER", values.name().to_uppercase());
    values.value.push(EnumValueDescriptorProto {
        name: Some(name),
        number: Some(UNKNOWN),
        ..EnumValueDescriptorProto::default()
    });
}

/// Messages as bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
