//! The screen of `stats --watch`: draws a worker's answers. It does not know connections or terminals.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Gauge, Paragraph, Row, Sparkline, Table};

use crate::cli::output;
use crate::proto::v1;
use crate::proto::v1::health_response::Status;
use crate::proto::v1::job::Phase;

/// The period for which throughput is shown.
const PAST: Duration = Duration::from_secs(60);

/// The maximum number of topics shown. The largest come first.
const TOPICS_MAX: usize = 5;

/// The width of a job's progress bar, in characters.
const BAR_CELLS: u64 = 12;

/// On a smaller screen, the less important parts are left out.
const WIDE: u16 = 70;
const TALL: u16 = 22;

/// The last known state of a worker.
#[derive(Debug)]
pub struct View {
    endpoint: String,
    every: Duration,
    stats: Option<v1::GetStatsResponse>,
    health: Option<Status>,
    last: Option<Instant>,
    /// Why the last request got no answer.
    gone: Option<String>,
    /// Throughput between every two answers: time, bytes per second, records per second.
    past: VecDeque<(Instant, u64, u64)>,
}

impl View {
    /// The view of a worker that has not answered yet. `every` is the polling interval.
    pub fn new(endpoint: &str, every: Duration) -> Self {
        let (stats, health, last, gone) = (None, None, None, None);
        Self { endpoint: endpoint.to_owned(), every, stats, health, last, gone, past: VecDeque::new() }
    }

    /// Stores an answer of the worker.
    pub fn take(&mut self, stats: v1::GetStatsResponse, health: Option<Status>, now: Instant) {
        if let (Some(before), Some(last)) = (&self.stats, self.last)
            && before.worker_id == stats.worker_id
            && before.uptime_ms <= stats.uptime_ms
        {
            let seconds = now.saturating_duration_since(last).as_secs_f64().max(0.001);
            let rate = |before: u64, after: u64| (after.saturating_sub(before) as f64 / seconds) as u64;
            let ((bytes, records), (bytes_now, records_now)) = (indexed(before), indexed(&stats));
            self.past.push_back((now, rate(bytes, bytes_now), rate(records, records_now)));
        } else {
            // This is another process. Its counts cannot be compared with those of the previous process.
            self.past.clear();
        }
        while self.past.front().is_some_and(|(at, ..)| now.saturating_duration_since(*at) > PAST) {
            self.past.pop_front();
        }
        self.health = health.or(self.health);
        (self.stats, self.last, self.gone) = (Some(stats), Some(now), None);
    }

    /// Stores why the worker did not answer.
    pub fn gone(&mut self, why: String) {
        self.gone = Some(why);
    }
}

/// Bytes and records that were acknowledged, plus those of segments in flight that are indexed already.
fn indexed(stats: &v1::GetStatsResponse) -> (u64, u64) {
    let jobs = |count: fn(&v1::Job) -> u64| stats.jobs.iter().map(count).sum::<u64>();
    (stats.bytes_read + jobs(|job| job.bytes_done), stats.records_indexed + jobs(|job| job.records_done))
}

/// Draws the view.
pub fn draw(frame: &mut Frame<'_>, view: &View) {
    let area = frame.area();
    let Some(stats) = &view.stats else {
        let [head, body] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
        frame.render_widget(header(view, None), head);
        frame.render_widget(Paragraph::new(view.gone.as_deref().unwrap_or("asking…")).yellow(), body);
        return;
    };
    let is_tall = area.height >= TALL;
    let topics = if is_tall { stats.topics.len().min(TOPICS_MAX) as u16 } else { 0 };
    let [head, gone, rates, memory, totals, rejected, jobs, topic_rows, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(u16::from(view.gone.is_some())),
        Constraint::Length(if is_tall { 4 } else { 2 }),
        Constraint::Length(1),
        Constraint::Length(3),
        Constraint::Length(1),
        Constraint::Min(2),
        Constraint::Length(if topics > 0 { topics + 2 } else { 0 }),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(header(view, Some(stats)), head);
    if let Some(why) = &view.gone {
        frame.render_widget(Paragraph::new(format!("no answer, asking again: {why}")).red(), gone);
    }
    draw_rates(frame, view, rates);
    draw_memory(frame, stats, memory);
    frame.render_widget(Paragraph::new(totals_of(stats)), totals);
    frame.render_widget(Paragraph::new(rejected_of(stats)), rejected);
    draw_jobs(frame, stats, jobs);
    if topics > 0 {
        draw_topics(frame, stats, topic_rows);
    }
    let keys = format!("q quit   every {}   {}", output::duration(view.every), view.endpoint);
    frame.render_widget(Paragraph::new(keys).style(Modifier::DIM), foot);
}

fn header<'a>(view: &'a View, stats: Option<&'a v1::GetStatsResponse>) -> Paragraph<'a> {
    let Some(stats) = stats else { return Paragraph::new(view.endpoint.as_str()).bold() };
    let (state, colour) = match (view.gone.is_some(), view.health) {
        (true, _) => ("GONE", Color::Red),
        (_, Some(Status::Serving)) => ("SERVING", Color::Green),
        (_, Some(Status::Draining)) => ("DRAINING", Color::Yellow),
        (_, Some(Status::Unavailable)) => ("UNAVAILABLE", Color::Red),
        (_, Some(Status::Unspecified) | None) => ("", Color::Reset),
    };
    Paragraph::new(Line::from(vec![
        Span::raw(stats.worker_id.as_str()).bold(),
        Span::raw(format!("  {}  up {}  ", stats.version, age(stats.uptime_ms))),
        Span::raw(state).fg(colour).bold(),
    ]))
}

fn draw_rates(frame: &mut Frame<'_>, view: &View, area: Rect) {
    let halves = Layout::horizontal([Constraint::Ratio(1, 2); 2]).spacing(2).areas::<2>(area);
    let bytes: Vec<_> = view.past.iter().map(|(_, bytes, _)| *bytes).collect();
    let records: Vec<_> = view.past.iter().map(|(.., records)| *records).collect();
    let (now, most) = (
        |past: &[u64]| past.last().copied().unwrap_or(0),
        |past: &[u64]| past.iter().copied().max().unwrap_or(0),
    );
    let text = [
        format!("{}/s, at most {}/s", output::bytes(now(&bytes)), output::bytes(most(&bytes))),
        format!("{} records/s, at most {}", now(&records), most(&records)),
    ];
    for ((half, past), text) in halves.into_iter().zip([bytes, records]).zip(text) {
        let [title, line] = Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(half);
        frame.render_widget(Paragraph::new(text), title);
        // The latest value is at the right.
        let shown = &past[past.len().saturating_sub(line.width.into())..];
        let place = Rect { width: shown.len() as u16, ..line };
        frame.render_widget(Sparkline::default().data(shown).style(Color::Cyan), place);
    }
}

fn draw_memory(frame: &mut Frame<'_>, stats: &v1::GetStatsResponse, area: Rect) {
    let memory = stats.memory.unwrap_or_default();
    let [gauge, waiting] = Layout::horizontal([Constraint::Min(10), Constraint::Length(34)]).areas(area);
    let ratio = memory.reserved_bytes as f64 / memory.budget_bytes.max(1) as f64;
    let label =
        format!("memory {} of {}", output::bytes(memory.reserved_bytes), output::bytes(memory.budget_bytes));
    let colour = if memory.waiting_requests > 0 { Color::Yellow } else { Color::Blue };
    frame
        .render_widget(Gauge::default().ratio(ratio.clamp(0.0, 1.0)).label(label).gauge_style(colour), gauge);
    let text = format!("  waiting {} for {}", memory.waiting_requests, output::bytes(memory.waiting_bytes));
    frame.render_widget(Paragraph::new(text), waiting);
}

fn totals_of(stats: &v1::GetStatsResponse) -> Vec<Line<'static>> {
    let latency = stats.latency.unwrap_or_default();
    let micros = |us| output::duration(Duration::from_micros(us));
    let of = |phase: Phase| stats.jobs.iter().filter(|job| job.phase() == phase).count();
    vec![
        Line::raw(format!(
            "jobs      waiting {}  building {}  uploading {}",
            of(Phase::Waiting),
            of(Phase::Building),
            of(Phase::Uploading)
        )),
        Line::raw(format!(
            "done      segments {} ({} already there)  records {}  read {}  written {}",
            stats.segments_processed,
            stats.segments_already_indexed,
            stats.records_indexed,
            output::bytes(stats.bytes_read),
            output::bytes(stats.bytes_written)
        )),
        Line::raw(format!(
            "latency   median {}  p99 {}  max {}",
            micros(latency.p50_us),
            micros(latency.p99_us),
            micros(latency.max_us)
        )),
    ]
}

fn rejected_of(stats: &v1::GetStatsResponse) -> Line<'static> {
    let mut rejected: Vec<_> = stats.rejected.iter().map(|(code, count)| format!("{code} {count}")).collect();
    rejected.sort();
    let text = if rejected.is_empty() { "none".to_owned() } else { rejected.join("  ") };
    let line = Line::raw(format!("rejected  {text}"));
    if stats.errors > 0 { line.red() } else { line }
}

fn draw_jobs(frame: &mut Frame<'_>, stats: &v1::GetStatsResponse, area: Rect) {
    let is_wide = area.width >= WIDE;
    let rows = stats.jobs.iter().map(|job| {
        let phase = job.phase().as_str_name().trim_start_matches("PHASE_").to_lowercase();
        let done = format!("{} of {}", output::bytes(job.bytes_done), output::bytes(job.bytes_total));
        let mut cells =
            vec![Cell::from(job.segment_id.clone()), Cell::from(phase), Cell::from(age(job.age_ms))];
        if is_wide {
            cells.extend([Cell::from(bar(job)), Cell::from(done), Cell::from(job.records_done.to_string())]);
        }
        Row::new(cells)
    });
    let (mut titles, mut widths) = (
        vec!["segment", "phase", "age"],
        vec![Constraint::Min(16), Constraint::Length(9), Constraint::Length(7)],
    );
    if is_wide {
        titles.extend(["", "indexed", "records"]);
        widths.extend([Constraint::Length(BAR_CELLS as u16), Constraint::Length(23), Constraint::Length(9)]);
    }
    let header = Row::new(titles).style(Style::new().add_modifier(Modifier::UNDERLINED));
    frame.render_widget(Table::new(rows, widths).header(header), area);
}

fn bar(job: &v1::Job) -> String {
    let full = job.bytes_done.min(job.bytes_total) * BAR_CELLS / job.bytes_total.max(1);
    "█".repeat(full as usize) + &"░".repeat((BAR_CELLS - full) as usize)
}

fn draw_topics(frame: &mut Frame<'_>, stats: &v1::GetStatsResponse, area: Rect) {
    let mut topics: Vec<_> = stats.topics.iter().collect();
    topics.sort_by(|a, b| b.bytes_read.cmp(&a.bytes_read).then_with(|| a.topic.cmp(&b.topic)));
    let rows = topics.into_iter().take(TOPICS_MAX).map(|topic| {
        Row::new([
            // An empty name stands for all topics above the limit of topics that are counted apart.
            if topic.topic.is_empty() { "(others)".to_owned() } else { topic.topic.clone() },
            topic.segments.to_string(),
            topic.records.to_string(),
            output::bytes(topic.bytes_read),
            output::bytes(topic.bytes_written),
        ])
    });
    let header = Row::new(["topic", "segments", "records", "read", "written"]);
    let header = header.style(Style::new().add_modifier(Modifier::UNDERLINED)).top_margin(1);
    let widths = [
        Constraint::Min(12),
        Constraint::Length(10),
        Constraint::Length(12),
        Constraint::Length(12),
        Constraint::Length(12),
    ];
    frame.render_widget(Table::new(rows, widths).header(header), area);
}

/// `3d 4h`, `2h 5m`, `7m 8s`, `9.1s`.
fn age(ms: u64) -> String {
    let seconds = ms / 1_000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => output::duration(Duration::from_millis(ms)),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, ..) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn stats() -> v1::GetStatsResponse {
        let job = v1::Job {
            segment_id: "orders:3:17".into(),
            phase: Phase::Building.into(),
            bytes_total: 4 << 20,
            bytes_done: 1 << 20,
            records_done: 1_234,
            age_ms: 65_000,
        };
        let topic = |topic: &str, bytes_read| v1::TopicStats {
            topic: topic.into(),
            segments: 7,
            records: 70,
            bytes_read,
            bytes_written: 512,
        };
        v1::GetStatsResponse {
            worker_id: "worker-7".into(),
            version: "1.2.3".into(),
            uptime_ms: 7_500_000,
            segments_processed: 41,
            records_indexed: 4_100,
            rejected: [("DATA_LOSS".to_owned(), 3)].into(),
            memory: Some(v1::Memory {
                budget_bytes: 100 << 20,
                reserved_bytes: 25 << 20,
                ..v1::Memory::default()
            }),
            jobs: vec![job],
            topics: vec![topic("small", 1), topic("large", 1 << 30)],
            ..v1::GetStatsResponse::default()
        }
    }

    fn shown(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a screen");
        terminal.draw(|frame| draw(frame, view)).expect("drawn");
        terminal.backend().to_string()
    }

    fn view() -> View {
        let mut view = View::new("http://worker:7070", Duration::from_secs(1));
        let start = Instant::now();
        view.take(stats(), Some(Status::Serving), start);
        let mut later = stats();
        later.bytes_read += 3 << 20;
        later.records_indexed += 600;
        view.take(later, None, start + Duration::from_secs(2));
        view
    }

    #[test]
    fn a_screen_says_what_the_worker_said() {
        let screen = shown(&view(), 100, 30);
        for text in [
            "worker-7  1.2.3  up 2h 5m  SERVING",
            "1.5 MiB/s, at most 1.5 MiB/s",
            "300 records/s, at most 300",
            "memory 25.0 MiB of 100.0 MiB",
            "waiting 0  building 1  uploading 0",
            "segments 41 (0 already there)  records 4700",
            "rejected  DATA_LOSS 3",
            "███░░░░░░░░░ 1.0 MiB of 4.0 MiB",
            "orders:3:17",
            "1m 5s",
            "q quit   every 1.0s   http://worker:7070",
        ] {
            assert!(screen.contains(text), "no {text:?} in\n{screen}");
        }
        assert!(screen.find("large") < screen.find("small"), "the largest topic first\n{screen}");
    }

    #[test]
    fn any_size_will_do() {
        let mut view = view();
        for (width, height) in [(1, 1), (10, 3), (40, 10), (60, 24), (300, 100)] {
            shown(&view, width, height);
        }
        assert!(shown(&view, 40, 14).contains("orders:3:17"));
        view.gone("no worker".into());
        shown(&view, 20, 5);
    }

    #[test]
    fn a_worker_that_is_gone_is_told_beside_what_was_known_last() {
        let mut view = view();
        view.gone("no worker: connection refused".into());
        let screen = shown(&view, 100, 30);
        assert!(screen.contains("GONE") && screen.contains("no worker: connection refused"), "{screen}");
        assert!(screen.contains("records 4700"), "{screen}");
        view.take(stats(), None, Instant::now());
        assert!(!shown(&view, 100, 30).contains("GONE"));
    }

    #[test]
    fn a_worker_that_began_anew_has_no_past() {
        let mut view = view();
        view.take(v1::GetStatsResponse { uptime_ms: 1, ..stats() }, None, Instant::now());
        assert!(view.past.is_empty());
    }
}
