//! Messages of magic 0 and 1.

use super::super::codec::Codec;
use super::super::{Fault, message};
use super::draft::Draft;
use super::source::Source;
use super::{Visitor, inflate};

/// The fields before a message's key, from its attributes on.
struct Head {
    attributes: u8,
    timestamp: i64,
}

fn head(source: &mut Source<'_>, magic: u8) -> Result<Head, Fault> {
    let [attributes] = source.array()?;
    let timestamp = if magic == 0 { -1 } else { i64::from_be_bytes(source.array()?) };
    Ok(Head { attributes, timestamp })
}

/// Reads a message after its magic. `source` ends with the message.
pub fn message(
    source: &mut Source<'_>,
    magic: u8,
    offset: i64,
    work_bytes_max: usize,
    visitor: &mut dyn Visitor,
) -> Result<(), Fault> {
    if magic > 1 {
        return Err(Fault::BadMagic { found: magic.into() });
    }
    let head = head(source, magic)?;
    let codec = message::codec_of(head.attributes)?;
    if codec == Codec::None {
        return record(source, offset, head.timestamp, visitor);
    }
    let key = i32::from_be_bytes(source.array()?);
    source.skip(u64::try_from(key).unwrap_or(0))?;
    let len = usize::try_from(i32::from_be_bytes(source.array()?)).unwrap_or(0);
    // The section is read twice, because only the last message in it shows the offset from which the others
    // count. So it is held as a whole.
    if len > work_bytes_max {
        return Err(Fault::TooLarge { limit: work_bytes_max });
    }
    let section = source.bytes(len)?;
    let section = if magic == 0 && codec == Codec::Lz4 {
        message::with_header_checksum(&section).into_owned()
    } else {
        section
    };
    let work_bytes_max = work_bytes_max - len;
    let (messages, last) = count_messages(codec, &section, work_bytes_max)?;
    let base = match magic {
        1 if offset != 0 => offset.checked_sub(last).ok_or(message::bad_offsets(offset, last))?,
        _ => 0,
    };
    let append_time = message::is_of_append_time(magic, head.attributes).then_some(head.timestamp);
    let mut section = &section[..];
    let mut opened = inflate::reader(codec, &mut section, work_bytes_max)?;
    let mut source = Source::new(&mut *opened);
    for record in 0..messages {
        if visitor.is_done() {
            break;
        }
        let (inner, mut message) = next(&mut source)?;
        message.skip(4)?;
        let [magic] = message.array()?;
        let own = self::head(&mut message, magic)?;
        let timestamp = append_time.filter(|_| magic == 1).unwrap_or(own.timestamp);
        let offset = base.checked_add(inner).ok_or(Fault::BadRecordOffset { record, offset: inner })?;
        self::record(&mut message, offset, timestamp, visitor)?;
        message.skip_rest()?;
    }
    Ok(())
}

/// Returns the number of messages in a compressed message, and the offset that the last of them states. A
/// message that is cut off at the end is not counted.
fn count_messages(codec: Codec, mut section: &[u8], work_bytes_max: usize) -> Result<(u32, i64), Fault> {
    let mut opened = inflate::reader(codec, &mut section, work_bytes_max)?;
    let mut source = Source::new(&mut *opened);
    let (mut messages, mut last) = (0, 0);
    loop {
        match next(&mut source).and_then(|(offset, mut message)| message.skip_rest().map(|()| offset)) {
            Ok(offset) => (messages, last) = (messages + 1, offset),
            Err(fault @ Fault::TooLarge { .. }) => return Err(fault),
            Err(_) => return Ok((messages, last)),
        }
    }
}

/// Returns the offset that the next message states, and the bytes after its length.
fn next<'a>(source: &'a mut Source<'_>) -> Result<(i64, Source<'a>), Fault> {
    let offset = i64::from_be_bytes(source.array()?);
    let length = u32::from_be_bytes(source.array()?);
    Ok((offset, source.take(length.into())))
}

fn record(
    source: &mut Source<'_>,
    offset: i64,
    timestamp: i64,
    visitor: &mut dyn Visitor,
) -> Result<(), Fault> {
    let mut draft = Draft::new(offset, timestamp, visitor);
    let len = i32::from_be_bytes(source.array()?);
    draft.key(source, u64::try_from(len).ok())?;
    let len = i32::from_be_bytes(source.array()?);
    draft.value(source, u64::try_from(len).ok())?;
    draft.finish(visitor);
    Ok(())
}
