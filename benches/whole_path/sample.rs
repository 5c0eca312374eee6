//! Times, and what several of them say together.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use crate::process::Process;

/// What a piece of work took.
#[derive(Clone, Copy, Debug)]
pub struct Took {
    /// From its start to its end.
    pub wall: Duration,
    /// CPU time of the process that did it.
    pub cpu: Duration,
}

/// Does the work and says what it took; `process` is the one whose CPU counts.
pub fn timed<T, E: From<io::Error>>(
    process: Process,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<(T, Took), E> {
    let (started, before) = (Instant::now(), process.cpu()?);
    let done = work()?;
    Ok((done, Took { wall: started.elapsed(), cpu: process.cpu()? - before }))
}

/// Several measurements of one thing. Shown as the median, with the least and the greatest behind it.
#[derive(Clone, Debug)]
pub struct Sample {
    sorted: Vec<f64>,
    decimals: usize,
}

impl Sample {
    /// The measurements, to be shown with so many decimals.
    pub fn new(decimals: usize, values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Self { sorted, decimals }
    }

    /// Wall times by something, such as bytes.
    pub fn of(decimals: usize, took: &[Took], value: impl Fn(&Took) -> f64) -> Self {
        Self::new(decimals, took.iter().map(value))
    }

    /// The ratios of what was measured side by side, one round at a time.
    pub fn ratios(over: &[Took], under: &[Took]) -> Self {
        let ratio = |(over, under): (&Took, &Took)| over.wall.as_secs_f64() / under.wall.as_secs_f64();
        Self::new(2, over.iter().zip(under).map(ratio))
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// The middle one; no number where there is none.
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
