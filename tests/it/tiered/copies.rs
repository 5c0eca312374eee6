//! What Kafka's metadata say of each copy of a topic, beside the bundles that are visible.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::cluster::Cluster;

/// A state in Kafka's metadata.
pub const STARTED: &str = "COPY_SEGMENT_STARTED";
pub const FINISHED: &str = "COPY_SEGMENT_FINISHED";
pub const DELETING: &str = "DELETE_SEGMENT_STARTED";
pub const DELETED: &str = "DELETE_SEGMENT_FINISHED";

/// The copies of partition 0 of a topic that Kafka has ever begun.
#[derive(Debug)]
pub struct Copies {
    /// What Kafka's console consumer printed.
    pub metadata: String,
    /// By the end of the bundle's name.
    by_hash: BTreeMap<String, Copy>,
}

/// One of them.
#[derive(Debug, PartialEq, Eq)]
pub struct Copy {
    /// The segment's uuid, which Kafka draws anew for each copy.
    pub id: String,
    pub base_offset: i64,
    /// The last state in Kafka's metadata.
    pub state: String,
}

impl Copies {
    /// Reads Kafka's metadata.
    pub fn of(cluster: &Cluster, topic: &str, log_id: &str) -> Self {
        let metadata = cluster.metadata();
        let mut by_hash = BTreeMap::<String, Copy>::new();
        for line in metadata.lines().filter(|line| line.contains(&format!(":{topic}-0"))) {
            let of = |name: &str| {
                let rest = &line[line.find(name)? + name.len()..];
                Some(rest.split([',', '}']).next().expect("a value").to_owned())
            };
            let (Some(id), Some(state)) = (of(", id="), of("state=")) else { continue };
            // An update names only the id and the state.
            let base_offset = of("startOffset=").map(|offset| offset.parse().expect("an offset"));
            let hash = hash16(&id, log_id, topic);
            let copy = by_hash.entry(hash).or_insert(Copy { id, base_offset: -1, state: String::new() });
            (copy.state, copy.base_offset) = (state, base_offset.unwrap_or(copy.base_offset));
        }
        Self { metadata, by_hash }
    }

    /// Returns the copies whose last state is this one, in the order of their offsets.
    pub fn in_state(&self, state: &str) -> Vec<&Copy> {
        let mut copies: Vec<_> = self.by_hash.values().filter(|copy| copy.state == state).collect();
        copies.sort_by_key(|copy| copy.base_offset);
        copies
    }

    /// Returns the number of all copies.
    pub fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// Returns the copy that a bundle is, by the end of its key: see `docs/bundle-format.md`.
    pub fn of_bundle(&self, key: &str) -> Option<&Copy> {
        let hash = key.rsplit_once('_').expect("a hash").1.trim_end_matches(".tar");
        self.by_hash.get(hash)
    }

    /// Returns the visible bundles that Kafka does not use: it does not know that the copy was finished, or did not get
    /// to the end of its deletion. It deletes them with what lies around them. These are what reconciling hides.
    pub fn unused<'a>(&self, bundles: &'a [String]) -> Vec<&'a String> {
        let is_unused = |copy: &Copy| [STARTED, DELETING].contains(&&*copy.state);
        bundles.iter().filter(|key| self.of_bundle(key).is_some_and(is_unused)).collect()
    }

    /// Checks that Kafka knows each visible bundle and has deleted none of them, and that each finished copy is
    /// visible.
    #[track_caller]
    pub fn check(&self, bundles: &[String]) {
        for key in bundles {
            let copy = self.of_bundle(key).unwrap_or_else(|| panic!("Kafka does not know {key}: {self:#?}"));
            assert!([STARTED, FINISHED, DELETING].contains(&&*copy.state), "{key} is visible: {copy:?}");
        }
        let mut finished = self.in_state(FINISHED);
        finished.retain(|copy| !bundles.iter().any(|key| self.of_bundle(key) == Some(copy)));
        assert!(finished.is_empty(), "copies without a bundle: {finished:?}");
    }
}

/// Returns the end of a bundle's name, as in `docs/bundle-format.md`, for a copy.
fn hash16(copy_id: &str, log_id: &str, topic: &str) -> String {
    let hash = Sha256::digest(format!("copy\0{copy_id}\0{log_id}\0{topic}\0{}", 0));
    hash[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}
