//! Indexes records with Tantivy's default features and flags, as a broker does that embeds Tantivy.
//!
//!     tantivy-reference RECORDS lean|stock
//!
//! loads the records (`records.rs` has the format) and prints their number. Each line on standard input is a
//! number of threads. For each line, the program indexes all records, drops the index, and prints the number
//! of its documents. The bench that starts this program measures time and CPU from outside, as for its other
//! contenders.

mod fields;
mod records;

use std::error::Error;
use std::io::{BufRead, Write};
use std::thread;

use tantivy::directory::RamDirectory;
use tantivy::indexer::SingleSegmentIndexWriter;
use tantivy::{Index, TantivyError};

use fields::Fields;
use records::Record;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The writer's arena overflows at 4 GiB without an error, so an index ends far below that.
const ARENA_BYTES_MAX: usize = 1 << 30;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, fields] = &arguments[..] else {
        return Err("usage: tantivy-reference RECORDS lean|stock".into());
    };
    let fields = match fields.as_str() {
        "lean" => Fields::lean(),
        "stock" => Fields::stock(),
        other => return Err(format!("no such fields: {other:?}").into()),
    };
    let bytes = std::fs::read(path)?;
    let records = records::parse(&bytes).ok_or("not a file of records")?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", records.len())?;
    for line in std::io::stdin().lock().lines() {
        let documents = index_all(&fields, &records, line?.trim().parse()?)?;
        writeln!(out, "{documents}")?;
    }
    Ok(())
}

/// Indexes all records into memory. Each thread builds an index of its share. Returns the number of
/// documents.
fn index_all(fields: &Fields, records: &[Record<'_>], threads: usize) -> Result<u64, TantivyError> {
    let share = records.len().div_ceil(threads).max(1);
    thread::scope(|scope| {
        let started: Vec<_> =
            records.chunks(share).map(|records| scope.spawn(move || index_share(fields, records))).collect();
        started.into_iter().map(|thread| thread.join().expect("the loop does not panic")).sum()
    })
}

fn index_share(fields: &Fields, records: &[Record<'_>]) -> Result<u64, TantivyError> {
    let mut writer = writer(fields)?;
    let mut documents = 0;
    for record in records {
        writer.add_document(fields.document(record))?;
        if writer.mem_usage() > ARENA_BYTES_MAX {
            documents += finish(std::mem::replace(&mut writer, self::writer(fields)?))?;
        }
    }
    Ok(documents + finish(writer)?)
}

fn writer(fields: &Fields) -> Result<SingleSegmentIndexWriter, TantivyError> {
    let index = Index::builder().schema(fields.schema.clone());
    index.single_segment_index_writer(RamDirectory::create(), ARENA_BYTES_MAX)
}

fn finish(writer: SingleSegmentIndexWriter) -> Result<u64, TantivyError> {
    let segments = writer.finalize()?.searchable_segment_metas()?;
    Ok(segments.iter().map(|segment| u64::from(segment.num_docs())).sum())
}
