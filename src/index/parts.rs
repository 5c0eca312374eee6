//! Where an index's files are read from, part by part.

use std::fmt;
use std::io;
use std::ops::Range;

use bytes::Bytes;
use futures::future::BoxFuture;

/// An index's files, read by range: in memory, or in a bundle somewhere.
///
/// What is returned is checked: bytes that are not those that were written are an error, never an answer. The error says what is
/// wrong and where, in the words of whoever reads.
pub trait IndexParts: fmt::Debug + Send + Sync + 'static {
    /// The files' names and lengths in bytes, in the order of their names.
    fn files(&self) -> Vec<(String, u64)>;

    /// The bytes of a file, by its number in [`IndexParts::files`], in `range`, all of them.
    fn read(&self, file: usize, range: Range<u64>) -> BoxFuture<'_, io::Result<Bytes>>;
}
