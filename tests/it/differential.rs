//! Mutated batches, read by the decoder of this project and by Kafka's own Java reader: both must read the
//! same batches, with the same contents. `tests/kafka-reader` has the Java side. It needs a JDK, Maven and
//! Maven Central.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use sha2::{Digest, Sha256};
use wal_indexer::internals::formatting::hex;
use wal_indexer::segment::{Frame, FrameSplitter};

use crate::written::{fixture, fixture_path};

const HEAD_BYTES: usize = 61;

/// More than any mutant decompresses to.
const DECODED_BYTES_MAX: usize = 256 << 20;

/// What a reader finds in a segment: the number of records and their hash, or an error.
type Reading = Result<String, String>;

#[test]
#[ignore = "needs a JDK, Maven and Maven Central: `make test` runs it, and says so where they are not there"]
fn two_thousand_mutants_are_read_as_kafka_reads_them() {
    check_mutants(1, 2_000);
}

#[test]
#[ignore = "takes minutes, and needs what its shorter sibling needs"]
fn long_a_hundred_thousand_mutants_are_read_as_kafka_reads_them() {
    for seed in 0..20 {
        check_mutants(seed, 5_000);
    }
}

fn check_mutants(seed: u64, count: usize) {
    let Some(mut kafka) = Kafka::start() else { return };
    let (mut random, seeds) = (StdRng::seed_from_u64(seed), seeds());
    let (mut read, mut refused, mut explained, mut different) = (0, 0, 0, Vec::new());
    for nth in 0..count {
        let segment = mutant(&seeds, &mut random);
        let (ours, theirs) = (read_here(&segment), kafka.read(&segment));
        match (&ours, &theirs) {
            (Ok(ours), Ok(theirs)) if ours == theirs => read += 1,
            (Err(_), Err(_)) => refused += 1,
            _ if is_explained(&segment, &ours, &theirs) => explained += 1,
            _ => different.push(format!("{nth}: {ours:?} here, {theirs:?} there\n{}", hex(&segment))),
        }
    }
    assert!(different.is_empty(), "seed {seed}, {}:\n{}", different.len(), different.join("\n"));
    println!("seed {seed}: {read} read alike, {refused} refused by both, {explained} differ as explained");
    assert!(read > count / 10 && refused > count / 10, "both happen");
    assert!(explained < count / 10, "the exception");
}

/// Whether the two readers differ on purpose. Kafka's reader opens a compressed batch that claims no records,
/// and checks the stream's head; ours does not open it. An LZ4 block that copies from an offset of 0, which
/// the format forbids, opens in Kafka's reader, with whatever is in memory.
fn is_explained(segment: &Bytes, ours: &Reading, theirs: &Reading) -> bool {
    let counts_none = |frame: &Frame| frame.bytes[16] == 2 && frame.claimed_records() == Some(0);
    let is_compressed = |frame: &Frame| frame.bytes[22] & 7 != 0;
    let frames = split(segment).unwrap_or_default();
    let has_one = frames.iter().any(|frame| counts_none(frame) && is_compressed(frame));
    match (ours, theirs) {
        (Ok(_), Err(_)) => has_one,
        (Err(said), Ok(_)) => said.contains("the lz4 data does not open: its bytes are broken"),
        _ => false,
    }
}

/// Files that are too large, or torn.
const NO_SEEDS: [&str; 2] = ["compressible-300mb.log", "zero-tail-4096.log"];

/// Returns batches and messages of other programs, one at a time.
fn seeds() -> Vec<Bytes> {
    let mut seeds = Vec::new();
    for folder in ["kafka", "anomalies"] {
        for entry in std::fs::read_dir(fixture_path(folder)).expect("the fixtures are there") {
            let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
            if name.ends_with(".log") && !NO_SEEDS.contains(&&*name) {
                let bytes = fixture(&format!("{folder}/{name}"));
                seeds.extend(split(&bytes).expect("frames").into_iter().map(|frame| frame.bytes));
            }
        }
    }
    seeds.retain(|frame| frame.len() < 20_000);
    seeds.sort();
    assert!(seeds.len() > 50);
    seeds
}

fn split(bytes: &Bytes) -> Result<Vec<Frame>, String> {
    let (mut frames, mut splitter) = (Vec::new(), FrameSplitter::new(bytes.len() as u64, None));
    splitter.push(bytes.clone(), &mut frames).map_err(|error| error.to_string())?;
    let tail = splitter.finish().map_err(|error| error.to_string())?;
    if tail.torn.is_some() { Err("torn".to_owned()) } else { Ok(frames) }
}

/// Returns one or two frames, changed. Most of them have a valid checksum.
fn mutant(seeds: &[Bytes], random: &mut StdRng) -> Bytes {
    let mut segment = Vec::new();
    for _ in 0..random.random_range(1..=2) {
        let mut frame = seeds.choose(random).expect("seeds").to_vec();
        for _ in 0..random.random_range(0..=3) {
            change(&mut frame, random);
        }
        seal(&mut frame, random.random_range(0..40) > 0);
        segment.extend(frame);
    }
    segment.into()
}

fn change(frame: &mut Vec<u8>, random: &mut StdRng) {
    let is_batch = frame[16] == 2;
    let body = if is_batch { HEAD_BYTES } else { 18 };
    match random.random_range(0..9) {
        // A small change to a number in the head.
        0 if is_batch => {
            let at = *[23, 57].choose(random).expect("two");
            let value = i32::from_be_bytes(frame[at..at + 4].try_into().expect("four bytes"));
            let value = value.wrapping_add(random.random_range(-3..=3));
            frame[at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
        1 if is_batch => frame[22] ^= 1 << random.random_range(0..4),
        1 => frame[17] ^= 1 << random.random_range(0..4),
        2 if is_batch => frame[27 + random.random_range(0..16)] = random.random(),
        // More or fewer bytes at the end.
        3 => frame.extend((0..random.random_range(1..30)).map(|_| random.random_range(0..3_u8) * 31)),
        4 => frame.truncate(
            random.random_range(frame.len().saturating_sub(20).max(body)..frame.len().max(body + 1)),
        ),
        // Bytes of records, possibly compressed.
        5 | 6 if frame.len() > body => {
            let at = random.random_range(body..frame.len());
            frame[at] ^= 1 << random.random_range(0..8);
        }
        7 if frame.len() > body => {
            let at = random.random_range(body..frame.len());
            frame[at] = *[0, 1, 2, 3, 0x7f, 0x80, 0xff].choose(random).expect("some");
        }
        8 if frame.len() > body => {
            let at = random.random_range(body..frame.len());
            frame.remove(at);
        }
        _ => {}
    }
}

/// Sets a valid length, a valid checksum if `checksum` is set, and turns control batches into data: our
/// decoder counts markers, Kafka's reader returns them.
fn seal(frame: &mut [u8], checksum: bool) {
    let length = (frame.len() - 12) as u32;
    frame[8..12].copy_from_slice(&length.to_be_bytes());
    if frame[16] == 2 {
        frame[22] &= !0x20;
        let crc = crc32c::crc32c(&frame[21..]) ^ u32::from(!checksum);
        frame[17..21].copy_from_slice(&crc.to_be_bytes());
    } else {
        let crc = crc32fast::hash(&frame[16..]) ^ u32::from(!checksum);
        frame[12..16].copy_from_slice(&crc.to_be_bytes());
    }
}

fn read_here(segment: &Bytes) -> Reading {
    let (mut hash, mut records) = (Sha256::new(), 0);
    for frame in split(segment)? {
        let decoded = frame.decode(DECODED_BYTES_MAX).map_err(|error| error.to_string())?;
        for record in decoded.records.iter() {
            hash.update(record.offset().to_be_bytes());
            hash.update(record.timestamp_ms().unwrap_or(-1).to_be_bytes());
            put(&mut hash, record.key());
            put(&mut hash, record.value());
            hash.update((record.headers().count() as u32).to_be_bytes());
            for (name, value) in record.headers() {
                put(&mut hash, Some(String::from_utf8_lossy(name).as_bytes()));
                put(&mut hash, value);
            }
            records += 1;
        }
    }
    Ok(format!("{records} {}", hex(&hash.finalize())))
}

fn put(hash: &mut Sha256, part: Option<&[u8]>) {
    hash.update(part.map_or(-1, |part| part.len() as i32).to_be_bytes());
    hash.update(part.unwrap_or_default());
}

/// Kafka's own reader, in its own process.
struct Kafka {
    process: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Kafka {
    /// Returns `None`, and prints a line, if there is no JDK, no Maven, or no way to Maven Central.
    fn start() -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (source, built) = (root.join("tests/kafka-reader"), root.join("target/kafka-reader"));
        let jars = built.join("jars");
        let classes = format!("{}/*:{}", jars.display(), built.display());
        let copy = format!("-DoutputDirectory={}", jars.display());
        let pom = source.join("pom.xml");
        let fetched = jars.exists()
            || run("mvn", &["-q", "-B", "-f", &pom.to_string_lossy(), "dependency:copy-dependencies", &copy]);
        let java = source.join("KafkaReader.java");
        let compile = ["-cp", &classes, "-d", &built.to_string_lossy(), &java.to_string_lossy()];
        if !fetched || !run("javac", &compile) {
            println!("left out: no JDK, no Maven, or no Maven Central");
            return None;
        }
        // Kafka's reader allocates what a length claims, up to 2 GiB, before it notices that the bytes are
        // missing.
        let mut process = Command::new("java")
            .args(["-Xmx3g", "-cp", &classes, "KafkaReader"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("java runs");
        let said = BufReader::new(process.stdout.take().expect("piped"));
        Some(Self { process, said })
    }

    fn read(&mut self, segment: &[u8]) -> Reading {
        let input = self.process.stdin.as_mut().expect("piped");
        let sent =
            input.write_all(&(segment.len() as u32).to_be_bytes()).and_then(|()| input.write_all(segment));
        sent.and_then(|()| input.flush()).expect("it reads");
        let mut line = String::new();
        self.said.read_line(&mut line).expect("it answers");
        match line.trim_end().split_once(' ').expect("two words") {
            ("ok", found) => Ok(found.to_owned()),
            (_, why) => Err(why.to_owned()),
        }
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

fn run(program: &str, arguments: &[&str]) -> bool {
    let ran = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    ran.is_ok_and(|status| status.success())
}
