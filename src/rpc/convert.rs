//! Converts proto to domain types and back. Unknown enum values are errors: the request of a newer caller
//! must not be misunderstood silently.

use prost::Message;

use crate::budget::BudgetUse;
use crate::ids::{OffsetRange, SegmentFormat};
use crate::ingest::{
    IndexedPartition, Receipt, RequestError, RequestParts, Timings, TornTail, Undecodable, UndecodedFacts,
};
use crate::proto::v1;
use crate::stats::{JobView, Phase, Snapshot};

/// Returns what a header says about its segment. `size_bytes` comes from the source.
pub fn request_parts(header: &v1::SegmentHeader, size_bytes: u64) -> Result<RequestParts, RequestError> {
    let crc32c = match &header.source {
        Some(v1::segment_header::Source::Inline(inline)) => inline.crc32c,
        Some(v1::segment_header::Source::Object(object)) => object.crc32c,
        None => return Err(RequestError::SourceMissing),
    };
    Ok(RequestParts {
        segment_id: header.segment_id.clone(),
        format: format_from(header.format)?,
        topic: header.topic.clone(),
        partition: header.partition,
        log_id: header.log_id.clone(),
        size_bytes,
        crc32c,
        torn_tail: torn_tail_from(header.torn_tail)?,
        undecodable: undecodable_from(header.undecodable)?,
        allowed_offsets: header.allowed_offsets.as_ref().map(allowed_from).transpose()?,
        copy: None,
    })
}

fn allowed_from(range: &v1::OffsetRange) -> Result<OffsetRange, RequestError> {
    let (first, last) = (range.first, range.last);
    OffsetRange::new(first, last).ok_or(RequestError::NoOffsetsAllowed { first, last })
}

pub(super) fn format_from(value: i32) -> Result<Option<SegmentFormat>, RequestError> {
    match v1::SegmentFormat::try_from(value) {
        Ok(v1::SegmentFormat::Unspecified) => Ok(None),
        Ok(v1::SegmentFormat::ChronikWal) => Ok(Some(SegmentFormat::ChronikWal)),
        Ok(v1::SegmentFormat::KafkaLog) => Ok(Some(SegmentFormat::KafkaLog)),
        Err(_) => Err(RequestError::UnknownValue { field: "format", value }),
    }
}

fn torn_tail_from(value: i32) -> Result<TornTail, RequestError> {
    match v1::TornTail::try_from(value) {
        Ok(v1::TornTail::Unspecified | v1::TornTail::Refuse) => Ok(TornTail::Refuse),
        Ok(v1::TornTail::Keep) => Ok(TornTail::Keep),
        Err(_) => Err(RequestError::UnknownValue { field: "torn_tail", value }),
    }
}

fn undecodable_from(value: i32) -> Result<Undecodable, RequestError> {
    match v1::Undecodable::try_from(value) {
        Ok(v1::Undecodable::Unspecified | v1::Undecodable::Refuse) => Ok(Undecodable::Refuse),
        Ok(v1::Undecodable::Keep) => Ok(Undecodable::Keep),
        Err(_) => Err(RequestError::UnknownValue { field: "undecodable", value }),
    }
}

/// Returns the format's proto value.
pub fn format(format: Option<SegmentFormat>) -> v1::SegmentFormat {
    match format {
        None => v1::SegmentFormat::Unspecified,
        Some(SegmentFormat::ChronikWal) => v1::SegmentFormat::ChronikWal,
        Some(SegmentFormat::KafkaLog) => v1::SegmentFormat::KafkaLog,
    }
}

/// How many gaps a response lists, over all partitions. A gap takes up to 22 bytes, and by default clients
/// accept responses of 4 MiB.
const REPLY_GAPS_MAX: usize = 64_000;

/// Converts the receipt. In a segment with very many partitions, all their gaps would make the response too
/// large: then each partition lists fewer. All gaps are counted, and the manifests hold them.
pub fn receipt(receipt: &Receipt) -> v1::IndexSegmentResponse {
    let gaps_max = REPLY_GAPS_MAX / receipt.partitions.len().max(1);
    let mut reply = v1::IndexSegmentResponse {
        segment_id: receipt.segment_id.as_str().to_owned(),
        format: format(receipt.format).into(),
        bytes_read: receipt.bytes_read,
        crc32c: receipt.crc32c,
        sha256: receipt.sha256.to_vec().into(),
        record_count: receipt.records(),
        control_record_count: receipt.control_records(),
        batch_count: receipt.batches(),
        torn_tail_bytes: receipt.torn_tail_bytes,
        partitions: receipt.partitions.iter().map(|one| partition(one, gaps_max)).collect(),
        timings: Some(timings(&receipt.timings)),
        anomalies: receipt.anomalies().into_iter().collect(),
        undecoded: undecoded(&receipt.undecoded()),
    };
    make_fit(&mut reply);
    reply
}

/// The largest response that clients accept by default, in bytes, minus some room for gRPC's framing.
const REPLY_BYTES_MAX: usize = (4 << 20) - (4 << 10);

/// Removes what a caller does not need from the receipt of thousands of partitions, if it is too large. First
/// the gaps: they are still counted, and the manifests hold them. Then the URLs: each is the store's URL with
/// the key appended.
fn make_fit(reply: &mut v1::IndexSegmentResponse) {
    if reply.encoded_len() > REPLY_BYTES_MAX {
        reply.partitions.iter_mut().for_each(|one| one.gaps.clear());
    }
    if reply.encoded_len() > REPLY_BYTES_MAX {
        reply.partitions.iter_mut().filter_map(|one| one.bundle.as_mut()).for_each(|one| one.url.clear());
    }
}

fn partition(one: &IndexedPartition, gaps_max: usize) -> v1::IndexedPartition {
    v1::IndexedPartition {
        topic: one.partition.topic().to_owned(),
        partition: one.partition.partition(),
        base_offset: one.base_offset,
        last_offset: one.last_offset,
        record_count: one.records,
        min_timestamp_ms: one.times_ms.map(|(min, _)| min),
        max_timestamp_ms: one.times_ms.map(|(_, max)| max),
        gaps: one.gaps.iter().take(gaps_max).map(range).collect(),
        gap_count: one.gap_count,
        bundle: Some(bundle(one)),
        log_id: one.log_id.as_str().to_owned(),
        anomalies: one.anomalies.clone().into_iter().collect(),
        undecoded: undecoded(&one.undecoded),
    }
}

fn undecoded(facts: &UndecodedFacts) -> Option<v1::Undecoded> {
    (!facts.is_empty()).then(|| v1::Undecoded {
        frames: facts.frames,
        bytes: facts.bytes,
        claimed_record_count: facts.claimed_records,
        reasons: facts.reasons.clone().into_iter().collect(),
    })
}

fn bundle(one: &IndexedPartition) -> v1::Bundle {
    v1::Bundle {
        key: one.stored.key().to_string(),
        url: one.stored.url().to_owned(),
        size_bytes: one.stored.size_bytes(),
        crc32c: one.stored.crc32c(),
        e_tag: one.stored.e_tag().unwrap_or_default().to_owned(),
        base_offset: one.stored.key().range().first(),
        last_offset: one.stored.key().range().last(),
        record_count: one.records,
        min_timestamp_ms: one.times_ms.map(|(min, _)| min),
        max_timestamp_ms: one.times_ms.map(|(_, max)| max),
        footer_offset: one.footer_offset,
        already_existed: one.stored.already_existed(),
    }
}

fn range(range: &OffsetRange) -> v1::OffsetRange {
    v1::OffsetRange { first: range.first(), last: range.last() }
}

fn timings(timings: &Timings) -> v1::Timings {
    v1::Timings {
        admit_us: micros(timings.admit),
        receive_us: micros(timings.receive),
        build_us: micros(timings.build),
        upload_us: micros(timings.upload),
        total_us: micros(timings.total),
    }
}

/// A duration in whole microseconds.
pub fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A duration in whole milliseconds.
pub fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How many jobs a response lists, the oldest ones. Each has a name of up to 1,024 bytes, and clients accept
/// responses of 4 MiB.
const REPLY_JOBS_MAX: usize = 1_000;

/// Converts the statistics.
pub fn stats(worker_id: &str, snapshot: &Snapshot, memory: &BudgetUse) -> v1::GetStatsResponse {
    let totals = &snapshot.totals;
    v1::GetStatsResponse {
        worker_id: worker_id.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_ms: millis(snapshot.uptime),
        segments_processed: totals.segments,
        segments_already_indexed: totals.segments_already_indexed,
        records_indexed: totals.records,
        indexes_created: totals.bundles_created,
        errors: totals.errors,
        bytes_read: totals.bytes_read,
        bytes_written: totals.bytes_written,
        busy_ms: totals.busy_ms,
        rejected: snapshot.rejected.iter().map(|(code, count)| ((*code).to_owned(), *count)).collect(),
        memory: Some(v1::Memory {
            budget_bytes: memory.total_bytes,
            reserved_bytes: memory.reserved_bytes,
            waiting_requests: memory.waiting_requests,
            waiting_bytes: memory.waiting_bytes,
        }),
        jobs: snapshot.jobs.iter().take(REPLY_JOBS_MAX).map(job).collect(),
        latency: Some(v1::Latency {
            count: snapshot.latency.count,
            p50_us: snapshot.latency.p50_us,
            p90_us: snapshot.latency.p90_us,
            p99_us: snapshot.latency.p99_us,
            max_us: snapshot.latency.max_us,
        }),
        topics: (snapshot.topics.iter())
            .map(|(topic, totals)| v1::TopicStats {
                topic: topic.clone(),
                segments: totals.segments,
                records: totals.records,
                bytes_read: totals.bytes_read,
                bytes_written: totals.bytes_written,
            })
            .collect(),
    }
}

fn job(job: &JobView) -> v1::Job {
    let phase = match job.phase {
        Phase::Waiting => v1::job::Phase::Waiting,
        Phase::Building => v1::job::Phase::Building,
        Phase::Uploading => v1::job::Phase::Uploading,
    };
    v1::Job {
        segment_id: job.segment_id.clone(),
        phase: phase.into(),
        bytes_total: job.bytes_total,
        bytes_done: job.bytes_done,
        records_done: job.records_done,
        age_ms: millis(job.age),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a receipt of `partitions` partitions with `gaps` gaps each, and names of `name` bytes.
    fn reply(partitions: usize, gaps: usize, name: usize) -> v1::IndexSegmentResponse {
        let (topic, id) = ("t".repeat(name), "i".repeat(name));
        let key = format!("{topic}/1000000/{id}/{:020}-{:020}_{:020}-{:020}_{:016}.tar", 1, 2, 3, 4, 5);
        let bundle = v1::Bundle {
            url: format!("s3://a-bucket/with/a-prefix/{key}"),
            key,
            size_bytes: 1 << 30,
            crc32c: u32::MAX,
            e_tag: "e".repeat(34),
            base_offset: 1 << 50,
            last_offset: 1 << 50,
            record_count: 1 << 30,
            min_timestamp_ms: Some(1 << 50),
            max_timestamp_ms: Some(1 << 50),
            footer_offset: 1 << 30,
            already_existed: true,
        };
        let gap = v1::OffsetRange { first: 1 << 50, last: 1 << 50 };
        let one = v1::IndexedPartition {
            topic,
            partition: 1 << 30,
            base_offset: 1 << 50,
            last_offset: 1 << 50,
            record_count: 1 << 30,
            min_timestamp_ms: Some(1 << 50),
            max_timestamp_ms: Some(1 << 50),
            gaps: vec![gap; gaps],
            gap_count: gaps as u64,
            bundle: Some(bundle),
            log_id: id,
            ..v1::IndexedPartition::default()
        };
        v1::IndexSegmentResponse { partitions: vec![one; partitions], ..Default::default() }
    }

    #[test]
    fn a_receipt_of_ten_thousand_partitions_is_one_that_any_client_takes() {
        for (partitions, gaps, name) in [(1, 1_000, 249), (210, 304, 100), (9_000, 7, 8), (10_000, 6, 16)] {
            let whole = reply(partitions, gaps, name);
            let mut fits = whole.clone();
            make_fit(&mut fits);
            assert!(fits.encoded_len() <= REPLY_BYTES_MAX, "{partitions}: {}", fits.encoded_len());
            assert_eq!(fits == whole, whole.encoded_len() <= REPLY_BYTES_MAX, "no more than must be");
            for (one, whole) in fits.partitions.iter().zip(&whole.partitions) {
                let bundle = one.bundle.as_ref().expect("a bundle");
                assert_eq!((&bundle.key, one.gap_count), (&whole.bundle.as_ref().unwrap().key, gaps as u64));
            }
        }
    }

    #[test]
    fn our_own_client_takes_what_no_other_would() {
        let (mut largest, partitions) = (reply(1_000, 0, 249), 20_000);
        make_fit(&mut largest);
        assert!(largest.encoded_len() * partitions / 1_000 < 64 << 20, "{}", largest.encoded_len());
    }
}
