use super::super::builder::IndexBuilder;
use super::super::testing::{index, valued};
use super::*;

fn part(lines: &[String], segment_bytes_max: usize) -> IndexPart {
    let mut builder =
        IndexBuilder::with_segment_bytes_max(TopicSettings::default(), segment_bytes_max).unwrap();
    builder.add(&valued(lines)).unwrap();
    builder.finish().unwrap()
}

fn lines(count: usize) -> Vec<String> {
    (0..count)
        .map(|n| format!("{{\"id\": \"word{n}\", \"n\": {n}, \"f\": {n}.5, \"k{}\": true}}", n % 40))
        .collect()
}

#[test]
fn an_extracted_index_opens_with_stock_tantivy_in_the_order_of_the_records() {
    let parts = vec![part(&lines(40_000), 1 << 20), part(&lines(3), 1 << 30), part(&[], 1 << 30)];
    let index = assemble(parts, &[1; 32], &TopicSettings::default()).unwrap();
    assert!(index.segments.len() > 2);
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in &index.files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let stock = tantivy::Index::open_in_dir(folder.path()).unwrap();
    assert!(stock.validate_checksum().unwrap().is_empty());
    let searcher = stock.reader().unwrap().searcher();
    let read: Vec<_> =
        searcher.segment_readers().iter().map(|r| (r.segment_id().uuid_string(), r.max_doc())).collect();
    let expected: Vec<_> = index.segments.iter().map(|s| (s.name.clone(), s.documents)).collect();
    assert_eq!(read, expected);
    let parser = tantivy::query::QueryParser::for_index(&stock, vec![]);
    let query = parser.parse_query("value.id:word2 AND value.n:2").unwrap();
    assert_eq!(searcher.search(&query, &tantivy::collector::Count).unwrap(), 2);
}

#[test]
fn an_index_without_records_opens_too() {
    let index = assemble(vec![], &[1; 32], &TopicSettings::default()).unwrap();
    assert_eq!(index.files.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), [META_FILE]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(META_FILE), &index.files[0].1).unwrap();
    assert_eq!(
        tantivy::Index::open_in_dir(folder.path()).unwrap().reader().unwrap().searcher().num_docs(),
        0
    );
}

#[test]
fn the_same_records_and_seed_give_the_same_bytes() {
    let build = |seed| {
        let parts = vec![part(&lines(30_000), 1 << 20), part(&lines(100), 1 << 30)];
        assemble(parts, &seed, &TopicSettings::default()).unwrap()
    };
    let (one, two) = (build([1; 32]), build([1; 32]));
    assert!(one.segments.len() > 2);
    assert_eq!(one.files, two.files);
    assert_eq!(one.fields, two.fields);
    assert_ne!(one.segments, build([2; 32]).segments);
}

#[test]
fn another_process_gives_the_same_bytes() {
    const CHILD: &str = "WAL_INDEXER_TEST_INDEX_HASH";
    let index = index(&[valued(&lines(2_000))], TopicSettings::default());
    let mut hash = Sha256::new();
    for (name, bytes) in &index.files {
        hash = hash.chain_update(name).chain_update(bytes);
    }
    let hash = format!("{:?}", hash.finalize());
    if std::env::var_os(CHILD).is_some() {
        println!("<{hash}>");
        return;
    }
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "index::assemble::tests::another_process_gives_the_same_bytes", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout);
    assert!(output.contains(&format!("<{hash}>")), "{output}");
}

#[test]
fn parts_of_other_settings_are_refused() {
    let settings = TopicSettings { positions: true, ..TopicSettings::default() };
    let refused = assemble(vec![part(&lines(1), 1 << 30)], &[1; 32], &settings);
    assert!(matches!(refused, Err(IndexError::SettingsDiffer { .. })));
}
