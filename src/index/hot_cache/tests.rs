use super::super::testing::{index, valued};
use super::super::{META_FILE, TopicSettings};
use super::*;

fn lines(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{{\"id\": \"word{n}\", \"n\": {n}, \"k{}\": true}}", n % 40)).collect()
}

#[test]
fn an_index_opens_from_its_hot_ranges_whatever_the_rest_is() {
    for positions in [false, true] {
        let settings = TopicSettings { positions, ..TopicSettings::default() };
        let files = index(&[valued(&lines(5_000))], settings).files;
        let ranges = hot_ranges(&files).expect("it opens");
        let blank = |((name, bytes), ranges): (&(String, Bytes), &Vec<Range<u64>>)| {
            let mut blank = vec![0xff; bytes.len()];
            for range in ranges {
                let range = range.start as usize..range.end as usize;
                blank[range.clone()].copy_from_slice(&bytes[range]);
            }
            (name.clone(), Bytes::from(blank))
        };
        let blank: Vec<_> = files.iter().zip(&ranges).map(blank).collect();
        assert_ne!(blank, files);
        assert_eq!(hot_ranges(&blank).expect("it opens"), ranges);
    }
}

#[test]
fn hot_ranges_are_few_ascend_and_neither_touch_nor_are_empty() {
    let files = index(&[valued(&lines(5_000))], TopicSettings::default()).files;
    let ranges = hot_ranges(&files).expect("it opens");
    for ((name, bytes), ranges) in files.iter().zip(&ranges) {
        assert!(!ranges.is_empty(), "{name}: at least its end is read");
        assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start), "{name}: {ranges:?}");
        assert!(ranges.iter().all(|range| range.start < range.end), "{name}: {ranges:?}");
        assert!(ranges.iter().all(|range| range.end <= bytes.len() as u64), "{name}: {ranges:?}");
        let whole = std::slice::from_ref(&(0..bytes.len() as u64)) == &ranges[..];
        assert_eq!(whole, bytes.len() < 200 || name == META_FILE, "{name}: {ranges:?}");
    }
    let hot: u64 = ranges.iter().flatten().map(|range| range.end - range.start).sum();
    let all: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(hot < all as u64 / 20, "{hot} of {all}");
}

#[test]
fn what_is_no_index_has_none() {
    let files = index(&[valued(&lines(10))], TopicSettings::default()).files;
    for left_out in 0..files.len() {
        let mut files = files.clone();
        let (left_out, _) = files.remove(left_out);
        assert!(hot_ranges(&files).is_err(), "{left_out}");
    }
}
