//! Draws the number of matches over time.

mod scale;

use time::OffsetDateTime;
use time::macros::format_description;

use crate::cli::output;

/// The width of a terminal that does not report its width.
pub const COLUMNS_DEFAULT: usize = 80;

/// The number of buckets that are used to look for outliers, if the bars are too wide to show them. It is
/// below the maximum of buckets in one answer.
const FINE_BUCKETS: usize = 5_000;

/// How many outliers are printed, one bucket each. The others are printed as one sum.
const OUTLIERS_SHOWN_MAX: usize = 20;

/// The height of the bars, in lines.
const ROWS: usize = 8;

/// The blocks for eighths of a character's height.
const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The bucket widths that people use, in milliseconds.
const STEPS: [u64; 32] = [
    1,
    2,
    5,
    10,
    20,
    50,
    100,
    200,
    500,
    SECOND,
    2 * SECOND,
    5 * SECOND,
    10 * SECOND,
    15 * SECOND,
    30 * SECOND,
    MINUTE,
    2 * MINUTE,
    5 * MINUTE,
    10 * MINUTE,
    15 * MINUTE,
    30 * MINUTE,
    HOUR,
    2 * HOUR,
    3 * HOUR,
    6 * HOUR,
    12 * HOUR,
    DAY,
    2 * DAY,
    7 * DAY,
    14 * DAY,
    30 * DAY,
    90 * DAY,
];

/// A range of times in milliseconds since the Unix epoch, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    pub from: i64,
    pub to: i64,
}

impl Times {
    /// Returns the narrowest step that splits these times into at most `buckets_max` buckets.
    pub fn step(self, buckets_max: usize) -> u64 {
        let fits = |step: &u64| self.buckets(*step) <= buckets_max.max(1) as u64;
        let years = std::iter::successors(Some(360 * DAY), |step| step.checked_mul(2));
        STEPS.into_iter().chain(years).find(fits).unwrap_or(u64::MAX)
    }

    /// Returns the step that is used to look for outliers.
    pub fn fine_step(self) -> u64 {
        self.step(FINE_BUCKETS)
    }

    /// Returns the times without outliers, if there are any: times of few records, far away from all others.
    /// `counts` are ascending. With `is_rest`, outliers were left out before; then times without records may
    /// be left out too.
    pub fn without_outliers(self, step: u64, counts: &[(i64, u64)], is_rest: bool) -> Option<Self> {
        // The first bucket may begin before these times.
        let within = counts.iter().filter(|(from, _)| (self.floor(step)..=self.to).contains(from));
        scale::narrower(self, step, &within.copied().collect::<Vec<_>>(), u64::from(!is_rest))
    }

    /// Returns the time at which the first bucket begins.
    fn floor(self, step: u64) -> i64 {
        let from = i128::from(self.from).div_euclid(i128::from(step)) * i128::from(step);
        i64::try_from(from).unwrap_or(i64::MIN)
    }

    /// Returns the number of buckets for these times.
    fn buckets(self, step: u64) -> u64 {
        let bucket = |ms: i64| i128::from(ms).div_euclid(i128::from(step));
        u64::try_from(bucket(self.to) - bucket(self.from) + 1).unwrap_or(u64::MAX)
    }
}

/// Counts by time.
#[derive(Debug)]
pub struct Histogram {
    /// The count of each bucket, also of empty ones.
    counts: Vec<u64>,
    /// The time at which the first bucket begins.
    from: i64,
    step: u64,
    /// Buckets outside of the bars, ascending: the time at which each begins, and its count.
    outliers: Vec<(i64, u64)>,
    /// The number of records without a time.
    untimed: u64,
}

impl Histogram {
    /// `counts` has the time at which each bucket begins, and its count. Buckets that it does not name are
    /// empty. `matched` is the number of all records.
    pub fn new(times: Times, step: u64, counts: impl IntoIterator<Item = (i64, u64)>, matched: u64) -> Self {
        let from = times.floor(step);
        let (mut outliers, mut timed) = (Vec::new(), 0);
        let mut all = vec![0; times.buckets(step) as usize];
        for (bucket_from, count) in counts {
            timed += count;
            let nth = u64::try_from(i128::from(bucket_from) - i128::from(from)).map(|ms| ms / step);
            match nth.ok().and_then(|nth| all.get_mut(nth as usize)) {
                Some(bucket) => *bucket += count,
                None => outliers.push((bucket_from, count)),
            }
        }
        Self { counts: all, from, step, outliers, untimed: matched.saturating_sub(timed) }
    }

    /// Returns one line for each bucket that is not empty: its time and its count.
    pub fn lines(&self) -> Vec<String> {
        let buckets = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        let mut all: Vec<_> = buckets.map(|(nth, count)| (self.start(nth), *count)).collect();
        all.extend(&self.outliers);
        all.sort_unstable();
        let untimed = (self.untimed > 0).then_some((None, self.untimed));
        let all = all.into_iter().map(|(from, count)| (Some(from), count)).chain(untimed);
        all.map(|(from, count)| format!("{} {count}", output::time_ms(from))).collect()
    }

    /// Returns what the bars do not show: one line for each outlier, and the number of records without a
    /// time.
    pub fn beside(&self) -> Vec<String> {
        let shown = self.outliers.iter().take(OUTLIERS_SHOWN_MAX);
        let mut lines: Vec<_> =
            shown.map(|(from, count)| format!("outlier: {} {count}", output::time_ms(Some(*from)))).collect();
        let rest = self.outliers.get(OUTLIERS_SHOWN_MAX..).unwrap_or_default();
        if let (Some((from, _)), Some((to, _))) = (rest.first(), rest.last()) {
            let count: u64 = rest.iter().map(|(_, count)| count).sum();
            let times = [from, to].map(|ms| output::time_ms(Some(*ms)));
            lines.push(format!("more outliers: {} to {} {count}", times[0], times[1]));
        }
        if self.untimed > 0 {
            lines.push(format!("without a time: {}", self.untimed));
        }
        lines
    }

    /// Draws bars side by side, at most `columns` wide.
    pub fn draw(&self, columns: usize) -> Vec<String> {
        let most = self.counts.iter().copied().max().unwrap_or(0);
        let margin = label_columns(most);
        let room = columns.saturating_sub(margin).max(1);
        // Each bar is as wide as possible, so that few buckets fill the terminal too. Wide bars have a gap
        // between them.
        let bar = (room / self.counts.len().max(1)).clamp(1, 12);
        let gap = usize::from(bar > 2);
        let mut lines = Vec::new();
        for row in (0..ROWS).rev() {
            let label = match row {
                row if row == ROWS - 1 => most.to_string(),
                0 => "0".to_owned(),
                _ => String::new(),
            };
            let mut line = format!("{label:>width$} ", width = margin - 1);
            for count in &self.counts {
                line.extend(std::iter::repeat_n(EIGHTHS[eighths(*count, most, row)], bar - gap));
                line.extend(std::iter::repeat_n(' ', gap));
            }
            lines.push(line.trim_end().to_owned());
        }
        lines.push(format!("{}{}", " ".repeat(margin), self.axis(bar, room)).trim_end().to_owned());
        lines
    }

    /// Returns the times under the bars, as many as fit. The first has its day, and each other one has it if
    /// the day is a new one.
    fn axis(&self, bar: usize, room: usize) -> String {
        let (mut line, mut day) = (String::new(), String::new());
        for nth in 0..self.counts.len() {
            let at = nth * bar;
            let free = if line.is_empty() { 0 } else { line.chars().count() + 2 };
            let (date, clock) = self.labels(nth);
            let label = if date == day { clock } else { format!("{date} {clock}") };
            if at >= free && at + label.trim_end().chars().count() <= room {
                line.push_str(&" ".repeat(at - line.chars().count()));
                line.push_str(label.trim_end());
                day = date;
            }
        }
        line
    }

    /// Returns the day and the time of a bucket, no finer than the step.
    fn labels(&self, nth: usize) -> (String, String) {
        let start = i128::from(self.start(nth)) * 1_000_000;
        let Ok(start) = OffsetDateTime::from_unix_timestamp_nanos(start) else {
            return (String::new(), self.start(nth).to_string());
        };
        let day = start.format(format_description!("[year]-[month]-[day]")).unwrap_or_default();
        let clock = match self.step {
            DAY.. => Ok(String::new()),
            MINUTE.. => start.format(format_description!("[hour]:[minute]")),
            SECOND.. => start.format(format_description!("[hour]:[minute]:[second]")),
            _ => start.format(format_description!("[hour]:[minute]:[second].[subsecond digits:3]")),
        };
        (day, clock.unwrap_or_default())
    }

    fn start(&self, nth: usize) -> i64 {
        self.from.saturating_add(i64::try_from(nth as u64 * self.step).unwrap_or(i64::MAX))
    }

    /// Returns the width of a bucket in words.
    pub fn step_in_words(&self) -> String {
        let units =
            [("day", DAY), ("hour", HOUR), ("minute", MINUTE), ("second", SECOND), ("millisecond", 1)];
        let (name, unit) =
            units.into_iter().find(|(_, unit)| self.step.is_multiple_of(*unit)).unwrap_or(units[4]);
        match self.step / unit {
            1 => name.to_owned(),
            many => format!("{many} {name}s"),
        }
    }
}

/// Returns the width of the counts to the left of the bars.
pub fn label_columns(most: u64) -> usize {
    most.to_string().len() + 1
}

/// Returns how many eighths of a character are filled in this row. A count above zero fills at least one.
fn eighths(count: u64, most: u64, row: usize) -> usize {
    let full = (EIGHTHS.len() - 1) * ROWS;
    let height = (u128::from(count) * full as u128).div_ceil(u128::from(most.max(1))) as usize;
    height.saturating_sub(row * (EIGHTHS.len() - 1)).min(EIGHTHS.len() - 1)
}

#[cfg(test)]
mod tests;
