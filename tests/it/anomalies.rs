//! Segments whose frames break their format in ways that brokers and clients accept. They are stored whole,
//! marked, and read as Kafka's own reader reads them. The inputs are in `tests/fixtures/anomalies`.

mod chronik;
mod kafka;
mod undecodable;
mod zeros;

use std::path::PathBuf;

use bytes::Bytes;
use serde_json::Value;

use crate::worker::{command, file_url};
use crate::written::{Ran, fixture_path};

/// Returns the bytes of a file of `tests/fixtures/anomalies`.
pub fn fixture(name: &str) -> Bytes {
    let path = fixture_path("anomalies").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).into()
}

/// A store in a directory, and the commands that work on it.
pub struct LocalStore {
    dir: tempfile::TempDir,
}

impl LocalStore {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        let mut verb = command(arguments);
        verb.args(["--store", &file_url(&self.path("store"))]);
        Ran::of(verb)
    }

    /// Runs `index` on a segment of `orders`/3, or of the partition that its frames state.
    pub fn try_index(&self, segment: &[u8], flags: &[&str]) -> Ran {
        let file = self.path("segment");
        std::fs::write(&file, segment).expect("written");
        let is_named = segment.starts_with(&[0x7e, 0xca, 2]);
        let named_partition: &[&str] =
            if is_named { &[] } else { &["--topic", "orders", "--partition", "3"] };
        let file = file.to_str().expect("UTF-8");
        self.run(&[&["index", file, "--json"], named_partition, flags].concat())
    }

    /// Indexes a segment and returns the receipt. Also checks all other uses of the bundle: it is verified,
    /// inspected, and restored to the same segment.
    pub fn index(&self, segment: &[u8], flags: &[&str]) -> Receipt {
        let receipt = Receipt(self.try_index(segment, flags).json().remove(0));
        let key = receipt.key();
        let verified = self.run(&["verify", &key, "--json"]).json().remove(0);
        assert_eq!(verified["ok"], true, "{verified}");
        for (kind, frames) in receipt.anomalies() {
            assert_eq!(verified["anomalies"][&kind], frames, "{verified}");
        }
        assert_eq!(verified["undecoded_frames"].as_u64().unwrap_or_default(), receipt.undecoded());
        let out = self.path("restored");
        let restored = self.run(&["restore", &key, "--out", out.to_str().expect("UTF-8")]);
        assert_eq!(restored.code, 0, "{restored:?}");
        assert!(std::fs::read(&out).expect("a file") == segment, "byte for byte");
        let shown = self.run(&["inspect", &key]).out;
        let (anomalies, undecoded) = (receipt.anomalies(), receipt.undecoded());
        assert_eq!(shown.contains("anomalies"), !anomalies.is_empty(), "{shown}");
        assert!(
            anomalies.iter().all(|(kind, frames)| shown.contains(&format!("{frames} {kind}"))),
            "{shown}"
        );
        assert_eq!(shown.contains("not decoded"), undecoded > 0, "{shown}");
        let version = if anomalies.is_empty() && undecoded == 0 { "format 2" } else { "format 3" };
        assert!(shown.contains(version), "{shown}");
        receipt
    }

    /// Returns what `inspect` prints about a segment's file.
    pub fn inspect(&self, segment: &[u8]) -> Value {
        let file = self.path("inspected");
        std::fs::write(&file, segment).expect("written");
        let ran = Ran::of(command(["inspect", "--json", file.to_str().expect("UTF-8")]));
        serde_json::from_str(ran.out.lines().next().expect("a line")).expect("JSON")
    }

    pub fn fetch(&self, (topic, partition): (&str, i32), offset: i64, flags: &[&str]) -> Ran {
        let (partition, offset) = (partition.to_string(), offset.to_string());
        let place = ["fetch", "--topic", topic, "--partition", &partition, "--offset", &offset];
        self.run(&[&place[..], flags].concat())
    }

    /// Returns the offsets of the records from this offset on.
    pub fn offsets(&self, partition: (&str, i32), offset: i64) -> Vec<i64> {
        self.records(partition, offset).iter().map(offset_of).collect()
    }

    /// Returns the records from this offset on. The last line of the output is about the answer and is left
    /// out.
    pub fn records(&self, partition: (&str, i32), offset: i64) -> Vec<Value> {
        let mut lines = self.fetch(partition, offset, &["--json", "--base64"]).json();
        let said = lines.pop().expect("a line");
        assert!(said["topic"].is_null(), "{said}");
        lines
    }

    /// Returns the Kafka batches from this offset on.
    pub fn batches(&self, partition: (&str, i32), offset: i64) -> Result<Vec<u8>, String> {
        let out = self.path("batches");
        let _ = std::fs::remove_file(&out);
        let ran = self.fetch(partition, offset, &["--kafka-batches", "--out", out.to_str().expect("UTF-8")]);
        match ran.code {
            0 => Ok(std::fs::read(&out).unwrap_or_default()),
            _ => Err(ran.err),
        }
    }

    pub fn search(&self, topic: &str, query: &str) -> Vec<i64> {
        let found =
            self.run(&["search", "--topic", topic, "--oldest-first", "--limit", "1000", "--json", query]);
        let mut offsets: Vec<_> = found.json().iter().map(offset_of).collect();
        offsets.sort_unstable();
        offsets
    }
}

fn offset_of(record: &Value) -> i64 {
    number(&record["offset"])
}

/// Reads a 64-bit number as JSON has it; 0 is left out there.
fn number(value: &Value) -> i64 {
    value.as_str().map_or(0, |text| text.parse().expect("a number"))
}

/// A receipt as the program prints it.
pub struct Receipt(Value);

impl Receipt {
    fn partition(&self) -> &Value {
        &self.0["partitions"][0]
    }

    pub fn key(&self) -> String {
        self.partition()["bundle"]["key"].as_str().expect("a key").to_owned()
    }

    /// Returns first offset, last offset, records and gaps.
    pub fn covers(&self) -> (i64, i64, i64, i64) {
        let one = self.partition();
        assert_eq!(number(&self.0["recordCount"]), number(&one["recordCount"]));
        let (first, last) = (number(&one["baseOffset"]), number(&one["lastOffset"]));
        (first, last, number(&one["recordCount"]), number(&one["gapCount"]))
    }

    /// Returns each kind of anomaly with its number of frames.
    pub fn anomalies(&self) -> Vec<(String, i64)> {
        assert_eq!(self.0["anomalies"], self.partition()["anomalies"]);
        let counts = self.0["anomalies"].as_object().into_iter().flatten();
        let mut counts: Vec<_> = counts.map(|(kind, frames)| (kind.clone(), number(frames))).collect();
        counts.sort();
        counts
    }

    pub fn undecoded(&self) -> u64 {
        number(&self.0["undecoded"]["frames"]) as u64
    }

    pub fn torn_bytes(&self) -> i64 {
        number(&self.0["tornTailBytes"])
    }
}

fn anomalies(counts: &[(&str, i64)]) -> Vec<(String, i64)> {
    counts.iter().map(|(kind, frames)| ((*kind).to_owned(), *frames)).collect()
}

/// Returns a V2 frame with a new, valid checksum.
fn sealed_v2(mut frame: Vec<u8>) -> Vec<u8> {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&frame[..8]);
    crc.update(&frame[12..]);
    frame[8..12].copy_from_slice(&crc.finalize().to_le_bytes());
    frame
}
