//! Measurements, run by hand: `cargo test --release --lib index::measure -- --ignored --nocapture --test-threads 1`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;
use tantivy::directory::RamDirectory;
use tantivy::schema::OwnedValue;
use tantivy::{DateTime, SingleSegmentIndexWriter, TantivyDocument};

use super::testing::{TestRecord, batch, valued};
use super::{IndexBuilder, TopicSettings, VALUE_BYTES_MAX, assemble, rfc3339, schema};
use crate::record::RecordBatch;

/// Log lines as services write them: a few hundred bytes of JSON with ids, words, numbers and a date.
fn log_lines(count: usize) -> RecordBatch {
    let mut seed = 7_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let words = [
        "connection",
        "reset",
        "by",
        "peer",
        "timeout",
        "while",
        "reading",
        "from",
        "upstream",
        "cache",
        "miss",
    ];
    let records = (0..count as i64).map(|n| {
        let mut pick = |from: &[&str]| from[random(from.len() as u64) as usize].to_owned();
        let (level, method) = (pick(&["INFO", "INFO", "INFO", "WARN", "ERROR"]), pick(&["GET", "GET", "POST", "PUT"]));
        let service = pick(&["checkout", "payments", "search", "catalog", "mail"]);
        let message = (0..9).map(|_| pick(&words)).collect::<Vec<_>>().join(" ");
        let value = format!(
            r#"{{"at":"2024-05-01T12:{:02}:{:02}.{:06}Z","level":"{level}","service":"{service}","host":"node-{}.eu-west-1","message":"{message} for user-{}","trace_id":"{:016x}{:016x}","http":{{"method":"{method}","path":"/api/v1/orders/{}/items","status":{}}},"latency_ms":{}.{:03},"bytes":{},"retry":false}}"#,
            n / 60 % 60,
            n % 60,
            random(1_000_000),
            random(40),
            random(50_000),
            random(u64::MAX),
            random(u64::MAX),
            random(20_000),
            [200, 200, 200, 404, 500][random(5) as usize],
            random(900),
            random(1_000),
            random(100_000)
        );
        TestRecord {
            offset: n,
            timestamp_ms: Some(1_714_564_800_000 + n),
            key: Some(format!("user-{}", random(50_000)).into_bytes()),
            value: Some(value.into_bytes()),
            headers: vec![(b"source".to_vec(), Some(b"agent".to_vec()))],
        }
    });
    batch(&records.collect::<Vec<_>>())
}

/// The same records by Tantivy's own means: `serde_json::Value`, `TantivyDocument` and the default tokenizer.
fn build_stock(records: &RecordBatch) -> usize {
    let (schema, fields) = schema::build(false);
    let directory = RamDirectory::create();
    let mut writer: SingleSegmentIndexWriter = tantivy::Index::builder()
        .schema(schema)
        .settings(schema::settings())
        .single_segment_index_writer(directory.clone(), 100 << 20)
        .unwrap();
    for record in records.iter() {
        let mut document = TantivyDocument::new();
        document.add_i64(fields.offset, record.offset());
        document.add_i64(fields.timestamp, record.timestamp_ms().unwrap());
        document.add_bytes(fields.key, record.key().unwrap());
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let headers =
            record.headers().map(|(name, value)| (text(name), OwnedValue::Str(text(value.unwrap()))));
        document.add_object(fields.header, headers.collect::<BTreeMap<_, _>>());
        let value: Value = serde_json::from_slice(record.value().unwrap()).unwrap();
        if let Some(OwnedValue::Object(numbers)) = ranges(&value) {
            document.add_object(fields.num, numbers.into_iter().collect());
        }
        if let OwnedValue::Object(leaves) = plain(value) {
            document.add_object(fields.value, leaves.into_iter().collect());
        }
        writer.add_document(document).unwrap();
    }
    writer.finalize().unwrap();
    directory.total_mem_usage()
}

fn plain(value: Value) -> OwnedValue {
    match value {
        Value::Object(object) => {
            OwnedValue::Object(object.into_iter().map(|(key, value)| (key, plain(value))).collect())
        }
        Value::String(text) => OwnedValue::Str(text),
        other => OwnedValue::from(other),
    }
}

fn ranges(value: &Value) -> Option<OwnedValue> {
    match value {
        Value::Object(object) => Some(OwnedValue::Object(
            object.iter().filter_map(|(k, v)| Some((k.clone(), ranges(v)?))).collect(),
        )),
        Value::Number(_) => Some(OwnedValue::from(value.clone())),
        Value::String(text) => match rfc3339::parse(text)? {
            rfc3339::Date::Nanos(nanos) => Some(OwnedValue::Date(DateTime::from_timestamp_nanos(nanos))),
            rfc3339::Date::OutOfRange => None,
        },
        _ => None,
    }
}

fn build_ours(records: &RecordBatch, settings: TopicSettings) -> usize {
    let mut builder = IndexBuilder::new(settings).unwrap();
    builder.add(records).unwrap();
    builder.finish().unwrap().mem_usage()
}

/// Time that this thread spent on a processor, which other work on the machine does not lengthen much.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap())
}

fn mebibytes(bytes: usize) -> f64 {
    bytes as f64 / 1_048_576.0
}

#[test]
#[ignore = "measures; run it with --release"]
fn building_log_lines_against_tantivys_own_means() {
    let records = log_lines(200_000);
    let bytes: usize = records.iter().map(|record| record.value().unwrap().len()).sum();
    println!("{} records, {:.1} MiB of values", records.records.len(), mebibytes(bytes));
    let positions = TopicSettings { positions: true, ..TopicSettings::default() };
    let measured: [(&str, &dyn Fn() -> usize); 3] = [
        ("ours", &|| build_ours(&records, TopicSettings::default())),
        ("stock", &|| build_stock(&records)),
        ("ours with positions", &|| build_ours(&records, positions)),
    ];
    for (name, build) in measured {
        let (mut best, mut size) = (Duration::MAX, 0);
        for _ in 0..5 {
            let start = cpu_time();
            size = build();
            best = best.min(cpu_time() - start);
        }
        let speed = mebibytes(bytes) / best.as_secs_f64();
        println!("{name}: {speed:.1} MiB of values a second, index of {:.1} MiB", mebibytes(size));
    }
}

#[test]
#[ignore = "measures; run it with --release"]
fn thousands_of_small_partitions() {
    let (records, start) = (valued(&[r#"{"a": "b", "n": 1}"#]), Instant::now());
    for _ in 0..2_000 {
        let settings = TopicSettings::default();
        let mut builder = IndexBuilder::new(settings).unwrap();
        builder.add(&records).unwrap();
        assemble(vec![builder.finish().unwrap()], &[1; 32], &settings).unwrap();
    }
    println!("2,000 partitions of one record each: {:?}", start.elapsed());
    let mut builders: Vec<_> =
        (0..20).map(|_| IndexBuilder::new(TopicSettings::default()).unwrap()).collect();
    for builder in &mut builders {
        builder.add(&records).unwrap();
    }
    println!("one of them while it is built: {:.1} MiB", mebibytes(builders[0].mem_usage()));
}

#[test]
#[ignore = "measures; run it with --release"]
fn the_largest_value_of_unlike_words() {
    // Three letters and a space each: no text of unlike words has more of them.
    let mut value = String::with_capacity(VALUE_BYTES_MAX);
    'fill: for a in ('一'..='鿿').chain('a'..='z') {
        for b in '一'..='鿿' {
            if value.len() + 7 > VALUE_BYTES_MAX {
                break 'fill;
            }
            value.extend([a, b, ' ']);
        }
    }
    for settings in [TopicSettings::default(), TopicSettings { positions: true, ..TopicSettings::default() }]
    {
        let mut builder = IndexBuilder::new(settings).unwrap();
        builder.add(&valued(&["first"])).unwrap();
        let (before, start) = (builder.mem_usage(), Instant::now());
        builder.add(&valued(&[&value])).unwrap();
        let grown = builder.mem_usage() - before;
        println!(
            "{:.0} MiB of words took {:.0} MiB in {:?}",
            mebibytes(value.len()),
            mebibytes(grown),
            start.elapsed()
        );
    }
}
