//! Numbers for the formats and codecs that no other part has, compared with the bare loop.

use std::error::Error;

use crate::Setup;
use crate::contest::{self, Contest};
use crate::parts::size;
use crate::report::{Report, Table};
use crate::segments::Segment;

pub fn run(setup: &Setup, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let rounds = setup.rounds.min(3);
    report.part("codecs", &format!("One segment of {} MB, {rounds} rounds.", setup.megabytes));
    let mut table = Table::new(&[
        "segment",
        "records",
        "whole path MB/s",
        "(a) bare loop MB/s",
        "whole path by (a)",
        "CPU s: worker, (a)",
    ]);
    for case in size::cases() {
        let segments = Segment::logs(case, setup.megabytes * 1_000_000, 1)?;
        let contest = contest::run(setup, &segments, rounds, &[])?;
        table.row(&[
            case.to_string(),
            segments[0].records().to_string(),
            contest.speed(&contest.whole).to_string(),
            contest.speed(&contest.bare).to_string(),
            contest.ratio(&contest.bare).to_string(),
            format!("{:.2}, {:.2}", Contest::cpu(&contest.whole), Contest::cpu(&contest.bare)),
        ]);
    }
    table.print();
    Ok(())
}
