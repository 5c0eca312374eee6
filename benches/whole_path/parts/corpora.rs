//! Numbers for real text instead of generated logs. `benches/corpora.py` fetches the text.

use std::error::Error;

use wal_indexer::generate::Codec;

use crate::Setup;
use crate::contest::{self, Contest};
use crate::parts::size;
use crate::reference::Fields;
use crate::report::{Report, Table};
use crate::segments::{Case, Segment, corpus};
use crate::worker::Worker;

const CORPORA: [&str; 3] = ["packages", "simdjson", "wikipedia"];

pub fn run(setup: &Setup, report: &mut Report) -> Result<(), Box<dyn Error>> {
    report.part("corpora", &format!("Each corpus as one segment; {} rounds.", setup.rounds));
    let mut speeds = Table::new(&[
        "corpus",
        "MB",
        "whole path MB/s",
        "(a) MB/s",
        "(b) stock MB/s",
        "whole path by (a)",
        "by (b) stock",
        "CPU s: worker, (a), (b) stock",
    ]);
    let mut sizes = Table::new(&size::HEADS);
    for name in CORPORA {
        let path = setup.corpora.join(name);
        if !path.exists() {
            println!("{name}: not there; benches/corpora.py fetches it\n");
            continue;
        }
        let batches = corpus(&path)?;
        let fill = |case| Segment::fill(case, usize::MAX, batches.iter().cloned());
        let segments = [fill(Case::kafka(Codec::None))?];
        let contest = contest::run(setup, &segments, setup.rounds, &[Fields::Stock])?;
        let cpu =
            [&contest.whole, &contest.bare, &contest.stock].map(|took| format!("{:.2}", Contest::cpu(took)));
        speeds.row(&[
            format!("{name}, {}", Case::kafka(Codec::None)),
            format!("{:.1}", contest.megabytes),
            contest.speed(&contest.whole).to_string(),
            contest.speed(&contest.bare).to_string(),
            contest.speed(&contest.stock).to_string(),
            contest.ratio(&contest.bare).to_string(),
            contest.ratio(&contest.stock).to_string(),
            cpu.join(", "),
        ]);
        let mut worker = Worker::start(&setup.directory)?;
        for case in size::cases() {
            size::row(&mut worker, &format!("{name}, {case}"), &fill(case)?, &mut sizes)?;
        }
    }
    speeds.print();
    sizes.print();
    Ok(())
}
