//! Totals by topic, for a limited number of topics, because a caller can invent any number of names.

use std::collections::BTreeMap;

use super::TopicTotals;

/// The maximum number of topics that are reported by name. The others are counted together.
pub const TOPICS_MAX: usize = 1_000;

/// The name under which all other topics are counted. No topic has this name.
pub const OTHERS: &str = "";

/// The topics with the most bytes. Twice as many as are reported are kept, so that a new topic has time to
/// grow.
#[derive(Debug, Default)]
pub(super) struct Topics {
    kept: BTreeMap<String, TopicTotals>,
    others: TopicTotals,
}

impl Topics {
    pub(super) fn count(&mut self, topic: &str, more: TopicTotals) {
        match self.kept.get_mut(topic) {
            Some(totals) => *totals += more,
            None => {
                self.kept.insert(topic.to_owned(), more);
            }
        }
        if self.kept.len() > 2 * TOPICS_MAX {
            let (largest, others) = self.split();
            (self.kept, self.others) = (largest, others);
        }
    }

    /// Returns the topics that are reported.
    pub(super) fn largest(&self) -> BTreeMap<String, TopicTotals> {
        let (mut reported, others) = self.split();
        if others != TopicTotals::default() {
            reported.insert(OTHERS.to_owned(), others);
        }
        reported
    }

    fn split(&self) -> (BTreeMap<String, TopicTotals>, TopicTotals) {
        let mut by_size: Vec<_> = self.kept.iter().collect();
        by_size.sort_by_key(|(_, totals)| std::cmp::Reverse(totals.bytes_read));
        let (reported, small) = by_size.split_at(by_size.len().min(TOPICS_MAX));
        let mut others = self.others;
        small.iter().for_each(|(_, totals)| others += **totals);
        (reported.iter().map(|(topic, totals)| ((*topic).clone(), **totals)).collect(), others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_topics_as_may_come_are_counted_and_the_largest_are_told() {
        let mut topics = Topics::default();
        let totals = |bytes_read| TopicTotals { segments: 1, records: 2, bytes_read, bytes_written: 3 };
        (0..500).for_each(|n| topics.count(&format!("small-{n}"), totals(1)));
        assert_eq!(topics.largest().len(), 500, "no others yet");
        (0..10).for_each(|n| topics.count(&format!("large-{n}"), totals(1_000_000)));
        (500..20_000).for_each(|n| topics.count(&format!("small-{n}"), totals(1)));
        topics.count("large-3", totals(1));
        let reported = topics.largest();
        assert_eq!(reported.len(), TOPICS_MAX + 1);
        assert_eq!(reported["large-3"].bytes_read, 1_000_001);
        assert!((0..10).all(|n| reported.contains_key(&format!("large-{n}"))));
        let mut all = TopicTotals::default();
        reported.values().for_each(|one| all += *one);
        assert_eq!((all.segments, all.bytes_read), (20_011, 20_000 + 10 * 1_000_000 + 1));
        assert!(topics.kept.len() <= 2 * TOPICS_MAX);
    }
}
