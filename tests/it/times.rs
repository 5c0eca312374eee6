//! Times that a bundle's key cannot hold: `ls`, its RPC, `expire` and `fetch` read them from the manifest.

use std::fs;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::Value;
use wal_indexer::generate::Codec;
use wal_indexer::generate::kafka::{self, BatchHead};
use wal_indexer::internals::record::{RecordBatch, RecordSpans, Span};
use wal_indexer::store::KeyPrefix;

use crate::worker::{Worker, command};
use crate::written::{Ran, Written, fixture};

/// Returns a Kafka batch of records with these times, from this offset on. `None` is Kafka's -1.
fn batch(base: i64, times: &[Option<i64>]) -> Bytes {
    let records = times.iter().zip(base..).map(|(timestamp_ms, offset)| RecordSpans {
        offset,
        timestamp_ms: *timestamp_ms,
        key: None,
        value: Some(Span { start: 0, len: 4 }),
        headers: 0..0,
    });
    let records = records.collect();
    let batch = RecordBatch { bytes: Bytes::from_static(b"text"), records, headers: Vec::new() };
    let mut bytes = Vec::new();
    kafka::encode(&BatchHead::default(), &batch, Codec::None, &mut bytes).expect("a batch");
    bytes.into()
}

/// The times of a bundle's records, with the least and the greatest of them.
type Times = (&'static [Option<i64>], Option<(i64, i64)>);

/// Bundles of one log, ten offsets apart, in this order.
const BUNDLES: [Times; 9] = [
    (&[Some(-2), Some(1_760_000_000_000)], Some((-2, 1_760_000_000_000))),
    (&[None, None], None),
    (&[Some(0)], Some((0, 0))),
    (&[Some(-5_000), Some(-2)], Some((-5_000, -2))),
    (&[Some(i64::MIN)], Some((i64::MIN, i64::MIN))),
    (&[Some(-7), None], Some((-7, -7))),
    (&[None, Some(5)], Some((5, 5))),
    (&[Some(0), Some(9)], Some((0, 9))),
    (&[Some(i64::MAX)], Some((i64::MAX, i64::MAX))),
];

async fn written() -> Written {
    let written = Written::new();
    for (nth, (times, _)) in BUNDLES.iter().enumerate() {
        written.put(&format!("segment {nth}"), &batch(10 * nth as i64, times)).await;
    }
    written
}

/// Returns each bundle's times from `ls --json`, in the order of their offsets.
fn times_of(ran: &Ran) -> Vec<Option<(i64, i64)>> {
    let number = |value: &Value| value.as_str().map(|text| text.parse::<i64>().expect("a number"));
    let times = |line: Value| {
        let bundle = &line["bundle"];
        number(&bundle["minTimestampMs"]).zip(number(&bundle["maxTimestampMs"]))
    };
    ran.json().into_iter().map(times).collect()
}

/// Returns the numbers of the bundles that `expire --before` with this time selects.
fn expired(written: &Written, before: &str, flags: &[&str]) -> Vec<usize> {
    let arguments =
        [&["expire", "--topic", "orders", "--json", "--bundles", "--before", before][..], flags].concat();
    let lines = written.run(&arguments).json();
    let keys = lines.iter().filter_map(|line| line["expires"].as_str());
    let offset =
        |key: &str| key.rsplit('/').next().expect("a name")[..20].parse::<usize>().expect("an offset");
    keys.map(|key| offset(key) / 10).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_says_the_times_of_bundles_whose_keys_say_zeros() {
    let written = written().await;
    let wanted = BUNDLES.map(|(_, times)| times);
    assert_eq!(times_of(&written.run(&["ls", "--topic", "orders", "--json"])), wanted);
    let worker = Worker::start_on(written.store().url(), &[], &[]);
    // The second time from the cache.
    for _ in 0..2 {
        let ran = Ran::of(command(["ls", "--json", "--endpoint", &worker.endpoint()]));
        assert_eq!(times_of(&ran), wanted);
    }
    let listed = written.run(&["ls", "--topic", "orders", "--bundles"]);
    for (nth, times) in [(2, "1970-01-01T00:00:00.000Z"), (3, "1969-12-31T23:59:55.000Z"), (5, "1969-12-31")]
    {
        assert!(listed.out.lines().nth(nth + 1).expect("a line").contains(times), "{listed:?}");
    }
    let sum = written.run(&["ls", "--topic", "orders"]);
    assert!(sum.out.contains(&i64::MIN.to_string()) && sum.out.contains(&i64::MAX.to_string()), "{sum:?}");

    let written = Written::new();
    written.put("one", &fixture("answers/negative-time-one.log")).await;
    let listed = written.run(&["ls", "--topic", "orders"]);
    assert!(listed.out.contains("1969-12-31T23:59:59.998Z  20"), "{listed:?}");
    let written = Written::new();
    written.put("none", &fixture("kafka/no-timestamp.log")).await;
    let listed = written.run(&["ls", "--topic", "orders"]);
    assert!(listed.out.lines().nth(1).expect("a log").contains(" -     -  "), "{listed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_older_expires_and_what_has_no_times_stays() {
    let written = written().await;
    assert_eq!(expired(&written, &i64::MIN.to_string(), &[]), [0; 0]);
    assert_eq!(expired(&written, &(i64::MIN + 1).to_string(), &[]), [4]);
    assert_eq!(expired(&written, "-7", &[]), [4]);
    assert_eq!(expired(&written, "-6", &[]), [4, 5]);
    assert_eq!(expired(&written, "-2", &[]), [4, 5]);
    assert_eq!(expired(&written, "-1", &[]), [3, 4, 5]);
    assert_eq!(expired(&written, "0", &[]), [3, 4, 5]);
    assert_eq!(expired(&written, "1970-01-01", &[]), [3, 4, 5]);
    assert_eq!(expired(&written, "1", &[]), [2, 3, 4, 5]);
    assert_eq!(expired(&written, "2025-10-09", &[]), [2, 3, 4, 5, 6, 7]);
    assert_eq!(expired(&written, "1760000000000", &[]), [2, 3, 4, 5, 6, 7]);
    assert_eq!(expired(&written, "2025-10-10", &[]), [0, 2, 3, 4, 5, 6, 7]);
    assert_eq!(expired(&written, "2025-10-10", &["--delete"]), [0, 2, 3, 4, 5, 6, 7]);
    let left = written.keys().await;
    assert_eq!(left.len(), 2, "{left:?}");
    let plan = written.run(&["expire", "--topic", "orders", "--before", &i64::MAX.to_string()]);
    assert!(plan.out.contains("stay, having no times: 1"), "{plan:?}");
    assert_eq!(expired(&written, &i64::MAX.to_string(), &["--delete"]), [0; 0], "one is exactly then");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_whose_times_cannot_be_read_is_listed_and_never_expires_by_time() {
    let written = written().await;
    let listed = written.store().list(&KeyPrefix::all()).await.expect("a listing");
    let file = written.file(&listed[3].key);
    let mut bytes = fs::read(&file).expect("a bundle");
    // A byte of the footer, which has the place of the manifest.
    let at = bytes.len() - 1_050;
    bytes[at] ^= 1;
    fs::write(&file, bytes).expect("written");

    let mut wanted = BUNDLES.map(|(_, times)| times);
    wanted[3] = None;
    let listed_again = written.run(&["ls", "--topic", "orders", "--json"]);
    assert_eq!(times_of(&listed_again), wanted);
    let unknown: Vec<_> = listed_again.json().iter().map(|line| line["timesUnknown"].is_string()).collect();
    assert_eq!(
        unknown,
        [3].map(|nth| (0..BUNDLES.len()).map(|other| other == nth).collect::<Vec<_>>()).concat()
    );
    let name = listed[3].key.to_string();
    assert!(listed_again.err.contains(&name), "{listed_again:?}");
    let table = written.run(&["ls", "--topic", "orders", "--bundles"]);
    let line = table.out.lines().find(|line| line.contains(&name)).expect("a line");
    assert!(line.contains(" ?  "), "{line}");

    for delete in [&["--delete"][..], &[]] {
        let arguments = ["expire", "--topic", "orders", "--before", "2025-10-10"];
        let ran = written.run(&[&arguments[..], delete].concat());
        assert_eq!(ran.code, 3, "{ran:?}");
        assert!(ran.err.contains(&name) && ran.err.contains("1 bundle kept"), "{ran:?}");
        assert!(ran.out.contains("since their times cannot be read: 1"), "{ran:?}");
    }
    assert!(file.exists());
    let left: Vec<_> = written.keys().await;
    assert_eq!(left.len(), 3, "{left:?}");
    // It can be deleted by offset, because the key has the offsets.
    let ran = written.run(&["expire", "--topic", "orders", "--offset", "1000", "--delete"]);
    assert_eq!((ran.code, written.keys().await.len()), (0, 0), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_histogram_shows_records_of_all_times() {
    let written = Written::new();
    for (nth, times) in [&[Some(-2), Some(40)][..], &[None, Some(0)], &[Some(-5_000)]].iter().enumerate() {
        written.put(&format!("segment {nth}"), &batch(10 * nth as i64, times)).await;
    }
    let drawn = written.run(&["search", "--topic", "orders", "--histogram"]);
    let counts = drawn.out.lines().map(|line| line.rsplit_once(' ').expect("a count").1);
    assert_eq!(counts.map(|count| count.parse::<u64>().expect("a number")).sum::<u64>(), 5, "{drawn:?}");
    assert!(drawn.out.ends_with("\n- 1\n"), "{drawn:?}");
    let none = Written::new();
    none.put("none", &batch(0, &[None, None])).await;
    assert_eq!(none.run(&["search", "--topic", "orders", "--histogram"]).out, "- 2\n");
    let json = none.run(&["search", "--topic", "orders", "--histogram", "--json"]).json();
    assert_eq!(json[0]["matched"], "2", "{json:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_logs_stored_at_one_time_the_one_with_the_latest_record_is_read() {
    for (older, newer) in [(-9, -2), (-9, 0), (0, 1)] {
        for names in [["a", "b"], ["b", "a"]] {
            let written = Written::new();
            // The log that comes first by name and by offset has the older record.
            written.put_as("old", &batch(50, &[Some(older)]), names[0]).await;
            written.put_as("new", &batch(20, &[Some(newer)]), names[1]).await;
            let moment = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
            let moment = fs::FileTimes::new().set_modified(moment);
            for listed in written.store().list(&KeyPrefix::all()).await.expect("a listing") {
                let file = fs::File::options().write(true).open(written.file(&listed.key)).expect("a file");
                file.set_times(moment).expect("a time");
            }
            let ran = written.run(&["fetch", "--topic", "orders", "--partition", "3", "--json"]);
            let lines = ran.json();
            assert_eq!(lines.last().expect("a line")["logId"], names[1], "{older} and {newer}: {ran:?}");
        }
    }
}
