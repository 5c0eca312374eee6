//! Finds the bytes of an index that a search reads before it looks up its terms. It opens the index as a
//! search does, and notes what is read.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tantivy::columnar::ColumnarReader;
use tantivy::directory::{FileHandle, OwnedBytes};
use tantivy::index::SegmentComponent;
use tantivy::{HasLen, SegmentReader};

use super::directory::{Files, ReadOnly};
use super::{Doing, IndexError};

/// Returns the ranges of each file that every reader of the index needs, whatever the query is: `meta.json`,
/// the ends of the files, the places of the fields in them, the indexes of their dictionaries, and the list
/// of columns. The result has the order of `files`. The ranges of a file ascend. They are not empty and do
/// not touch.
///
/// The result depends only on the files. The bytes of these ranges are copied, one read at a time, and no
/// others.
pub fn hot_ranges(files: &[(String, Bytes)]) -> Result<Vec<Vec<Range<u64>>>, IndexError> {
    let observed = Observed::new(files);
    open(&observed).map_err(|source| IndexError::tantivy(Doing::Reopening, source))?;
    Ok(files.iter().map(|(name, _)| observed.ranges(name)).collect())
}

/// Does what a search does first with each segment of an index.
fn open(observed: &Observed) -> tantivy::Result<()> {
    let index = tantivy::Index::open(ReadOnly(observed.clone()))?;
    let schema = index.schema();
    let fields: Vec<_> = schema.fields().filter(|(_, entry)| entry.is_indexed()).collect();
    for segment in index.searchable_segments()? {
        let reader = SegmentReader::open(&segment)?;
        for (field, _) in &fields {
            reader.inverted_index(*field)?;
        }
        ColumnarReader::open(segment.open_read(SegmentComponent::FastFields)?)?.list_columns()?;
    }
    Ok(())
}

/// Files in memory that note what was read of them.
#[derive(Clone)]
struct Observed {
    files: Arc<HashMap<PathBuf, Arc<File>>>,
}

struct File {
    bytes: Bytes,
    read: Mutex<Vec<Range<usize>>>,
}

impl Observed {
    fn new(files: &[(String, Bytes)]) -> Self {
        let file = |(name, bytes): &(String, Bytes)| {
            (PathBuf::from(name), Arc::new(File { bytes: bytes.clone(), read: Mutex::default() }))
        };
        Self { files: Arc::new(files.iter().map(file).collect()) }
    }

    fn ranges(&self, name: &str) -> Vec<Range<u64>> {
        let Some(file) = self.files.get(Path::new(name)) else { return Vec::new() };
        let mut read = file.read.lock().unwrap_or_else(PoisonError::into_inner).clone();
        read.retain(|range| !range.is_empty());
        read.sort_unstable_by_key(|range| (range.start, range.end));
        let mut merged: Vec<Range<u64>> = Vec::new();
        for range in read {
            let range = range.start as u64..range.end as u64;
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        merged
    }
}

impl Files for Observed {
    fn file(&self, path: &Path) -> Option<Arc<dyn FileHandle>> {
        Some(Arc::clone(self.files.get(path)?) as Arc<dyn FileHandle>)
    }
}

impl FileHandle for File {
    fn read_bytes(&self, range: Range<usize>) -> io::Result<OwnedBytes> {
        let bytes = self.bytes.get(range.clone()).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.read.lock().unwrap_or_else(PoisonError::into_inner).push(range);
        Ok(OwnedBytes::new(bytes.to_vec()))
    }
}

impl HasLen for File {
    fn len(&self) -> usize {
        self.bytes.len()
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File").field("len", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.files.keys()).finish()
    }
}

#[cfg(test)]
mod tests;
