use super::*;

const NOON: i64 = 1_714_564_800_000; // 2024-05-01T12:00:00Z

#[test]
fn steps_are_those_that_people_count_in_and_fill_the_width() {
    for (from, to, columns, step) in [
        (NOON, NOON, 70, 1),
        (NOON, NOON + 59_999, 70, SECOND),
        (NOON, NOON + 59_999, 60, SECOND),
        (NOON, NOON + 60_000, 60, 2 * SECOND),
        (NOON, NOON + 3_599_999, 70, MINUTE),
        (NOON, NOON + 86_399_999, 70, 30 * MINUTE),
        (NOON, NOON + 30 * 86_400_000, 70, 12 * HOUR),
        (0, NOON, 80, 360 * DAY),
        (-5, 5, 11, 1),
        (i64::MIN, i64::MAX, 1, u64::MAX),
        (NOON, NOON, 0, 1),
    ] {
        let times = Times { from, to };
        let found = times.step(columns);
        assert_eq!(found, step, "{from}..{to} in {columns}");
        assert!(
            times.buckets(found) <= columns.max(1) as u64 || found == u64::MAX,
            "{from}..{to} in {columns}"
        );
    }
}

#[test]
fn bars_stand_over_their_times_and_end_with_the_terminal() {
    let times = Times { from: NOON, to: NOON + 59_999 };
    let counts = (0..60).map(|second| (NOON + second * 1_000, (second as u64 % 10) * 8));
    let histogram = Histogram::new(times, SECOND, counts, 2_160);
    let lines = histogram.draw(80);
    assert_eq!(lines.len(), ROWS + 1);
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
    assert_eq!(lines[0].chars().filter(|c| *c == '█').count(), 6, "the highest");
    assert_eq!(lines[7].chars().filter(|c| *c == ' ').count(), 3 + 5, "all but the empty ones");
    assert!(lines[0].starts_with("72 ") && lines[7].starts_with(" 0 "));
    assert_eq!(lines[8], "   2024-05-01 12:00:00  12:00:21  12:00:31  12:00:41  12:00:51");
    assert_eq!(histogram.step_in_words(), "second");
}

#[test]
fn few_buckets_are_wide_and_a_single_match_is_seen() {
    let times = Times { from: NOON, to: NOON + 4 * 86_400_000 };
    let histogram = Histogram::new(
        times,
        DAY,
        [(NOON - NOON % 86_400_000, 1_000_000), (NOON + 43_200_000, 1)],
        1_000_001,
    );
    let lines = histogram.draw(80);
    assert_eq!(lines[7], "      0 ███████████ ▁▁▁▁▁▁▁▁▁▁▁");
    assert_eq!(lines[8], "        2024-05-01  2024-05-02  2024-05-03  2024-05-04  2024-05-05");
    assert_eq!(histogram.lines(), ["2024-05-01T00:00:00.000Z 1000000", "2024-05-02T00:00:00.000Z 1"]);
}

#[test]
fn what_has_no_matches_is_drawn_too() {
    let lines = Histogram::new(Times { from: 0, to: 0 }, 1, [], 0).draw(10);
    assert_eq!(lines[..8].concat().replace([' ', '0'], ""), "");
}

#[test]
fn what_the_bars_do_not_show_stands_beside_them() {
    let histogram = Histogram::new(Times { from: 0, to: 5 }, 1, [(-1, 7), (3, 2), (99, 8)], 20);
    let lines =
        ["1969-12-31T23:59:59.999Z 7", "1970-01-01T00:00:00.003Z 2", "1970-01-01T00:00:00.099Z 8", "- 3"];
    assert_eq!(histogram.lines(), lines);
    let beside =
        ["outlier: 1969-12-31T23:59:59.999Z 7", "outlier: 1970-01-01T00:00:00.099Z 8", "without a time: 3"];
    assert_eq!(histogram.beside(), beside);
    let many = (0..25).map(|nth| (10 + nth, 1));
    let beside = Histogram::new(Times { from: 0, to: 5 }, 1, many, 25).beside();
    assert_eq!(beside.len(), OUTLIERS_SHOWN_MAX + 1);
    let last = "more outliers: 1970-01-01T00:00:00.030Z to 1970-01-01T00:00:00.034Z 5";
    assert_eq!(beside.last().map(String::as_str), Some(last));
}
