//! The rules for the source, checked by reading it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Which modules a module may import, from the top layer to the lowest. Every new import needs an entry here,
/// so that it is a deliberate decision. Code that is built for tests only may import what it needs.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    (
        "cli",
        &[
            "agent",
            "archive",
            "budget",
            "client",
            "cpu",
            "expire",
            "export",
            "fetch",
            "generate",
            "hidden",
            "ids",
            "index",
            "ingest",
            "inspect",
            "log_start",
            "metrics",
            "atomic_file",
            "proto",
            "reconcile",
            "registry",
            "restore",
            "rpc",
            "search",
            "server",
            "spans",
            "stats",
            "store",
            "orphan_cleanup",
            "telemetry",
            "verify",
            "wal",
            "formatting",
        ],
    ),
    ("agent", &["client", "ids", "metrics", "spans", "wal", "formatting"]),
    ("log_start", &["client", "ids", "wal", "formatting"]),
    ("wal", &["client", "ids", "atomic_file", "segment", "formatting"]),
    ("client", &["ids", "metrics", "proto", "segment", "spans", "formatting"]),
    ("telemetry", &["metrics"]),
    ("metrics", &[]),
    ("spans", &["formatting"]),
    ("server", &["copies", "ingest", "metrics", "proto", "rpc", "search", "spans", "store", "formatting"]),
    (
        "rpc",
        &[
            "archive",
            "budget",
            "copies",
            "fetch",
            "ids",
            "index",
            "ingest",
            "metrics",
            "proto",
            "registry",
            "search",
            "segment",
            "spans",
            "stats",
            "store",
            "transactions",
            "formatting",
        ],
    ),
    (
        "ingest",
        &[
            "archive", "budget", "bundle", "cpu", "ids", "index", "metrics", "segment", "spans", "stats",
            "store",
        ],
    ),
    (
        "search",
        &["archive", "budget", "bundle", "ids", "index", "registry", "spans", "store", "transactions"],
    ),
    (
        "fetch",
        &["archive", "budget", "bundle", "ids", "registry", "segment", "spans", "store", "transactions"],
    ),
    ("copies", &["archive", "budget", "bundle", "ids", "store"]),
    ("verify", &["archive", "bundle", "ids", "index", "rate_limit", "record", "restore", "segment", "store"]),
    ("expire", &["archive", "ids", "log_by_log", "registry", "store"]),
    ("hidden", &["ids", "log_by_log", "store"]),
    ("reconcile", &["archive", "ids", "log_by_log", "store"]),
    ("log_by_log", &["rate_limit", "store"]),
    ("orphan_cleanup", &["store"]),
    ("restore", &["archive", "bundle", "atomic_file", "store", "formatting"]),
    ("export", &["archive", "bundle", "index", "atomic_file"]),
    ("inspect", &["archive", "bundle", "ids", "segment", "formatting"]),
    ("transactions", &["archive", "bundle", "ids", "registry", "store"]),
    ("registry", &["archive", "ids", "store"]),
    ("archive", &["bundle", "ids", "index", "record", "segment", "store"]),
    ("segment", &["ids", "record"]),
    ("index", &["ids", "record", "formatting"]),
    ("bundle", &["ids", "formatting"]),
    ("store", &["ids", "metrics", "spans"]),
    ("generate", &["ids", "record"]),
    ("stats", &["ids", "metrics"]),
    ("budget", &["ids"]),
    ("cpu", &["ids", "spans"]),
    ("rate_limit", &[]),
    ("atomic_file", &[]),
    ("record", &[]),
    ("ids", &[]),
    ("proto", &[]),
    ("formatting", &[]),
    ("lib", &[]),
];

/// Crates, and the only places that may name them.
const FOREIGN: &[(&str, &[&str])] = &[
    ("bincode", &["src/segment/canonical.rs"]),
    ("tantivy", &["src/index.rs", "src/index/"]),
    ("tantivy_sstable", &["src/index/columns/"]),
    ("object_store", &["src/store.rs", "src/store/"]),
    ("clap", &["src/cli.rs", "src/cli/"]),
    (
        "tonic",
        &[
            "src/proto.rs",
            "src/formatting.rs",
            "src/rpc.rs",
            "src/rpc/",
            "src/server.rs",
            "src/server/",
            "src/client.rs",
            "src/client/",
            "src/cli/",
            "src/telemetry/",
        ],
    ),
    ("tokio_rustls", &["src/server/", "src/client/"]),
    ("rustls_native_certs", &["src/client/tls.rs"]),
    ("hyper", &["src/telemetry.rs"]),
    ("hyper_util", &["src/client/connect.rs", "src/telemetry.rs"]),
    ("libc", &["src/wal/lease.rs"]),
    ("rskafka", &["src/log_start.rs"]),
    ("subtle", &["src/server/tokens.rs"]),
    (
        "opentelemetry",
        &[
            "src/metrics.rs",
            "src/metrics/",
            "src/spans.rs",
            "src/spans/",
            "src/telemetry.rs",
            "src/telemetry/",
        ],
    ),
    ("opentelemetry_sdk", &["src/telemetry.rs", "src/telemetry/"]),
    ("opentelemetry_otlp", &["src/telemetry/"]),
    ("tracing_opentelemetry", &["src/spans.rs", "src/spans/", "src/telemetry/"]),
    ("opentelemetry_prometheus", &["src/telemetry.rs"]),
    ("prometheus", &["src/telemetry.rs"]),
    ("axum", &["src/telemetry.rs"]),
    ("tar", &["src/bundle/", "src/export.rs"]),
    ("zstd", &["src/bundle/", "src/segment/", "src/generate/"]),
];

/// The modules that are synchronous.
const SYNCHRONOUS: [&str; 6] = ["segment", "index", "bundle", "record", "ids", "generate"];

const LINES_MAX: usize = 600;

struct File {
    /// Relative to the project's root.
    path: String,
    text: String,
    /// Whether it is built for tests only.
    for_tests: bool,
}

impl File {
    /// Returns its top-level module.
    fn module(&self) -> &str {
        let below = self.path.strip_prefix("src/").expect("a source file");
        below.split(['/', '.']).next().expect("a name")
    }

    fn is_test(&self) -> bool {
        self.for_tests
    }

    /// Returns the modules that it declares for tests only, as paths without an extension.
    fn test_modules(&self) -> impl Iterator<Item = String> {
        let stem = self.path.strip_suffix(".rs").expect("a source file");
        let folder = stem.strip_suffix("/lib").or(stem.strip_suffix("/main")).unwrap_or(stem);
        let declared = self.text.split("#[cfg(test)]\n").skip(1).filter_map(|behind| behind.lines().next());
        let names = declared.filter_map(|line| line.trim().strip_suffix(';')?.rsplit_once("mod "));
        names.map(move |(_, name)| format!("{folder}/{name}"))
    }

    /// Returns the lines outside of comments and inline test modules, with their numbers.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let end = self.text.find("\n#[cfg(test)]\nmod tests {").unwrap_or(self.text.len());
        let lines = self.text[..end].lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
        lines.filter(|(_, line)| !line.starts_with("//"))
    }

    /// Returns the top-level modules that its code names, with the line numbers.
    fn imports(&self) -> Vec<(usize, String)> {
        let mut imports = Vec::new();
        for (number, line) in self.code() {
            for (at, _) in line.match_indices("crate::") {
                if line[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | ':' | '$')) {
                    continue;
                }
                let rest = &line[at + "crate::".len()..];
                assert!(
                    !rest.starts_with('{'),
                    "{}:{number}: one module a line, so that this test can read it",
                    self.path
                );
                let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().expect("a name");
                imports.push((number, name.to_owned()));
            }
        }
        imports
    }
}

fn files(folder: &str) -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    rust_files(&root.join(folder), &mut paths);
    let read = |path: PathBuf| File {
        text: std::fs::read_to_string(&path).expect("UTF-8"),
        path: path.strip_prefix(root).expect("below").to_str().expect("UTF-8").to_owned(),
        for_tests: false,
    };
    let mut files: Vec<_> = paths.into_iter().map(read).collect();
    let modules: Vec<_> = files.iter().flat_map(File::test_modules).collect();
    for file in &mut files {
        let below = |module: &String| {
            file.path.strip_prefix(module.as_str()).is_some_and(|rest| rest.starts_with(['.', '/']))
        };
        file.for_tests = modules.iter().any(below);
    }
    files
}

fn rust_files(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.extension().and_then(|extension| extension.to_str()) {
            _ if path.is_dir() => rust_files(&path, paths),
            Some("rs") => paths.push(path),
            _ => {}
        }
    }
    paths.sort();
}

/// Fails with all violations, so that one run shows them all.
#[track_caller]
fn expect_none(offences: Vec<String>) {
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

#[test]
fn modules_import_only_those_below_them() {
    let allowed: BTreeMap<_, _> = MAY_IMPORT.iter().copied().collect();
    let mut offences = Vec::new();
    for file in files("src").iter().filter(|file| !file.is_test()) {
        let module = file.module();
        let Some(may) = allowed.get(module) else {
            offences.push(format!("{}: {module} is not in the table of who may import whom", file.path));
            continue;
        };
        let foreign =
            file.imports().into_iter().filter(|(_, name)| name != module && !may.contains(&&**name));
        offences.extend(foreign.map(|(line, name)| format!("{}:{line}: {module} imports {name}", file.path)));
    }
    expect_none(offences);
}

#[test]
fn the_table_of_imports_has_no_circle() {
    let mut left: BTreeMap<&str, BTreeSet<&str>> =
        MAY_IMPORT.iter().map(|(name, may)| (*name, may.iter().copied().collect())).collect();
    while let Some(lowest) = left.iter().find(|(_, may)| may.is_empty()).map(|(name, _)| *name) {
        left.remove(lowest);
        left.values_mut().for_each(|may| {
            may.remove(lowest);
        });
    }
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn crates_are_named_only_where_they_belong() {
    let mut offences = Vec::new();
    for file in files("src") {
        for (name, places) in FOREIGN {
            let path = &file.path;
            if file.is_test()
                || places.iter().any(|place| path == place || place.ends_with('/') && path.starts_with(place))
            {
                continue;
            }
            for (number, line) in file.code() {
                let named = line.match_indices(&format!("{name}::")).any(|(at, _)| {
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | ':'))
                });
                if named {
                    offences.push(format!("{path}:{number}: names {name}"));
                }
            }
        }
    }
    expect_none(offences);
}

#[test]
fn what_decodes_indexes_and_packs_waits_for_nothing() {
    let mut offences = Vec::new();
    for file in files("src").iter().filter(|file| !file.is_test() && SYNCHRONOUS.contains(&file.module())) {
        let waits =
            |line: &str| line.contains("tokio::") || line.contains("async ") || line.contains(".await");
        let lines = file.code().filter(|(_, line)| waits(line));
        offences.extend(lines.map(|(number, line)| format!("{}:{number}: {line}", file.path)));
    }
    expect_none(offences);
}

#[test]
fn files_stay_within_six_hundred_lines() {
    let all = ["src", "tests/it", "benches"].into_iter().flat_map(files);
    let counted = all.map(|file| (file.text.lines().count(), file.path));
    expect_none(
        counted
            .filter(|(lines, _)| *lines > LINES_MAX)
            .map(|(lines, path)| format!("{path}: {lines}"))
            .collect(),
    );
}

#[test]
fn only_an_operators_verb_deletes_from_a_store() {
    for module in ["expire", "hidden", "reconcile"] {
        let may = MAY_IMPORT.iter().filter(|(_, may)| may.contains(&module));
        assert_eq!(may.map(|(name, _)| *name).collect::<Vec<_>>(), ["cli"], "{module}");
    }
    // The only callers of what deletes an object, a bundle, and a marker.
    let places = [
        ("objects.delete", &["src/store/delete.rs"][..]),
        ("store.delete(", &["src/hidden/purge.rs"]),
        (".unhide(", &["src/hidden/purge.rs", "src/hidden/undelete.rs"]),
    ];
    for (word, callers) in places {
        let all = files("src").into_iter().filter(|file| !file.is_test());
        let calls = all.filter(|file| file.code().any(|(_, line)| line.contains(word)));
        assert_eq!(calls.map(|file| file.path).collect::<Vec<_>>(), callers, "{word}");
    }
    // Files that are not objects are removed in one place, too.
    let removers: Vec<_> = files("src")
        .into_iter()
        .filter(|file| !file.is_test() && file.module() == "store")
        .filter(|file| file.code().any(|(_, line)| line.contains("fs::remove")))
        .map(|file| file.path)
        .collect();
    assert_eq!(removers, ["src/store/orphans.rs"]);
}

#[test]
fn main_only_starts_the_program() {
    let main = files("src").into_iter().find(|file| file.path == "src/main.rs").expect("main.rs");
    assert!(main.text.lines().count() <= 60);
}

#[test]
fn nothing_is_left_for_later() {
    // In two parts, so that this file does not contain the words.
    let words = [
        ["to", "do!"],
        ["unimple", "mented!"],
        ["TO", "DO"],
        ["FIX", "ME"],
        ["XX", "X"],
        ["for n", "ow"],
        ["db", "g!("],
    ];
    let mut offences = Vec::new();
    for file in ["src", "tests/it", "benches"].into_iter().flat_map(files) {
        for (number, line) in file.text.lines().enumerate() {
            if words.iter().any(|word| line.contains(&word.concat())) {
                offences.push(format!("{}:{}: {}", file.path, number + 1, line.trim()));
            }
        }
    }
    expect_none(offences);
}

#[test]
fn only_the_command_line_reads_the_environment() {
    let mut offences = Vec::new();
    for file in files("src").iter().filter(|file| !file.is_test() && file.module() != "cli") {
        let lines = file.code().filter(|(_, line)| line.contains("env::var"));
        offences.extend(lines.map(|(number, line)| format!("{}:{number}: {line}", file.path)));
    }
    expect_none(offences);
}

#[test]
fn input_meets_no_unwrap() {
    let mut offences = Vec::new();
    for file in files("src").iter().filter(|file| !file.is_test() && file.module() != "generate") {
        let lines = file.code().filter(|(_, line)| {
            [".unwrap()", "panic!(", "unreachable!("].iter().any(|word| line.contains(word))
        });
        offences.extend(lines.map(|(number, line)| format!("{}:{number}: {line}", file.path)));
    }
    expect_none(offences);
}

/// The page with the reasons of errors that this file defines.
fn page_of_reasons(path: &str) -> &'static str {
    match path {
        _ if path.starts_with("src/segment/") => "docs/segment-formats.md",
        _ if path.starts_with("src/client/") => "docs/agent.md",
        _ => "docs/operations.md",
    }
}

fn is_reason(word: &str) -> bool {
    word.len() > 1 && word.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_'))
}

#[test]
fn all_reasons_of_errors_are_in_the_documentation_and_no_others() {
    let page = |path: &str| {
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("a page")
    };
    let (mut offences, mut known) = (Vec::new(), BTreeSet::new());
    for file in files("src").iter().filter(|file| !file.is_test()) {
        let defines =
            file.code().any(|(_, line)| line.contains("with_error_info(") || line.contains("fn reason("));
        let documented = page(page_of_reasons(&file.path));
        for (number, line) in file.code() {
            let line = if defines { line } else { line.split_once("invalid(").map_or("", |(_, rest)| rest) };
            for reason in line.split('"').skip(1).step_by(2).filter(|word| is_reason(word)) {
                known.insert(reason.to_owned());
                if !documented.contains(&format!("`{reason}`")) {
                    let page = page_of_reasons(&file.path);
                    offences.push(format!("{}:{number}: {reason} is not in {page}", file.path));
                }
            }
        }
    }
    assert!(known.len() > 80, "{known:?}");
    let operations = page("docs/operations.md");
    let (_, section) = operations.split_once("## Error codes").expect("a section");
    let table = section.split("\n## ").next().expect("text").lines().filter(|line| line.starts_with('|'));
    for row in table {
        let reasons = row.split('|').nth(2).expect("a column").split('`').skip(1).step_by(2);
        let unknown = reasons.filter(|word| is_reason(word) && !known.contains(*word));
        offences
            .extend(unknown.map(|reason| format!("docs/operations.md: no error has the reason {reason}")));
    }
    expect_none(offences);
}

#[test]
fn examples_use_what_is_public() {
    let examples = files("examples");
    assert!(!examples.is_empty());
    let named = examples.iter().flat_map(|file| {
        let lines = file.code().filter(|(_, line)| line.contains("internals"));
        lines.map(|(number, line)| format!("{}:{number}: {line}", file.path))
    });
    expect_none(named.collect());
}
