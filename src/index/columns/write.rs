//! Writes columns to their file. Tantivy writes the values and which documents have them. This module adds
//! the list of names.

use std::io::{self, Write};

use tantivy::columnar::column_index::{
    SerializableColumnIndex, SerializableOptionalIndex, serialize_column_index,
};
use tantivy::columnar::column_values::{CodecType, serialize_u64_based_column_values};
use tantivy_sstable::{RangeSSTable, SSTable};

use super::Columns;
use super::column::Column;

/// The end of the file: the number of the format version, 2, and the format's magic number.
const FOOTER: [u8; 8] = [2, 0, 0, 0, 2, 113, 119, 66];

impl Columns {
    /// Writes all columns. `documents` is the number of documents of the segment.
    pub fn write(self, documents: u32, to: &mut impl Write) -> io::Result<()> {
        let mut columns: Vec<Column> = self.columns.into_iter().flat_map(Column::into_columns).collect();
        columns.sort_by(|a, b| (&a.name, a.column_type()).cmp(&(&b.name, b.column_type())));
        let mut ranges = RangeSSTable::writer(Vec::new());
        let (mut start, mut bytes) = (0_u64, Vec::new());
        for column in columns {
            let key = [column.name.as_bytes(), &[0, column.column_type().to_code()]].concat();
            bytes.clear();
            write_column(column, documents, &mut bytes)?;
            to.write_all(&bytes)?;
            let end = start + bytes.len() as u64;
            ranges.insert(key, &(start..end))?;
            start = end;
        }
        let ranges = ranges.finish()?;
        to.write_all(&ranges)?;
        to.write_all(&(ranges.len() as u64).to_le_bytes())?;
        to.write_all(&documents.to_le_bytes())?;
        to.write_all(&FOOTER)
    }
}

fn write_column(column: Column, documents: u32, to: &mut Vec<u8>) -> io::Result<()> {
    let (values, docs) = column.into_parts();
    let index_bytes = match docs {
        None if values.len() == documents as usize => {
            serialize_column_index(SerializableColumnIndex::Full, to)?
        }
        None => write_docs(&(0..values.len() as u32).collect::<Vec<_>>(), documents, to)?,
        Some(docs) if docs.is_sorted_by(|a, b| a < b) => write_docs(&docs, documents, to)?,
        Some(docs) => write_repeated_docs(&docs, documents, to)?,
    };
    let codecs = [CodecType::Bitpacked, CodecType::BlockwiseLinear];
    serialize_u64_based_column_values::<u64>(&&values[..], &codecs, to)?;
    to.write_all(&index_bytes.to_le_bytes())
}

/// Writes which documents have a value.
fn write_docs(docs: &[u32], documents: u32, to: &mut Vec<u8>) -> io::Result<u32> {
    let index = SerializableOptionalIndex { non_null_row_ids: Box::new(docs), num_rows: documents };
    serialize_column_index(SerializableColumnIndex::Optional(index), to)
}

/// Writes which documents have values, and where the values of each document start.
fn write_repeated_docs(docs: &[u32], documents: u32, to: &mut Vec<u8>) -> io::Result<u32> {
    const MULTIVALUED: u8 = 2;
    let (mut distinct, mut starts) = (Vec::new(), Vec::new());
    for (at, doc) in docs.iter().enumerate() {
        if distinct.last() != Some(doc) {
            distinct.push(*doc);
            starts.push(at as u32);
        }
    }
    starts.push(docs.len() as u32);
    let start = to.len();
    let distinct_bytes = write_docs(&distinct, documents, to)? - 1; // without the byte of its type
    to[start] = MULTIVALUED;
    serialize_u64_based_column_values::<u32>(&&starts[..], &[CodecType::Bitpacked, CodecType::Linear], to)?;
    to.write_all(&distinct_bytes.to_le_bytes())?;
    Ok((to.len() - start) as u32)
}
