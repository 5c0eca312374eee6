use std::fs::File;
use std::io::Write;
use std::process::Command;

use super::super::sample::{
    blocks_of, bundle_of, footer_of, frames, hot_ranges, index_files, manifest_of, two_slices,
};
use super::super::{FOOTER_NAME, verify};
use super::*;

#[test]
fn what_is_assembled_can_be_verified() {
    let (built, object) = bundle_of(two_slices(&[700_000, 200_000, 300_000, 2_500_000, 10], 7, 2));
    assert_eq!(built.size_bytes, object.len() as u64);
    assert_eq!(built.crc32c, crc32c::crc32c(&object));
    let verified = verify(&object).expect("a sound bundle");
    assert_eq!(verified.crc32c, built.crc32c);
    assert_eq!(verified.footer.footer_offset(), built.footer_offset);
    assert_eq!(verified.footer, footer_of(&object));
    assert_eq!(verified.manifest.record_count, 35);
}

#[test]
fn the_same_parts_give_the_same_object_in_whatever_order_the_files_come() {
    let slices = || two_slices(&[900_000, 400_000, 2_000_000, 3], 2, 2);
    let manifest = manifest_of(&slices());
    let object = |files| assemble(&manifest, files, slices(), hot_ranges).expect("a bundle").parts.concat();
    let mut reversed = index_files();
    reversed.reverse();
    assert!(object(index_files()) == object(reversed));
}

#[test]
fn blocks_and_index_files_are_not_copied() {
    let slices = vec![blocks_of(&frames(&[2_000_000, 2_000_000], 2))];
    let files = vec![("big.store".to_owned(), Bytes::from(vec![7; 100_000]))];
    let held: Vec<_> = slices[0].data().iter().chain([&files[0].1]).map(|bytes| bytes.as_ptr()).collect();
    let built = assemble(&manifest_of(&slices), files, slices, hot_ranges).expect("a bundle");
    let parts: Vec<_> = built.parts.iter().map(|bytes| bytes.as_ptr()).collect();
    assert!(held.iter().all(|pointer| parts.contains(pointer)));
    assert!(built.parts.iter().all(|part| !part.is_empty()));
}

#[test]
fn parts_that_do_not_fit_together_are_refused() {
    let check = |message: &str, files: Vec<(String, Bytes)>, change: &dyn Fn(&mut Manifest)| {
        let slices = vec![blocks_of(&frames(&[100], 2))];
        let mut manifest = manifest_of(&slices);
        change(&mut manifest);
        assert_eq!(assemble(&manifest, files, slices, hot_ranges).expect_err(message).to_string(), message);
    };
    let file = |name: &str| vec![(name.to_owned(), Bytes::from_static(b"x"))];
    for name in ["../a", "a/b", "", ".managed.json", &"a".repeat(95)] {
        check(&format!("an index file cannot be called {name:?}"), file(name), &|_| {});
    }
    check("an index file cannot be called \"a\"", [file("a"), file("a")].concat(), &|_| {});
    let counts = "the manifest and the blocks disagree on records: 3 and 2";
    check(counts, file("a"), &|manifest| manifest.record_count = 3);
    check("manifest: topic is empty", file("a"), &|manifest| manifest.topic.clear());

    let slice = |range: std::ops::Range<usize>| blocks_of(&frames(&[100, 200, 300], 2)[range]);
    let slices = vec![slice(1..3), slice(0..1)];
    let manifest = manifest_of(&slices);
    let swapped = assemble(&manifest, Vec::new(), slices, hot_ranges).expect_err("slices out of order");
    assert!(matches!(swapped, AssembleError::Order(BlockOrderError { source_position: 0 })), "{swapped}");
}

#[test]
fn members_that_readers_refuse_are_not_written() {
    // Zeroed memory that is never touched is not really allocated.
    let check = |name: &str, len: usize, fits: bool| {
        let added = TarWriter::default().member(name.to_owned(), [(0, Bytes::from(vec![0; len]))]);
        assert_eq!(added.is_ok(), fits, "{name}, {len} bytes");
    };
    for name in ["manifest.json", "hot.zst", "records.idx"] {
        check(name, 1 << 30, true);
        check(name, (1 << 30) + 1, false);
    }
    check("index/a", (1 << 30) + 1, true);
    check("index/a", (1 << 33) - 1, true);
    check("index/a", 1 << 33, false);
}

/// Writes a bundle to a directory. Returns the names and contents that `tar` must unpack.
fn bundle_file(directory: &std::path::Path) -> Vec<(String, Vec<u8>)> {
    let (built, object) = bundle_of(vec![blocks_of(&frames(&[900_000, 400_000], 2))]);
    let mut file = File::create(directory.join("bundle.tar")).expect("a file");
    for part in &built.parts {
        file.write_all(part).expect("written");
    }
    let members = footer_of(&object).members().to_vec();
    members
        .iter()
        .map(|member| (member.name.clone(), member.within(0, &object).expect("there").to_vec()))
        .collect()
}

#[test]
fn gnu_tar_lists_and_unpacks_a_bundle() {
    let directory = tempfile::tempdir().expect("a directory");
    let members = bundle_file(directory.path());
    let tar = |flags: &str| {
        let run = Command::new("tar")
            .arg(flags)
            .arg("bundle.tar")
            .current_dir(&directory)
            .output()
            .expect("GNU tar");
        assert!(run.status.success() && run.stderr.is_empty(), "{}", String::from_utf8_lossy(&run.stderr));
        String::from_utf8(run.stdout).expect("UTF-8")
    };
    let names: Vec<_> = members.iter().map(|(name, _)| name.as_str()).chain([FOOTER_NAME]).collect();
    assert_eq!(tar("-tf").lines().collect::<Vec<_>>(), names);
    tar("-xf");
    for (name, data) in &members {
        assert!(std::fs::read(directory.path().join(name)).expect("unpacked") == *data, "{name}");
    }
    let footer = std::fs::read(directory.path().join(FOOTER_NAME)).expect("unpacked");
    assert_eq!(footer[footer.len() - 32..][..8], super::super::TRAILER_MAGIC);
}

#[test]
fn the_tar_crate_reads_a_bundle_as_it_was_written() {
    let directory = tempfile::tempdir().expect("a directory");
    let members = bundle_file(directory.path());
    let mut archive = tar::Archive::new(File::open(directory.path().join("bundle.tar")).expect("a file"));
    let mut found = Vec::new();
    for entry in archive.entries().expect("a tar") {
        let mut entry = entry.expect("an entry");
        let name = entry.path().expect("a name").display().to_string();
        let mut data = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut data).expect("data");
        found.push((name, data));
    }
    let (footer, _) = found.pop().expect("a footer");
    assert_eq!(footer, FOOTER_NAME);
    assert!(found == members);
}
