//! How many connections a host may have: each costs a file, and a process without a free one takes nobody in. Knows nothing of what
//! they are for.

use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A host may have a fourth of the files that the process may have open, but a few in any case.
const FILES_PART_MAX: usize = 4;
const CONNECTIONS_MIN: usize = 16;

/// Files that a process may have open where the system does not say: what it commonly is.
const FILES_UNKNOWN: usize = 1_024;

/// Connections by host; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Crowd {
    hosts: Arc<Mutex<HashMap<IpAddr, usize>>>,
    of_host_max: usize,
}

/// A place in the crowd, given back with the value.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Crowd,
    host: IpAddr,
}

impl Crowd {
    /// By what the system lets this process have.
    pub(super) fn new() -> Self {
        Self::with_max((files_max() / FILES_PART_MAX).max(CONNECTIONS_MIN))
    }

    fn with_max(of_host_max: usize) -> Self {
        Self { hosts: Arc::default(), of_host_max }
    }

    /// A place for one more connection of a host; `None` where it has as many as it may.
    pub(super) fn enter(&self, host: IpAddr) -> Option<Place> {
        let host = host.to_canonical();
        let mut hosts = self.lock();
        let count = hosts.entry(host).or_default();
        if *count >= self.of_host_max {
            return None;
        }
        *count += 1;
        Some(Place { crowd: self.clone(), host })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut hosts = self.crowd.lock();
        if let Some(count) = hosts.get_mut(&self.host) {
            *count -= 1;
            if *count == 0 {
                hosts.remove(&self.host);
            }
        }
    }
}

/// Files that this process may have open.
fn files_max() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    soft_limit(&limits).unwrap_or(FILES_UNKNOWN)
}

/// From the system's table: `Max open files  1024  524288  files`; `None` where there is no limit, or no such line.
fn soft_limit(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_so_many_places_and_takes_none_of_anothers() {
        let crowd = Crowd::with_max(2);
        let [one, mapped, other] = ["10.0.0.1", "::ffff:10.0.0.1", "10.0.0.2"]
            .map(|host| host.parse::<IpAddr>().expect("an address"));
        let places = [crowd.enter(one), crowd.enter(mapped)];
        assert!(places.iter().all(Option::is_some) && crowd.enter(one).is_none());
        assert!(crowd.enter(other).is_some());
        drop(places);
        assert!(crowd.enter(one).is_some() && crowd.lock().is_empty(), "nobody is remembered who has left");
    }

    #[test]
    fn the_limit_is_the_systems() {
        let table = "Limit                     Soft Limit           Hard Limit           Units     \n\
                     Max processes             95987                95987                processes \n\
                     Max open files            1024                 524288               files     \n";
        assert_eq!(soft_limit(table), Some(1_024));
        assert_eq!(
            soft_limit("Max open files            unlimited            unlimited            files"),
            None
        );
        assert!(files_max() > 2);
    }
}
