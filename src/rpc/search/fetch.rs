//! The `Fetch` call: converts the result to messages that every client accepts.

use std::collections::VecDeque;

use futures::{Stream, stream};
use tonic::Status;
use tracing::warn;

use super::{MESSAGE_BYTES, record_of, versions};
use crate::archive::BundleCache;
use crate::budget::Delivery;
use crate::fetch::{
    self, Answered, BUFFER_BYTES_MAX, Conflict, Fetch, FetchError, Form, Item, Memory, Part, Request,
};
use crate::formatting;
use crate::ids::TopicPartition;
use crate::metrics;
use crate::proto::v1;
use crate::proto::v1::fetch_request::FetchForm;
use crate::rpc::body::MessageWithMemory;
use crate::rpc::status;
use crate::transactions::Isolation;

/// How many records a response has if the request does not say.
pub const MAX_RECORDS_DEFAULT: u64 = 1_000;

/// How many bytes a response has if the request does not say.
pub const MAX_BYTES_DEFAULT: u64 = 1 << 20;

/// Converts a request. Unknown values are errors: the request of a newer caller must not be misunderstood
/// silently.
pub fn request(request: v1::FetchRequest) -> Result<Request, Status> {
    let (form, isolation) = match FetchForm::try_from(request.form) {
        Ok(FetchForm::Unspecified | FetchForm::Records) => (Form::Records, Isolation::Uncommitted),
        Ok(FetchForm::KafkaBatches) => (Form::KafkaBatches, Isolation::Uncommitted),
        Ok(FetchForm::RecordsCommitted) => (Form::Records, Isolation::Committed),
        Ok(FetchForm::KafkaBatchesCommitted) => (Form::KafkaBatches, Isolation::Committed),
        Err(_) => {
            let line = format!("form has the unknown value {}", request.form);
            return Err(status::invalid("UNKNOWN_VALUE", line));
        }
    };
    let partition = TopicPartition::new(request.topic, request.partition);
    let log_id = super::log_id(request.log_id.as_deref())?;
    let or_default = |value: u64, default: u64| if value == 0 { default } else { value };
    Ok(Request {
        partition: partition.map_err(|error| status::of_partition(&error))?,
        log_id,
        offset: request.offset,
        max_records: or_default(request.max_records.into(), MAX_RECORDS_DEFAULT),
        max_bytes: or_default(request.max_bytes, MAX_BYTES_DEFAULT),
        buffer_bytes_max: BUFFER_BYTES_MAX,
        form,
        isolation,
    })
}

/// A message of a response, and the memory that it takes in addition to what the fetch reserved.
type Message = MessageWithMemory<v1::FetchResponse, Delivery>;

/// Starts a fetch, and returns its messages while they are read. Each has about 512 KiB, or one record or
/// batch. The last message has no items: it says where to continue.
pub async fn messages(
    bundle_cache: &BundleCache,
    request: Request,
    memory: Memory,
) -> Result<impl Stream<Item = Result<Message, Status>> + Send + use<>, Status> {
    let fetch =
        fetch::fetch(bundle_cache, &request, memory).await.map_err(|error| status::of_fetch(&error))?;
    let answer = Some(Answer { fetch, partition: request.partition, waiting: VecDeque::new(), memory: None });
    Ok(stream::unfold(answer, async |answer| {
        let mut answer = answer?;
        match answer.message().await {
            Ok(Some(message)) => Some((Ok(message), Some(answer))),
            Ok(None) => Some((Ok(MessageWithMemory { message: answer.last_message(), memory: None }), None)),
            Err(error) => Some((Err(status::of_fetch(&error)), None)),
        }
    }))
}

/// Logs what an operator should know about a message.
pub fn log(message: &Result<Message, Status>) {
    match message {
        Ok(held) => log_conflicts(&held.message.conflicts),
        Err(status) => log_refusal(status),
    }
}

/// Logs why a fetch failed.
pub fn log_refusal(status: &Status) {
    warn!(code = formatting::code_name(status.code()), error = status.message(), "fetch failed");
}

/// Writes one line for all conflicts, since the response lists all of them.
fn log_conflicts(conflicts: &[v1::Conflict]) {
    let Some(first) = conflicts.first() else { return };
    let v1::Conflict { topic, partition, log_id, offset, bundle_keys, versions: _ } = first;
    let offsets = conflicts.len();
    warn!(
        topic,
        partition,
        log_id,
        offsets,
        first = offset,
        ?bundle_keys,
        "bundles hold different records for one offset"
    );
}

/// A response that is being sent.
struct Answer {
    fetch: Fetch,
    partition: TopicPartition,
    waiting: VecDeque<Answered>,
    /// The memory of `waiting`, in addition to what the fetch reserved.
    memory: Option<Delivery>,
}

impl Drop for Answer {
    /// Counts the store requests, also if the caller did not read to the end.
    fn drop(&mut self) {
        let traffic = self.fetch.traffic();
        metrics::worker::fetched("Fetch", traffic.requests, traffic.bytes);
    }
}

impl Answer {
    /// Returns the next message that has items.
    async fn message(&mut self) -> Result<Option<Message>, FetchError> {
        if self.waiting.is_empty() {
            let Part { items, memory } = self.fetch.next().await?.unwrap_or_default();
            self.waiting.extend(items);
            self.memory = memory;
        }
        let (mut message, log_id) = (self.empty_message(), self.fetch.log_id().cloned());
        let (mut bytes, mut batches) = (0, Vec::new());
        while let Some(Answered { item, transaction }) =
            self.waiting.pop_front_if(|next| bytes == 0 || bytes + size(&next.item) <= MESSAGE_BYTES)
        {
            bytes += size(&item);
            match item {
                Item::Record(record) => {
                    let on_the_wire = |log_id| record_of(&self.partition, log_id, &record, transaction);
                    let records = log_id.iter().map(on_the_wire);
                    message.records.extend(records);
                }
                Item::Batch(batch) => batches.push(batch.bytes),
            }
        }
        // A single batch may be large: it is sent without a copy.
        message.kafka_batches = match batches.len() {
            1 => batches.remove(0),
            _ => batches.concat().into(),
        };
        let memory = if self.waiting.is_empty() { self.memory.take() } else { None };
        Ok((bytes > 0).then_some(MessageWithMemory { message, memory }))
    }

    fn last_message(&self) -> v1::FetchResponse {
        let message = self.empty_message();
        let conflicts = self.fetch.conflicts().iter();
        let conflicts = conflicts.map(|conflict| self.conflict(conflict, &message.log_id)).collect();
        let others = self.fetch.other_logs().iter().map(|(log_id, range)| v1::LogRange {
            log_id: log_id.as_str().to_owned(),
            base_offset: Some(range.first()),
            last_offset: Some(range.last()),
        });
        let (next_offset, other_logs) = (Some(self.fetch.next_offset()), others.collect());
        let open_transaction_offset = self.fetch.open_at();
        v1::FetchResponse { next_offset, conflicts, other_logs, open_transaction_offset, ..message }
    }

    fn empty_message(&self) -> v1::FetchResponse {
        let log_id = self.fetch.log_id().map(|log_id| log_id.as_str().to_owned());
        v1::FetchResponse { log_id: log_id.unwrap_or_default(), ..v1::FetchResponse::default() }
    }

    fn conflict(&self, conflict: &Conflict, log_id: &str) -> v1::Conflict {
        v1::Conflict {
            topic: self.partition.topic().to_owned(),
            partition: self.partition.partition(),
            log_id: log_id.to_owned(),
            offset: conflict.offset,
            bundle_keys: conflict.bundles.clone(),
            versions: versions(&conflict.versions),
        }
    }
}

fn size(item: &Item) -> usize {
    match item {
        Item::Record(record) => record.mem_usage(),
        Item::Batch(batch) => batch.bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn what_a_newer_caller_means_is_not_guessed() {
        let asked = v1::FetchRequest { topic: "t".into(), form: 77, ..v1::FetchRequest::default() };
        assert_eq!(request(asked).map_err(|status| status.code()), Err(Code::InvalidArgument));
    }

    #[test]
    fn what_is_not_said_has_the_defaults_that_the_proto_names() {
        let asked = v1::FetchRequest { topic: "t".into(), ..v1::FetchRequest::default() };
        let read = request(asked).expect("a request");
        assert_eq!((read.max_records, read.max_bytes, read.form), (1_000, 1 << 20, Form::Records));
        assert_eq!(read.log_id, None);
    }
}
