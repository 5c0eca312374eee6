//! Times, and statistics of several times.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use crate::process::Process;

/// The time of a piece of work.
#[derive(Clone, Copy, Debug)]
pub struct Elapsed {
    /// The time from start to end.
    pub wall: Duration,
    /// The CPU time of the process that did the work.
    pub cpu: Duration,
}

/// Does the work and measures its time. The CPU time is that of `process`.
pub fn timed<T, E: From<io::Error>>(
    process: Process,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<(T, Elapsed), E> {
    let (started, before) = (Instant::now(), process.cpu()?);
    let done = work()?;
    Ok((done, Elapsed { wall: started.elapsed(), cpu: process.cpu()? - before }))
}

/// Several measurements of one value. Shown as the median, followed by the minimum and the maximum.
#[derive(Clone, Debug)]
pub struct Sample {
    sorted: Vec<f64>,
    decimals: usize,
}

impl Sample {
    /// The measurements, shown with this many decimals.
    pub fn new(decimals: usize, values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Self { sorted, decimals }
    }

    /// Computes a value from each time, such as bytes per second.
    pub fn of(decimals: usize, took: &[Elapsed], value: impl Fn(&Elapsed) -> f64) -> Self {
        Self::new(decimals, took.iter().map(value))
    }

    /// The ratios of the wall times, round by round.
    pub fn ratios(over: &[Elapsed], under: &[Elapsed]) -> Self {
        let ratio = |(over, under): (&Elapsed, &Elapsed)| over.wall.as_secs_f64() / under.wall.as_secs_f64();
        Self::new(2, over.iter().zip(under).map(ratio))
    }

    /// Returns whether there are no measurements.
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// The median; NaN if there are no measurements.
    pub fn median(&self) -> f64 {
        let middle = self.sorted.len() / 2;
        match self.sorted.len() % 2 {
            _ if self.sorted.is_empty() => f64::NAN,
            0 => (self.sorted[middle - 1] + self.sorted[middle]) / 2.0,
            _ => self.sorted[middle],
        }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = self.decimals;
        if self.is_empty() {
            return f.write_str("absent");
        }
        write!(f, "{:.decimals$}", self.median())?;
        match &self.sorted[..] {
            [least, .., greatest] => write!(f, " ({least:.decimals$}–{greatest:.decimals$})"),
            _ => Ok(()),
        }
    }
}
