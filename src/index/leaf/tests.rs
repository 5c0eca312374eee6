use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::super::testing::{index, valued};
use super::super::{Index, TopicSettings};
use super::*;

/// Nothing here waits.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("ready")
}

/// The files of an index. They note each range that is read.
#[derive(Debug)]
struct Asked {
    files: Vec<(String, Bytes)>,
    /// The ranges of each round, in the order of the reads.
    rounds: Mutex<Vec<Vec<(String, u64)>>>,
    /// Files of this kind cannot be read.
    broken: Mutex<Option<&'static str>>,
    cached: AtomicBool,
}

impl IndexParts for Asked {
    fn files(&self) -> Vec<(String, u64)> {
        self.files.iter().map(|(name, bytes)| (name.clone(), bytes.len() as u64)).collect()
    }

    fn read(&self, file: usize, range: Range<u64>) -> BoxFuture<'_, io::Result<Bytes>> {
        self.read_many(vec![(file, range)]).map(|read| Ok(read?.remove(0))).boxed()
    }

    fn read_many(&self, ranges: Vec<(usize, Range<u64>)>) -> BoxFuture<'_, io::Result<Vec<Bytes>>> {
        let named = ranges.iter().map(|(file, range)| (self.files[*file].0.clone(), range.end - range.start));
        self.rounds.lock().unwrap().push(named.collect());
        if let Some(kind) = *self.broken.lock().unwrap()
            && ranges.iter().any(|(file, _)| self.files[*file].0.ends_with(kind))
        {
            return async move { Err(io::Error::other(format!("{kind} is broken"))) }.boxed();
        }
        let slice = |(file, range): (usize, Range<u64>)| {
            self.files[file].1.slice(range.start as usize..range.end as usize)
        };
        let read: Vec<Bytes> = ranges.into_iter().map(slice).collect();
        async { Ok(read) }.boxed()
    }

    fn cached(&self, file: usize, range: Range<u64>) -> Option<Bytes> {
        let cached = self.cached.load(Relaxed);
        cached.then(|| self.files[file].1.slice(range.start as usize..range.end as usize))
    }
}

/// An index searched by parts.
pub(in crate::index) struct ByParts {
    asked: Arc<Asked>,
    outline: Outline,
    catalog: FieldCatalog,
}

impl ByParts {
    pub fn open(index: &Index) -> Self {
        let asked = Arc::new(Asked {
            files: index.files.clone(),
            rounds: Mutex::default(),
            broken: Mutex::default(),
            cached: AtomicBool::default(),
        });
        let mut opening = Opening::new(asked.clone());
        let outline = loop {
            match opening.open().unwrap() {
                Step::Done(outline) => break outline,
                Step::Missing => block_on(opening.fetch()).unwrap(),
            }
        };
        Self { asked, outline, catalog: index.fields.clone() }
    }

    /// Returns what a query finds. All ways to ask for it must agree.
    pub fn ordinals(&self, query: &str) -> Vec<u64> {
        let query = Query::parse(query).unwrap();
        let mut ordinals = Vec::new();
        for scored in [false, true] {
            let plan = self.outline.plan(&query, &self.catalog, scored).unwrap();
            ordinals.clear();
            let mut counted = 0;
            for number in 0..self.outline.leaves().len() {
                let before = ordinals.len();
                let mut leaf = self.outline.leaf(number, &plan, 0);
                self.done(&mut leaf, |leaf| {
                    leaf.each(&Bounds::default(), &mut |hit| {
                        ordinals.push(hit.ordinal);
                        ControlFlow::Continue(())
                    })
                });
                let new = &ordinals[before..];
                let mut leaf = self.outline.leaf(number, &plan, 0);
                let few = self.done(&mut leaf, |leaf| leaf.few(new.len())).unwrap();
                assert_eq!(few.iter().map(|(ordinal, _)| *ordinal).collect::<Vec<_>>(), new);
                assert_eq!(
                    self.done(&mut leaf, |leaf| leaf.few(new.len().wrapping_sub(1))).is_none(),
                    !new.is_empty()
                );
                let mut leaf = self.outline.leaf(number, &plan, 0);
                counted += self.done(&mut leaf, |leaf| leaf.count(&|| false));
            }
            ordinals.sort_unstable();
            assert_eq!(counted, ordinals.len() as u64);
        }
        ordinals
    }

    fn done<T>(&self, leaf: &mut Leaf, mut ask: impl FnMut(&mut Leaf) -> Result<Step<T>, ReadError>) -> T {
        loop {
            match ask(leaf).unwrap() {
                Step::Done(done) => return done,
                Step::Missing => {
                    let needed = leaf.needed_bytes();
                    block_on(leaf.fetch()).unwrap();
                    assert!(leaf.loaded.bytes() <= needed);
                }
            }
        }
    }

    /// Returns which kinds of files are read in each round of a search, in a leaf whose dictionaries are
    /// open.
    fn rounds(&self, query: &str, count: bool) -> Vec<Vec<String>> {
        let plan = |query| self.outline.plan(&Query::parse(query).unwrap(), &self.catalog, false).unwrap();
        let mut leaf = self.outline.leaf(0, &plan("w:zzz OR q:>1"), 0);
        self.done(&mut leaf, |leaf| leaf.count(&|| false));
        leaf.plan = plan(query);
        self.asked.rounds.lock().unwrap().clear();
        if count {
            self.done(&mut leaf, |leaf| leaf.count(&|| false));
        } else {
            self.done(&mut leaf, |leaf| leaf.each(&Bounds::default(), &mut |_| ControlFlow::Continue(())));
        }
        let rounds = std::mem::take(&mut *self.asked.rounds.lock().unwrap());
        let kind = |(name, _): &(String, u64)| name.rsplit('.').next().unwrap().to_owned();
        rounds.iter().map(|round| round.iter().map(kind).collect()).collect()
    }
}

#[test]
fn what_a_query_reads_is_read_together_and_nothing_where_it_cannot_match() {
    let value = |n| format!(r#"{{"n": {n}, "w": "w{n} common", "level": "a{}"}}"#, n % 7);
    let values: Vec<String> = (0..50_000).map(value).collect();
    let parts = ByParts::open(&index(&[valued(&values)], TopicSettings::default()));
    let (terms, numbers) = (&["term"][..], &["fast", "fast"][..]);
    for (query, count, rounds) in [
        ("w:w77", false, &[terms, &["idx"], numbers][..]),
        ("w:w77", true, &[terms]),
        ("w:common", false, &[terms, numbers]),
        ("level:nowhere", false, &[terms]),
        ("level:nowhere AND n:>100 AND w:w5", false, &[&["term", "term"]]),
        ("w:w77 AND n:>5", false, &[terms, &["fast", "idx"], numbers]),
        ("w:w77 AND n:>5", true, &[terms, &["fast", "idx"]]),
        ("level:a1 OR w:w5", false, &[&["term", "term"], &["idx", "idx"], numbers]),
        ("level:nowhere OR w:w5", true, &[&["term", "term"], &["idx"]]),
        ("w:w77 AND NOT level:a1", true, &[&["term", "term"], &["idx", "idx"]]),
        ("*", false, &[numbers]),
        ("*", true, &[]),
        ("n:[9 TO 5]", true, &[&["fast"]]),
    ] {
        assert_eq!(parts.rounds(query, count), rounds, "{query}, count: {count}");
    }
}

#[test]
fn a_long_look_through_words_ends_when_nobody_waits_for_it() {
    let values: Vec<String> = (0..5_000).map(|n| format!("w{n}")).collect();
    let parts = ByParts::open(&index(&[valued(&values)], TopicSettings::default()));
    let plan = parts.outline.plan(&Query::parse("w*").unwrap(), &parts.catalog, false).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    plan.ends_with(Arc::clone(&over));
    let count = || {
        let mut leaf = parts.outline.leaf(0, &plan, 0);
        parts.done(&mut leaf, |leaf| leaf.count(&|| false))
    };
    assert_eq!(count(), 5_000);
    over.store(true, Relaxed);
    assert!((1..2_000).contains(&count()), "{} of 5,000", count());
}

#[test]
fn a_part_that_cannot_be_read_fails_the_search_with_what_its_reader_says() {
    let index = index(&[valued(&["a", "b"])], TopicSettings::default());
    let parts = ByParts::open(&index);
    *parts.asked.broken.lock().unwrap() = Some("term");
    let plan = parts.outline.plan(&Query::parse("a").unwrap(), &parts.catalog, false).unwrap();
    let mut leaf = parts.outline.leaf(0, &plan, 0);
    let error = loop {
        assert_eq!(leaf.count(&|| false).unwrap(), Step::Missing);
        if let Err(error) = block_on(leaf.fetch()) {
            break error;
        }
    };
    assert_eq!(error.to_string(), "term is broken");
}

#[test]
fn what_is_at_hand_is_held_as_far_as_there_is_room() {
    let index = index(&[valued(&["a", "b"])], TopicSettings::default());
    let parts = ByParts::open(&index);
    parts.asked.cached.store(true, Relaxed);
    let plan = parts.outline.plan(&Query::parse("a").unwrap(), &parts.catalog, false).unwrap();
    let mut leaf = parts.outline.leaf(0, &plan, 1 << 20);
    assert_eq!(leaf.count(&|| false).unwrap(), Step::Done(1));
    let mut leaf = parts.outline.leaf(0, &plan, 100);
    assert_eq!(leaf.count(&|| false).unwrap(), Step::Missing);
    assert!(leaf.loaded.bytes() <= 100 && leaf.needed_bytes() > 100);
    leaf.set_bytes_max(1 << 20);
    assert_eq!(leaf.count(&|| false).unwrap(), Step::Done(1));
}
