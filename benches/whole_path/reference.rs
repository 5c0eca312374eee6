//! Runs `benches/reference` as a separate process: the loop of [`bare`](crate::bare) with Tantivy's own
//! defaults.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use wal_indexer::internals::record::{Record, RecordBatch};

use crate::process::Process;
use crate::segments::{Scratch, Segment};

/// The fields of the reference. `benches/reference/src/fields.rs` has the details.
#[derive(Clone, Copy, Debug)]
pub enum Fields {
    /// The fields of the worker, stored.
    Lean,
    /// The fields that Tantivy's flags make.
    Stock,
}

/// The program, with its records loaded.
#[derive(Debug)]
pub struct Reference {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Reference {
    /// Starts the program and waits until it has loaded the records. Returns `None` if the program is not
    /// built.
    pub fn start(
        program: &Path,
        fields: Fields,
        segments: &[Segment],
        directory: &Path,
    ) -> Result<Option<Self>, Box<dyn Error>> {
        if !program.exists() {
            eprintln!("{} is not there: going on without it (`make bench` builds it)", program.display());
            return Ok(None);
        }
        let mut bytes = Vec::new();
        segments.iter().flat_map(|segment| &segment.batches).for_each(|batch| push_all(batch, &mut bytes));
        let file = Scratch::write(directory, "records", &bytes)?;
        let fields = match fields {
            Fields::Lean => "lean",
            Fields::Stock => "stock",
        };
        let mut child = Command::new(program)
            .arg(&file.0)
            .arg(fields)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take().ok_or("no stdin")?;
        let answers = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        let mut reference = Self { child, orders, answers };
        reference.answer()?; // it has loaded the records, so the file may be removed
        Ok(Some(reference))
    }

    /// Indexes all records on this many threads, and returns the number of documents.
    pub fn index_all(&mut self, threads: usize) -> Result<u64, Box<dyn Error>> {
        writeln!(self.orders, "{threads}")?;
        self.answer()
    }

    /// The program's process.
    pub fn process(&self) -> Process {
        Process::of(self.child.id())
    }

    fn answer(&mut self) -> Result<u64, Box<dyn Error>> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim().parse().map_err(|_| format!("the reference says {line:?}"))?)
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        // All measurements are done, so a failure does not matter.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn push_all(batch: &RecordBatch, out: &mut Vec<u8>) {
    batch.iter().for_each(|record| push(&record, out));
}

/// Writes the format of `benches/reference/src/records.rs`.
fn push(record: &Record<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&record.offset().to_le_bytes());
    out.extend_from_slice(&record.timestamp_ms().unwrap_or(i64::MIN).to_le_bytes());
    push_part(record.key(), out);
    push_part(record.value(), out);
    out.extend_from_slice(&(record.headers().count() as u32).to_le_bytes());
    for (name, value) in record.headers() {
        push_part(Some(name), out);
        push_part(value, out);
    }
}

fn push_part(part: Option<&[u8]>, out: &mut Vec<u8>) {
    out.extend_from_slice(&part.map_or(u32::MAX, |part| part.len() as u32).to_le_bytes());
    out.extend_from_slice(part.unwrap_or_default());
}
