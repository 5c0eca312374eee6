//! Positions of words, most of them in two bytes.

use super::super::chunked::Chunked;

/// Positions in the order of their words.
#[derive(Debug, Default)]
pub(super) struct Positions {
    near: Chunked<u16, 15>,
    /// Positions that are too large for two bytes.
    far: Chunked<u32, 14>,
}

impl Positions {
    #[inline]
    pub fn push(&mut self, position: u32) {
        match u16::try_from(position) {
            Ok(near) if near < u16::MAX => self.near.push(near),
            _ => {
                self.near.push(u16::MAX);
                self.far.push(position);
            }
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = u32> {
        let mut far = self.far.iter();
        self.near.iter().map(move |near| match *near {
            u16::MAX => far.next().copied().unwrap_or_default(),
            near => near.into(),
        })
    }

    /// Bytes in memory.
    pub fn mem_usage(&self) -> usize {
        self.near.mem_usage() + self.far.mem_usage()
    }

    /// Returns the size of the positions in bytes, without spare capacity. It depends only on the positions.
    pub fn bytes(&self) -> usize {
        self.near.len() * size_of::<u16>() + self.far.len() * size_of::<u32>()
    }
}
