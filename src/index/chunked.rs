//! Vectors that grow without moving their elements. A `Vec` that doubles holds everything twice for a moment.

/// A vector in chunks of `1 << LOG2` elements. The first chunk grows by doubling, since thousands of small
/// partitions are built one after the other.
#[derive(Clone, Debug)]
pub(super) struct Chunked<T, const LOG2: u32> {
    chunks: Vec<Vec<T>>,
    len: usize,
}

impl<T, const LOG2: u32> Default for Chunked<T, LOG2> {
    fn default() -> Self {
        Self { chunks: vec![Vec::new()], len: 0 }
    }
}

impl<T, const LOG2: u32> Chunked<T, LOG2> {
    const CHUNK: usize = 1 << LOG2;

    #[inline]
    pub fn push(&mut self, element: T) {
        match self.chunks.last_mut() {
            Some(last) if last.len() < Self::CHUNK => last.push(element),
            _ => self.push_to_another(element),
        }
        self.len += 1;
    }

    #[cold]
    #[inline(never)]
    fn push_to_another(&mut self, element: T) {
        let mut chunk = Vec::with_capacity(Self::CHUNK);
        chunk.push(element);
        self.chunks.push(chunk);
    }

    pub fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub fn get(&self, index: usize) -> &T {
        &self.chunks[index >> LOG2][index & (Self::CHUNK - 1)]
    }

    #[inline]
    pub fn get_mut(&mut self, index: usize) -> &mut T {
        &mut self.chunks[index >> LOG2][index & (Self::CHUNK - 1)]
    }

    /// Returns the element at this index, if there is one.
    #[inline]
    pub fn find_mut(&mut self, index: usize) -> Option<&mut T> {
        self.chunks.get_mut(index >> LOG2)?.get_mut(index & (Self::CHUNK - 1))
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.chunks.iter_mut().flatten()
    }

    /// Returns the chunks. Each one can be dropped before the next one is taken.
    pub fn into_chunks(self) -> impl Iterator<Item = Vec<T>> {
        self.chunks.into_iter()
    }

    /// Bytes in memory.
    pub fn mem_usage(&self) -> usize {
        let last = self.chunks.last().map_or(0, Vec::capacity);
        let full = self.chunks.len().saturating_sub(1) * Self::CHUNK;
        (full + last) * size_of::<T>() + self.chunks.capacity() * size_of::<Vec<T>>()
    }
}
