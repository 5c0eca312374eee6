//! A fair queue: the next work is that of the caller whose work has taken the least time. It runs nothing and
//! reads no clock.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::ids::CallerId;

/// The work of each caller.
#[derive(Debug)]
pub(super) struct Queues<W> {
    by_caller: BTreeMap<CallerId, Queue<W>>,
    /// The used time with which a new caller starts, so that it has neither a debt nor a credit. It is the
    /// used time of the last caller that was next.
    floor: Duration,
}

#[derive(Debug)]
struct Queue<W> {
    waiting: VecDeque<W>,
    running: usize,
    took: Duration,
}

impl<W> Default for Queues<W> {
    fn default() -> Self {
        Self { by_caller: BTreeMap::new(), floor: Duration::ZERO }
    }
}

impl<W> Queues<W> {
    pub(super) fn push(&mut self, caller_id: &CallerId, work: W) {
        if let Some(queue) = self.by_caller.get_mut(caller_id) {
            queue.waiting.push_back(work);
            return;
        }
        let queue = Queue { waiting: VecDeque::from([work]), running: 0, took: self.floor };
        self.by_caller.insert(caller_id.clone(), queue);
    }

    /// Takes the next piece of work, and its caller. Report the end of the work with [`Self::done`].
    pub(super) fn pop(&mut self) -> Option<(CallerId, W)> {
        let waiting = self.by_caller.iter_mut().filter(|(_, queue)| !queue.waiting.is_empty());
        let (caller_id, queue) = waiting.min_by_key(|(_, queue)| (queue.took, queue.running))?;
        let work = queue.waiting.pop_front()?;
        queue.running += 1;
        self.floor = self.floor.max(queue.took);
        Some((caller_id.clone(), work))
    }

    /// Records that a piece of work of `caller_id` took this long.
    pub(super) fn done(&mut self, caller_id: &CallerId, took: Duration) {
        let Some(queue) = self.by_caller.get_mut(caller_id) else { return };
        queue.running -= 1;
        queue.took += took;
        // An idle caller is remembered until the others have used as much time, so that it keeps its debt.
        let floor = self.floor;
        self.by_caller.retain(|_, queue| !queue.is_idle() || queue.took > floor);
        if self.by_caller.values().all(Queue::is_idle) {
            self.by_caller.clear();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_caller.values().map(|queue| queue.waiting.len()).sum()
    }
}

impl<W> Queue<W> {
    fn is_idle(&self) -> bool {
        self.running == 0 && self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(queues: &mut Queues<u32>, millis: u64) -> u32 {
        let (caller_id, work) = queues.pop().expect("something waits");
        queues.done(&caller_id, Duration::from_millis(millis));
        work
    }

    #[test]
    fn whoever_has_much_to_do_does_not_keep_others_waiting() {
        let (mut queues, [greedy, other]) = (Queues::default(), ["a", "b"].map(CallerId::new));
        (0..100).for_each(|n| queues.push(&greedy, n));
        assert_eq!([0; 3].map(|_| take(&mut queues, 10)), [0, 1, 2]);
        queues.push(&other, 1_000);
        queues.push(&other, 1_001);
        queues.push(&other, 1_002);
        // The other caller starts without a credit, and then gets as much time as the greedy one.
        assert_eq!(take(&mut queues, 10), 1_000);
        let next = [0; 5].map(|_| take(&mut queues, 5));
        assert_eq!(next.iter().filter(|n| **n >= 1_000).count(), 2, "{next:?}");
        assert_eq!(queues.len(), 94);
    }

    #[test]
    fn long_work_is_paid_for_with_turns() {
        let (mut queues, [long, short]) = (Queues::default(), ["a", "b"].map(CallerId::new));
        for n in 0..100 {
            queues.push(&long, n);
            queues.push(&short, 1_000 + n);
        }
        let mut longs = 0;
        for _ in 0..66 {
            let (caller_id, _) = queues.pop().expect("something waits");
            let is_long = caller_id == long;
            longs += u32::from(is_long);
            queues.done(&caller_id, Duration::from_millis(if is_long { 10 } else { 1 }));
        }
        assert_eq!(longs, 6, "of 66, where one takes as long as ten");
    }
}
