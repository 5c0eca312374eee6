//! The `Search` call: converts the result to messages while it is read.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use futures::{Stream, stream};
use tonic::Status;
use tonic::metadata::MetadataMap;
use tracing::warn;

use super::{MESSAGE_BYTES, record, summary};
use crate::formatting;
use crate::metrics;
use crate::proto::v1;
use crate::rpc::body::MessageWithMemory;
use crate::rpc::status;
use crate::search::{self, Answers, Page, SearchError, Searcher};

/// A message of a response, and the memory that its records take.
type Message = MessageWithMemory<v1::SearchResponse, Page>;

/// Starts a search, and returns its messages. Each has about 512 KiB, or one record. The last message has the
/// summary. An error that occurs before the first message fails the call.
pub async fn messages(
    searcher: &Searcher,
    request: search::Request,
    time_max: Option<Duration>,
) -> Result<impl Stream<Item = Result<Message, Status>> + Send + use<>, Status> {
    let began = Instant::now();
    let answers = searcher.search(request, time_max).await.map_err(|error| refused(&error))?;
    let mut answer = Answer { answers, began, page: None, records: VecDeque::new() };
    let first = answer.message().await.map_err(|error| refused(&error))?;
    Ok(stream::unfold((Some(answer), first), async |(answer, first)| {
        let mut answer = answer?;
        if let Some(first) = first {
            return Some((Ok(first), (Some(answer), None)));
        }
        match answer.message().await {
            Ok(Some(message)) => Some((Ok(message), (Some(answer), None))),
            Ok(None) => Some((Ok(answer.last_message()), (None, None))),
            Err(error) => Some((Err(refused(&error)), (None, None))),
        }
    }))
}

fn refused(error: &SearchError) -> Status {
    warn!(error = formatting::chain(error), "search failed");
    status::of_search(error)
}

/// A response that is being sent.
struct Answer {
    answers: Answers,
    began: Instant,
    /// The memory of `records`. The message with the last of them takes it over.
    page: Option<Page>,
    records: VecDeque<v1::Record>,
}

impl Drop for Answer {
    /// Counts the store requests, also if the caller did not read to the end.
    fn drop(&mut self) {
        let traffic = self.answers.summary().traffic;
        metrics::worker::fetched("Search", traffic.requests, traffic.bytes);
    }
}

impl Answer {
    /// Returns the next message that has records.
    async fn message(&mut self) -> Result<Option<Message>, SearchError> {
        if self.records.is_empty() {
            let Some(mut page) = self.answers.next().await? else { return Ok(None) };
            self.records.extend(page.records.drain(..).map(|found| record(&found)));
            self.page = Some(page);
        }
        let (mut message, mut bytes) = (v1::SearchResponse::default(), 0);
        while bytes < MESSAGE_BYTES
            && let Some(record) = self.records.pop_front()
        {
            bytes += prost::Message::encoded_len(&record);
            message.records.push(record);
        }
        let mut memory = if self.records.is_empty() { self.page.take() } else { None };
        // A small message needs no memory of its own: what the search reserved has room for one message.
        memory.take_if(|_| bytes <= 3 * MESSAGE_BYTES);
        Ok(Some(MessageWithMemory { message, memory }))
    }

    fn last_message(&self) -> Message {
        let found = self.answers.summary();
        if let Some(search::Conflict { partition, log_id, offset, bundles, versions: _ }) =
            found.conflicts.first()
        {
            // One line for all conflicts, since the response lists all of them.
            let (offsets, first) = (found.conflicts.len(), offset);
            warn!(%partition, %log_id, offsets, first, ?bundles, "bundles hold different records for one offset");
        }
        let message = v1::SearchResponse { records: Vec::new(), summary: Some(summary(&found, self.began)) };
        MessageWithMemory { message, memory: None }
    }
}

/// Returns how long the caller waits, from `grpc-timeout` (gRPC over HTTP2, "Requests"): up to eight digits
/// and a unit.
pub fn time_max(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3_600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_time_is_read_in_each_unit() {
        for (text, expected) in [
            ("2H", Some(Duration::from_secs(7_200))),
            ("3M", Some(Duration::from_secs(180))),
            ("4S", Some(Duration::from_secs(4))),
            ("500m", Some(Duration::from_millis(500))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("1n", Some(Duration::from_nanos(1))),
            ("100000000S", None),
            ("5", None),
            ("S", None),
            ("", None),
            ("-1S", None),
        ] {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().expect("ASCII"));
            assert_eq!(time_max(&metadata), expected, "{text:?}");
        }
    }
}
