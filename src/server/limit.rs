//! Limits the number of connections, in total and for each host. Each connection takes a file descriptor, and
//! a process without a free one cannot accept connections. At the limit, a new connection takes the place of
//! one without a call. This module knows nothing of what connections are for.

use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::activity::Activity;

/// A host may use a fourth of the files that the process may open, and all hosts together three fourths.
/// Stores, sources and bundles need files, too.
const FILES_OF_HOST_PART: usize = 4;
const FILES_OF_ALL_PERCENT: usize = 75;

/// The bounds of these limits: a few connections in any case, and never more than can be searched for each
/// new one.
const OF_HOST_MIN: usize = 16;
const OF_HOST_MAX: usize = 4 << 10;
const OF_ALL_MIN: usize = 48;
const OF_ALL_MAX: usize = 16 << 10;

/// The number of files that a process may open, if the system does not say it: the usual value.
const FILES_UNKNOWN: usize = 1_024;

/// The open connections by host, and their limits. Clones are cheap.
#[derive(Clone, Debug)]
pub(super) struct ConnectionLimit {
    open: Arc<Mutex<Open>>,
    of_host_max: usize,
    of_all_max: usize,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    connections: HashMap<u64, Entry>,
    hosts: HashMap<IpAddr, usize>,
}

#[derive(Debug)]
struct Entry {
    host: IpAddr,
    activity: Arc<Activity>,
    /// Dropped to tell the connection that it is evicted.
    _keep: oneshot::Sender<()>,
}

/// The place of one connection. It is given back when this is dropped.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    limit: ConnectionLimit,
    id: u64,
    /// Ready when another connection has taken the place.
    pub evicted: oneshot::Receiver<()>,
}

impl ConnectionLimit {
    /// Computes the limits from the number of files that this process may open.
    pub(super) fn new() -> Self {
        Self::for_files(files_max())
    }

    fn for_files(files: usize) -> Self {
        let of_host_max = (files / FILES_OF_HOST_PART).clamp(OF_HOST_MIN, OF_HOST_MAX);
        Self::with_max(of_host_max, (files / 100 * FILES_OF_ALL_PERCENT).clamp(OF_ALL_MIN, OF_ALL_MAX))
    }

    fn with_max(of_host_max: usize, of_all_max: usize) -> Self {
        Self { open: Arc::default(), of_host_max, of_all_max }
    }

    /// Takes a place for a new connection of a host, if necessary from a connection without a call. `None` if
    /// all connections have calls.
    pub(super) fn enter(&self, host: IpAddr, activity: Arc<Activity>) -> Option<ConnectionPermit> {
        let host = host.to_canonical();
        let mut open = self.lock();
        if open.hosts.get(&host).is_some_and(|count| *count >= self.of_host_max) {
            open.evict_of(host).then_some(())?;
        } else if open.connections.len() >= self.of_all_max {
            open.evict_of_largest().then_some(())?;
        }
        let id = open.next;
        open.next += 1;
        *open.hosts.entry(host).or_default() += 1;
        let (keep, evicted) = oneshot::channel();
        open.connections.insert(id, Entry { host, activity, _keep: keep });
        Some(ConnectionPermit { limit: self.clone(), id, evicted })
    }

    /// Closes a connection without a call, because the process has no free file. Returns whether there was
    /// one.
    pub(super) fn evict(&self) -> bool {
        self.lock().evict_of_largest()
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Ends the connection of this host that has been without a call for the longest time. Returns whether
    /// there was one.
    fn evict_of(&mut self, host: IpAddr) -> bool {
        let without_call =
            self.connections.iter().filter(|(_, one)| one.host == host && !one.activity.has_calls());
        let longest =
            without_call.min_by_key(|(id, one)| (one.activity.last_call_ms(), **id)).map(|(id, _)| *id);
        longest.map(|id| self.remove(id)).is_some()
    }

    /// The same, for the host with the most connections without a call, so that hosts with few connections
    /// keep them.
    fn evict_of_largest(&mut self) -> bool {
        let mut hosts = HashMap::<IpAddr, usize>::new();
        for one in self.connections.values().filter(|one| !one.activity.has_calls()) {
            *hosts.entry(one.host).or_default() += 1;
        }
        let largest = hosts.into_iter().max_by_key(|(host, count)| (*count, *host));
        largest.is_some_and(|(host, _)| self.evict_of(host))
    }

    fn remove(&mut self, id: u64) {
        let Some(one) = self.connections.remove(&id) else { return };
        if let Some(count) = self.hosts.get_mut(&one.host) {
            *count -= 1;
            if *count == 0 {
                self.hosts.remove(&one.host);
            }
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        // A connection that was evicted is no longer there.
        self.limit.lock().remove(self.id);
    }
}

/// The number of files that this process may open; the greatest number if there is no limit.
fn files_max() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    soft_limit(&limits).unwrap_or(FILES_UNKNOWN)
}

/// Parses the system's table: `Max open files  1024  524288  files`, or `unlimited` in place of a number.
/// `None` if there is no such line.
fn soft_limit(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(usize::MAX),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> [IpAddr; 3] {
        ["10.0.0.1", "::ffff:10.0.0.1", "10.0.0.2"].map(|host| host.parse().expect("an address"))
    }

    /// Places of connections that each have a call, with these calls.
    fn busy(
        limit: &ConnectionLimit,
        host: IpAddr,
        count: usize,
    ) -> Vec<(ConnectionPermit, super::super::activity::Call)> {
        let one = |_| {
            let activity = Activity::new();
            (limit.enter(host, Arc::clone(&activity)).expect("a place"), activity.begin())
        };
        (0..count).map(one).collect()
    }

    fn is_evicted(place: &mut ConnectionPermit) -> bool {
        matches!(place.evicted.try_recv(), Err(oneshot::error::TryRecvError::Closed))
    }

    #[test]
    fn a_host_has_so_many_places_and_takes_none_of_anothers() {
        let limit = ConnectionLimit::with_max(2, 10);
        let [one, mapped, other] = hosts();
        let places = [busy(&limit, one, 1), busy(&limit, mapped, 1)];
        assert!(limit.enter(one, Activity::new()).is_none(), "all have calls");
        assert!(limit.enter(other, Activity::new()).is_some());
        drop(places);
        assert!(limit.enter(one, Activity::new()).is_some());
        let open = limit.lock();
        assert!(open.connections.is_empty() && open.hosts.is_empty(), "nobody is remembered who has left");
    }

    #[test]
    fn the_one_without_a_call_for_the_longest_makes_room_of_the_host_that_has_most() {
        let limit = ConnectionLimit::with_max(4, 5);
        let [one, _, other] = hosts();
        let enter = |host| limit.enter(host, Activity::new()).expect("a place");
        let mut mine = [enter(one)];
        let called = busy(&limit, other, 1);
        let mut silent = [enter(other), enter(other), enter(other)];
        let _new = enter(one);
        assert_eq!(silent.each_mut().map(is_evicted), [true, false, false]);
        assert!(!mine.iter_mut().any(is_evicted));
        let _more = enter(other);
        assert_eq!(silent.each_mut().map(is_evicted), [true, true, false]);
        assert!(!is_evicted(&mut called.into_iter().next().expect("one").0));
    }

    #[test]
    fn the_limit_is_the_systems() {
        let table = "Limit                     Soft Limit           Hard Limit           Units     \n\
                     Max processes             95987                95987                processes \n\
                     Max open files            1024                 524288               files     \n";
        assert_eq!(soft_limit(table), Some(1_024));
        assert!(files_max() > 2);
        assert_eq!(soft_limit("Max processes             95987                95987"), None);
        let unlimited =
            soft_limit("Max open files            unlimited            unlimited            files");
        let limit = ConnectionLimit::for_files(unlimited.expect("no limit is known, too"));
        assert_eq!((limit.of_host_max, limit.of_all_max), (OF_HOST_MAX, OF_ALL_MAX));
    }
}
