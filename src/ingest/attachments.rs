//! Receives the attachments of a copy, whose bytes follow those of the segment.

use bytes::{Bytes, BytesMut};

use super::copy::{Attachment, AttachmentParts, Copy};
use super::error::IngestError;
use super::memory_account::Share;
use crate::bundle::AttachmentFacts;

/// The attachments that are still expected, and those that have come.
pub(super) struct Attachments {
    expected: std::vec::IntoIter<AttachmentParts>,
    open: Option<Open>,
    received: Vec<Attachment>,
    memory: Share,
}

/// An attachment that is coming.
struct Open {
    parts: AttachmentParts,
    bytes: BytesMut,
    crc32c: u32,
}

impl Open {
    fn lacking(&self) -> usize {
        self.parts.size_bytes as usize - self.bytes.len()
    }
}

impl Attachments {
    /// Expects the attachments of `copy`. `memory` is the share for their bytes.
    pub fn new(copy: Option<&Copy>, memory: Share) -> Self {
        let expected = copy.map_or_else(Vec::new, |copy| copy.attachments.clone()).into_iter();
        Self { expected, open: None, received: Vec::new(), memory }
    }

    /// Takes the next bytes. Returns how many of them are beyond the last attachment.
    pub fn push(&mut self, mut bytes: Bytes) -> Result<usize, IngestError> {
        while !bytes.is_empty() {
            let Some(mut open) = self.next_open()? else { return Ok(bytes.len()) };
            let taken = bytes.split_to(open.lacking().min(bytes.len()));
            open.crc32c = crc32c::crc32c_append(open.crc32c, &taken);
            open.bytes.extend_from_slice(&taken);
            self.keep(open)?;
        }
        Ok(0)
    }

    /// Returns all attachments, sorted by name. `None` if some are not complete.
    pub fn finish(mut self) -> Result<Option<(Vec<Attachment>, Share)>, IngestError> {
        // What is left may be empty attachments only, which no byte announces.
        while let Some(open) = self.next_open()? {
            if open.lacking() > 0 {
                return Ok(None);
            }
            self.keep(open)?;
        }
        self.received.sort_by(|a, b| a.facts.name.cmp(&b.facts.name));
        Ok(Some((self.received, self.memory)))
    }

    fn next_open(&mut self) -> Result<Option<Open>, IngestError> {
        if let Some(open) = self.open.take() {
            return Ok(Some(open));
        }
        let Some(parts) = self.expected.next() else { return Ok(None) };
        self.memory.set(self.memory.bytes() + parts.size_bytes)?;
        let bytes = BytesMut::with_capacity(parts.size_bytes as usize);
        Ok(Some(Open { parts, bytes, crc32c: 0 }))
    }

    /// Keeps an attachment: among those that have come, if it is complete.
    fn keep(&mut self, open: Open) -> Result<(), IngestError> {
        if open.lacking() > 0 {
            self.open = Some(open);
            return Ok(());
        }
        let Open { parts: AttachmentParts { name, size_bytes, crc32c: declared }, bytes, crc32c } = open;
        match declared {
            Some(declared) if declared != crc32c => {
                Err(IngestError::AttachmentDiffers { name, declared, computed: crc32c })
            }
            _ => {
                let facts = AttachmentFacts { name, size_bytes, crc32c };
                self.received.push(Attachment { facts, bytes: bytes.freeze() });
                Ok(())
            }
        }
    }
}
