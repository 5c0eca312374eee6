//! `ArchiveService` from outside: copies of segments with attachments, read by position, deleted by name.

mod reconcile;

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use wal_indexer::generate::{Codec, Size, Spec};
use wal_indexer::proto::v1::archive_service_client::ArchiveServiceClient;
use wal_indexer::proto::v1::copy_segment_request::Payload;
use wal_indexer::proto::v1::read_segment_request::Bundle;
use wal_indexer::proto::v1::{self, CopyHeader, CopySegmentResponse, SegmentName};

use crate::anomalies;
use crate::receipts::{generated, noise};
use crate::worker::{self, Refusal, Worker, file_url};

/// A client of a worker, and the copies that it sends.
struct Archive {
    worker: Worker,
    client: ArchiveServiceClient<Channel>,
}

/// What a caller has of a copy after it was stored.
#[derive(Clone, Debug)]
struct Copied {
    name: SegmentName,
    response: CopySegmentResponse,
}

impl Copied {
    fn key(&self) -> &str {
        let receipt = self.response.receipt.as_ref().expect("a receipt");
        &receipt.partitions[0].bundle.as_ref().expect("a bundle").key
    }

    fn already_existed(&self) -> bool {
        let receipt = self.response.receipt.as_ref().expect("a receipt");
        receipt.partitions[0].bundle.as_ref().expect("a bundle").already_existed
    }
}

fn name(base_offset: i64, copy_id: &str) -> SegmentName {
    SegmentName {
        topic: "orders".to_owned(),
        partition: 3,
        log_id: "kX9".to_owned(),
        base_offset,
        copy_id: copy_id.to_owned(),
    }
}

fn attachments() -> Vec<(&'static str, Bytes)> {
    vec![
        ("offset", noise(10_240)),
        ("leader_epoch", Bytes::from_static(b"0\n1\n0 0\n")),
        ("transaction", Bytes::new()),
        ("producer_snapshot", noise(300_000)),
    ]
}

fn header(name: SegmentName, segment: &[u8], attachments: &[(&str, Bytes)]) -> CopyHeader {
    let attachments = attachments.iter().map(|(name, bytes)| v1::Attachment {
        name: (*name).to_owned(),
        size_bytes: bytes.len() as u64,
        crc32c: Some(crc32c::crc32c(bytes)),
    });
    CopyHeader {
        name: Some(name),
        segment_id: "orders:3".to_owned(),
        size_bytes: segment.len() as u64,
        attachments: attachments.collect(),
        ..CopyHeader::default()
    }
}

impl Archive {
    async fn start() -> Self {
        Self::of(Worker::start_with(&["--metrics-listen", "127.0.0.1:0"])).await
    }

    async fn of(worker: Worker) -> Self {
        let client = ArchiveServiceClient::new(worker.channel().await);
        Self { worker, client }
    }

    async fn send(&mut self, header: CopyHeader, chunks: Vec<Bytes>) -> Result<Copied, Status> {
        let name = header.name.clone().expect("a name");
        let message = |payload| v1::CopySegmentRequest { payload: Some(payload) };
        let messages = std::iter::once(Payload::Header(header)).chain(chunks.into_iter().map(Payload::Chunk));
        let messages: Vec<_> = messages.map(message).collect();
        let response = self.client.copy_segment(stream::iter(messages)).await?.into_inner();
        Ok(Copied { name, response })
    }

    /// Stores a copy. Its chunks end anywhere, also between the segment and its attachments.
    async fn try_copy(
        &mut self,
        name: SegmentName,
        segment: &[u8],
        attachments: &[(&str, Bytes)],
    ) -> Result<Copied, Status> {
        let mut bytes = segment.to_vec();
        attachments.iter().for_each(|(_, attachment)| bytes.extend_from_slice(attachment));
        let chunks = bytes.chunks(100_003).map(Bytes::copy_from_slice).collect();
        self.send(header(name, segment, attachments), chunks).await
    }

    async fn copy(&mut self, name: SegmentName, segment: &[u8]) -> Copied {
        self.try_copy(name, segment, &attachments()).await.expect("a receipt")
    }

    async fn read(
        &mut self,
        bundle: Bundle,
        locator: Bytes,
        position: u64,
        end: Option<u64>,
    ) -> Result<Vec<u8>, Status> {
        let request = v1::ReadSegmentRequest { bundle: Some(bundle), locator, position, end };
        let mut messages = self.client.read_segment(request).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(message) = messages.message().await? {
            assert!(message.chunk.len() <= 256 << 10, "{}", message.chunk.len());
            bytes.extend_from_slice(&message.chunk);
        }
        Ok(bytes)
    }

    async fn read_copy(&mut self, copied: &Copied, position: u64, end: Option<u64>) -> Vec<u8> {
        let (bundle, locator) = (Bundle::Name(copied.name.clone()), copied.response.locator.clone());
        self.read(bundle, locator, position, end).await.expect("the bytes")
    }

    async fn attachment(&mut self, name: SegmentName, attachment: &str) -> Result<Vec<u8>, Status> {
        let attachment = attachment.to_owned();
        let request = v1::ReadAttachmentRequest { name: Some(name), locator: Bytes::new(), attachment };
        let mut messages = self.client.read_attachment(request).await?.into_inner();
        let first = messages.message().await?.expect("a first message");
        let described = first.attachment.expect("in the first message");
        let mut bytes = first.chunk.to_vec();
        while let Some(message) = messages.message().await? {
            bytes.extend_from_slice(&message.chunk);
        }
        assert_eq!(
            (described.size_bytes, described.crc32c),
            (bytes.len() as u64, Some(crc32c::crc32c(&bytes)))
        );
        Ok(bytes)
    }

    async fn delete(&mut self, name: SegmentName) -> v1::DeleteSegmentResponse {
        let request = v1::DeleteSegmentRequest { name: Some(name) };
        self.client.delete_segment(request).await.expect("it is deleted").into_inner()
    }

    /// Returns the offsets that a search for everything finds, sorted.
    fn found(&self) -> Vec<i64> {
        let store = file_url(&self.worker.store());
        let printed = worker::run([
            "search", "--topic", "orders", "--json", "--limit", "100000", "--order", "oldest", "--store",
            &store, "",
        ]);
        let lines = String::from_utf8(printed).expect("UTF-8");
        let records =
            lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
        let offset = |record: serde_json::Value| match &record["offset"] {
            serde_json::Value::String(text) => text.parse().ok(),
            number => number.as_i64(),
        };
        let mut offsets: Vec<i64> = records.filter_map(offset).collect();
        offsets.sort_unstable();
        offsets
    }
}

fn logs(codec: Codec, records: u64, base_offset: i64) -> Vec<u8> {
    generated(&Spec { codec, size: Size::Records(records), base_offset, ..Spec::default() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_comes_back_byte_for_byte_from_any_position() {
    let mut archive = Archive::start().await;
    for (nth, codec) in Codec::ALL.into_iter().enumerate() {
        let base = 4_000 * nth as i64;
        let segment = logs(codec, 4_000, base);
        let copied = archive.copy(name(base, codec.name()), &segment).await;
        let receipt = copied.response.receipt.as_ref().expect("a receipt");
        assert_eq!((receipt.bytes_read, receipt.crc32c), (segment.len() as u64, crc32c::crc32c(&segment)));
        assert_eq!((receipt.record_count, receipt.partitions[0].base_offset), (4_000, base));
        assert!(!copied.response.locator.is_empty() && copied.response.locator.len() <= 64);
        let size = segment.len() as u64;
        assert!(archive.read_copy(&copied, 0, None).await == segment, "{}", codec.name());
        for position in [1, size / 3, size / 2, size - 1, size] {
            let rest = &segment[position as usize..];
            assert!(archive.read_copy(&copied, position, None).await == rest, "{} {position}", codec.name());
            let end = size.min(position + 70_000);
            let part = &segment[position as usize..end as usize];
            assert!(archive.read_copy(&copied, position, Some(end)).await == part, "{position}");
            let by_name = Bundle::Name(copied.name.clone());
            assert!(archive.read(by_name, Bytes::new(), position, Some(end)).await.expect("bytes") == part);
            let by_key = Bundle::Key(copied.key().to_owned());
            assert!(
                archive.read(by_key, Bytes::new(), position, Some(1 << 40)).await.expect("bytes") == rest
            );
        }
        let beyond = archive.read(Bundle::Name(copied.name.clone()), Bytes::new(), size + 1, None).await;
        let refusal = Refusal::of(&beyond.expect_err("beyond its end"));
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::OutOfRange, "BEYOND_END"));
        for (attachment, bytes) in attachments() {
            assert!(archive.attachment(copied.name.clone(), attachment).await.expect("its bytes") == bytes);
        }
        let missing = archive.attachment(copied.name.clone(), "timestamp").await.expect_err("not there");
        let refusal = Refusal::of(&missing);
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::NotFound, "ATTACHMENT_NOT_FOUND"));
    }
    let all = Vec::from_iter(0..20_000_i64);
    let found = archive.found();
    let lacking = all.iter().find(|offset| !found.contains(offset));
    assert_eq!((found.len(), lacking), (all.len(), None), "every record of every copy is found once");
    let store = file_url(&archive.worker.store());
    let verify = ["verify", "--store", &store].map(str::to_owned).into_iter();
    let verified = worker::run(verify.chain(archive.worker.finished_keys()));
    assert!(!verified.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lesson_31_the_late_deletion_of_a_failed_attempt_leaves_the_good_copy() {
    let mut archive = Archive::start().await;
    let segment = logs(Codec::Lz4, 2_000, 0);
    let failed = archive.copy(name(0, "first"), &segment).await;
    let good = archive.copy(name(0, "second"), &segment).await;
    assert_ne!(failed.key(), good.key());
    assert_eq!(archive.found(), Vec::from_iter(0..2_000), "each record is found once");
    let deleted = archive.delete(failed.name.clone()).await;
    assert!(!deleted.already_deleted && deleted.deleted_at_ms > 0);
    let again = archive.delete(failed.name.clone()).await;
    assert_eq!((again.already_deleted, again.deleted_at_ms), (true, deleted.deleted_at_ms));
    assert!(archive.read_copy(&good, 0, None).await == segment);
    assert_eq!(archive.found(), Vec::from_iter(0..2_000));
    let gone = archive.read(Bundle::Name(failed.name), Bytes::new(), 0, None).await.expect_err("deleted");
    let refusal = Refusal::of(&gone);
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::NotFound, "SEGMENT_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lesson_32_a_copy_is_deleted_by_its_name_also_before_it_lands() {
    let mut archive = Archive::start().await;
    let segment = logs(Codec::None, 500, 0);
    assert!(!archive.delete(name(0, "late")).await.already_deleted, "there is nothing yet");
    let late = archive.try_copy(name(0, "late"), &segment, &[]).await.expect_err("it was deleted");
    let refusal = Refusal::of(&late);
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::FailedPrecondition, "DELETED"));
    assert_eq!(archive.found(), Vec::<i64>::new());
    let copied = archive.copy(name(0, "in-time"), &segment).await;
    archive.delete(copied.name.clone()).await;
    assert_eq!(archive.found(), Vec::<i64>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_copy_sent_again_is_the_same_object_and_another_one_is_refused() {
    let mut archive = Archive::start().await;
    let segment = logs(Codec::Zstd, 2_000, 40);
    let first = archive.copy(name(40, "a"), &segment).await;
    let again = archive.copy(name(40, "a"), &segment).await;
    assert_eq!((first.key(), &first.response.locator), (again.key(), &again.response.locator));
    assert!(!first.already_existed() && again.already_existed());
    let mut others = attachments();
    others[0].1 = noise(10_241);
    let refused = archive.try_copy(name(40, "a"), &segment, &others).await.expect_err("other attachments");
    let refusal = Refusal::of(&refused);
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::AlreadyExists, "COPY_DIFFERS"));
    assert_eq!(archive.worker.finished_keys(), [first.key()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_never_refused_for_what_kafka_itself_keeps() {
    let mut archive = Archive::start().await;
    let mut unknown_codec = logs(Codec::None, 10, 0);
    unknown_codec[22] |= 6;
    wal_indexer::generate::kafka::seal(&mut unknown_codec);
    let torn = {
        let mut segment = logs(Codec::None, 400, 0);
        segment.truncate(segment.len() - 100);
        segment
    };
    let old_messages = anomalies::fixture("kafka-old-messages.log");
    let huge = anomalies::fixture("compressible-300mb.log");
    for (nth, (segment, undecoded)) in
        [(&unknown_codec[..], 1), (&torn[..], 0), (&old_messages[..], 0), (&huge[..], 1)]
            .into_iter()
            .enumerate()
    {
        let copied = archive.copy(name(0, &format!("odd-{nth}")), segment).await;
        let receipt = copied.response.receipt.as_ref().expect("a receipt");
        assert_eq!(receipt.undecoded.as_ref().map_or(0, |undecoded| undecoded.frames), undecoded, "{nth}");
        assert!(archive.read_copy(&copied, 0, None).await == segment, "{nth}");
        archive.delete(copied.name.clone()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lesson_43_the_name_says_where_a_segment_begins_and_may_end() {
    let mut archive = Archive::start().await;
    let segment = logs(Codec::Snappy, 1_000, 150);
    // Its first batches were compacted away, or never written.
    let copied = archive.copy(name(100, "a"), &segment).await;
    assert!(copied.key().contains("/00000000000000000100-00000000000000001149_"), "{}", copied.key());
    assert!(archive.read_copy(&copied, 7, None).await == segment[7..]);
    let by_name = archive.read(Bundle::Name(copied.name.clone()), Bytes::new(), 0, None).await;
    assert!(by_name.expect("it is found by its base offset") == segment);
    assert_eq!(archive.found(), Vec::from_iter(150..1_150));
    for (base, last, allowed) in
        [(151, None, false), (0, Some(1_148), false), (0, Some(1_149), true), (150, Some(9_999), true)]
    {
        let header = CopyHeader { last_offset: last, ..header(name(base, "b"), &segment, &[]) };
        let sent = archive.send(header, vec![segment.clone().into()]).await;
        match sent {
            Ok(_) => assert!(allowed, "{base} {last:?}"),
            Err(status) => {
                let refusal = Refusal::of(&status);
                assert_eq!(
                    (refusal.code, refusal.reason.as_str()),
                    (Code::InvalidArgument, "OFFSETS_NOT_ALLOWED")
                );
                assert!(!allowed, "{base} {last:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_contradicts_itself_is_refused_and_stores_nothing() {
    let mut archive = Archive::start().await;
    let segment = Bytes::from(logs(Codec::None, 50, 0));
    let whole = header(name(0, "a"), &segment, &[("offset", noise(10))]);
    let bytes: Bytes = [&segment[..], &noise(10)].concat().into();
    let attachment = |name: &str| v1::Attachment { name: name.to_owned(), size_bytes: 10, crc32c: None };
    let named = |name: SegmentName| CopyHeader { name: Some(name), ..whole.clone() };
    let cases: Vec<(&str, CopyHeader, Bytes)> = vec![
        ("SIZE_DIFFERS", whole.clone(), bytes.slice(..bytes.len() - 1)),
        ("SIZE_DIFFERS", whole.clone(), segment.clone()),
        ("SIZE_DIFFERS", whole.clone(), [&bytes[..], b"x"].concat().into()),
        ("SEGMENT_CRC32C_DIFFERS", CopyHeader { crc32c: Some(1), ..whole.clone() }, bytes.clone()),
        ("ATTACHMENT_CRC32C_DIFFERS", whole.clone(), [&segment[..], &[7; 10]].concat().into()),
        ("COPY", CopyHeader { attachments: vec![attachment("a/b")], ..whole.clone() }, bytes.clone()),
        ("COPY", CopyHeader { attachments: vec![attachment("")], ..whole.clone() }, bytes.clone()),
        ("COPY", CopyHeader { attachments: vec![attachment(".x")], ..whole.clone() }, bytes.clone()),
        ("COPY", CopyHeader { attachments: vec![attachment("x"); 2], ..whole.clone() }, bytes.clone()),
        (
            "COPY",
            CopyHeader {
                attachments: (0..17).map(|n| attachment(&n.to_string())).collect(),
                ..whole.clone()
            },
            bytes.clone(),
        ),
        (
            "COPY",
            CopyHeader {
                attachments: vec![v1::Attachment { size_bytes: (128 << 20) + 1, ..attachment("x") }],
                ..whole.clone()
            },
            bytes.clone(),
        ),
        ("COPY", CopyHeader { size_bytes: 0, ..whole.clone() }, bytes.clone()),
        ("COPY", named(name(0, "")), bytes.clone()),
        ("COPY", named(name(0, "a b")), bytes.clone()),
        ("COPY", named(name(-1, "a")), bytes.clone()),
        ("NO_PARTITION", named(SegmentName { topic: String::new(), ..name(0, "a") }), bytes.clone()),
    ];
    for (reason, header, bytes) in cases {
        let sent = archive.send(header.clone(), vec![bytes]).await;
        let refusal = Refusal::of(&sent.expect_err(reason));
        assert_eq!(refusal.reason, reason, "{header:?}");
    }
    assert_eq!(archive.worker.keys(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lesson_36_nothing_is_read_ahead_of_its_reader() {
    let mut archive = Archive::start().await;
    let segment = logs(Codec::None, 60_000, 0);
    assert!(segment.len() > 30 << 20, "{}", segment.len());
    let copied = archive.copy(name(0, "a"), &segment).await;
    let fetched = |archive: &Archive| {
        let scrape = archive.worker.scrape();
        let bytes = scrape.sum("wal_indexer_worker_fetched_bytes_total", &[("method", "ReadSegment")]);
        bytes.unwrap_or_default()
    };
    let request = v1::ReadSegmentRequest {
        bundle: Some(Bundle::Name(copied.name.clone())),
        locator: copied.response.locator.clone(),
        position: 0,
        end: None,
    };
    // A reader that asks for little at a time: 64 KiB, the default of HTTP/2.
    let endpoint = Endpoint::from_shared(archive.worker.endpoint()).expect("an address");
    let endpoint = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    let mut slow = ArchiveServiceClient::new(endpoint.connect().await.expect("it listens"));
    let mut messages = slow.read_segment(request).await.expect("a stream").into_inner();
    let first = messages.message().await.expect("a message").expect("not the end");
    assert_eq!(first.segment_size_bytes, segment.len() as u64);
    tokio::time::sleep(Duration::from_millis(500)).await;
    drop(messages);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let read = fetched(&archive);
    // Uncompressed logs become blocks of a fifth of their size: all of it would be some 6 MiB.
    assert!(read > 0.0 && read < (2 << 20) as f64, "{read} bytes were read for one message");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_block_ends_the_stream_before_a_byte_of_it() {
    let mut archive = Archive::start().await;
    let segment = logs(Codec::None, 30_000, 0);
    let copied = archive.copy(name(0, "a"), &segment).await;
    let path = archive.worker.store().join(copied.key());
    let sound = fs::read(&path).expect("the bundle");
    let find = |part: &[u8]| sound.windows(part.len()).position(|window| window == part);
    let records = find(b"records.zst").expect("its header");
    let index = find(b"records.idx").expect("its header");
    let mut damaged = sound.clone();
    damaged[(records + index) / 2] ^= 1;
    fs::write(&path, damaged).expect("written");
    let request = v1::ReadSegmentRequest {
        bundle: Some(Bundle::Name(copied.name.clone())),
        locator: Bytes::new(),
        position: 0,
        end: None,
    };
    let mut messages = archive.client.read_segment(request).await.expect("a stream").into_inner();
    let mut read = Vec::new();
    let status = loop {
        match messages.message().await {
            Ok(Some(message)) => read.extend_from_slice(&message.chunk),
            Ok(None) => panic!("the damage was not noticed"),
            Err(status) => break status,
        }
    };
    assert_eq!((status.code(), Refusal::of(&status).reason.as_str()), (Code::DataLoss, "BUNDLE_CORRUPT"));
    assert!(read.len() < segment.len() && read == segment[..read.len()], "{}", read.len());
}
