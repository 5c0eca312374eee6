//! Collects a frame's records as spans, and allocates no more than the limit allows.

use bytes::Bytes;

use super::transactions::{TransactionPart, outcome_of_key};
use super::{Anomalies, Anomaly, Codec, DecodedFrame, Fault};
use crate::ids::OffsetRange;
use crate::record::{HeaderSpans, RecordBatch, RecordSpans, Span};

/// The records of a frame, while it is decoded.
pub(super) struct RecordBuilder {
    /// The codec that the producer used.
    pub(super) codec: Codec,
    /// Deviations from the format.
    pub(super) anomalies: Anomalies,
    /// The producer whose transaction the frame belongs to, or ends.
    pub(super) producer_id: Option<i64>,
    /// The key of the first control record.
    control_key: Option<Span>,
    /// The offsets of records that lie outside of the range in the frame's head.
    outside: Option<OffsetRange>,
    records: Vec<RecordSpans>,
    headers: Vec<HeaderSpans>,
    control_offsets: Vec<i64>,
    is_control: bool,
    times: Option<(i64, i64)>,
    bytes_left: usize,
    limit: usize,
}

impl RecordBuilder {
    /// Makes a builder for `count` records. The caller has checked the count against the bytes that the
    /// records come from. `bytes_used` of the `limit` are already in use.
    pub(super) fn new(
        count: usize,
        is_control: bool,
        bytes_used: usize,
        limit: usize,
    ) -> Result<Self, Fault> {
        let each = if is_control { size_of::<i64>() } else { size_of::<RecordSpans>() };
        let need = count.saturating_mul(each).saturating_add(bytes_used);
        let bytes_left = limit.checked_sub(need).ok_or(Fault::TooLarge { limit })?;
        let (records, control_offsets) = if is_control { (0, count) } else { (count, 0) };
        Ok(Self {
            codec: Codec::None,
            anomalies: Anomalies::default(),
            producer_id: None,
            control_key: None,
            outside: None,
            records: Vec::with_capacity(records),
            headers: Vec::new(),
            control_offsets: Vec::with_capacity(control_offsets),
            is_control,
            times: None,
            bytes_left,
            limit,
        })
    }

    /// Adds a header of the record that is added next.
    pub(super) fn header(&mut self, name: Span, value: Option<Span>) -> Result<(), Fault> {
        if self.is_control {
            return Ok(());
        }
        if self.headers.len() == self.headers.capacity() {
            let more = self.headers.capacity().max(8);
            let need = more * size_of::<HeaderSpans>();
            self.bytes_left =
                self.bytes_left.checked_sub(need).ok_or(Fault::TooLarge { limit: self.limit })?;
            self.headers.reserve_exact(more);
        }
        self.headers.push(HeaderSpans { name, value });
        Ok(())
    }

    /// The number of headers so far, which is where the next record's headers start.
    pub(super) fn headers(&self) -> u32 {
        self.headers.len() as u32
    }

    /// Adds a record. Its headers were added before it and start with number `first_header`. A time of -1
    /// means none, as in Kafka.
    pub(super) fn record(
        &mut self,
        offset: i64,
        timestamp: i64,
        key: Option<Span>,
        value: Option<Span>,
        first_header: u32,
    ) {
        if self.is_control {
            if self.control_offsets.is_empty() {
                self.control_key = key;
            }
            self.control_offsets.push(offset);
            return;
        }
        let timestamp_ms = (timestamp != NO_TIMESTAMP).then_some(timestamp);
        if let Some(time) = timestamp_ms {
            let (min, max) = self.times.unwrap_or((time, time));
            self.times = Some((min.min(time), max.max(time)));
        }
        self.records.push(RecordSpans {
            offset,
            timestamp_ms,
            key,
            value,
            headers: first_header..self.headers(),
        });
    }

    /// Notes that the record that is added next has an offset that the frame's head, or the record before it,
    /// does not allow. No consumer can ask for a negative offset, so the frame does not cover it.
    pub(super) fn unexpected_offset(&mut self, offset: i64) {
        self.anomalies.insert(Anomaly::RecordOffset);
        if offset >= 0 {
            self.covers(offset);
        }
    }

    /// Notes that the frame covers an offset that its head does not state.
    pub(super) fn covers(&mut self, offset: i64) {
        if let Some(one) = OffsetRange::new(offset, offset) {
            self.outside = Some(self.outside.map_or(one, |outside| outside.cover(&one)));
        }
    }

    /// Returns the decoded frame with the bytes that the spans point into. `base_offset` is the first offset
    /// that the frame's head claims. `head` is the whole range that it claims, if it is a valid range.
    ///
    /// # Errors
    /// There are records, but no offset at which they can be read.
    pub(super) fn finish(
        mut self,
        base_offset: i64,
        head: Option<OffsetRange>,
        bytes: Bytes,
    ) -> Result<DecodedFrame, Fault> {
        let range = match (head, self.outside) {
            (Some(head), Some(outside)) => Some(head.cover(&outside)),
            (head, outside) => head.or(outside),
        };
        if range.is_none() {
            if let Some(record) = self.records.first() {
                return Err(Fault::BadOffsets { base: record.offset.into(), last: record.offset.into() });
            }
            self.anomalies.insert(Anomaly::EmptyFrame);
        }
        let transaction = self.transaction(&bytes);
        Ok(DecodedFrame {
            base_offset,
            range,
            codec: self.codec,
            anomalies: self.anomalies,
            records: RecordBatch { bytes, records: self.records, headers: self.headers },
            control_offsets: self.control_offsets,
            transaction,
            min_timestamp_ms: self.times.map(|(min, _)| min),
            max_timestamp_ms: self.times.map(|(_, max)| max),
        })
    }

    fn transaction(&self, bytes: &[u8]) -> Option<TransactionPart> {
        let producer_id = self.producer_id?;
        if !self.is_control {
            return Some(TransactionPart::Data { producer_id });
        }
        let (offset, outcome) =
            (*self.control_offsets.first()?, outcome_of_key(self.control_key?.of(bytes))?);
        Some(TransactionPart::End { producer_id, offset, outcome })
    }
}

/// `RecordBatch.NO_TIMESTAMP` of Kafka's clients.
pub(super) const NO_TIMESTAMP: i64 = -1;
