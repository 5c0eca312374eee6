//! Reads back what workers stored: sends a request to any worker, and returns the response as a stream.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::StatusExt;

use super::connection::ANSWER_BYTES_MAX;
use super::error::{ReadError, Refusal};
use super::pool::WorkerLease;
use super::proxy::GrpcChannel;
use super::retry_policy::RetryPolicy;
use super::{Client, Workers};
use crate::metrics;
use crate::proto::v1;
use crate::proto::v1::search_service_client::SearchServiceClient;

impl Client {
    /// Fetches records of one partition from an offset on, in the order of offsets, from any worker. The last
    /// message says where to continue.
    ///
    /// `within` is the time for the whole response. Until the first message has come, calls to workers that
    /// are unreachable or overloaded are retried, at the same worker or another one. After that an error ends
    /// the response. To get the rest, the caller fetches from the offset after the last record.
    /// # Errors
    /// [`ReadError`], from here or from [`Answer::next`].
    pub async fn fetch(
        &self,
        request: v1::FetchRequest,
        within: Duration,
    ) -> Result<Answer<v1::FetchResponse>, ReadError> {
        let ask = async |mut service: SearchServiceClient<GrpcChannel>, call| service.fetch(call).await;
        Asking::new(&self.workers, within).run(request, ask).await
    }

    /// Searches for records that match a query, with any worker. Matches come as they are found. The last
    /// message has the summary.
    ///
    /// `within` is the time for the whole response. Until the first message has come, calls to workers that
    /// are unreachable or overloaded are retried, at the same worker or another one. After that an error ends
    /// the response.
    ///
    /// # Errors
    /// [`ReadError`], from here or from [`Answer::next`].
    pub async fn search(
        &self,
        request: v1::SearchRequest,
        within: Duration,
    ) -> Result<Answer<v1::SearchResponse>, ReadError> {
        let ask = async |mut service: SearchServiceClient<GrpcChannel>, call| service.search(call).await;
        Asking::new(&self.workers, within).run(request, ask).await
    }
}

/// A message of a streamed response.
pub trait Message {
    /// Whether it is the last message of a complete response.
    fn is_last(&self) -> bool;
}

impl Message for v1::FetchResponse {
    fn is_last(&self) -> bool {
        self.next_offset.is_some()
    }
}

impl Message for v1::SearchResponse {
    fn is_last(&self) -> bool {
        self.summary.is_some()
    }
}

/// A response as a stream of messages. Dropping it ends the call.
#[derive(Debug)]
pub struct Answer<T> {
    first: Option<T>,
    rest: Streaming<T>,
    lease: WorkerLease,
    until: Instant,
    is_whole: bool,
}

impl<T: Message> Answer<T> {
    /// Returns the next message. `None` after the last one.
    ///
    /// # Errors
    /// [`ReadError::CutOff`] if the worker ended the response before its last message,
    /// [`ReadError::OutOfTime`] if the response took too long, [`ReadError::Refused`] if the worker or the
    /// connection to it failed.
    pub async fn next(&mut self) -> Result<Option<T>, ReadError> {
        let next = match self.first.take() {
            Some(first) => Some(first),
            None if self.is_whole => None,
            None => self.receive().await?,
        };
        match &next {
            Some(message) => self.is_whole = message.is_last(),
            None if !self.is_whole => return Err(ReadError::CutOff { worker: self.worker() }),
            None => {}
        }
        Ok(next)
    }

    /// The address of the worker that sends the response.
    pub fn worker(&self) -> String {
        self.lease.address.to_string()
    }

    async fn receive(&mut self) -> Result<Option<T>, ReadError> {
        match timeout_at(self.until, self.rest.message()).await {
            Ok(Ok(message)) => Ok(message),
            Ok(Err(status)) => Err(ReadError::Refused(Refusal::of(&status, &self.worker()))),
            Err(_) => Err(ReadError::OutOfTime { attempts: 1, unreachable: Vec::new(), last: None }),
        }
    }
}

/// A request that is sent to one worker after the other.
struct Asking<'a> {
    workers: &'a Workers,
    until: Instant,
    attempts: u32,
    failed: BTreeMap<SocketAddr, u32>,
    last: Option<Refusal>,
}

impl<'a> Asking<'a> {
    fn new(workers: &'a Workers, within: Duration) -> Self {
        let until = Instant::now() + within.min(super::send::TIME_MAX);
        Self { workers, until, attempts: 0, failed: BTreeMap::new(), last: None }
    }

    /// Sends the request to one worker after the other until the first message has come.
    async fn run<Q: Clone, T: Message>(
        mut self,
        question: Q,
        ask: impl AsyncFn(SearchServiceClient<GrpcChannel>, Request<Q>) -> Result<Response<Streaming<T>>, Status>,
    ) -> Result<Answer<T>, ReadError> {
        loop {
            let picking = self.workers.pool.pick(0, &self.failed);
            let Ok(lease) = timeout_at(self.until, picking).await else { return Err(self.out_of_time()) };
            self.attempts += 1;
            let call = self.call(question.clone()).await;
            let service = SearchServiceClient::new(lease.channel.clone());
            let asking = async {
                let mut rest =
                    ask(service.max_decoding_message_size(ANSWER_BYTES_MAX), call).await?.into_inner();
                Ok((rest.message().await?, rest))
            };
            match timeout_at(self.until, asking).await {
                Err(_) => return Err(self.out_of_time()),
                Ok(Ok((None, _))) => return Err(ReadError::CutOff { worker: lease.address.to_string() }),
                Ok(Ok((first, rest))) => {
                    lease.succeeded();
                    return Ok(Answer { first, rest, lease, until: self.until, is_whole: false });
                }
                Ok(Err(status)) => self.decide(&lease, &status).map_err(ReadError::Refused)?,
            }
        }
    }

    async fn call<Q>(&self, question: Q) -> Request<Q> {
        let mut call = Request::new(question);
        call.set_timeout(self.until.saturating_duration_since(Instant::now()));
        if let Some(token) = &self.workers.token {
            call.metadata_mut().insert("authorization", token.authorization().await);
        }
        call
    }

    /// Returns `Ok` if another worker, or this one later, may answer.
    fn decide(&mut self, lease: &WorkerLease, status: &Status) -> Result<(), Refusal> {
        let refusal = Refusal::of(status, &lease.address.to_string());
        let cooling = match RetryPolicy::of(status) {
            RetryPolicy::Again(cooling) if status.code() != Code::DeadlineExceeded => cooling,
            RetryPolicy::AgainAFewTimes(cooling) => {
                lease.failed(cooling, &refusal);
                return Err(refusal);
            }
            RetryPolicy::Refuse(Some(cooling)) if !is_about_a_bundle(status) => {
                lease.failed(cooling, &refusal);
                return Err(refusal);
            }
            RetryPolicy::Reject | RetryPolicy::Refuse(_) | RetryPolicy::Again(_) => return Err(refusal),
        };
        metrics::client::retried(refusal.why());
        lease.failed(cooling, &refusal);
        *self.failed.entry(lease.address).or_default() += 1;
        self.last = Some(refusal);
        Ok(())
    }

    fn out_of_time(&mut self) -> ReadError {
        let unreachable = if self.last.is_none() { self.workers.pool.last_errors() } else { Vec::new() };
        ReadError::OutOfTime { attempts: self.attempts, unreachable, last: self.last.take() }
    }
}

/// Whether an error names a bundle. Then the same worker may answer other requests.
fn is_about_a_bundle(status: &Status) -> bool {
    status.get_details_error_info().is_some_and(|info| info.metadata.contains_key("bundle"))
}
