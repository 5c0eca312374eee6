//! Opens the compressed section of a Kafka batch, within a bound.
//!
//! What each codec accepts is what Kafka's own clients write and read. Where these pass over bytes behind a stream's end, or over a checksum
//! that does not hold, so does this, and says so.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::io::{self, Read};

use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, InBuffer, Operation, OutBuffer};

use super::{Anomalies, Anomaly, Fault};

/// How a batch's records are compressed; the numbers are those of Kafka's batch attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
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
    /// The codec of a batch's attributes.
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
    /// The bytes are not the codec's, or one of its own checksums does not hold.
    #[error("its bytes are broken")]
    Broken,
    /// The stream does not end within the section.
    #[error("it is cut off")]
    CutOff,
}

/// What a compressed section opened to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) bytes: Vec<u8>,
    /// What Kafka's reader passes over.
    pub(super) anomalies: Anomalies,
}

/// Room that is left over beyond this is given back.
const SLACK_BYTES_MAX: usize = 1 << 20;

impl Opened {
    fn without_slack(mut self) -> Self {
        if self.bytes.capacity() - self.bytes.len() > SLACK_BYTES_MAX {
            self.bytes.shrink_to_fit();
        }
        self
    }
}

impl From<Vec<u8>> for Opened {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, anomalies: Anomalies::default() }
    }
}

/// How much memory a compressed section may take while it is opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// The most that it may open to, in bytes.
    pub(super) bytes_max: usize,
    /// What it is known to open to, in bytes; 0 where nobody knows. Then it is opened into a buffer that is doubled whenever it is full.
    pub(super) known: usize,
}

/// Decompresses `input` to at most `bytes_max` bytes.
#[cfg(test)]
pub(super) fn open(codec: Codec, input: &[u8], bytes_max: usize) -> Result<Opened, Fault> {
    open_into(codec, input, Room { bytes_max, known: 0 })
}

/// Decompresses `input` within `room`.
pub(super) fn open_into(codec: Codec, input: &[u8], room: Room) -> Result<Opened, Fault> {
    let Room { bytes_max, .. } = room;
    let opened = match codec {
        Codec::None if input.len() > bytes_max => Err(Failure::TooLarge),
        Codec::None => Ok(input.to_vec().into()),
        Codec::Gzip => gzip(input, room),
        Codec::Snappy => snappy(input, room),
        Codec::Lz4 => lz4(input, room),
        Codec::Zstd => zstd(input, room).map(Opened::from),
    };
    let opened = opened.map(Opened::without_slack);
    opened.map_err(|failure| match failure {
        Failure::TooLarge | Failure::WindowTooLarge => Fault::TooLarge { limit: bytes_max },
        Failure::Flaw(flaw) => Fault::BadCompression { codec, flaw },
    })
}

/// How many bytes `input` opens to, at most `bytes_max`; `None` where it is more. Of what does not open it is how far that goes. Takes no more
/// memory than the codec does.
pub(super) fn opened_len(codec: Codec, input: &[u8], bytes_max: usize) -> Option<usize> {
    match codec {
        Codec::None => (input.len() <= bytes_max).then_some(input.len()),
        Codec::Gzip => read_through(flate2::bufread::MultiGzDecoder::new(input), bytes_max),
        Codec::Snappy => {
            // What claims nonsense is found broken before any of it is opened.
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

/// What a codec takes to open `input` beside what it opens to, in bytes, by what the stream says of itself. Of zstd it is what no thread keeps.
pub(super) fn work_bytes(codec: Codec, input: &[u8]) -> usize {
    match codec {
        Codec::None | Codec::Snappy => 0,
        Codec::Gzip => 64 << 10,
        Codec::Lz4 => {
            // 4 to 7 stand for blocks of 64 KiB to 4 MiB: one as it comes, and two opened.
            let blocks = input.get(5).map_or(0, |descriptor| descriptor >> 4 & 7);
            3 << (2 * u32::from(blocks.min(7)) + 8)
        }
        Codec::Zstd => {
            // RFC 8878, section 3.1.1.1.2; a frame of a single segment is its own window.
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

/// What the blocks of a Snappy section claim to open to.
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
    /// It needs more of what came before at hand than there is room for.
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

/// What a buffer has beyond what is known to go in: a decoder that finds no room at all does not say that it is through.
const BEHIND_BYTES: usize = 64;

/// The room to start with: log data opens to about four times its size.
fn first_guess(input: &[u8], room: Room) -> usize {
    match room.known {
        0 => input.len().saturating_mul(4).clamp(1_024, 16 << 20).min(room.bytes_max),
        known => known.saturating_add(BEHIND_BYTES).min(room.bytes_max),
    }
}

/// Twice the room, within the bound; an error where there is none left to add.
fn grown(bytes: usize, bytes_max: usize) -> Result<usize, Failure> {
    let more = bytes.saturating_mul(2).clamp(1_024, bytes_max.max(1_024)).min(bytes_max);
    if more > bytes { Ok(more) } else { Err(Failure::TooLarge) }
}

/// Reads all that `reader` gives into `out`, from `len` on, and returns where it ends. What `out` has behind that is room for
/// the next reader: to give it back and clear it again would cost each reader as much as those before it brought.
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
            // The stream may end just here: only one more byte proves that it does not.
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

/// Java's `GZIPInputStream` goes on with the next member where one follows, so more than one is read. What does not begin with a
/// member's header it passes over.
fn gzip(input: &[u8], room: Room) -> Result<Opened, Failure> {
    let guess = first_guess(input, room);
    let (mut out, mut len, mut anomalies, mut at) = (Vec::new(), 0, Anomalies::default(), 0);
    loop {
        let bytes = without_reserved_flags(&input[at..]);
        let mut member = flate2::bufread::GzDecoder::new(&*bytes);
        if at > 0 && member.header().is_none() {
            anomalies.insert(Anomaly::BytesLeftOver);
            break;
        }
        len = read_to_end(&mut member, &mut out, len, guess, room.bytes_max)?;
        at = input.len() - member.into_inner().len();
        if at == input.len() {
            break;
        }
    }
    out.truncate(len);
    Ok(Opened { bytes: out, anomalies })
}

/// A member whose header has flags that RFC 1952 reserves, without them: Java's reader does not look.
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

/// What Xerial's framing starts with; a version and a compatible version, four bytes each, follow.
pub(super) const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
pub(super) const XERIAL_HEAD: usize = 16;

/// Java writes Snappy in Xerial's framing (chunks, each a big-endian length and a raw Snappy block), librdkafka without. Java's reader
/// passes over what is too short for a length.
fn snappy(input: &[u8], room: Room) -> Result<Opened, Failure> {
    let Room { bytes_max, known } = room;
    let (mut out, mut anomalies) = (Vec::with_capacity(known.min(bytes_max)), Anomalies::default());
    if !input.starts_with(&XERIAL_MAGIC) {
        snappy_block(input, &mut out, bytes_max)?;
        return Ok(out.into());
    }
    let mut rest = input.get(XERIAL_HEAD..).ok_or(CompressionFlaw::CutOff)?;
    while !rest.is_empty() {
        // A stream appended to a stream starts with the framing's head again.
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
    Ok(Opened { bytes: out, anomalies })
}

/// A Snappy element of three bytes yields at most 64, so a length beyond that ratio is a lie, known before anything is allocated.
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
        // Chunks are of one size but for the last: doubling saves copies, the bound holds all the same.
        out.reserve_exact(opened.max(start).min(bytes_max - start));
    }
    out.resize(start + opened, 0);
    let written = snap::raw::Decoder::new()
        .decompress(block, &mut out[start..])
        .map_err(|_| CompressionFlaw::Broken)?;
    if written == opened { Ok(()) } else { Err(CompressionFlaw::Broken.into()) }
}

/// Kafka's reader ends with the first frame. It looks at the checksums of header and blocks, and at neither checksum nor size of the
/// content; by then all of it is out.
fn lz4(input: &[u8], room: Room) -> Result<Opened, Failure> {
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
    let guess = first_guess(input, room);
    let opened = read_to_end(&mut lenient, &mut out, 0, guess, room.bytes_max)?;
    if lenient.ended {
        anomalies.insert(Anomaly::ContentChecksum);
    }
    out.truncate(opened);
    Ok(Opened { bytes: out, anomalies })
}

/// Reads on to an error of a certain kind, which is an end like any other.
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

/// The length of the LZ4 frame at the input's start, end mark and content checksum included. The decoder takes a frame that is
/// cut between two blocks for a whole one, and does not tell where a frame ended: this walk over the block lengths does.
/// (LZ4 frame format description 1.6; Kafka's magic-2 batches hold frames that keep to it.)
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
        // The highest bit says that the block is stored as it is.
        at = at.saturating_add((size & 0x7fff_ffff) as usize + block_checksum);
    }
}

/// The window, as a power of two, that all of zstd's levels up to 19 keep within: 8 MiB.
const ZSTD_WINDOW_LOG: u32 = 23;
/// The largest window that zstd itself opens without being told to: 128 MiB.
pub(super) const ZSTD_WINDOW_LOG_MAX: u32 = 27;

thread_local! {
    /// A zstd context and its window are far larger than a batch: each thread keeps one.
    static ZSTD: RefCell<Option<ZstdDecoder<'static>>> = const { RefCell::new(None) };
}

/// A window larger than [`ZSTD_WINDOW_LOG`] gets a context of its own, so that no thread is left with one that large; it may be
/// as large as the bound.
fn zstd(input: &[u8], room: Room) -> Result<Vec<u8>, Failure> {
    if input.is_empty() {
        return Err(CompressionFlaw::CutOff.into());
    }
    // A context that met an error is thrown away, and with it whatever state it was left in.
    let mut decoder = match ZSTD.take() {
        Some(decoder) => decoder,
        None => zstd_decoder(ZSTD_WINDOW_LOG)?,
    };
    let window_log = room.bytes_max.max(1).ilog2().min(ZSTD_WINDOW_LOG_MAX);
    match zstd_frames(&mut decoder, input, room) {
        Err(Failure::WindowTooLarge) if window_log > ZSTD_WINDOW_LOG => {
            zstd_frames(&mut zstd_decoder(window_log)?, input, room)
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

/// Frames that follow one another are one stream, to libzstd as to the Java binding that Kafka uses.
fn zstd_frames(decoder: &mut ZstdDecoder<'_>, input: &[u8], within: Room) -> Result<Vec<u8>, Failure> {
    let (mut out, bytes_max) = (Vec::new(), within.bytes_max);
    let mut source = InBuffer::around(input);
    // A frame that says its size is opened straight into as much: else libzstd keeps all of what one segment opens to a second time.
    let stated = zstd::zstd_safe::get_frame_content_size(input).ok().flatten();
    let stated = stated.and_then(|size| usize::try_from(size).ok()).filter(|size| *size <= bytes_max);
    let mut room =
        first_guess(input, within).max(stated.map_or(0, |size| size.saturating_add(1).min(bytes_max)));
    loop {
        out.reserve_exact(room - out.len());
        let len = out.len();
        // A vector may get more capacity than it was asked for; what lies past the bound is too large all the same.
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
            room = grown(out.len(), bytes_max)?;
        } else if source.pos() == input.len() {
            return if still_to_come == 0 { Ok(out) } else { Err(CompressionFlaw::CutOff.into()) };
        }
    }
}

/// `ZSTD_error_frameParameter_windowTooLarge` of zstd_errors.h, which pins its values down.
const ZSTD_WINDOW_TOO_LARGE: usize = 16;

/// The crate's errors hold the library's words and not its code, so words are compared.
fn zstd_failure(error: &io::Error) -> Failure {
    let words = zstd::zstd_safe::get_error_name(0_usize.wrapping_sub(ZSTD_WINDOW_TOO_LARGE));
    match error.to_string() == words {
        true => Failure::WindowTooLarge,
        false => CompressionFlaw::Broken.into(),
    }
}
