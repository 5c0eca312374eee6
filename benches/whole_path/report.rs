//! Prints the report as Markdown, with all verdicts in one table at the end.

use std::fmt::{self, Display, Write};

use crate::sample::Sample;

/// The verdicts so far.
#[derive(Debug, Default)]
pub struct Report {
    verdicts: Vec<[String; 5]>,
}

/// The goal for a value.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
    Within(f64, f64),
}

impl Goal {
    /// Returns how far a value misses the goal, as a share of the goal.
    fn missed_by(self, value: f64) -> Option<f64> {
        let limit = match self {
            Self::AtLeast(least) | Self::Within(least, _) if value < least => least,
            Self::AtMost(most) | Self::Within(_, most) if value > most => most,
            _ => return None,
        };
        Some((value / limit - 1.0).abs())
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "≥ {least}"),
            Self::AtMost(most) => write!(f, "≤ {most}"),
            Self::Within(least, most) => write!(f, "{least} to {most}"),
        }
    }
}

impl Report {
    /// Begins a part.
    pub fn part(&self, title: &str, what: &str) {
        println!("\n## {title}\n\n{what}\n");
    }

    /// Compares the measured value with the goal and prints the verdict. It never fails, because the bench
    /// cannot know what this machine should reach.
    pub fn verdict(&mut self, number: u8, what: &str, goal: Goal, unit: &str, measured: &Sample) {
        let verdict = match goal.missed_by(measured.median()) {
            None if measured.is_empty() => "not measured".to_owned(),
            None => "met".to_owned(),
            Some(share) => format!("missed by {:.0} %", share * 100.0),
        };
        let with_unit = |text: String| format!("{text} {unit}").trim_end().to_owned();
        let row = [
            number.to_string(),
            what.to_owned(),
            with_unit(goal.to_string()),
            with_unit(measured.to_string()),
            verdict,
        ];
        println!("- {}. {}: asked {}, measured {}: {}", row[0], row[1], row[2], row[3], row[4]);
        self.verdicts.push(row);
    }

    /// Prints all verdicts.
    pub fn close(&self) {
        if self.verdicts.is_empty() {
            return;
        }
        self.part("Goals", "What is asked for, and what this run measured.");
        let mut table = Table::new(&["", "", "asked", "measured", ""]);
        self.verdicts.iter().for_each(|row| table.row(row));
        table.print();
    }
}

/// A table in Markdown.
#[derive(Debug)]
pub struct Table {
    text: String,
}

impl Table {
    pub fn new(heads: &[&str]) -> Self {
        let mut table = Self { text: String::new() };
        table.row(heads);
        table.row(&vec!["---"; heads.len()]);
        table
    }

    pub fn row(&mut self, cells: &[impl Display]) {
        for cell in cells {
            let cell = cell.to_string();
            let _ = write!(self.text, "| {}{}", cell.trim(), if cell.is_empty() { "" } else { " " });
        }
        self.text.push_str("|\n");
    }

    pub fn print(&self) {
        println!("{}", self.text);
    }
}
