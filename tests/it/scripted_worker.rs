//! A scripted worker: it stands in front of a real one, and answers by script. Clients must not trust it.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Identity, Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};
use wal_indexer::proto::v1::index_segment_request::Payload;
use wal_indexer::proto::v1::indexer_service_client::IndexerServiceClient;
use wal_indexer::proto::v1::indexer_service_server::{IndexerService, IndexerServiceServer};
use wal_indexer::proto::v1::{self, IndexSegmentRequest, IndexSegmentResponse};

/// What it does with a call.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The real worker's answer.
    True,
    /// This code, after the whole segment, with this retry delay.
    No(Code, Option<Duration>),
    /// This code, after the first chunk.
    NoAtOnce(Code),
    /// The real worker's receipt, changed.
    Wrong(fn(&mut IndexSegmentResponse)),
    /// OK, after the header and before any chunk.
    Early,
    /// This receipt, after the whole segment.
    Say(Box<IndexSegmentResponse>),
    /// The real worker's answer, once there is a permit.
    Held(Arc<Semaphore>),
    /// No answer, ever.
    Hang,
    /// No answer, ever, although the real worker has stored the segment.
    Lose,
    /// No answer, ever, and it reads no more than the first chunk.
    Stall,
    /// All connections break after the whole segment.
    Break,
}

/// What a call contained.
#[derive(Clone, Debug, Default)]
pub struct Call {
    pub segment_id: String,
    pub authorization: Option<String>,
    pub timeout: Option<String>,
    /// Whether the header named an object.
    pub is_pointed: bool,
    /// Bytes in chunks.
    pub bytes: u64,
    /// Size that the header declared.
    pub announced: Option<u64>,
}

impl Call {
    /// Whether the whole inline segment arrived. Tonic shows a stream that was cut off as one that ended.
    pub fn is_whole(&self) -> bool {
        self.announced == Some(self.bytes)
    }
}

/// The scripted worker. It stops when dropped.
pub struct ScriptedWorker {
    address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    script: Mutex<VecDeque<Answer>>,
    /// The answer after the end of the script.
    otherwise: Mutex<Option<Answer>>,
    calls: Mutex<Vec<Call>>,
    connections: Mutex<JoinSet<()>>,
    /// How many calls have begun, and how many have ended for any reason.
    counts: watch::Sender<Counts>,
}

/// Numbers of calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub begun: usize,
    pub over: usize,
}

impl ScriptedWorker {
    /// Starts in front of the worker at `endpoint`, with true answers.
    pub async fn start(endpoint: &str) -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("an address"), endpoint, None).await
    }

    /// Starts at this address.
    pub async fn start_at(address: SocketAddr, endpoint: &str, identity: Option<Identity>) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let inside = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let inside_address = inside.local_addr().expect("it is bound");
        let shared = Arc::<Shared>::default();
        let truth = Endpoint::from_shared(endpoint.to_owned()).expect("an endpoint").connect_lazy();
        let front = Front { shared: Arc::clone(&shared), truth: IndexerServiceClient::new(truth) };
        let scheme = if identity.is_some() { "https" } else { "http" };
        let mut server = Server::builder();
        if let Some(identity) = identity {
            server = server.tls_config(ServerTlsConfig::new().identity(identity)).expect("a certificate");
        }
        let service = IndexerServiceServer::new(front).max_decoding_message_size(8 << 20);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let served = server.add_service(service);
            served.serve_with_incoming(TcpListenerStream::new(inside)).await.expect("it serves");
        });
        tasks.spawn(accept(listener, inside_address, Arc::clone(&shared)));
        Self { address, scheme, shared, _tasks: tasks }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn endpoint(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Sets the answers to the next calls.
    pub fn script(&self, answers: impl IntoIterator<Item = Answer>) {
        lock(&self.shared.script).extend(answers);
    }

    /// Sets the answer after the end of the script. The default is the true answer.
    pub fn always(&self, answer: Answer) {
        *lock(&self.shared.otherwise) = Some(answer);
    }

    /// Returns all calls so far, in the order in which they began.
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.shared.calls).clone()
    }

    /// Returns how many calls there were so far.
    pub fn counts(&self) -> Counts {
        *self.shared.counts.borrow()
    }

    /// Waits until the numbers of calls meet `enough`.
    pub async fn until(&self, enough: impl Fn(Counts) -> bool) {
        let mut counts = self.shared.counts.subscribe();
        counts.wait_for(|counts| enough(*counts)).await.expect("it is there");
    }
}

/// Passes bytes in both directions, so that a connection can be broken.
async fn accept(listener: TcpListener, inside: SocketAddr, shared: Arc<Shared>) {
    while let Ok((mut outer, _)) = listener.accept().await {
        let pass = async move {
            let inner: io::Result<TcpStream> = TcpStream::connect(inside).await;
            let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner.expect("it serves")).await;
        };
        lock(&shared.connections).spawn(pass);
    }
}

struct Front {
    shared: Arc<Shared>,
    truth: IndexerServiceClient<Channel>,
}

/// A call that is being answered.
struct Answering<'a> {
    shared: &'a Shared,
    number: usize,
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.shared.counts.send_modify(|counts| counts.over += 1);
    }
}

impl Answering<'_> {
    fn note(&self, note: impl FnOnce(&mut Call)) {
        note(&mut lock(&self.shared.calls)[self.number]);
        // Wakes tests that wait for something in a call.
        self.shared.counts.send_modify(|_| {});
    }

    /// Returns the next message, or `None` if the caller has ended the stream.
    async fn next(
        &self,
        messages: &mut Streaming<IndexSegmentRequest>,
    ) -> Result<Option<IndexSegmentRequest>, Status> {
        let message = messages.message().await?;
        self.note(|call| match message.as_ref().map(|message| &message.payload) {
            Some(Some(Payload::Header(header))) => {
                call.segment_id = header.segment_id.clone();
                match &header.source {
                    Some(v1::segment_header::Source::Object(_)) => call.is_pointed = true,
                    Some(v1::segment_header::Source::Inline(inline)) => {
                        call.announced = Some(inline.size_bytes);
                    }
                    None => {}
                }
            }
            Some(Some(Payload::Chunk(chunk))) => call.bytes += chunk.len() as u64,
            Some(None) | None => {}
        });
        Ok(message)
    }

    async fn rest(
        &self,
        messages: &mut Streaming<IndexSegmentRequest>,
    ) -> Result<Vec<IndexSegmentRequest>, Status> {
        let mut all = Vec::new();
        while let Some(message) = self.next(messages).await? {
            all.push(message);
        }
        Ok(all)
    }
}

impl Front {
    fn begin(&self, request: &Request<Streaming<IndexSegmentRequest>>) -> (Answering<'_>, Answer) {
        let header = |name| Some(request.metadata().get(name)?.to_str().ok()?.to_owned());
        let call = Call {
            authorization: header("authorization"),
            timeout: header("grpc-timeout"),
            ..Call::default()
        };
        let mut calls = lock(&self.shared.calls);
        calls.push(call);
        let next = lock(&self.shared.script).pop_front();
        let answer = next.or_else(|| lock(&self.shared.otherwise).clone()).unwrap_or(Answer::True);
        self.shared.counts.send_modify(|counts| counts.begun += 1);
        (Answering { shared: &self.shared, number: calls.len() - 1 }, answer)
    }

    async fn truth(&self, messages: Vec<IndexSegmentRequest>) -> Result<IndexSegmentResponse, Status> {
        let messages = futures::stream::iter(messages);
        Ok(self.truth.clone().index_segment(messages).await?.into_inner())
    }
}

#[tonic::async_trait]
impl IndexerService for Front {
    async fn index_segment(
        &self,
        request: Request<Streaming<IndexSegmentRequest>>,
    ) -> Result<Response<IndexSegmentResponse>, Status> {
        let (answering, answer) = self.begin(&request);
        let mut messages = request.into_inner();
        let reply = match answer {
            Answer::True => self.truth(answering.rest(&mut messages).await?).await?,
            Answer::Wrong(change) => {
                let mut reply = self.truth(answering.rest(&mut messages).await?).await?;
                change(&mut reply);
                reply
            }
            Answer::No(code, retry_after) => {
                answering.rest(&mut messages).await?;
                return Err(no(code, retry_after));
            }
            Answer::NoAtOnce(code) => {
                answering.next(&mut messages).await?;
                answering.next(&mut messages).await?;
                return Err(no(code, None));
            }
            Answer::Early => {
                answering.next(&mut messages).await?;
                IndexSegmentResponse::default()
            }
            Answer::Say(reply) => {
                answering.rest(&mut messages).await?;
                *reply
            }
            Answer::Held(permits) => {
                let all = answering.rest(&mut messages).await?;
                permits.acquire().await.expect("it is open").forget();
                self.truth(all).await?
            }
            Answer::Hang => {
                answering.rest(&mut messages).await?;
                std::future::pending().await
            }
            Answer::Lose => {
                self.truth(answering.rest(&mut messages).await?).await?;
                std::future::pending().await
            }
            Answer::Stall => {
                answering.next(&mut messages).await?;
                answering.next(&mut messages).await?;
                std::future::pending().await
            }
            Answer::Break => {
                answering.rest(&mut messages).await?;
                lock(&self.shared.connections).abort_all();
                std::future::pending().await
            }
        };
        Ok(Response::new(reply))
    }

    async fn get_stats(
        &self,
        request: Request<v1::GetStatsRequest>,
    ) -> Result<Response<v1::GetStatsResponse>, Status> {
        self.truth.clone().get_stats(request).await
    }

    async fn health(
        &self,
        request: Request<v1::HealthRequest>,
    ) -> Result<Response<v1::HealthResponse>, Status> {
        self.truth.clone().health(request).await
    }
}

/// Returns a refusal in the form that workers use.
fn no(code: Code, retry_after: Option<Duration>) -> Status {
    let place = [("position".to_owned(), "61".to_owned())];
    let mut details = ErrorDetails::with_error_info("CROOKED", "wal-indexer", place);
    details.set_retry_info(retry_after);
    Status::with_error_details(code, "so it is written", details)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panicked")
}
