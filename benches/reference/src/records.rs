//! The file that the bench passes to this program: records one after the other, all numbers little-endian.
//!
//! A record has: offset `i64`, milliseconds since the epoch `i64` (`i64::MIN`: none), key, value, number of
//! headers `u32`, and name and value of each header. A key, name or value has: length `u32` (`u32::MAX`:
//! null), then its bytes.

/// One record, borrowed from the file's bytes.
pub struct Record<'a> {
    pub offset: i64,
    pub timestamp_ms: Option<i64>,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: Vec<(&'a [u8], Option<&'a [u8]>)>,
}

/// Parses all records of the file; `None` if it ends inside a record.
pub fn parse(mut bytes: &[u8]) -> Option<Vec<Record<'_>>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        records.push(record(&mut bytes)?);
    }
    Some(records)
}

fn record<'a>(bytes: &mut &'a [u8]) -> Option<Record<'a>> {
    let offset = i64::from_le_bytes(take(bytes)?);
    let timestamp_ms = Some(i64::from_le_bytes(take(bytes)?)).filter(|ms| *ms != i64::MIN);
    let (key, value) = (part(bytes)?, part(bytes)?);
    let count = u32::from_le_bytes(take(bytes)?);
    let headers = (0..count).map(|_| Some((part(bytes)??, part(bytes)?))).collect::<Option<_>>()?;
    Some(Record { offset, timestamp_ms, key, value, headers })
}

/// Parses a part, which may be null; `None` if the bytes end inside it.
fn part<'a>(bytes: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    match u32::from_le_bytes(take(bytes)?) {
        u32::MAX => Some(None),
        len => bytes.split_off(..len as usize).map(Some),
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}
