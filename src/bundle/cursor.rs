//! Reads little-endian fields from untrusted bytes. Each step checks that enough bytes are left.

/// Contents of a binary member that break the format, though the checksum is right: a bug of the writer, or a
/// forgery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {position}")]
pub struct Malformed {
    /// The position, in bytes from the start of the parsed bytes.
    pub position: u64,
    /// What is wrong there.
    pub what: &'static str,
}

/// A position in a slice that only moves forward, and never beyond the end.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// Returns the error that `what` is wrong at the current position.
    pub(super) fn malformed(&self, what: &'static str) -> Malformed {
        Malformed { position: self.position as u64, what }
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        if self.left() < len {
            return Err(self.malformed("a field runs past the end"));
        }
        let taken = &self.bytes[self.position..self.position + len];
        self.position += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_le_bytes)
    }

    /// Reads an unsigned LEB128 number. Only the shortest form is accepted: each number has one encoding, so
    /// that equal contents are equal bytes.
    pub(super) fn varint(&mut self) -> Result<u64, Malformed> {
        let start = self.clone();
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(start.malformed("a number is larger than 64 bits"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(start.malformed("a number is not in its shortest form"));
                }
                return Ok(value);
            }
        }
        Err(start.malformed("a number is larger than 64 bits"))
    }
}

/// Appends `value` as unsigned LEB128: seven bits per byte, lowest first. The top bit says that more bytes
/// follow.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_size_come_back() {
        for value in (0..64).map(|bit| 1u64 << bit).flat_map(|v| [v - 1, v, v + 1]).chain([u64::MAX]) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            let mut cursor = Cursor::new(&bytes);
            assert_eq!(cursor.varint(), Ok(value));
            assert_eq!(cursor.left(), 0, "{value}");
        }
    }

    #[test]
    fn a_number_has_one_encoding_and_ends_where_the_bytes_end() {
        let check = |bytes: &[u8], what| {
            assert_eq!(Cursor::new(bytes).varint().expect_err("refused").what, what, "{bytes:x?}");
        };
        check(&[], "a field runs past the end");
        check(&[0x80], "a field runs past the end");
        check(&[0x80, 0x00], "a number is not in its shortest form");
        check(&[0xff; 10], "a number is larger than 64 bits");
        check(
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
            "a number is larger than 64 bits",
        );
    }
}
