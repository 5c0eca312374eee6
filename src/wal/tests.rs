//! Tests with real files in real directories.

mod deleting;
mod holding;
mod listing;
mod names;
mod noting;
mod reading;

use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::dir::WalDir;
use super::{SealedSegments, Segment, WalError};
use crate::client::Receipt;
use crate::generate::{Format, Size, Spec, generate};
use crate::ids::{LogId, TopicPartition};

const HOUR: Duration = Duration::from_secs(3600);

/// A WAL directory for one test.
struct Wal {
    root: TempDir,
    dir: WalDir,
}

impl Wal {
    /// Makes a directory with these files. Each holds a frame whose offset is the number at the end of the
    /// file's name.
    fn of(names: &[&str]) -> Self {
        let root = TempDir::with_prefix("wal-indexer-wal-").expect("a directory");
        let dir = WalDir::new(root.path(), LogId::new("first"));
        let wal = Self { root, dir };
        names.iter().for_each(|name| wal.write(name, &frame(number(name))));
        wal
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("directories");
        fs::write(path, bytes).expect("a file");
    }

    fn set_time(&self, name: &str, time: SystemTime) {
        let file = File::options().write(true).open(self.path(name)).expect("a file");
        file.set_times(FileTimes::new().set_modified(time)).expect("any time");
    }

    /// All names below the directory, sorted.
    fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        files_below(self.root.path(), self.root.path(), &mut files);
        files.sort();
        files
    }

    async fn list(&self) -> Vec<Segment> {
        let mut segments = self.dir.list().await.expect("a listing").segments;
        segments.sort_by(|a, b| a.name.cmp(&b.name));
        segments
    }

    async fn names(&self) -> Vec<String> {
        self.list().await.into_iter().map(|segment| segment.name).collect()
    }

    /// The segment of this name, which must be listed.
    async fn segment(&self, name: &str) -> Segment {
        let segments = self.list().await;
        let found = segments.iter().find(|segment| segment.name == name).cloned();
        found.unwrap_or_else(|| panic!("{name} is not among {segments:?}"))
    }
}

/// The number at the end of a file's name; 0 if there is none.
fn number(name: &str) -> i64 {
    let stem = name.strip_suffix(".log").unwrap_or(name);
    let digits = stem.rsplit(|letter: char| !letter.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().unwrap_or_default()
}

/// A Chronik frame of one record, at this offset.
fn frame(offset: i64) -> Vec<u8> {
    let spec = Spec {
        format: Format::ChronikV2,
        size: Size::Records(1),
        base_offset: offset,
        partition: TopicPartition::new("orders", 0).expect("a name"),
        ..Spec::default()
    };
    let mut bytes = Vec::new();
    generate(&spec, &mut bytes).expect("a frame");
    bytes
}

fn files_below(root: &Path, directory: &Path, files: &mut Vec<String>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        match path.symlink_metadata().expect("it is there").is_dir() {
            true => files_below(root, &path, files),
            false => files.push(path.strip_prefix(root).expect("below").to_string_lossy().into_owned()),
        }
    }
}

/// A receipt for this number of bytes.
fn receipt(size_bytes: u64) -> Receipt {
    let digest = serde_json::json!({
        "size_bytes": size_bytes, "crc32c": 0, "sha256": ([0_u8; 32]), "records": 1, "torn_bytes": 0,
    });
    let receipt = serde_json::json!({
        "digest": digest, "keys": [], "data_records": 1, "stored_bytes": 1, "already_existed": false,
        "worker": "127.0.0.1:1", "attempts": 1,
    });
    serde_json::from_value(receipt).expect("a receipt")
}

/// The kind of an error, without its details.
fn kind(error: &WalError) -> &'static str {
    match error {
        WalError::Gone { .. } => "gone",
        WalError::Changed { .. } => "changed",
        WalError::MayGrow { .. } => "may grow",
        WalError::BrokerDeletes { .. } => "kept",
        WalError::Held { hold, .. } => hold.name(),
        WalError::Touched { .. } => "touched",
        WalError::OtherReceipt { .. } => "other receipt",
        WalError::NotASegment { .. } => "not a segment",
        WalError::Io { .. } => "io",
    }
}
