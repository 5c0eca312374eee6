//! Writes frames field by field, so that a test can write wrong ones.

/// The fields of a Kafka batch's head that are not computed from its bytes.
#[derive(Clone, Copy)]
pub(super) struct BatchHead {
    pub base_offset: i64,
    pub leader_epoch: i32,
    pub attributes: u16,
    pub last_delta: i32,
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    pub count: i32,
}

impl Default for BatchHead {
    fn default() -> Self {
        Self {
            base_offset: 100,
            leader_epoch: 0,
            attributes: 0,
            last_delta: 0,
            base_timestamp: 1_000,
            max_timestamp: 2_000,
            count: 1,
        }
    }
}

/// A batch with a correct length and CRC.
pub(super) fn batch(head: BatchHead, body: &[u8]) -> Vec<u8> {
    let mut covered = Vec::new();
    covered.extend(head.attributes.to_be_bytes());
    covered.extend(head.last_delta.to_be_bytes());
    covered.extend(head.base_timestamp.to_be_bytes());
    covered.extend(head.max_timestamp.to_be_bytes());
    covered.extend((-1_i64).to_be_bytes());
    covered.extend((-1_i16).to_be_bytes());
    covered.extend((-1_i32).to_be_bytes());
    covered.extend(head.count.to_be_bytes());
    covered.extend(body);
    let mut batch = Vec::new();
    batch.extend(head.base_offset.to_be_bytes());
    batch.extend((covered.len() as i32 + 9).to_be_bytes());
    batch.extend(head.leader_epoch.to_be_bytes());
    batch.push(2);
    batch.extend(crc32c::crc32c(&covered).to_be_bytes());
    batch.extend(covered);
    batch
}

/// A zigzag varint.
pub(super) fn varint(value: i64) -> Vec<u8> {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    let mut bytes = Vec::new();
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

/// A length and as many bytes; the length -1 for null.
pub(super) fn nullable(bytes: Option<&[u8]>) -> Vec<u8> {
    [varint(bytes.map_or(-1, |bytes| bytes.len() as i64)), bytes.unwrap_or_default().to_vec()].concat()
}

/// A record of a Kafka batch, from the bytes after its length.
pub(super) fn record_of(parts: &[u8]) -> Vec<u8> {
    [varint(parts.len() as i64), parts.to_vec()].concat()
}

/// A record of a Kafka batch, with no headers.
pub(super) fn record(
    time_delta: i64,
    offset_delta: i64,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
) -> Vec<u8> {
    let parts =
        [vec![0], varint(time_delta), varint(offset_delta), nullable(key), nullable(value), varint(0)];
    record_of(&parts.concat())
}

/// The fields before the records in a canonical record.
#[derive(Clone, Copy)]
pub(super) struct CanonicalHead {
    pub base_offset: i64,
    pub is_control: u8,
    pub compression: u32,
    pub timestamp_type: u32,
    pub max_timestamp: i64,
    pub count: u64,
}

impl Default for CanonicalHead {
    fn default() -> Self {
        Self {
            base_offset: 100,
            is_control: 0,
            compression: 0,
            timestamp_type: 0,
            max_timestamp: 2_000,
            count: 1,
        }
    }
}

/// A canonical record: head, records, trailing options.
pub(super) fn canonical(head: CanonicalHead, records: &[u8], options: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(head.base_offset.to_le_bytes());
    bytes.extend(0_i32.to_le_bytes());
    bytes.extend((-1_i64).to_le_bytes());
    bytes.extend((-1_i16).to_le_bytes());
    bytes.extend((-1_i32).to_le_bytes());
    bytes.push(0);
    bytes.push(head.is_control);
    bytes.extend(head.compression.to_le_bytes());
    bytes.extend(head.timestamp_type.to_le_bytes());
    bytes.extend(1_000_i64.to_le_bytes());
    bytes.extend(head.max_timestamp.to_le_bytes());
    bytes.extend(head.count.to_le_bytes());
    bytes.extend(records);
    bytes.extend(options);
    bytes
}

/// An option of bytes, as bincode writes it.
pub(super) fn option(bytes: Option<&[u8]>) -> Vec<u8> {
    match bytes {
        None => vec![0],
        Some(bytes) => [&[1][..], &(bytes.len() as u64).to_le_bytes(), bytes].concat(),
    }
}

/// An entry of a canonical record, with no headers.
pub(super) fn entry(offset: i64, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Vec<u8> {
    let numbers = [offset.to_le_bytes(), timestamp.to_le_bytes()].concat();
    [numbers, option(key), option(value), 0_u64.to_le_bytes().to_vec(), vec![0]].concat()
}

/// A V2 frame's body: topic, partition, data and trailer.
pub(super) fn v2_body(topic: &[u8], partition: i32, data: &[u8], trailer: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend((topic.len() as u16).to_le_bytes());
    body.extend(topic);
    body.extend(partition.to_le_bytes());
    body.extend((data.len() as u32).to_le_bytes());
    body.extend(data);
    body.extend(trailer);
    body
}

/// Base offset, last offset and record count.
pub(super) fn v2_trailer(base: i64, last: i64, count: i32) -> Vec<u8> {
    [&base.to_le_bytes()[..], &last.to_le_bytes(), &count.to_le_bytes()].concat()
}

/// A V2 frame with a correct CRC. With `length_hashed`, the CRC is computed over this length instead.
pub(super) fn v2_hashing(body: &[u8], length_hashed: Option<u32>) -> Vec<u8> {
    let length = body.len() as u32;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&[0x7e, 0xca, 2, 0]);
    crc.update(&length_hashed.unwrap_or(length).to_le_bytes());
    crc.update(body);
    [&[0x7e, 0xca, 2, 0][..], &length.to_le_bytes(), &crc.finalize().to_le_bytes(), body].concat()
}

/// A V2 frame of `orders`/3 with a correct CRC.
pub(super) fn v2(data: &[u8], trailer: &[u8]) -> Vec<u8> {
    v2_hashing(&v2_body(b"orders", 3, data, trailer), None)
}

/// A V1 frame with a correct length and CRC, from the bytes after its CRC.
pub(super) fn v1(offset: i64, timestamp: i64, parts: &[u8]) -> Vec<u8> {
    let mut covered = vec![0x7e, 0xca, 1, 0];
    covered.extend((28 + parts.len() as u32).to_le_bytes());
    covered.extend(offset.to_le_bytes());
    covered.extend(timestamp.to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&covered);
    crc.update(parts);
    covered.extend(crc.finalize().to_le_bytes());
    covered.extend(parts);
    covered
}
