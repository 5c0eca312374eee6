//! The parts of the bench, each with its question, tables and verdicts.

mod codecs;
mod cores;
mod corpora;
mod flat;
mod latency;
mod memory;
mod reading;
mod sharing;
mod size;
mod small;
mod speed;

use std::error::Error;

use clap::ValueEnum;

use crate::Setup;
use crate::report::Report;

/// The parts that a user can choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Goal 1: the whole path, a bare loop and Tantivy's defaults.
    Speed,
    /// Goal 2: one large segment on one core and on all cores.
    Cores,
    /// Goal 3: CPU time for each megabyte, from small segments to large ones.
    Flat,
    /// Goal 4: the latency of an idle worker for a small segment.
    Latency,
    /// Goal 5: the size of bundles.
    Size,
    /// Goal 6: resident memory.
    Memory,
    /// Goal 8: many small segments.
    Small,
    /// Searches and fetches from S3, and while segments are indexed.
    Reading,
    /// The effect of one caller with many calls on another caller.
    Sharing,
    /// Numbers for all formats and codecs.
    Codecs,
    /// Numbers for real text.
    Corpora,
}

impl Part {
    /// Measures and prints.
    pub fn run(self, setup: &Setup, report: &mut Report) -> Result<(), Box<dyn Error>> {
        match self {
            Self::Speed => speed::run(setup, report),
            Self::Cores => cores::run(setup, report),
            Self::Flat => flat::run(setup, report),
            Self::Latency => latency::run(setup, report),
            Self::Size => size::run(setup, report),
            Self::Memory => memory::run(setup, report),
            Self::Small => small::run(setup, report),
            Self::Reading => reading::run(setup, report),
            Self::Sharing => sharing::run(setup, report),
            Self::Codecs => codecs::run(setup, report),
            Self::Corpora => corpora::run(setup, report),
        }
    }
}
