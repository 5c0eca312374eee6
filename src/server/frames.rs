//! Counts the frames that a caller sends. Frames that carry nothing (PING, SETTINGS, WINDOW_UPDATE, PRIORITY,
//! RST_STREAM, empty DATA, and unknown types) cost the worker time, and HTTP/2 does not limit them. A
//! connection may send a number of them at once, and then a number per second. Frames that go with data in
//! either direction are allowed in addition.

use std::time::Instant;

/// The number of frames that may come at once.
const AT_ONCE: f64 = 1_000.0;
/// The maximum number of frames that can be saved up while data flows.
const SAVED_MAX: f64 = 10_000.0;
const PER_SECOND: f64 = 100.0;
/// Frames that are allowed for each byte of data, because the receiver of data acknowledges it with frames.
const PER_DATA_BYTE: f64 = 1.0 / 256.0;
/// Frames that are allowed for each call, such as its reset and its window updates.
const PER_CALL: f64 = 8.0;

const HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;

/// Reads the headers of frames as bytes come in, and skips the payloads.
#[derive(Debug)]
pub(super) struct FrameCount {
    head: [u8; HEAD_BYTES],
    have: usize,
    /// The bytes that are left of the frame's payload.
    left: usize,
    /// The number of useless frames that may still come.
    allowed: f64,
    refilled: Instant,
}

impl FrameCount {
    pub(super) fn new() -> Self {
        Self { head: [0; HEAD_BYTES], have: 0, left: 0, allowed: AT_ONCE, refilled: Instant::now() }
    }

    /// Counts the frames in received bytes. Returns whether too many useless frames have come.
    pub(super) fn received(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            if self.left > 0 {
                let skipped = self.left.min(bytes.len());
                (self.left, bytes) = (self.left - skipped, &bytes[skipped..]);
                continue;
            }
            let taken = (HEAD_BYTES - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            (self.have, bytes) = (self.have + taken, &bytes[taken..]);
            if self.have == HEAD_BYTES {
                self.have = 0;
                let [a, b, c, kind, flags, ..] = self.head;
                self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                self.frame(kind, flags);
            }
        }
        self.allowed < 0.0 && {
            self.refill();
            self.allowed < 0.0
        }
    }

    /// Allows more frames for bytes that were sent.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.add(bytes as f64 * PER_DATA_BYTE);
    }

    fn frame(&mut self, kind: u8, flags: u8) {
        match kind {
            DATA if self.left > 0 => self.add(self.left as f64 * PER_DATA_BYTE),
            DATA if flags & END_STREAM != 0 => {}
            HEADERS => self.add(PER_CALL),
            _ => self.allowed -= 1.0,
        }
    }

    fn refill(&mut self) {
        let now = Instant::now();
        let seconds = now.duration_since(self.refilled).as_secs_f64();
        self.refilled = now;
        self.allowed = (self.allowed + seconds * PER_SECOND).min(self.allowed.max(AT_ONCE));
    }

    fn add(&mut self, frames: f64) {
        self.allowed = (self.allowed + frames).min(SAVED_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = (payload as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], &vec![7; payload]].concat()
    }

    #[test]
    fn frames_that_carry_nothing_are_counted_however_their_bytes_come() {
        for kind in [2, 3, 4, 6, 8, 0x42] {
            let flood = frame(kind, 0, 8).repeat(1_500);
            for size in [1, 5, 17, 1_000_000] {
                let mut count = FrameCount::new();
                assert!(flood.chunks(size).any(|bytes| count.received(bytes)), "type {kind} by {size}");
            }
        }
    }

    #[test]
    fn frames_that_go_with_data_or_calls_are_not_too_many() {
        let mut count = FrameCount::new();
        for _ in 0..100_000 {
            let upload = [frame(DATA, 0, 600), frame(6, 0, 8), frame(8, 0, 4)].concat();
            assert!(!count.received(&upload));
            assert!(!count.received(&[frame(HEADERS, 4, 30), frame(DATA, END_STREAM, 0)].concat()));
            count.sent(256);
            assert!(!count.received(&frame(8, 0, 4)));
        }
    }
}
