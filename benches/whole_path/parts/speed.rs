//! Goal 1: the whole path, compared with the bare loop, Tantivy's defaults, and the machine's own commands.

use std::error::Error;

use crate::Setup;
use crate::contest::{self, Contest};
use crate::marks::{Mark, Marks};
use crate::reference::Fields;
use crate::report::{Asked, Report, Table};
use crate::sample::Sample;
use crate::segments::{Case, Segment};

pub fn run(setup: &Setup, report: &mut Report) -> Result<(), Box<dyn Error>> {
    report.part(
        "speed",
        &format!(
            "{} segments of {} MB at once, medians (least–greatest) of {} rounds.",
            setup.segments, setup.megabytes, setup.rounds
        ),
    );
    let cases = if setup.cases.is_empty() { &Case::OF_GOALS[..] } else { &setup.cases };
    let mut speeds = Table::new(&[
        "segments",
        "MB",
        "whole path MB/s",
        "(a) bare loop MB/s",
        "(b) stock Tantivy MB/s",
        "(b) lean MB/s",
    ]);
    let mut ratios = Table::new(&[
        "whole path by",
        "(a)",
        "(b) stock",
        "(b) lean",
        "CPU s: worker, client, (a), (b) stock, (b) lean",
    ]);
    let mut marks = Table::new(&[
        "one segment",
        "cp MB/s",
        "zstd -1 MB/s",
        "zstd -1 bytes / segment byte",
        "bundle bytes / segment byte",
    ]);
    for case in cases {
        let segments = Segment::logs(*case, setup.megabytes * 1_000_000, setup.segments)?;
        let contest = contest::hold(setup, &segments, setup.rounds, &[Fields::Stock, Fields::Lean])?;
        speeds.row(&[
            case.to_string(),
            format!("{:.0}", contest.megabytes),
            contest.speed(&contest.whole).to_string(),
            contest.speed(&contest.bare).to_string(),
            contest.speed(&contest.stock).to_string(),
            contest.speed(&contest.lean).to_string(),
        ]);
        let [bare, stock, lean] =
            [&contest.bare, &contest.stock, &contest.lean].map(|took| contest.ratio(took));
        let cpu = [&contest.whole, &contest.client, &contest.bare, &contest.stock, &contest.lean]
            .map(|took| format!("{:.1}", Contest::cpu(took)));
        ratios.row(&[
            case.to_string(),
            bare.to_string(),
            stock.to_string(),
            lean.to_string(),
            cpu.join(", "),
        ]);
        marks_row(setup, *case, &segments[0], &contest, &mut marks)?;
        report.verdict(1, &format!("{case}: whole path by (a)"), Asked::AtLeast(1.0), "", &bare);
        report.verdict(1, &format!("{case}: whole path by (b)"), Asked::AtLeast(2.0), "", &stock);
    }
    println!();
    [speeds, ratios, marks].iter().for_each(Table::print);
    Ok(())
}

fn marks_row(
    setup: &Setup,
    case: Case,
    segment: &Segment,
    contest: &Contest,
    table: &mut Table,
) -> Result<(), Box<dyn Error>> {
    let marks = Marks::new(&setup.directory, segment)?;
    let (mut cp, mut zstd) = (Vec::new(), Vec::new());
    for _ in 0..setup.rounds {
        cp.extend(marks.cp()?);
        zstd.extend(marks.zstd()?);
    }
    let speed = |marks: &[Mark]| match marks {
        [] => "absent".to_owned(),
        marks => Sample::new(0, marks.iter().map(|mark| segment.megabytes() / mark.seconds)).to_string(),
    };
    let share = |bytes: f64, of: f64| format!("{:.3}", bytes / of);
    table.row(&[
        case.to_string(),
        speed(&cp),
        speed(&zstd),
        zstd.first().map_or_else(
            || "absent".to_owned(),
            |mark| share(mark.out_bytes as f64, segment.bytes.len() as f64),
        ),
        share(contest.members.bundle_bytes as f64, contest.megabytes * 1e6),
    ]);
    Ok(())
}
