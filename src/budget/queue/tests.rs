use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

const TOTAL: u64 = 100;
const WAITING_MAX: usize = 40;

/// A queue, and what its callers should have in it by what they were told.
struct Model {
    queue: Queue<u64>,
    now: Instant,
    caller_ids: Vec<CallerId>,
    /// What each request that is held takes.
    held: BTreeMap<u64, (usize, u64)>,
    waiting: BTreeMap<u64, (usize, u64)>,
    last_seen: Vec<Option<Instant>>,
    next: u64,
    order: Vec<u64>,
}

impl Model {
    fn new(caller_ids: usize) -> Self {
        Self {
            queue: Queue::new(TOTAL, WAITING_MAX),
            now: Instant::now(),
            caller_ids: (0..caller_ids).map(|n| CallerId::new(n.to_string())).collect(),
            held: BTreeMap::new(),
            waiting: BTreeMap::new(),
            last_seen: vec![None; caller_ids],
            next: 0,
            order: Vec::new(),
        }
    }

    fn ask(&mut self, who: usize, bytes: u64) -> u64 {
        let id = self.queue.ask(&self.caller_ids[who], bytes, self.next, self.now);
        assert_eq!(id, self.next, "requests are counted");
        self.next += 1;
        self.waiting.insert(id, (who, bytes));
        self.last_seen[who] = Some(self.now);
        self.serve();
        id
    }

    fn leave(&mut self, id: u64) {
        let (who, _) = self.waiting.remove(&id).expect("it waits");
        self.queue.leave(&self.caller_ids[who], id, self.now);
        self.last_seen[who] = Some(self.now);
        self.serve();
    }

    fn give_back(&mut self, id: u64) {
        let (who, bytes) = self.held.remove(&id).expect("it holds something");
        self.queue.give_back(&self.caller_ids[who], bytes, self.now);
        self.last_seen[who] = Some(self.now);
        self.serve();
    }

    fn grow(&mut self, id: u64, more: u64) {
        let (who, bytes) = self.held[&id];
        let (held, in_all) = (self.held_by(who), self.held_by(who) + more);
        let others_wait = self.waiting.values().any(|(other, _)| *other != who);
        let may = in_all <= TOTAL / 2 || held == bytes || !others_wait;
        let grown = self.queue.grow(&self.caller_ids[who], bytes, more, self.now);
        assert_eq!(grown, may && self.held_in_all() + more <= TOTAL);
        if grown {
            self.held.insert(id, (who, bytes + more));
        }
    }

    fn serve(&mut self) {
        let served = self.queue.serve(self.now);
        for one in served.granted {
            let (who, bytes) = self.waiting.remove(&one.waiter).expect("it waits");
            assert_eq!((&self.caller_ids[who], bytes), (&one.caller_id, one.bytes));
            let held = self.held_by(who);
            let others_wait = self.waiting.values().any(|(other, _)| *other != who);
            assert!(held == 0 || held + bytes <= TOTAL / 2 || !others_wait, "more than half");
            let earlier = self.waiting.iter().any(|(id, (other, _))| *other == who && *id < one.waiter);
            assert!(!earlier, "another request of the same caller came first");
            self.held.insert(one.waiter, (who, bytes));
            self.order.push(one.waiter);
        }
        for waiter in served.turned_away {
            let (who, _) = self.waiting.remove(&waiter).expect("it waits");
            let places = |who: usize| self.waiting.values().filter(|(other, _)| *other == who).count();
            let most = (0..self.caller_ids.len()).map(places).max();
            assert!(Some(places(who) + 1) >= most, "others have more places");
        }
        self.check();
    }

    fn check(&self) {
        assert_eq!(self.queue.held_bytes(), self.held_in_all());
        assert!(self.held_in_all() <= TOTAL);
        assert_eq!(self.queue.waiting(), self.waiting.len());
        assert_eq!(self.queue.waiting_bytes(), self.waiting.values().map(|(_, bytes)| bytes).sum::<u64>());
        assert!(self.waiting.len() <= WAITING_MAX);
        if self.held.is_empty() {
            assert!(self.waiting.is_empty(), "nobody holds anything, and somebody waits");
        }
        // Whoever is next by the rules has no room.
        let firsts = (0..self.caller_ids.len()).filter_map(|who| {
            let first = self.waiting.values().find(|(other, _)| *other == who);
            first.map(|(_, bytes)| (who, *bytes))
        });
        let may = firsts.filter(|(who, bytes)| {
            let held = self.held_by(*who);
            held == 0 || held + bytes <= TOTAL / 2 || self.is_alone(*who)
        });
        let may: Vec<_> = may.collect();
        let no_room = |bytes: u64| self.held_in_all() + bytes > TOTAL;
        assert!(may.is_empty() || may.iter().any(|(_, bytes)| no_room(*bytes)), "{may:?} could run");
    }

    fn is_alone(&self, who: usize) -> bool {
        let others = (0..self.caller_ids.len()).filter(|other| *other != who);
        let mut others = others.map(|other| {
            let is_here = self.held.values().chain(self.waiting.values()).any(|(one, _)| *one == other);
            is_here || self.last_seen[other].is_some_and(|seen| self.now - seen < EXPECTED_BACK)
        });
        !others.any(|here| here)
    }

    fn held_by(&self, who: usize) -> u64 {
        self.held.values().filter(|(other, _)| *other == who).map(|(_, bytes)| bytes).sum()
    }

    fn held_in_all(&self) -> u64 {
        self.held.values().map(|(_, bytes)| bytes).sum()
    }
}

fn any_of(random: &mut StdRng, map: &BTreeMap<u64, (usize, u64)>) -> Option<u64> {
    let nth = random.random_range(0..map.len().max(1));
    map.keys().nth(nth).copied()
}

#[test]
fn whatever_comes_nobody_gets_too_much_or_waits_for_nothing() {
    for seed in 0..300 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut model = Model::new(random.random_range(1..5));
        let largest = [5, 40, TOTAL + 1][random.random_range(0..3)];
        for _ in 0..400 {
            let who = random.random_range(0..model.caller_ids.len());
            match random.random_range(0..10) {
                0..4 => _ = model.ask(who, random.random_range(0..largest)),
                4 => any_of(&mut random, &model.waiting).into_iter().for_each(|id| model.leave(id)),
                5 => {
                    let more = random.random_range(0..20);
                    any_of(&mut random, &model.held).into_iter().for_each(|id| model.grow(id, more));
                }
                6 => {
                    model.now += Duration::from_millis(random.random_range(0..4_000));
                    model.serve();
                }
                _ => any_of(&mut random, &model.held).into_iter().for_each(|id| model.give_back(id)),
            }
        }
        // Everything is served in the end, whatever its size.
        while let Some(id) = any_of(&mut random, &model.held) {
            model.give_back(id);
        }
        assert!(model.waiting.is_empty() && model.queue.held_bytes() == 0, "seed {seed}");
    }
}

#[test]
fn alone_a_claimant_may_have_all() {
    let mut model = Model::new(2);
    (0..10).for_each(|_| _ = model.ask(0, 10));
    assert_eq!(model.held_by(0), TOTAL);
}

#[test]
fn whoever_comes_to_a_greedy_ones_queue_is_served_next() {
    let mut model = Model::new(2);
    let greedy: Vec<_> = (0..30).map(|_| model.ask(0, 10)).collect();
    let other = model.ask(1, 10);
    model.give_back(greedy[0]);
    assert!(model.held.contains_key(&other), "before twenty that came first");
    // It is expected back: what the greedy one may have is half until then.
    model.give_back(other);
    greedy[1..10].iter().for_each(|id| model.give_back(*id));
    assert_eq!(model.held_by(0), TOTAL / 2);
    let again = model.ask(1, 50);
    assert!(model.held.contains_key(&again), "at once");
    model.give_back(again);
    model.now += EXPECTED_BACK;
    model.serve();
    assert_eq!(model.held_by(0), TOTAL, "the other stays away");
}

#[test]
fn claimants_take_turns() {
    let mut model = Model::new(3);
    let held: Vec<_> = (0..10).map(|_| model.ask(2, 10)).collect();
    let one: Vec<_> = (0..9).map(|_| model.ask(0, 10)).collect();
    let other: Vec<_> = (0..9).map(|_| model.ask(1, 10)).collect();
    held[..5].iter().for_each(|id| model.give_back(*id));
    assert_eq!(model.order[10..], [one[0], other[0], one[1], other[1], one[2]]);
}

#[test]
fn claimants_take_turns_by_bytes() {
    let mut model = Model::new(3);
    let all = model.ask(2, TOTAL);
    let large: Vec<_> = (0..6).map(|_| model.ask(0, 40)).collect();
    let small: Vec<_> = (0..24).map(|_| model.ask(1, 10)).collect();
    model.give_back(all);
    for nth in 1..=30 {
        model.give_back(model.order[nth]);
    }
    let place = |id: &u64| model.order.iter().position(|other| other == id).expect("served");
    for (nth, id) in large.iter().enumerate() {
        let before = small.iter().filter(|other| place(other) < place(id)).count();
        assert!(before.abs_diff(4 * nth) <= 4, "{before} small ones before large one {nth}");
    }
}

#[test]
fn a_large_request_is_not_passed_by_small_ones_for_ever() {
    let mut model = Model::new(3);
    let mut small: VecDeque<_> = (0..10).map(|_| model.ask(0, 10)).collect();
    let large = model.ask(1, 90);
    for _ in 0..10 {
        model.ask(2, 1);
        small.push_back(model.ask(0, 10));
        if let Some(first) = small.pop_front().filter(|id| model.held.contains_key(id)) {
            model.give_back(first);
        }
    }
    assert!(model.held.contains_key(&large), "{:?}", model.held);
}

#[test]
fn places_to_wait_are_taken_from_whoever_has_most_of_them() {
    let mut model = Model::new(2);
    model.ask(0, TOTAL);
    let greedy: Vec<_> = (0..WAITING_MAX).map(|_| model.ask(0, 1)).collect();
    let refused = model.ask(0, 1);
    assert!(!model.waiting.contains_key(&refused), "the last one that came");
    let other = model.ask(1, 1);
    assert!(model.waiting.contains_key(&other));
    assert!(!model.waiting.contains_key(greedy.last().expect("many")), "it makes room");
}
