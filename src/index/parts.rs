//! Access to the files of an index by range.

use std::fmt;
use std::io;
use std::ops::Range;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, try_join_all};

/// The files of an index, read by range. They are in memory, or in a bundle in a store.
///
/// Returned bytes are checked: bytes that differ from what was written are an error. The text of the error
/// comes from the implementation, and says what is wrong and where.
pub trait IndexParts: fmt::Debug + Send + Sync + 'static {
    /// The files' names and lengths in bytes, in the order of their names.
    fn files(&self) -> Vec<(String, u64)>;

    /// Reads all bytes in `range` of a file. `file` is its number in [`IndexParts::files`].
    fn read(&self, file: usize, range: Range<u64>) -> BoxFuture<'_, io::Result<Bytes>>;

    /// Reads several ranges. The result has their order. Ranges that are close together may come in one
    /// request.
    fn read_many(&self, ranges: Vec<(usize, Range<u64>)>) -> BoxFuture<'_, io::Result<Vec<Bytes>>> {
        try_join_all(ranges.into_iter().map(|(file, range)| self.read(file, range))).boxed()
    }

    /// Returns the bytes without waiting, if they are in memory and already checked.
    fn cached(&self, _file: usize, _range: Range<u64>) -> Option<Bytes> {
        None
    }
}
