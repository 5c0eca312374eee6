use super::super::source::Source;
use super::super::testing::{Packed, pack, put_new, store};
use super::*;
use crate::generate::{Size, Spec, generate};

/// A bundle of generated records.
fn packed(records: u64) -> Packed {
    let mut source = Vec::new();
    generate(&Spec { size: Size::Records(records), ..Spec::default() }, &mut source).expect("in memory");
    pack(&source.into(), "").remove(0)
}

async fn open(packed: &Packed, object: Bytes) -> Result<Archive, ArchiveError> {
    let store = store();
    put_new(&store, &packed.key, &object).await;
    Archive::open(Source::of_key(&store, &packed.key).await.expect("it is there")).await
}

/// The files of the index, cut out of the object.
fn files_of(archive: &Archive, object: &Bytes) -> Vec<Bytes> {
    let files = archive.footer().index_files();
    files.map(|(_, member)| member.within(0, object).expect("within")).collect()
}

#[tokio::test]
async fn every_range_of_every_file_is_what_was_written() {
    for packed in [packed(20), packed(3_000)] {
        let object = packed.object();
        let archive = open(&packed, object.clone()).await.expect("a bundle");
        let parts = archive.index_parts();
        let files = files_of(&archive, &object);
        let lens: Vec<_> = parts.files().into_iter().map(|(_, len)| len).collect();
        assert_eq!(lens, files.iter().map(|file| file.len() as u64).collect::<Vec<_>>());
        for (number, file) in files.iter().enumerate() {
            let len = file.len() as u64;
            for start in [0, 1, len / 3, len / 2, 8_191, 8_192, 8_193, len.saturating_sub(1), len] {
                for range_len in [0, 1, 10, 8_191, 8_192, 8_193, 20_000, len] {
                    let (start, end) = (start.min(len), (start + range_len).min(len));
                    let read = parts.read(number, start..end).await.expect("checked");
                    assert!(read == file.slice(start as usize..end as usize), "{number}: {start}..{end}");
                }
            }
        }
    }
}
