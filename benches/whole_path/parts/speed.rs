//! Goal 1: the whole path, compared with the bare loop, Tantivy's defaults, and the machine's own commands.

use std::error::Error;

use crate::Setup;
use crate::baselines::{Baseline, Baselines};
use crate::contest::{self, Contest};
use crate::reference::Fields;
use crate::report::{Goal, Report, Table};
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
    let mut baselines = Table::new(&[
        "one segment",
        "cp MB/s",
        "zstd -1 MB/s",
        "zstd -1 bytes / segment byte",
        "bundle bytes / segment byte",
    ]);
    for case in cases {
        let segments = Segment::logs(*case, setup.megabytes * 1_000_000, setup.segments)?;
        let contest = contest::run(setup, &segments, setup.rounds, &[Fields::Stock, Fields::Lean])?;
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
        baselines_row(setup, *case, &segments[0], &contest, &mut baselines)?;
        report.verdict(1, &format!("{case}: whole path by (a)"), Goal::AtLeast(1.0), "", &bare);
        report.verdict(1, &format!("{case}: whole path by (b)"), Goal::AtLeast(2.0), "", &stock);
    }
    println!();
    [speeds, ratios, baselines].iter().for_each(Table::print);
    Ok(())
}

fn baselines_row(
    setup: &Setup,
    case: Case,
    segment: &Segment,
    contest: &Contest,
    table: &mut Table,
) -> Result<(), Box<dyn Error>> {
    let baselines = Baselines::new(&setup.directory, segment)?;
    let (mut cp, mut zstd) = (Vec::new(), Vec::new());
    for _ in 0..setup.rounds {
        cp.extend(baselines.cp()?);
        zstd.extend(baselines.zstd()?);
    }
    let speed = |baselines: &[Baseline]| match baselines {
        [] => "absent".to_owned(),
        baselines => Sample::new(0, baselines.iter().map(|baseline| segment.megabytes() / baseline.seconds))
            .to_string(),
    };
    let share = |bytes: f64, of: f64| format!("{:.3}", bytes / of);
    table.row(&[
        case.to_string(),
        speed(&cp),
        speed(&zstd),
        zstd.first().map_or_else(
            || "absent".to_owned(),
            |baseline| share(baseline.out_bytes as f64, segment.bytes.len() as f64),
        ),
        share(contest.members.bundle_bytes as f64, contest.megabytes * 1e6),
    ]);
    Ok(())
}
