//! Receives the attachments of a copy, whose bytes follow those of the segment.

use bytes::{Buf, Bytes, BytesMut};

use super::copy::{Attachment, AttachmentParts, Copy};
use super::error::IngestError;
use super::memory_account::Share;
use crate::bundle::AttachmentFacts;

/// The attachments that are still expected, and those that have come.
pub(super) struct Attachments {
    expected: std::vec::IntoIter<AttachmentParts>,
    open: Option<(AttachmentParts, BytesMut)>,
    received: Vec<Attachment>,
    memory: Share,
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
            let Some((parts, mut buffer)) = self.next_open()? else { return Ok(bytes.len()) };
            let lacking = (parts.size_bytes as usize) - buffer.len();
            let taken = lacking.min(bytes.len());
            buffer.extend_from_slice(&bytes[..taken]);
            bytes.advance(taken);
            self.open = Some((parts, buffer));
            self.close_complete()?;
        }
        Ok(0)
    }

    /// Returns all attachments, sorted by name. `None` if some are not complete.
    pub fn finish(mut self) -> Result<Option<(Vec<Attachment>, Share)>, IngestError> {
        // What is left may be empty attachments only, which no byte announces.
        while let Some(open) = self.next_open()? {
            let is_complete = open.0.size_bytes == open.1.len() as u64;
            self.open = Some(open);
            if !is_complete {
                return Ok(None);
            }
            self.close_complete()?;
        }
        self.received.sort_by(|a, b| a.facts.name.cmp(&b.facts.name));
        Ok(Some((self.received, self.memory)))
    }

    fn next_open(&mut self) -> Result<Option<(AttachmentParts, BytesMut)>, IngestError> {
        if let Some(open) = self.open.take() {
            return Ok(Some(open));
        }
        let Some(parts) = self.expected.next() else { return Ok(None) };
        self.memory.set(self.memory.bytes() + parts.size_bytes)?;
        let buffer = BytesMut::with_capacity(parts.size_bytes as usize);
        Ok(Some((parts, buffer)))
    }

    fn close_complete(&mut self) -> Result<(), IngestError> {
        let Some((parts, buffer)) =
            self.open.take_if(|(parts, buffer)| parts.size_bytes == buffer.len() as u64)
        else {
            return Ok(());
        };
        let AttachmentParts { name, size_bytes, crc32c: declared } = parts;
        let crc32c = crc32c::crc32c(&buffer);
        match declared {
            Some(declared) if declared != crc32c => {
                Err(IngestError::AttachmentDiffers { name, declared, computed: crc32c })
            }
            _ => {
                let facts = AttachmentFacts { name, size_bytes, crc32c };
                self.received.push(Attachment { facts, bytes: buffer.freeze() });
                Ok(())
            }
        }
    }
}
