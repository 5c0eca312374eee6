//! Decompresses the compressed section of a Kafka batch, within a limit.
//!
//! Each codec accepts what Kafka's own clients write and read. If these ignore bytes after a stream's end, or
//! a wrong checksum, so does this module, and it reports an anomaly.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::io::{self, Read};

use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, InBuffer, Operation, OutBuffer};

use super::{Anomalies, Anomaly, Fault};

/// The compression of a batch's records. The numbers are those of Kafka's batch attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// Not compressed.
    None = 0,
    /// gzip (RFC 1952), one or more members.
    Gzip = 1,
    /// Snappy, in Xerial's framing or raw.
    Snappy = 2,
    /// One LZ4 frame.
    Lz4 = 3,
    /// Zstandard, one or more frames.
    Zstd = 4,
}

impl Codec {
    /// Returns the codec of a batch's attributes.
    pub(super) fn of_attributes(attributes: u16) -> Result<Self, Fault> {
        match attributes & 0b111 {
            0 => Ok(Self::None),
            1 => Ok(Self::Gzip),
            2 => Ok(Self::Snappy),
            3 => Ok(Self::Lz4),
            4 => Ok(Self::Zstd),
            id => Err(Fault::UnknownCodec { id: id as u8 }),
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "uncompressed",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

/// What is wrong with a compressed section.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompressionFlaw {
    /// The bytes do not follow the codec's format, or one of its own checksums is wrong.
    #[error("its bytes are broken")]
    Broken,
    /// The stream does not end within the section.
    #[error("it is cut off")]
    CutOff,
}

/// The result of decompressing a section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Decompressed {
    pub(super) bytes: Vec<u8>,
    /// Deviations that Kafka's reader ignores.
    pub(super) anomalies: Anomalies,
}

/// A larger unused part of a buffer is given back.
const SLACK_BYTES_MAX: usize = 1 << 20;

impl Decompressed {
    fn without_slack(mut self) -> Self {
        if self.bytes.capacity() - self.bytes.len() > SLACK_BYTES_MAX {
            self.bytes.shrink_to_fit();
        }
        self
    }
}

impl From<Vec<u8>> for Decompressed {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, anomalies: Anomalies::default() }
    }
}

/// Limits the memory of a compressed section while it is decompressed.
#[derive(Clone, Copy, Debug)]
pub(super) struct DecompressLimit {
    /// The largest decompressed size, in bytes.
    pub(super) bytes_max: usize,
    /// The known decompressed size, in bytes; 0 if it is not known. Then the buffer doubles each time it is
    /// full.
    pub(super) known: usize,
}

/// Decompresses `input` to at most `bytes_max` bytes.
#[cfg(test)]
pub(super) fn decompress_to(codec: Codec, input: &[u8], bytes_max: usize) -> Result<Decompressed, Fault> {
    decompress(codec, input, DecompressLimit { bytes_max, known: 0 })
}

/// Decompresses `input` within `limit`.
pub(super) fn decompress(codec: Codec, input: &[u8], limit: DecompressLimit) -> Result<Decompressed, Fault> {
    let DecompressLimit { bytes_max, .. } = limit;
    let opened = match codec {
        Codec::None if input.len() > bytes_max => Err(Failure::TooLarge),
        Codec::None => Ok(input.to_vec().into()),
        Codec::Gzip => gzip(input, limit),
        Codec::Snappy => snappy(input, limit),
        Codec::Lz4 => lz4(input, limit),
        Codec::Zstd => zstd(input, limit).map(Decompressed::from),
    };
    let opened = opened.map(Decompressed::without_slack);
    opened.map_err(|failure| match failure {
        Failure::TooLarge | Failure::WindowTooLarge => Fault::TooLarge { limit: bytes_max },
        Failure::Flaw(flaw) => Fault::BadCompression { codec, flaw },
    })
}

/// Returns the decompressed size of `input`, at most `bytes_max`; `None` if it is larger. If `input` is
/// damaged, it is the number of bytes up to the damage. Takes no more memory than the codec does.
pub(super) fn decompressed_len(codec: Codec, input: &[u8], bytes_max: usize) -> Option<usize> {
    match codec {
        Codec::None => (input.len() <= bytes_max).then_some(input.len()),
        Codec::Gzip => read_through(flate2::bufread::MultiGzDecoder::new(input), bytes_max),
        Codec::Snappy => {
            // If the sizes are impossible, `decompress` refuses the section before it decompresses anything.
            let claimed =
                snappy_claims(input).map_or(0, |claimed| usize::try_from(claimed).unwrap_or(usize::MAX));
            (claimed <= bytes_max).then_some(claimed)
        }
        Codec::Lz4 => read_through(lz4_flex::frame::FrameDecoder::new(input), bytes_max),
        Codec::Zstd => {
            let decoder = zstd::stream::read::Decoder::with_buffer(input);
            let decoder =
                decoder.and_then(|mut decoder| decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map(|()| decoder));
            decoder.map_or(Some(0), |decoder| read_through(decoder, bytes_max))
        }
    }
}

/// The memory that a codec takes to decompress `input`, in addition to the decompressed bytes, according to
/// the stream's own header. For zstd it counts only a window that is larger than the one that each thread
/// keeps.
pub(super) fn work_bytes(codec: Codec, input: &[u8]) -> usize {
    match codec {
        Codec::None | Codec::Snappy => 0,
        Codec::Gzip => 64 << 10,
        Codec::Lz4 => {
            // 4 to 7 mean blocks of 64 KiB to 4 MiB. The decoder holds one compressed and two decompressed
            // blocks.
            let blocks = input.get(5).map_or(0, |descriptor| descriptor >> 4 & 7);
            3 << (2 * u32::from(blocks.min(7)) + 8)
        }
        Codec::Zstd => {
            // RFC 8878, section 3.1.1.1.2. A frame of a single segment has no window besides its content.
            let (Some(flags), Some(window)) = (input.get(4), input.get(5)) else { return 0 };
            let (base, eighths) = (1_usize << (10 + u32::from(window >> 3)).min(40), usize::from(window & 7));
            let window = if flags & 0x20 == 0 { base + base / 8 * eighths } else { 0 };
            if window > 1 << ZSTD_WINDOW_LOG { window.min(1 << ZSTD_WINDOW_LOG_MAX) } else { 0 }
        }
    }
}

fn read_through(mut reader: impl Read, bytes_max: usize) -> Option<usize> {
    let (mut scratch, mut opened) = ([0; 16 << 10], 0);
    while opened <= bytes_max {
        match reader.read(&mut scratch) {
            Ok(0) => return Some(opened),
            Ok(read) => opened += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Some(opened),
        }
    }
    None
}

/// The decompressed size that the blocks of a Snappy section claim; `None` if a claim is impossible.
fn snappy_claims(input: &[u8]) -> Option<u64> {
    let of_block = |block: &[u8]| {
        let claimed = snap::raw::decompress_len(block).ok()?;
        (claimed <= block.len().saturating_mul(SNAPPY_RATIO_MAX)).then_some(claimed as u64)
    };
    if !input.starts_with(&XERIAL_MAGIC) {
        return of_block(input);
    }
    let (mut rest, mut claimed) = (input.get(XERIAL_HEAD..)?, 0);
    while let Some((len, behind)) = rest.split_first_chunk::<4>() {
        if rest.starts_with(&XERIAL_MAGIC) {
            rest = rest.get(XERIAL_HEAD..)?;
            continue;
        }
        let (block, behind) = behind.split_at_checked(u32::from_be_bytes(*len) as usize)?;
        claimed += of_block(block)?;
        rest = behind;
    }
    Some(claimed)
}

enum Failure {
    TooLarge,
    /// The window that it needs is larger than allowed.
    WindowTooLarge,
    Flaw(CompressionFlaw),
}

impl From<CompressionFlaw> for Failure {
    fn from(flaw: CompressionFlaw) -> Self {
        Self::Flaw(flaw)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Flaw(match error.kind() {
            io::ErrorKind::UnexpectedEof => CompressionFlaw::CutOff,
            _ => CompressionFlaw::Broken,
        })
    }
}

/// The space in a buffer beyond the known size. A decoder without free space does not report that it has
/// finished.
const SPARE_BYTES: usize = 64;

/// The first size of the buffer. Log data decompresses to about four times its size.
fn first_guess(input: &[u8], limit: DecompressLimit) -> usize {
    match limit.known {
        0 => input.len().saturating_mul(4).clamp(1_024, 16 << 20).min(limit.bytes_max),
        known => known.saturating_add(SPARE_BYTES).min(limit.bytes_max),
    }
}

/// Doubles the size, within the limit. An error if the limit is already reached.
fn grown(bytes: usize, bytes_max: usize) -> Result<usize, Failure> {
    let more = bytes.saturating_mul(2).clamp(1_024, bytes_max.max(1_024)).min(bytes_max);
    if more > bytes { Ok(more) } else { Err(Failure::TooLarge) }
}

/// Reads all bytes of `reader` into `out` from `len` on, and returns where they end. The rest of `out` stays
/// as space for the next reader: if it were cut off and cleared again, each reader would cost as much as all
/// bytes before it.
fn read_to_end(
    reader: &mut impl Read,
    out: &mut Vec<u8>,
    mut len: usize,
    guess: usize,
    bytes_max: usize,
) -> Result<usize, Failure> {
    out.resize(out.len().max(guess), 0);
    loop {
        if len == out.len() {
            // The stream may end exactly here. Only one more byte shows that it does not.
            let mut probe = [0];
            if reader.read(&mut probe)? == 0 {
                return Ok(len);
            }
            let size = grown(len, bytes_max)?;
            out.reserve_exact(size - len);
            out.resize(size, 0);
            out[len] = probe[0];
            len += 1;
        }
        match reader.read(&mut out[len..]) {
            Ok(0) => return Ok(len),
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Decompresses all members, because Java's `GZIPInputStream` continues with the next member. It ignores
/// bytes that do not begin with a member's header.
fn gzip(input: &[u8], limit: DecompressLimit) -> Result<Decompressed, Failure> {
    let guess = first_guess(input, limit);
    let (mut out, mut len, mut anomalies, mut at) = (Vec::new(), 0, Anomalies::default(), 0);
    loop {
        let bytes = without_reserved_flags(&input[at..]);
        let mut member = flate2::bufread::GzDecoder::new(&*bytes);
        if at > 0 && member.header().is_none() {
            anomalies.insert(Anomaly::BytesLeftOver);
            break;
        }
        len = read_to_end(&mut member, &mut out, len, guess, limit.bytes_max)?;
        at = input.len() - member.into_inner().len();
        if at == input.len() {
            break;
        }
    }
    out.truncate(len);
    Ok(Decompressed { bytes: out, anomalies })
}

/// Returns a member without the header flags that RFC 1952 reserves, because Java's reader ignores them.
fn without_reserved_flags(member: &[u8]) -> Cow<'_, [u8]> {
    match member {
        [0x1f, 0x8b, 8, flags, ..] if flags & 0xe0 != 0 => {
            let mut mended = member.to_vec();
            mended[3] &= 0x1f;
            Cow::Owned(mended)
        }
        _ => Cow::Borrowed(member),
    }
}

/// The start of Xerial's framing. A version and a compatible version follow, four bytes each.
pub(super) const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
pub(super) const XERIAL_HEAD: usize = 16;

/// Java writes Snappy in Xerial's framing (chunks, each a big-endian length and a raw Snappy block),
/// librdkafka without it. Java's reader ignores a rest that is too short for a length.
fn snappy(input: &[u8], limit: DecompressLimit) -> Result<Decompressed, Failure> {
    let DecompressLimit { bytes_max, known } = limit;
    let (mut out, mut anomalies) = (Vec::with_capacity(known.min(bytes_max)), Anomalies::default());
    if !input.starts_with(&XERIAL_MAGIC) {
        snappy_block(input, &mut out, bytes_max)?;
        return Ok(out.into());
    }
    let mut rest = input.get(XERIAL_HEAD..).ok_or(CompressionFlaw::CutOff)?;
    while !rest.is_empty() {
        // A stream that is appended to another one starts with the framing's head again.
        if rest.starts_with(&XERIAL_MAGIC) {
            rest = rest.get(XERIAL_HEAD..).ok_or(CompressionFlaw::CutOff)?;
            continue;
        }
        let Some((len, behind)) = rest.split_first_chunk::<4>() else {
            anomalies.insert(Anomaly::BytesLeftOver);
            break;
        };
        let len = u32::from_be_bytes(*len) as usize;
        let (block, behind) = behind.split_at_checked(len).ok_or(CompressionFlaw::CutOff)?;
        snappy_block(block, &mut out, bytes_max)?;
        rest = behind;
    }
    Ok(Decompressed { bytes: out, anomalies })
}

/// The largest possible ratio: a Snappy element of three bytes yields at most 64. A larger claim is refused
/// before anything is allocated.
const SNAPPY_RATIO_MAX: usize = 22;

fn snappy_block(block: &[u8], out: &mut Vec<u8>, bytes_max: usize) -> Result<(), Failure> {
    let opened = snap::raw::decompress_len(block).map_err(|_| CompressionFlaw::Broken)?;
    if opened > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
        return Err(CompressionFlaw::Broken.into());
    }
    let start = out.len();
    if opened > bytes_max - start {
        return Err(Failure::TooLarge);
    }
    if out.capacity() - start < opened {
        // All chunks but the last have the same size. Doubling saves copies and stays within the limit.
        out.reserve_exact(opened.max(start).min(bytes_max - start));
    }
    out.resize(start + opened, 0);
    let written = snap::raw::Decoder::new()
        .decompress(block, &mut out[start..])
        .map_err(|_| CompressionFlaw::Broken)?;
    if written == opened { Ok(()) } else { Err(CompressionFlaw::Broken.into()) }
}

/// Kafka's reader stops after the first frame. It verifies the checksums of the header and of the blocks. It
/// does not verify the checksum and the size of the content, because it has returned all of it by then.
fn lz4(input: &[u8], limit: DecompressLimit) -> Result<Decompressed, Failure> {
    use lz4_flex::frame::{Error, FrameDecoder};
    let mut anomalies = Anomalies::default();
    let len = lz4_frame_len(input)?;
    if len < input.len() {
        anomalies.insert(Anomaly::BytesLeftOver);
    }
    let mut frame = FrameDecoder::new(&input[..len]);
    let mut lenient = EndsWhere {
        inner: &mut frame,
        ends: |error: &io::Error| {
            let error = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
            matches!(error, Some(Error::ContentChecksumError | Error::ContentLengthError { .. }))
        },
        ended: false,
    };
    let mut out = Vec::new();
    let guess = first_guess(input, limit);
    let opened = read_to_end(&mut lenient, &mut out, 0, guess, limit.bytes_max)?;
    if lenient.ended {
        anomalies.insert(Anomaly::ContentChecksum);
    }
    out.truncate(opened);
    Ok(Decompressed { bytes: out, anomalies })
}

/// A reader for which an error of a certain kind is a normal end.
struct EndsWhere<R, E> {
    inner: R,
    ends: E,
    ended: bool,
}

impl<R: Read, E: Fn(&io::Error) -> bool> Read for EndsWhere<R, E> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.ended {
            return Ok(0);
        }
        match self.inner.read(to) {
            Err(error) if (self.ends)(&error) => {
                self.ended = true;
                Ok(0)
            }
            read => read,
        }
    }
}

/// The length of the LZ4 frame at the input's start, including its end mark and content checksum. The decoder
/// accepts a frame that is cut between two blocks, and does not report where a frame ended. So this function
/// adds up the block lengths. (LZ4 frame format description 1.6; Kafka's magic-2 batches hold frames that
/// keep to it.)
fn lz4_frame_len(input: &[u8]) -> Result<usize, CompressionFlaw> {
    const MAGIC: [u8; 4] = 0x184D_2204_u32.to_le_bytes();
    let cut = CompressionFlaw::CutOff;
    let (magic, rest) = input.split_first_chunk::<4>().ok_or(cut)?;
    if *magic != MAGIC {
        return Err(CompressionFlaw::Broken);
    }
    let flags = *rest.first().ok_or(cut)?;
    let has = |bit: u8| flags & (1 << bit) != 0;
    let block_checksum = if has(4) { 4 } else { 0 };
    let content_checksum = if has(2) { 4 } else { 0 };
    // Magic, flags, block size, content size, dictionary id, header checksum.
    let mut at = 4 + 1 + 1 + if has(3) { 8 } else { 0 } + if has(0) { 4 } else { 0 } + 1;
    loop {
        let size = input.get(at..).and_then(|rest| rest.first_chunk::<4>()).ok_or(cut)?;
        at += 4;
        let size = u32::from_le_bytes(*size);
        if size == 0 {
            at += content_checksum;
            return if at <= input.len() { Ok(at) } else { Err(cut) };
        }
        // The highest bit means that the block is stored uncompressed.
        at = at.saturating_add((size & 0x7fff_ffff) as usize + block_checksum);
    }
}

/// The largest window of zstd's levels up to 19, as a power of two: 8 MiB.
const ZSTD_WINDOW_LOG: u32 = 23;
/// The largest window that zstd accepts by default, as a power of two: 128 MiB.
pub(super) const ZSTD_WINDOW_LOG_MAX: u32 = 27;

thread_local! {
    /// Each thread keeps a zstd context, because a context and its window are far larger than a batch.
    static ZSTD: RefCell<Option<ZstdDecoder<'static>>> = const { RefCell::new(None) };
}

/// A window larger than [`ZSTD_WINDOW_LOG`] gets its own context, so that no thread keeps such a large one.
/// It may be as large as the limit.
fn zstd(input: &[u8], limit: DecompressLimit) -> Result<Vec<u8>, Failure> {
    if input.is_empty() {
        return Err(CompressionFlaw::CutOff.into());
    }
    // After an error a context is dropped, because its state is not known.
    let mut decoder = match ZSTD.take() {
        Some(decoder) => decoder,
        None => zstd_decoder(ZSTD_WINDOW_LOG)?,
    };
    let window_log = limit.bytes_max.max(1).ilog2().min(ZSTD_WINDOW_LOG_MAX);
    match zstd_frames(&mut decoder, input, limit) {
        Err(Failure::WindowTooLarge) if window_log > ZSTD_WINDOW_LOG => {
            zstd_frames(&mut zstd_decoder(window_log)?, input, limit)
        }
        opened => {
            if opened.is_ok() {
                ZSTD.set(Some(decoder));
            }
            opened
        }
    }
}

fn zstd_decoder(window_log: u32) -> io::Result<ZstdDecoder<'static>> {
    let mut decoder = ZstdDecoder::new()?;
    decoder.set_parameter(DParameter::WindowLogMax(window_log))?;
    Ok(decoder)
}

/// Frames that follow one another are one stream, for libzstd and for the Java binding that Kafka uses.
fn zstd_frames(
    decoder: &mut ZstdDecoder<'_>,
    input: &[u8],
    limit: DecompressLimit,
) -> Result<Vec<u8>, Failure> {
    let (mut out, bytes_max) = (Vec::new(), limit.bytes_max);
    let mut source = InBuffer::around(input);
    // A frame that states its size is decompressed into a buffer of that size. Without it, libzstd holds the
    // content of a single segment a second time.
    let stated = zstd::zstd_safe::get_frame_content_size(input).ok().flatten();
    let stated = stated.and_then(|size| usize::try_from(size).ok()).filter(|size| *size <= bytes_max);
    let mut capacity =
        first_guess(input, limit).max(stated.map_or(0, |size| size.saturating_add(1).min(bytes_max)));
    loop {
        out.reserve_exact(capacity - out.len());
        let len = out.len();
        // A vector may have more capacity than requested. Bytes beyond the limit are still too large.
        let mut target = OutBuffer::around_pos(&mut out, len);
        let still_to_come = decoder.run(&mut source, &mut target).map_err(|error| zstd_failure(&error))?;
        let is_full = target.pos() == target.capacity();
        if out.len() > bytes_max {
            return Err(Failure::TooLarge);
        }
        if is_full {
            if still_to_come == 0 && source.pos() == input.len() {
                return Ok(out);
            }
            capacity = grown(out.len(), bytes_max)?;
        } else if source.pos() == input.len() {
            return if still_to_come == 0 { Ok(out) } else { Err(CompressionFlaw::CutOff.into()) };
        }
    }
}

/// `ZSTD_error_frameParameter_windowTooLarge` of zstd_errors.h, which fixes the values of its errors.
const ZSTD_WINDOW_TOO_LARGE: usize = 16;

/// The crate's errors hold the library's message and not its code, so the messages are compared.
fn zstd_failure(error: &io::Error) -> Failure {
    let words = zstd::zstd_safe::get_error_name(0_usize.wrapping_sub(ZSTD_WINDOW_TOO_LARGE));
    match error.to_string() == words {
        true => Failure::WindowTooLarge,
        false => CompressionFlaw::Broken.into(),
    }
}
