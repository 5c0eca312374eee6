//! A line for each segment, for people.

use std::io::{IsTerminal, Write};

use clap::ValueEnum;
use time::OffsetDateTime;
use time::macros::format_description;

use super::{output, text};
use crate::agent::Event;

/// When lines are printed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum When {
    /// On terminals.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl When {
    /// Whether they are now.
    pub fn is_wanted(self) -> bool {
        match self {
            Self::Auto => std::io::stdout().is_terminal(),
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// Prints what becomes of segments.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    names_directories: bool,
}

impl Progress {
    /// Lines say which directory a segment is in only where there are several.
    pub fn new(names_directories: bool) -> Self {
        Self { names_directories }
    }

    /// What an agent tells its events to.
    pub fn observer(self) -> impl Fn(&Event<'_>) + Send + Sync {
        move |event| {
            let line = self.describe(event, OffsetDateTime::now_utc());
            // Whoever closed standard output does not want lines; segments are looked after all the same.
            let _ = writeln!(std::io::stdout().lock(), "{line}");
        }
    }

    fn describe(self, event: &Event<'_>, now: OffsetDateTime) -> String {
        let time = now.format(format_description!("[hour]:[minute]:[second]Z")).unwrap_or_default();
        let name = text::one_line(&event.segment.name);
        let name = match self.names_directories {
            true => format!("{}/{name}", text::one_line(event.agent)),
            false => name.into_owned(),
        };
        let mut words = vec![time, name, output::bytes(event.segment.version.size_bytes)];
        if let Some(receipt) = event.receipt {
            words.push(format!("{} records", receipt.digest().records));
            words.push(receipt.worker().to_owned());
        }
        words.extend(event.took.map(output::duration));
        words.push(text::one_line(&event.fate.to_string()).into_owned());
        words.join("  ")
    }
}
