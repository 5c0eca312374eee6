//! Words that callers and scripts rely on: reasons of refusals, commands and flags. What one release has,
//! later releases of its major version have.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::worker::run;

fn released(file: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/skew/v0.1").join(file);
    fs::read_to_string(path).expect("it is there").lines().map(str::to_owned).collect()
}

fn source(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => source(&path, text),
            false => text.push_str(&fs::read_to_string(&path).expect("UTF-8")),
        }
    }
}

#[test]
fn every_reason_that_was_released_is_still_given() {
    let mut text = String::new();
    source(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut text);
    let gone: Vec<_> = released("reasons.txt")
        .into_iter()
        .filter(|reason| !text.contains(&format!("\"{reason}\"")))
        .collect();
    assert!(gone.is_empty(), "{gone:?}");
}

/// Returns the flags in a command's help.
fn flags(verb: &str) -> BTreeSet<String> {
    let help = run(verb.split(' ').chain(["--help"]));
    let lines = String::from_utf8(help).expect("UTF-8");
    // Lines that are indented further are descriptions.
    let shown =
        lines.lines().filter(|line| line.trim_start().starts_with('-') && !line.starts_with("       "));
    let words =
        shown.flat_map(|line| line.split([' ', ',', '=', '[']).map(str::to_owned).collect::<Vec<_>>());
    words.filter(|word| word.starts_with("--")).collect()
}

#[test]
fn every_flag_that_was_released_is_still_there() {
    let mut gone = Vec::new();
    let released = released("flags.txt");
    assert!(released.len() >= 15, "a line for each verb");
    for line in released {
        let (verb, had) = line.split_once(':').expect("a verb and its flags");
        let has = flags(verb);
        gone.extend(
            had.split_whitespace().filter(|flag| !has.contains(*flag)).map(|flag| format!("{verb} {flag}")),
        );
    }
    assert!(gone.is_empty(), "{gone:?}");
}
