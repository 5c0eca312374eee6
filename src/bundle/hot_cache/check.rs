//! Compares the hot cache with the members that it copies, while these are read.

use super::{CHUNK_BYTES, HotCache, HotCacheError, place};
use crate::bundle::footer::Footer;

/// How far an index file was compared.
#[derive(Clone, Debug, Default)]
pub(in crate::bundle) struct HotCacheCheck {
    file: usize,
    read: u64,
    chunk_crc32c: u32,
    range: usize,
}

impl HotCacheCheck {
    /// Starts with index file number `file`; nothing is compared yet.
    pub fn of_file(file: usize) -> Self {
        Self { file, ..Self::default() }
    }

    /// Compares the file's next bytes.
    pub fn advance(
        &mut self,
        hot: &HotCache,
        footer: &Footer,
        mut taken: &[u8],
    ) -> Result<(), HotCacheError> {
        self.compare_ranges(hot, footer, taken)?;
        let len = hot.files.get(self.file).map_or(0, |file| file.len);
        while !taken.is_empty() {
            let chunk = self.read / CHUNK_BYTES;
            let chunk_end = len.min((chunk + 1) * CHUNK_BYTES);
            let step = taken.len().min(chunk_end.saturating_sub(self.read).max(1) as usize);
            let (now, later) = taken.split_at(step);
            self.chunk_crc32c = crc32c::crc32c_append(self.chunk_crc32c, now);
            self.read += step as u64;
            if self.read == chunk_end {
                hot.check_sum(footer, self.file, chunk, self.chunk_crc32c)?;
                self.chunk_crc32c = 0;
            }
            taken = later;
        }
        Ok(())
    }

    fn compare_ranges(&mut self, hot: &HotCache, footer: &Footer, taken: &[u8]) -> Result<(), HotCacheError> {
        let ranges = hot.files.get(self.file).map_or(&[][..], |file| &file.ranges);
        let (start, end) = (self.read, self.read + taken.len() as u64);
        while let Some(range) = ranges.get(self.range).filter(|range| range.start < end) {
            let (from, to) = (range.start.max(start), range.end().min(end));
            let there = &taken[(from - start) as usize..(to - start) as usize];
            let copy = &range.bytes[(from - range.start) as usize..(to - range.start) as usize];
            if let Some(at) = there.iter().zip(copy).position(|(a, b)| a != b) {
                let (file, position) = place(footer, self.file, from + at as u64);
                return Err(HotCacheError::Differs { file, position });
            }
            if range.end() > end {
                break;
            }
            self.range += 1;
        }
        Ok(())
    }
}
