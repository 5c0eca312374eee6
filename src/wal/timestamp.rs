//! The serialized form of a time: whole seconds since the Unix epoch, negative before it, and nanoseconds. It
//! can represent every time that a file system can store, including those outside of any calendar.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Serialize, Deserialize)]
struct Timestamp {
    secs: i64,
    nanos: u32,
}

const NANOS_PER_SEC: u32 = 1_000_000_000;

impl Timestamp {
    fn of(time: SystemTime) -> Option<Self> {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => {
                Some(Self { secs: i64::try_from(since.as_secs()).ok()?, nanos: since.subsec_nanos() })
            }
            Err(before) => {
                let (secs, nanos) = (before.duration().as_secs(), before.duration().subsec_nanos());
                // Nanoseconds always count forward.
                let whole = 0_i64.checked_sub_unsigned(secs)?;
                match nanos {
                    0 => Some(Self { secs: whole, nanos }),
                    _ => Some(Self { secs: whole.checked_sub(1)?, nanos: NANOS_PER_SEC - nanos }),
                }
            }
        }
    }

    fn time(&self) -> Option<SystemTime> {
        if self.nanos >= NANOS_PER_SEC {
            return None;
        }
        let secs = Duration::from_secs(self.secs.unsigned_abs());
        let whole = match self.secs {
            0.. => UNIX_EPOCH.checked_add(secs),
            _ => UNIX_EPOCH.checked_sub(secs),
        };
        whole?.checked_add(Duration::from_nanos(self.nanos.into()))
    }
}

pub(super) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let moment = Timestamp::of(*time).ok_or_else(|| serde::ser::Error::custom("a time out of range"))?;
    moment.serialize(serializer)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
    let moment = Timestamp::deserialize(deserializer)?;
    moment.time().ok_or_else(|| D::Error::custom("a time out of range"))
}
