//! Bundles of earlier releases can always be read. Those of later releases are refused by their version.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use wal_indexer::internals::bundle::{Footer, Opened, TRAILER_BYTES};
use wal_indexer::internals::formatting::hex;

use crate::written::{Ran, Written, fixture};

/// A bundle of `tests/fixtures/bundle`, and what is known about it from elsewhere.
struct Old {
    file: &'static str,
    key: &'static str,
    version: u64,
    records: u64,
    /// SHA-256 of the segment that it was made of.
    sha256: &'static str,
    /// A query, and how many records match.
    query: (&'static str, u64),
}

const ONE_RECORD: &str = "orders/3/0/00000000000000000007-00000000000000000007_00000001760000014018-00000001760000014018_41b60b0b5b88602c.tar";
const ONE_RECORD_SHA256: &str = "5482639a299952ecefddb0bb53692b7131b3924b3cc7243c4b4b04ecb32ee686";

const OLD: [Old; 4] = [
    Old {
        file: "version-1.tar",
        key: ONE_RECORD,
        version: 1,
        records: 1,
        sha256: ONE_RECORD_SHA256,
        query: ("key:user-39", 1),
    },
    Old {
        file: "version-2.tar",
        key: ONE_RECORD,
        version: 2,
        records: 1,
        sha256: ONE_RECORD_SHA256,
        query: ("key:user-39", 1),
    },
    Old {
        file: "version-2-hot.tar",
        key: "orders/3/0/00000000000000000000-00000000000000000159_00000001760000000016-00000001760000001557_097b96c5f8e48af9.tar",
        version: 2,
        records: 160,
        sha256: "9af7ea3db54c95353712e51186efb34ae3dd84e6423b50b95163e4d0709c9649",
        query: ("value.http.method:POST", 40),
    },
    Old {
        file: "version-3.tar",
        key: "orders/3/0/00000000000000000000-00000000000000000034_00000001764000000000-00000001764000000021_f804e863dfff77d8.tar",
        version: 3,
        records: 27,
        sha256: "852cbb8915d4c0b39eb0f709ca7b2f07eea246cdad94005bc6b29b446f685cd0",
        query: ("w:last", 5),
    },
];

impl Old {
    fn object(&self) -> Bytes {
        fixture(&format!("bundle/{}", self.file))
    }

    /// Returns a store that has this object under the bundle's key.
    fn stored(&self, object: &[u8]) -> Written {
        let written = Written::new();
        let path = written.path("store").join(self.key);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        std::fs::write(path, object).expect("written");
        written
    }
}

/// Runs everything that can be done with a bundle: a search, and every command that reads it whole.
fn read(written: &Written, old: &Old) -> Vec<(&'static str, Ran)> {
    let (restored, exported) = (written.path("restored"), written.path("exported.tar.gz"));
    let (restored, exported) = (restored.to_str().expect("UTF-8"), exported.to_str().expect("UTF-8"));
    vec![
        ("search", written.run(&["search", "--topic", "orders", "--count", "--json", old.query.0])),
        (
            "search for records",
            written.run(&["search", "--topic", "orders", "--limit", "1000", "--json", ""]),
        ),
        ("verify", written.run(&["verify", old.key])),
        ("restore", written.run(&["restore", old.key, "--out", restored])),
        ("inspect", written.run(&["inspect", old.key])),
        ("export", written.run(&["export", old.key, "--out", exported])),
    ]
}

#[test]
fn bundles_of_every_version_are_searched_verified_restored_and_exported() {
    for old in &OLD {
        let written = old.stored(&old.object());
        let runs = read(&written, old);
        for (what, ran) in &runs {
            assert_eq!(ran.code, 0, "{}: {what}: {ran:?}", old.file);
        }
        let summary = &runs[0].1.json()[0];
        assert_eq!(summary["matched"], old.query.1.to_string(), "{}: {summary}", old.file);
        let records = runs[1].1.json().len();
        assert_eq!(records as u64, old.records, "{}", old.file);
        let restored = std::fs::read(written.path("restored")).expect("a file");
        assert_eq!(hex(&Sha256::digest(restored)), old.sha256, "{}", old.file);
        let shown = &runs[4].1.out;
        assert!(shown.contains(&format!("format {}", old.version)), "{}: {shown}", old.file);
    }
}

/// Returns the bundle with the version of a later release, and otherwise valid.
fn of_version(object: &Bytes, version: u32) -> Vec<u8> {
    let mut newer = object.to_vec();
    let trailer = newer.len() - 1_024 - TRAILER_BYTES as usize;
    newer[trailer + 8..trailer + 12].copy_from_slice(&version.to_le_bytes());
    let crc32c = crc32c::crc32c(&newer[trailer..trailer + 28]);
    newer[trailer + 28..trailer + 32].copy_from_slice(&crc32c.to_le_bytes());
    newer
}

#[test]
fn bundles_of_a_later_version_are_refused_by_its_number_whatever_is_done_with_them() {
    for old in &OLD {
        let newer = of_version(&old.object(), 4);
        assert!(matches!(
            Footer::open(&of_version(&old.object(), old.version as u32), newer.len() as u64),
            Ok(Opened::Footer(_))
        ));
        let written = old.stored(&newer);
        for (what, ran) in read(&written, old) {
            let said = format!("{}{}", ran.out, ran.err);
            assert_ne!(ran.code, 0, "{}: {what}: {said}", old.file);
            let reason = "bundle format version 4 is newer than this build reads (3)";
            assert!(said.contains(reason), "{}: {what}: {said}", old.file);
            assert!(said.contains(old.key), "{}: {what}: {said}", old.file);
        }
        assert!(!written.path("restored").exists() && !written.path("exported.tar.gz").exists());
    }
}
