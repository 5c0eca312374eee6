//! Record batches as they are: from a broker by its protocol, and from its files.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::cluster::{Node, SOON};

/// Returns the batches of partition 0 of a topic, from offset 0 up to an offset, as a consumer's fetches get them.
pub fn fetched(node: &Node, topic: &str, end: i64) -> Vec<Vec<u8>> {
    let mut stream = TcpStream::connect(&node.address).expect("it listens");
    stream.set_read_timeout(Some(SOON)).expect("a time");
    let (mut batches, mut offset, mut deadline) = (Vec::new(), 0, Instant::now() + SOON);
    while offset < end {
        let records = fetch(&mut stream, topic, offset);
        let new: Vec<_> = split(&records).into_iter().filter(|batch| base_offset(batch) >= offset).collect();
        match new.last() {
            Some(last) => (offset, deadline) = (next_offset(last), Instant::now() + SOON),
            None => {
                assert!(Instant::now() < deadline, "nothing comes at offset {offset}");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        batches.extend(new);
    }
    batches.retain(|batch| base_offset(batch) < end);
    batches
}

/// Returns the batches in the files of partition 0 of a topic.
pub fn on_disk(node: &Node, topic: &str) -> Vec<Vec<u8>> {
    let segments = node.segments(topic).into_iter().map(|path| std::fs::read(path).expect("a file"));
    segments.flat_map(|bytes| split(&bytes)).collect()
}

/// Returns the whole batches. The last one of a fetch may be cut.
fn split(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut batches = Vec::new();
    while let Some(length) = bytes.get(8..12) {
        let length = 12 + u32::from_be_bytes(length.try_into().expect("four")) as usize;
        let Some((batch, rest)) = bytes.split_at_checked(length) else { break };
        batches.push(batch.to_vec());
        bytes = rest;
    }
    batches
}

/// Returns the offset of a batch's first record. In magic 0 and 1 it is that of a message.
pub fn base_offset(batch: &[u8]) -> i64 {
    i64::from_be_bytes(batch[..8].try_into().expect("eight"))
}

fn next_offset(batch: &[u8]) -> i64 {
    let deltas = match batch[16] {
        2 => i64::from(u32::from_be_bytes(batch[23..27].try_into().expect("four"))),
        _ => 0,
    };
    base_offset(batch) + deltas + 1
}

/// Sends a fetch request of version 4, and returns the bytes of the records. They may begin before the offset.
fn fetch(stream: &mut TcpStream, topic: &str, offset: i64) -> Vec<u8> {
    const CORRELATION: i32 = 7;
    let mut request = Vec::new();
    request.extend([0, 1, 0, 4]); // Fetch, version 4
    request.extend(CORRELATION.to_be_bytes());
    request.extend((-1_i16).to_be_bytes()); // no client id
    request.extend((-1_i32).to_be_bytes()); // a consumer, not a replica
    for number in [500, 1, 20 << 20] {
        request.extend(i32::to_be_bytes(number)); // the longest wait, the least and the most bytes
    }
    request.push(0); // read_uncommitted
    request.extend(1_i32.to_be_bytes());
    request.extend((topic.len() as i16).to_be_bytes());
    request.extend(topic.as_bytes());
    request.extend(1_i32.to_be_bytes());
    request.extend(0_i32.to_be_bytes());
    request.extend(offset.to_be_bytes());
    request.extend((1_i32 << 20).to_be_bytes());
    stream.write_all(&(request.len() as i32).to_be_bytes()).expect("it reads");
    stream.write_all(&request).expect("it reads");

    let mut length = [0; 4];
    stream.read_exact(&mut length).expect("an answer");
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer).expect("an answer");
    let mut rest = &answer[..];
    let mut take = |bytes: usize| {
        let (taken, left) = rest.split_at(bytes);
        rest = left;
        taken
    };
    assert_eq!(take(4), CORRELATION.to_be_bytes());
    take(8); // the throttle time, one topic
    let name = take(2);
    take(i16::from_be_bytes(name.try_into().expect("two")) as usize);
    take(8); // one partition, its number
    let error = i16::from_be_bytes(take(2).try_into().expect("two"));
    assert_eq!(error, 0, "the fetch of {topic} at {offset} fails");
    take(16); // high watermark, last stable offset
    let aborted = i32::from_be_bytes(take(4).try_into().expect("four")).max(0);
    take(aborted as usize * 16);
    let records = i32::from_be_bytes(take(4).try_into().expect("four")).max(0);
    take(records as usize).to_vec()
}
