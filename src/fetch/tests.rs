use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU32, NonZeroU64};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::seq::{IteratorRandom, SliceRandom};
use rand::{RngExt, SeedableRng};

use super::*;
use crate::archive::testing::{pack, put_new, store};
use crate::generate::{Format, Size, Spec, generate};
use crate::segment::{Frame, FrameSplitter};
use crate::store::Store;

fn orders() -> TopicPartition {
    TopicPartition::new("orders", 3).expect("a partition")
}

fn request(offset: i64, form: Form) -> Request {
    let (max_records, max_bytes) = (u64::MAX, u64::MAX);
    let isolation = Isolation::default();
    Request {
        partition: orders(),
        log_id: None,
        offset,
        max_records,
        max_bytes,
        buffer_bytes_max: BUFFER_BYTES_MAX,
        form,
        isolation,
    }
}

fn bundle_cache(store: &Store) -> BundleCache {
    BundleCache::new(store.clone(), 64 << 20)
}

/// A whole response.
#[derive(Debug)]
struct Answer {
    items: Vec<Item>,
    next_offset: i64,
    conflicts: Vec<Conflict>,
}

impl Answer {
    fn offsets(&self) -> Vec<i64> {
        self.items.iter().map(Item::last_offset).collect()
    }
}

async fn answer(store: &Store, request: &Request) -> Result<Answer, FetchError> {
    let mut fetch = fetch(&bundle_cache(store), request, Memory::default()).await?;
    let mut items = Vec::new();
    while let Some(Part { items: more, .. }) = fetch.next().await? {
        assert!(!more.is_empty());
        items.extend(more.into_iter().map(|answered| answered.item));
    }
    Ok(Answer { items, next_offset: fetch.next_offset(), conflicts: fetch.conflicts().to_vec() })
}

fn frames(source: &Bytes) -> Vec<Frame> {
    let (mut frames, mut splitter) = (Vec::new(), FrameSplitter::new(source.len() as u64, None));
    splitter.push(source.clone(), &mut frames).expect("frames");
    frames
}

fn records(frame: &Frame) -> Vec<StoredRecord> {
    let decoded = frame.decode(1 << 30).expect("records");
    let leader_epoch = frame.leader_epoch();
    let stored = |record: &_| StoredRecord { leader_epoch, ..StoredRecord::new(record) };
    decoded.records.iter().map(|record| stored(&record)).collect()
}

fn segment(frames: &[Frame]) -> Bytes {
    frames.iter().map(|frame| &frame.bytes[..]).collect::<Vec<_>>().concat().into()
}

/// Frames of `orders`/3 in offset order, with gaps between them.
fn generated(format: Format, seed: u64, base_offset: i64, batch_records: u32) -> Vec<Frame> {
    let spec = Spec {
        format,
        size: Size::Records(60),
        seed,
        base_offset,
        partition: orders(),
        batch_records: NonZeroU32::new(batch_records).expect("not zero"),
        gap_every: NonZeroU64::new(7),
        ..Spec::default()
    };
    let mut bytes = Vec::new();
    generate(&spec, &mut bytes).expect("in memory");
    frames(&bytes.into())
}

/// A log with overlaps and repeated segments, and what a simple reader makes of it.
#[derive(Default)]
struct Model {
    /// By offset, all different records.
    records: BTreeMap<i64, BTreeSet<String>>,
    /// Last offset, first offset, bytes: all different batches.
    batches: BTreeSet<(i64, i64, Bytes)>,
    end: i64,
}

impl Model {
    fn add(&mut self, frame: &Frame) {
        for record in records(frame) {
            self.records.entry(record.offset).or_default().insert(format!("{record:?}"));
        }
        let batch = frame.kafka_batch(1 << 30).expect("sound").expect("a batch");
        self.batches.insert((batch.range.last(), batch.range.first(), batch.bytes));
        self.end = self.end.max(batch.range.last() + 1);
    }

    /// Reads from `offset` to the end, page by page, and compares every page with the expected one.
    async fn check(&self, store: &Store, offset: i64, rng: &mut StdRng, form: Form, name: &str) {
        let mut next = offset;
        let mut found = Vec::new();
        loop {
            let max_records = if rng.random() { rng.random_range(1..40) } else { u64::MAX };
            let max_bytes = if rng.random() { rng.random_range(1..20_000) } else { u64::MAX };
            let page = Request { max_records, max_bytes, ..request(next, form) };
            let answer = answer(store, &page).await.unwrap_or_else(|error| panic!("{name}: {error}"));
            let Some(last) = answer.items.last() else {
                assert_eq!(answer.next_offset, next.max(self.end), "{name}: {page:?}");
                break;
            };
            let is_last_page = answer.next_offset == self.end && last.last_offset() + 1 != self.end;
            assert!(is_last_page || answer.next_offset == last.last_offset() + 1, "{name}: {page:?}");
            assert!(answer.offsets().is_sorted(), "{name}");
            assert!(answer.offsets()[0] >= next, "{name}");
            let one_offset = answer.offsets().iter().all(|offset| *offset == answer.offsets()[0]);
            assert!(within(&answer.items, &page) || one_offset, "{name}: {page:?}");
            let conflicts: BTreeSet<_> = answer.conflicts.iter().map(|conflict| conflict.offset).collect();
            assert_eq!(conflicts, conflicts_of(&answer.items), "{name}: {page:?}");
            next = answer.next_offset;
            found.extend(answer.items);
        }
        let distinct: BTreeSet<_> = found.iter().map(|item| format!("{item:?}")).collect();
        assert_eq!(distinct.len(), found.len(), "{name}: each once");
        let found: Vec<_> = found.iter().map(Item::last_offset).zip(&found).collect();
        match form {
            Form::Records => {
                let wanted = self.records.range(offset..);
                let wanted: Vec<_> = wanted
                    .flat_map(|(offset, all)| all.iter().map(move |one| (*offset, one.clone())))
                    .collect();
                let mut found: Vec<_> = found
                    .iter()
                    .map(|(offset, item)| match item {
                        Item::Record(record) => (*offset, format!("{record:?}")),
                        Item::Batch(_) => panic!("{name}: a batch"),
                    })
                    .collect();
                // Versions of one offset come in the order of the bundles.
                found.sort();
                assert_eq!(found, wanted, "{name}");
            }
            Form::KafkaBatches => {
                let wanted: Vec<_> =
                    self.batches.iter().filter(|(last, ..)| *last >= offset).cloned().collect();
                let mut found: Vec<_> = found
                    .iter()
                    .map(|(last, item)| match item {
                        Item::Batch(batch) => (*last, batch.range.first(), batch.bytes.clone()),
                        Item::Record(_) => panic!("{name}: a record"),
                    })
                    .collect();
                found.sort();
                assert_eq!(found, wanted, "{name}");
            }
        }
    }
}

fn within(items: &[Item], page: &Request) -> bool {
    let (mut records, mut bytes) = (0, 0);
    for item in items {
        match item {
            Item::Record(record) => (records, bytes) = (records + 1, bytes + record.mem_usage() as u64),
            Item::Batch(batch) => {
                (records, bytes) = (records + batch.records, bytes + batch.bytes.len() as u64)
            }
        }
    }
    records <= page.max_records && bytes <= page.max_bytes
}

/// The first shared offset of each two neighbouring items that overlap.
fn conflicts_of(items: &[Item]) -> BTreeSet<i64> {
    let range = |item: &Item| match item {
        Item::Record(record) => (record.offset, record.offset),
        Item::Batch(batch) => (batch.range.first(), batch.range.last()),
    };
    let pairs = items.iter().map(range).zip(items.iter().skip(1).map(range));
    pairs.filter(|(a, b)| a.0 <= b.1 && b.0 <= a.1).map(|(a, b)| a.0.max(b.0)).collect()
}

#[tokio::test]
async fn whatever_overlaps_every_offset_is_answered_once_and_in_order() {
    let mut rng = StdRng::seed_from_u64(7);
    for round in 0..40 {
        let name = format!("round {round}");
        let (store, mut model) = (store(), Model::default());
        let is_chronik = round % 2 == 0;
        let format = if is_chronik { Format::ChronikV2 } else { Format::Kafka };
        let base = rng.random_range(0..50);
        let mut pools = vec![generated(format, 1, base, rng.random_range(1..9))];
        // Every third log is written twice, with different contents.
        if round % 3 == 0 {
            pools.push(generated(format, 2, base + rng.random_range(0..30), rng.random_range(1..9)));
        }
        for _ in 0..rng.random_range(1..6) {
            let pool = pools.iter().choose(&mut rng).expect("a pool");
            let first = rng.random_range(0..pool.len());
            let mut chosen = pool[first..rng.random_range(first..=pool.len())].to_vec();
            chosen.retain(|_| rng.random_ratio(9, 10));
            if is_chronik {
                chosen.shuffle(&mut rng);
            }
            let source = segment(&chosen);
            for packed in pack(&source, "") {
                if store.head(&packed.key).await.is_err() {
                    put_new(&store, &packed.key, &packed.object()).await;
                }
            }
            chosen.iter().for_each(|frame| model.add(frame));
        }
        for form in [Form::Records, Form::KafkaBatches] {
            let offsets = [0, base, rng.random_range(0..120), model.end, model.end + 5];
            for offset in offsets {
                model
                    .check(&store, offset, &mut rng, form, &format!("{name}, {form:?}, from {offset}"))
                    .await;
            }
        }
    }
}

async fn put(store: &Store, source: &Bytes) {
    for packed in pack(source, "") {
        put_new(store, &packed.key, &packed.object()).await;
    }
}

/// A segment of `orders`/3 with blocks of some 100 KiB.
fn large_segment() -> Bytes {
    let mut bytes = Vec::new();
    let spec = Spec { size: Size::Bytes(4 << 20), partition: orders(), ..Spec::default() };
    generate(&spec, &mut bytes).expect("in memory");
    bytes.into()
}

#[tokio::test]
async fn only_the_blocks_that_are_needed_are_read() {
    let (store, source) = (store(), large_segment());
    put(&store, &source).await;
    let read = async |offset, max_records, max_bytes| {
        let request = Request { max_records, max_bytes, ..request(offset, Form::Records) };
        let mut fetch = fetch(&bundle_cache(&store), &request, Memory::default()).await.expect("a listing");
        let mut count = 0;
        while let Some(Part { items, .. }) = fetch.next().await.expect("an answer") {
            count += items.len() as u64;
        }
        (count, fetch.traffic())
    };
    let (nothing, opening) = read(1 << 40, 10, u64::MAX).await;
    assert_eq!((nothing, opening.requests), (0, 1), "what no key covers is not opened");
    let (few, one_block) = read(5_000, 10, u64::MAX).await;
    let (one, _) = read(5_000, u64::MAX, 1).await;
    assert_eq!((few, one), (10, 1));
    let (all, whole) = read(0, u64::MAX, u64::MAX).await;
    assert!(all > 5_010 && whole.bytes > 5 * one_block.bytes, "{whole:?} {one_block:?}");
    // The LIST, the bundle's tail, the part of its head that the tail does not include, and one block.
    assert!(one_block.requests <= 4, "{one_block:?}");
}

#[tokio::test]
async fn whoever_stops_waiting_for_the_next_items_may_ask_again() {
    let (store, source) = (store(), large_segment());
    put(&store, &source).await;
    let request = request(0, Form::Records);
    let whole = answer(&store, &request).await.expect("an answer");
    let mut fetch = fetch(&bundle_cache(&store), &request, Memory::default()).await.expect("a listing");
    let (mut offsets, mut dropped) = (Vec::new(), 0);
    loop {
        // Every other future is dropped after the first poll.
        let looked = futures::poll!(Box::pin(fetch.next()));
        let items = match looked {
            std::task::Poll::Ready(items) => items,
            std::task::Poll::Pending => {
                dropped += 1;
                fetch.next().await
            }
        };
        let Some(Part { items, .. }) = items.expect("an answer") else { break };
        offsets.extend(items.iter().map(|answered| answered.item.last_offset()));
    }
    assert!(dropped > 5, "{dropped}");
    assert_eq!(offsets, whole.offsets());
    assert_eq!(fetch.next_offset(), whole.next_offset);
}

#[tokio::test]
async fn batches_are_answered_up_to_one_that_was_not_kept_and_there_is_the_error() {
    let store = store();
    put(&store, &segment(&generated(Format::ChronikV2, 1, 0, 5))).await;
    let kept = answer(&store, &request(0, Form::KafkaBatches)).await.expect("an answer");
    put(&store, &segment(&generated(Format::ChronikV1, 1, kept.next_offset, 5))).await;
    let again = answer(&store, &request(0, Form::KafkaBatches)).await.expect("an answer");
    assert_eq!((again.items, again.next_offset), (kept.items, kept.next_offset));
    match answer(&store, &request(kept.next_offset, Form::KafkaBatches)).await {
        Err(FetchError::NoBatch { offset, why, .. }) => {
            assert_eq!((offset, why), (kept.next_offset, NoBatch::SingleRecord));
        }
        other => panic!("{other:?}"),
    }
    assert!(answer(&store, &request(kept.next_offset, Form::Records)).await.is_ok());
}

#[tokio::test]
async fn an_answer_ends_where_its_list_of_conflicts_is_full_and_the_next_goes_on_there() {
    let store = store();
    for seed in [1, 2] {
        let mut bytes = Vec::new();
        let spec = Spec { size: Size::Records(400), seed, partition: orders(), ..Spec::default() };
        generate(&spec, &mut bytes).expect("in memory");
        put(&store, &bytes.into()).await;
    }
    let first = answer(&store, &request(0, Form::Records)).await.expect("an answer");
    assert_eq!((first.conflicts.len(), first.items.len()), (CONFLICTS_MAX, 2 * CONFLICTS_MAX));
    assert_eq!(first.next_offset, CONFLICTS_MAX as i64);
    let second = answer(&store, &request(first.next_offset, Form::Records)).await.expect("an answer");
    assert_eq!((second.items.len(), second.next_offset), (2 * (400 - CONFLICTS_MAX), 400));
}
