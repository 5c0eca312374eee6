//! Where an index's files are read from, part by part.

use std::fmt;
use std::io;
use std::ops::Range;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, try_join_all};

/// An index's files, read by range: in memory, or in a bundle somewhere.
///
/// What is returned is checked: bytes that are not those that were written are an error, never an answer. The error says what is
/// wrong and where, in the words of whoever reads.
pub trait IndexParts: fmt::Debug + Send + Sync + 'static {
    /// The files' names and lengths in bytes, in the order of their names.
    fn files(&self) -> Vec<(String, u64)>;

    /// The bytes of a file, by its number in [`IndexParts::files`], in `range`, all of them.
    fn read(&self, file: usize, range: Range<u64>) -> BoxFuture<'_, io::Result<Bytes>>;

    /// The same for several ranges, in the order given: what lies close together may come in one request.
    fn read_many(&self, ranges: Vec<(usize, Range<u64>)>) -> BoxFuture<'_, io::Result<Vec<Bytes>>> {
        try_join_all(ranges.into_iter().map(|(file, range)| self.read(file, range))).boxed()
    }

    /// The same at once, where the bytes are in memory and checked already.
    fn at_hand(&self, _file: usize, _range: Range<u64>) -> Option<Bytes> {
        None
    }
}
