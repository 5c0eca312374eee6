//! The parts of the bench, each with its question, its tables and its verdicts.

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

/// What can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Goal 1: the whole path beside a bare loop and Tantivy's defaults.
    Speed,
    /// Goal 2: one large segment on one core and on all.
    Cores,
    /// Goal 3: CPU time for each megabyte, from small segments to large ones.
    Flat,
    /// Goal 4: an idle worker's answer for a small segment.
    Latency,
    /// Goal 5: bytes of bundles.
    Size,
    /// Goal 6: resident memory.
    Memory,
    /// Goal 8: many small segments.
    Small,
    /// Searches and fetches from S3, and beside indexing.
    Reading,
    /// What a greedy caller costs another one.
    Sharing,
    /// Figures of all formats and codecs.
    Codecs,
    /// Figures of real text.
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
