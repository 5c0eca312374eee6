//! Compressed sections as streams, decompressed as they are read.

use std::io::{self, BufRead, BufReader, Read};

use super::super::Fault;
use super::super::codec::{Codec, CompressionFlaw, work_bytes};
use super::snappy;

/// The first bytes of a section, enough to know how much memory a codec needs.
const PREFIX_BYTES: usize = 32;

/// Returns `section` as a decompressed stream. The codec needs at most `work_bytes_max` bytes, in addition to
/// a few hundred KiB.
pub fn reader<'a>(
    codec: Codec,
    section: &'a mut dyn BufRead,
    work_bytes_max: usize,
) -> Result<Box<dyn BufRead + 'a>, Fault> {
    let broken = |_| Fault::BadCompression { codec, flaw: CompressionFlaw::Broken };
    let mut prefix = Vec::with_capacity(PREFIX_BYTES);
    section.take(PREFIX_BYTES as u64).read_to_end(&mut prefix).map_err(broken)?;
    let work_bytes = match codec {
        // A frame of a single segment needs a window of all its content (RFC 8878, section 3.1.1.1.2).
        // `work_bytes` returns 0 for it, because a caller that decompresses it at once already counts its
        // content.
        Codec::Zstd if work_bytes(codec, &prefix) == 0 => single_segment(&prefix),
        _ => work_bytes(codec, &prefix),
    };
    if work_bytes > work_bytes_max && codec != Codec::Zstd {
        return Err(Fault::TooLarge { limit: work_bytes_max });
    }
    let section = io::Cursor::new(prefix).chain(section);
    Ok(match codec {
        Codec::None => Box::new(section),
        Codec::Gzip => Box::new(BufReader::new(Gzip::new(section).map_err(broken)?)),
        Codec::Snappy => Box::new(BufReader::new(snappy::Reader::new(section).map_err(broken)?)),
        Codec::Lz4 => Box::new(BufReader::new(lz4_flex::frame::FrameDecoder::new(section))),
        Codec::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(section).map_err(broken)?;
            decoder.window_log_max(super::super::codec::ZSTD_WINDOW_LOG_MAX).map_err(broken)?;
            // A window is only used up to the size of the decompressed data. So with a larger window, the
            // data is read up to this limit.
            let most = if work_bytes > work_bytes_max { work_bytes_max as u64 } else { u64::MAX };
            Box::new(BufReader::new(LimitedReader { inner: decoder, left: most }))
        }
    })
}

/// The size of a zstd frame with a single segment; 0 for others.
fn single_segment(prefix: &[u8]) -> usize {
    let is_single = prefix.get(4).is_some_and(|flags| flags & 0x20 != 0);
    let size = zstd::zstd_safe::get_frame_content_size(prefix).ok().flatten();
    size.filter(|_| is_single).map_or(0, |size| usize::try_from(size).unwrap_or(usize::MAX))
}

/// A stream that fails when it is read beyond a limit.
struct LimitedReader<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for LimitedReader<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let most = to.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.inner.read(&mut to[..most])?;
        self.left -= read as u64;
        Ok(read)
    }
}

/// The members of a gzip stream, one after another.
struct Gzip<R> {
    member: Option<flate2::bufread::GzDecoder<GzipMember<R>>>,
}

/// A gzip member. The flags that RFC 1952 reserves are removed from its first bytes, because Java's reader
/// ignores them.
struct GzipMember<R> {
    head: io::Cursor<[u8; 4]>,
    rest: R,
}

impl<R: BufRead> GzipMember<R> {
    /// `None` if no member follows.
    fn begin(mut rest: R) -> io::Result<Option<Self>> {
        if rest.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let mut head = [0; 4];
        rest.read_exact(&mut head)?;
        if !head.starts_with(&[0x1f, 0x8b, 8]) {
            return Ok(None);
        }
        head[3] &= 0x1f;
        Ok(Some(Self { head: io::Cursor::new(head), rest }))
    }
}

impl<R: BufRead> Read for GzipMember<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match self.head.read(to)? {
            0 => self.rest.read(to),
            read => Ok(read),
        }
    }
}

impl<R: BufRead> BufRead for GzipMember<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.head.position() < 4 { self.head.fill_buf() } else { self.rest.fill_buf() }
    }

    fn consume(&mut self, read: usize) {
        if self.head.position() < 4 { self.head.consume(read) } else { self.rest.consume(read) }
    }
}

impl<R: BufRead> Gzip<R> {
    fn new(section: R) -> io::Result<Self> {
        let member = GzipMember::begin(section)?.map(flate2::bufread::GzDecoder::new);
        Ok(Self { member })
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let read = member.read(to)?;
            if read > 0 || to.is_empty() {
                return Ok(read);
            }
            let rest = self.member.take().map(|member| member.into_inner().rest);
            self.member = match rest {
                Some(rest) => GzipMember::begin(rest)?.map(flate2::bufread::GzDecoder::new),
                None => None,
            };
        }
        Ok(0)
    }
}
