//! Copies: segments that are stored under an id that their caller chose, with attachments.

use crate::bundle::{ATTACHMENT_NAME_BYTES_MAX, AttachmentFacts, CopyFacts};
use crate::ids::{CopyId, CopyIdError};

/// The maximum number of attachments of a copy.
pub const ATTACHMENTS_MAX: usize = 16;

/// The maximum size of all attachments of a copy together, in bytes.
pub const ATTACHMENTS_BYTES_MAX: u64 = 128 << 20;

/// What a caller says about a copy, before any of it is checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyParts {
    /// The caller's name for this copy: see [`CopyId`].
    pub copy_id: String,
    /// The base offset of the segment. It is that of the bundle's key.
    pub base_offset: i64,
    /// The attachments. Their bytes follow those of the segment, in this order.
    pub attachments: Vec<AttachmentParts>,
}

/// What a caller says about an attachment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttachmentParts {
    /// The name.
    pub name: String,
    /// The size in bytes.
    pub size_bytes: u64,
    /// The CRC-32C. It is checked if it is given.
    pub crc32c: Option<u32>,
}

/// What is wrong with the description of a copy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// The copy id is not valid.
    #[error(transparent)]
    CopyId(#[from] CopyIdError),
    /// The segment has no bytes, so there is no bundle that could be the copy.
    #[error("a copy of zero bytes is nothing to store")]
    Empty,
    /// The base offset is negative.
    #[error("the base offset {base_offset} is negative")]
    NegativeBase {
        /// The offset.
        base_offset: i64,
    },
    /// There are too many attachments.
    #[error("there are {attachments} attachments, more than {ATTACHMENTS_MAX}")]
    TooMany {
        /// Their number.
        attachments: usize,
    },
    /// The attachments are too large.
    #[error("the attachments have {bytes} bytes together, more than {ATTACHMENTS_BYTES_MAX}")]
    TooLarge {
        /// Their size together, in bytes.
        bytes: u64,
    },
    /// The name of an attachment is not valid.
    #[error(
        "{name:?} is no name of an attachment: it has 1 to {ATTACHMENT_NAME_BYTES_MAX} bytes of \
         [A-Za-z0-9._-], and no dot in front"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// Two attachments have the same name.
    #[error("two attachments have the name {name:?}")]
    SameName {
        /// The name.
        name: String,
    },
}

/// A checked description of a copy.
#[derive(Clone, Debug)]
pub(super) struct Copy {
    pub id: CopyId,
    pub base_offset: i64,
    pub attachments: Vec<AttachmentParts>,
}

impl Copy {
    pub fn new(parts: CopyParts, size_bytes: u64) -> Result<Self, CopyError> {
        if size_bytes == 0 {
            return Err(CopyError::Empty);
        }
        let CopyParts { copy_id, base_offset, attachments } = parts;
        let id = CopyId::new(&copy_id)?;
        if base_offset < 0 {
            return Err(CopyError::NegativeBase { base_offset });
        }
        if attachments.len() > ATTACHMENTS_MAX {
            return Err(CopyError::TooMany { attachments: attachments.len() });
        }
        let bytes = attachments.iter().fold(0u64, |sum, one| sum.saturating_add(one.size_bytes));
        if bytes > ATTACHMENTS_BYTES_MAX {
            return Err(CopyError::TooLarge { bytes });
        }
        if let Some(one) = attachments.iter().find(|one| !AttachmentFacts::is_name(&one.name)) {
            return Err(CopyError::Name { name: one.name.clone() });
        }
        let mut names: Vec<&str> = attachments.iter().map(|one| one.name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(CopyError::SameName { name: pair[0].to_owned() });
        }
        Ok(Self { id, base_offset, attachments })
    }

    /// The size of all attachments together, in bytes.
    pub fn attachments_bytes(&self) -> u64 {
        self.attachments.iter().map(|one| one.size_bytes).sum()
    }

    /// Describes the copy for the manifest. `attachments` are those that were received.
    pub fn facts(&self, attachments: &[Attachment]) -> CopyFacts {
        CopyFacts {
            id: self.id.as_str().to_owned(),
            base_offset: self.base_offset,
            attachments: attachments.iter().map(|one| one.facts.clone()).collect(),
        }
    }
}

/// An attachment that has come as a whole.
#[derive(Clone, Debug)]
pub(super) struct Attachment {
    pub facts: AttachmentFacts,
    pub bytes: bytes::Bytes,
}
