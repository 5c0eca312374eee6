//! A broker's WAL empties itself: sealed segments are found, sent, and deleted on their receipts, in order.
//!
//! [`Agent`] looks at the segments every now and then, sends what is ready to be sent, oldest first, several at a time, and
//! remembers each receipt in a [`Checkpoint`] before it acts on it. Of each partition only the contiguous prefix that is stored
//! goes, so that the broker's log never has a hole. Knows nothing of files (that is [`wal`](crate::wal)'s) and of workers
//! (that is [`client`](crate::client)'s).
