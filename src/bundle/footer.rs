//! The footer: the position of each member. A reader that has the end of a bundle finds everything in it.

use std::ops::Range;

use bytes::Bytes;

use super::cursor::{Cursor, Malformed};
use super::layout::{
    self, ATTACHMENT_PREFIX, BLOCK_INDEX_NAME, FOOTER_NAME, HOT_NAME, INDEX_PREFIX, MANIFEST_NAME,
    NAME_BYTES_MAX, RECORDS_NAME, TAR_BLOCK_BYTES, TAR_END_BYTES,
};
use super::records::BlockEntry;
use super::{FORMAT_VERSION, Kind};

/// The first bytes of the trailer.
pub const TRAILER_MAGIC: [u8; 8] = *b"WIBUNDLE";

/// The length of the trailer in bytes. Layout and place of the trailer are the same in all format versions.
pub const TRAILER_BYTES: u64 = 32;

/// How many bytes to read from the end of a bundle if the footer offset is not known. They hold every footer
/// of usual size, and often the members right before it. An object of at most this size has no hot cache.
pub const TAIL_BYTES: u64 = 64 * 1024;

/// The longest footer that is read, in bytes. It has room for tens of thousands of members.
pub const FOOTER_BYTES_MAX: u32 = 8 << 20;

/// The first format version that has a hot cache.
const HOT_SINCE_VERSION: u32 = 2;

/// The first format version that may have attachments.
const ATTACHMENTS_SINCE_VERSION: u32 = 3;

const MEMBER_BYTES_MIN: usize = 2 + 8 + 8 + 4;

/// A member of the tar, as the footer lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name in the tar.
    pub name: String,
    /// The start of its data, in bytes from the start of the object.
    pub position: u64,
    /// The length of its data in bytes.
    pub len: u64,
    /// CRC-32C of its data.
    pub crc32c: u32,
}

/// The reasons why given bytes are not the data of a member.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// The number of bytes is wrong.
    #[error("{name} at byte {position}: {given} bytes were given where it has {expected}")]
    Length {
        /// The member.
        name: String,
        /// The start of its data in the object.
        position: u64,
        /// The length in the footer, in bytes.
        expected: u64,
        /// The number of bytes given.
        given: u64,
    },
    /// The bytes have changed.
    #[error("{name} at byte {position}: crc32c is {computed:08x} where {stated:08x} was written")]
    Checksum {
        /// The member.
        name: String,
        /// The start of its data in the object.
        position: u64,
        /// The checksum in the footer.
        stated: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
}

impl Member {
    /// Returns the range of its data in the object.
    pub fn range(&self) -> Range<u64> {
        self.position..self.position + self.len
    }

    /// Checks that `data` are the data of this member.
    pub fn check(&self, data: &[u8]) -> Result<(), MemberError> {
        self.check_len(data.len() as u64)?;
        self.check_crc32c(crc32c::crc32c(data))
    }

    fn check_len(&self, given: u64) -> Result<(), MemberError> {
        if given == self.len {
            return Ok(());
        }
        Err(MemberError::Length {
            name: self.name.clone(),
            position: self.position,
            expected: self.len,
            given,
        })
    }

    pub(super) fn check_crc32c(&self, computed: u32) -> Result<(), MemberError> {
        if computed == self.crc32c {
            return Ok(());
        }
        let (name, position, stated) = (self.name.clone(), self.position, self.crc32c);
        Err(MemberError::Checksum { name, position, stated, computed })
    }

    /// Returns the member's data if `have` holds all of them. `have` starts at byte `have_position` of the
    /// object. `records.idx` is right before the footer, so the read that opened the bundle often has it
    /// already.
    pub fn within(&self, have_position: u64, have: &Bytes) -> Option<Bytes> {
        let start = self.position.checked_sub(have_position)?;
        let end = start.checked_add(self.len)?;
        (end <= have.len() as u64).then(|| have.slice(start as usize..end as usize))
    }
}

/// The positions of all members of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    version: u32,
    object_size: u64,
    /// The manifest, the attachments and the index files, each in ascending order, the blocks, the hot cache,
    /// the block index. This order is checked when the footer is read.
    members: Vec<Member>,
    footer_offset: u64,
}

/// The result of opening the end of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// The footer.
    Footer(Footer),
    /// The footer starts before the given bytes. Call again with all bytes from this position on.
    NeedFrom(u64),
}

/// The reasons why the end of an object is not a footer that this build reads. Positions count from the start
/// of the object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The object is too short to be a bundle.
    #[error("no bundle: the object has {object_size} bytes, fewer than any bundle")]
    TooShort {
        /// Its size.
        object_size: u64,
    },
    /// There is no trailer in its place: another kind of object, or one that was cut or extended.
    #[error("no bundle: WIBUNDLE is not at byte {position}")]
    Absent {
        /// Where the trailer must start.
        position: u64,
    },
    /// More bytes were given than the object has.
    #[error("{given} bytes were given as the end of an object of {object_size}")]
    NotItsEnd {
        /// The bytes given.
        given: u64,
        /// The object's size.
        object_size: u64,
    },
    /// A later release wrote the bundle.
    #[error("bundle format version {version} is newer than this build reads ({FORMAT_VERSION})")]
    Newer {
        /// The version in the trailer.
        version: u32,
    },
    /// Trailer or footer have changed.
    #[error("{part} at byte {position}: crc32c is {computed:08x} where {stated:08x} was written")]
    Checksum {
        /// `trailer` or `footer`.
        part: &'static str,
        /// The start of that part.
        position: u64,
        /// The checksum that was written.
        stated: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
    /// The trailer was written for an object of another size.
    #[error("the bundle states a size of {stated} bytes, the object has {object_size}")]
    Size {
        /// The size in the trailer, in bytes.
        stated: u64,
        /// The object's size in bytes.
        object_size: u64,
    },
    /// The checksums are right, but the contents break the format.
    #[error("footer: {0}")]
    Malformed(#[from] Malformed),
}

impl OpenError {
    /// Returns whether the bundle is absent, corrupt, or of a later release.
    pub fn kind(&self) -> Kind {
        match self {
            Self::TooShort { .. } | Self::Absent { .. } => Kind::Absent,
            Self::NotItsEnd { .. } | Self::Checksum { .. } | Self::Size { .. } | Self::Malformed(_) => {
                Kind::Corrupt
            }
            Self::Newer { .. } => Kind::Unsupported,
        }
    }
}

struct Trailer {
    version: u32,
    body_len: u32,
    body_crc32c: u32,
}

impl Trailer {
    fn parse(bytes: &[u8], position: u64, object_size: u64) -> Result<Self, OpenError> {
        let mut cursor = Cursor::new(bytes);
        if cursor.take(TRAILER_MAGIC.len())? != TRAILER_MAGIC {
            return Err(OpenError::Absent { position });
        }
        let (version, body_len, stated_size) = (cursor.u32()?, cursor.u32()?, cursor.u64()?);
        let body_crc32c = cursor.u32()?;
        let computed = crc32c::crc32c(&bytes[..cursor.position()]);
        let stated = cursor.u32()?;
        if stated != computed {
            return Err(OpenError::Checksum { part: "trailer", position, stated, computed });
        }
        let malformed = |what| Err(Malformed { position, what }.into());
        match version {
            0 => return malformed("there is no format version 0"),
            1..=FORMAT_VERSION => {}
            _ => return Err(OpenError::Newer { version }),
        }
        if stated_size != object_size {
            return Err(OpenError::Size { stated: stated_size, object_size });
        }
        if body_len > FOOTER_BYTES_MAX || u64::from(body_len) > position - TAR_BLOCK_BYTES {
            return malformed("the footer's length is impossible");
        }
        Ok(Self { version, body_len, body_crc32c })
    }
}

impl Footer {
    /// Opens a bundle from its last bytes: the bytes from the receipt's footer offset on, or the last
    /// [`TAIL_BYTES`], or the whole object. After [`Opened::NeedFrom`], a call with more bytes returns a
    /// footer or an error.
    pub fn open(tail: &[u8], object_size: u64) -> Result<Opened, OpenError> {
        let given = tail.len() as u64;
        if given > object_size {
            return Err(OpenError::NotItsEnd { given, object_size });
        }
        if object_size < TAR_BLOCK_BYTES + TRAILER_BYTES + TAR_END_BYTES {
            return Err(OpenError::TooShort { object_size });
        }
        let tail_position = object_size - given;
        let trailer_position = object_size - TAR_END_BYTES - TRAILER_BYTES;
        if tail_position > trailer_position {
            return Ok(Opened::NeedFrom(object_size.saturating_sub(TAIL_BYTES)));
        }
        let (before, from_trailer) = tail.split_at((trailer_position - tail_position) as usize);
        let (trailer, end) = from_trailer.split_at(TRAILER_BYTES as usize);
        let trailer = Trailer::parse(trailer, trailer_position, object_size)?;
        if let Some(at) = end.iter().position(|byte| *byte != 0) {
            let position = object_size - TAR_END_BYTES + at as u64;
            return Err(Malformed { position, what: "the tar's end is not zeros" }.into());
        }
        let footer_offset = trailer_position - u64::from(trailer.body_len);
        if footer_offset < tail_position {
            return Ok(Opened::NeedFrom(footer_offset));
        }
        let body = &before[before.len() - trailer.body_len as usize..];
        let computed = crc32c::crc32c(body);
        if computed != trailer.body_crc32c {
            let (position, stated) = (footer_offset, trailer.body_crc32c);
            return Err(OpenError::Checksum { part: "footer", position, stated, computed });
        }
        let moved = |error: Malformed| Malformed { position: error.position + footer_offset, ..error };
        let members = parse_members(body).map_err(moved)?;
        let footer = Self { version: trailer.version, object_size, members, footer_offset };
        let laid_out = footer.check_layout(trailer.body_len);
        laid_out.map_err(|what| Malformed { position: footer_offset, what })?;
        Ok(Opened::Footer(footer))
    }

    /// Makes the footer that follows `members`, whose positions are final.
    pub(super) fn new(version: u32, members: Vec<Member>) -> Self {
        let body_len = encode_members(&members).len() as u64;
        let data = footer_data_position(&members);
        let len = body_len + TRAILER_BYTES;
        let footer_offset = data + layout::padding(len);
        Self { version, object_size: footer_offset + len + TAR_END_BYTES, members, footer_offset }
    }

    /// Checks that order, names and positions are those that the writer gives. So every byte of the object is
    /// either covered by a member's checksum or fixed by the tar format.
    fn check_layout(&self, body_len: u32) -> Result<(), &'static str> {
        if self.members.len() < self.behind_index() + 1 {
            return Err("a member is missing");
        }
        let (attachments, index) = (self.attachment_members(), self.index_members());
        let fixed = [
            (self.manifest(), MANIFEST_NAME),
            (self.records(), RECORDS_NAME),
            (self.block_index(), BLOCK_INDEX_NAME),
        ];
        if fixed.iter().any(|(member, name)| member.name != *name) {
            return Err("a member is missing or not at its place");
        }
        if self.hot().is_some() != needs_hot(self.version, self.object_size) {
            return Err("hot.zst is missing, or is there and must not be");
        }
        if !index.iter().all(|member| layout::is_index_name(&member.name))
            || !attachments.iter().all(|member| layout::is_attachment_name(&member.name))
        {
            return Err("a member has an invalid name");
        }
        if index.windows(2).any(|pair| pair[0].name >= pair[1].name) {
            return Err("the index's files are not in ascending order");
        }
        if attachments.windows(2).any(|pair| pair[0].name >= pair[1].name) {
            return Err("the attachments are not in ascending order");
        }
        if !attachments.is_empty() && self.version < ATTACHMENTS_SINCE_VERSION {
            return Err("this version has no attachments");
        }
        let mut end = 0u64;
        for member in &self.members {
            if member.position != end + TAR_BLOCK_BYTES {
                return Err("a member does not follow the one before it");
            }
            if member.len > layout::member_bytes_max(&member.name) {
                return Err("a member is too long");
            }
            end = member.position + member.len;
            end += layout::padding(end);
        }
        let expected = Self::new(self.version, self.members.clone());
        let same = expected.object_size == self.object_size && expected.footer_offset == self.footer_offset;
        let same_len = encode_members(&self.members).len() as u64 == u64::from(body_len);
        if same && same_len { Ok(()) } else { Err("the footer does not follow the last member") }
    }

    /// The memory used, in bytes.
    pub fn mem_usage(&self) -> usize {
        self.members.iter().map(|member| size_of::<Member>() + member.name.len()).sum()
    }

    /// Encodes body and trailer: the bytes from the footer offset to the end of the tar.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = encode_members(&self.members);
        let (body_len, body_crc32c) = (out.len() as u32, crc32c::crc32c(&out));
        let start = out.len();
        out.extend(TRAILER_MAGIC);
        out.extend(self.version.to_le_bytes());
        out.extend(body_len.to_le_bytes());
        out.extend(self.object_size.to_le_bytes());
        out.extend(body_crc32c.to_le_bytes());
        out.extend(crc32c::crc32c(&out[start..]).to_le_bytes());
        out
    }

    /// The version of the bundle's format.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The object's size in bytes.
    pub fn object_size(&self) -> u64 {
        self.object_size
    }

    /// Where the footer starts, in bytes. One read from here to the end of the object opens the bundle.
    pub fn footer_offset(&self) -> u64 {
        self.footer_offset
    }

    /// All members but the footer, in order.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// `manifest.json`.
    pub fn manifest(&self) -> &Member {
        &self.members[0]
    }

    /// The index files, with their names without `index/`.
    pub fn index_files(&self) -> impl ExactSizeIterator<Item = (&str, &Member)> {
        without_prefix(self.index_members(), INDEX_PREFIX)
    }

    /// The attachments, with their names without `attachments/`.
    pub fn attachments(&self) -> impl ExactSizeIterator<Item = (&str, &Member)> {
        without_prefix(self.attachment_members(), ATTACHMENT_PREFIX)
    }

    /// The index file with this number, in the order of [`Footer::index_files`].
    pub fn index_file(&self, number: usize) -> Option<&Member> {
        self.index_members().get(number)
    }

    /// `records.zst`.
    pub fn records(&self) -> &Member {
        &self.members[self.members.len() - self.behind_index()]
    }

    /// `hot.zst`. From version 2 on, all objects of more than [`TAIL_BYTES`] have it.
    pub fn hot(&self) -> Option<&Member> {
        self.members.get(self.members.len().checked_sub(2)?).filter(|member| member.name == HOT_NAME)
    }

    fn attachment_members(&self) -> &[Member] {
        &self.members[1..self.before_index()]
    }

    fn index_members(&self) -> &[Member] {
        &self.members[self.before_index()..self.members.len() - self.behind_index()]
    }

    /// The number of members before the index files: the manifest and the attachments.
    pub(super) fn before_index(&self) -> usize {
        let between = &self.members[1..self.members.len() - self.behind_index()];
        1 + between.iter().take_while(|member| member.name.starts_with(ATTACHMENT_PREFIX)).count()
    }

    /// The number of members after the index files.
    fn behind_index(&self) -> usize {
        2 + usize::from(self.hot().is_some())
    }

    /// `records.idx`.
    pub fn block_index(&self) -> &Member {
        &self.members[self.members.len() - 1]
    }

    /// The range of a block in the object; `None` if the block is not within `records.zst`.
    pub fn block_range(&self, entry: &BlockEntry) -> Option<Range<u64>> {
        let (records, range) = (self.records(), entry.range());
        (range.end <= records.len).then(|| records.position + range.start..records.position + range.end)
    }

    /// The footer's own tar header, where this header starts, and the number of zeros before the list of
    /// members.
    pub(super) fn own_header(&self) -> ([u8; TAR_BLOCK_BYTES as usize], u64, u64) {
        let data = footer_data_position(&self.members);
        let len = self.object_size - TAR_END_BYTES - data;
        (layout::tar_header(FOOTER_NAME, len), data - TAR_BLOCK_BYTES, self.footer_offset - data)
    }
}

/// Tells whether an object of this version and size has a hot cache. Readers get a smaller object as a whole
/// with their first read and need none.
///
/// The writer calls this with the size that the bundle has without a hot cache: with one, the bundle is
/// larger still.
pub(super) fn needs_hot(version: u32, object_size: u64) -> bool {
    version >= HOT_SINCE_VERSION && object_size > TAIL_BYTES
}

/// Where the footer's data start: after the padding of the last member and the footer's own header.
fn footer_data_position(members: &[Member]) -> u64 {
    let end = members.last().map_or(0, |last| last.range().end);
    end + layout::padding(end) + TAR_BLOCK_BYTES
}

fn without_prefix<'a>(
    members: &'a [Member],
    prefix: &'static str,
) -> impl ExactSizeIterator<Item = (&'a str, &'a Member)> {
    members.iter().map(move |member| (member.name.strip_prefix(prefix).unwrap_or(&member.name), member))
}

fn encode_members(members: &[Member]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend((members.len() as u32).to_le_bytes());
    for member in members {
        out.extend((member.name.len() as u16).to_le_bytes());
        out.extend(member.name.as_bytes());
        out.extend(member.position.to_le_bytes());
        out.extend(member.len.to_le_bytes());
        out.extend(member.crc32c.to_le_bytes());
    }
    out
}

fn parse_members(body: &[u8]) -> Result<Vec<Member>, Malformed> {
    let mut cursor = Cursor::new(body);
    let count = cursor.u32()? as usize;
    if count > cursor.left() / MEMBER_BYTES_MIN {
        return Err(cursor.malformed("the number of members is too large for the bytes"));
    }
    let mut members = Vec::with_capacity(count);
    for _ in 0..count {
        let start = cursor.clone();
        let name_len = usize::from(cursor.u16()?);
        if name_len > NAME_BYTES_MAX {
            return Err(start.malformed("a member's name is too long"));
        }
        let name = str::from_utf8(cursor.take(name_len)?)
            .map_err(|_| start.malformed("a member's name is not UTF-8"))?;
        let (position, len, crc32c) = (cursor.u64()?, cursor.u64()?, cursor.u32()?);
        if position.checked_add(len).is_none_or(|end| end > u64::MAX / 2) {
            return Err(start.malformed("a member ends beyond 63 bits"));
        }
        members.push(Member { name: name.to_owned(), position, len, crc32c });
    }
    if cursor.left() > 0 {
        return Err(cursor.malformed("bytes follow the last member"));
    }
    Ok(members)
}

#[cfg(test)]
mod tests;
