//! A broker that keeps its log as Chronik does, and runs the agent itself instead of an indexer of its own.
//!
//!     cargo run --example chronik_like_broker -- DIRECTORY http://127.0.0.1:7070
//!
//! It writes until it is killed, which may happen at any moment. A partition has several open queues, each
//! with its own file: producers that write first at the same time make one each. The broker continues with
//! any of them, also with one of a lower id. What it acknowledged is either in its files or in the store, and
//! no offset is used twice. Mistakes that are easy to make here are marked "Trap".

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sha2::{Digest, Sha256};
use wal_indexer::agent::{Agent, Checkpoint, InFlightLimit, Settings};
use wal_indexer::client::{Client, Receipt, Security, Timeouts};
use wal_indexer::generate::kafka::BatchHead;
use wal_indexer::generate::logs::Logs;
use wal_indexer::generate::{Codec, chronik};
use wal_indexer::ids::{LogId, SegmentFormat, TopicPartition};
use wal_indexer::segment::{Frame, FrameSplitter};
use wal_indexer::wal::{self, Hold, Listing, Reading, Rejection, SealedSegments, Segment, Verdict, WalError};

const PARTITIONS: i32 = 3;

/// A file is rotated at this size, in bytes.
const SEGMENT_BYTES: u64 = 12_000;

/// The interval at which the watermarks are written.
const WATERMARK_EVERY: Duration = Duration::from_millis(100);

/// The maximum size of a frame's decompressed records, in bytes.
const FRAME_BYTES_MAX: usize = 16 << 20;

/// The broker: its partitions, each behind a lock.
pub struct Broker {
    partitions: Vec<Mutex<Partition>>,
}

/// A partition's log. Its segments are files. A segment is sealed if no queue has it open.
struct Partition {
    name: TopicPartition,
    directory: PathBuf,
    next_offset: i64,
    next_segment: u64,
    /// The queues that may still be appended to.
    queues: Vec<Queue>,
    /// The queue for new batches.
    current: usize,
    /// The last offset of each sealed segment, by its id.
    sealed: BTreeMap<u64, i64>,
    rejected: BTreeMap<u64, Rejection>,
    /// The next offset that is on disk beside the segments. After a crash, the next offset is at least this
    /// one.
    watermark: i64,
}

/// An open file, and what is known of its end.
struct Queue {
    segment: u64,
    file: File,
    size_bytes: u64,
    last_offset: Option<i64>,
}

impl Partition {
    /// Recovers a partition from its files. The next offset is the one after the last complete frame, and at
    /// least the watermark. Torn frames are cut off, because they were never acknowledged.
    fn recover(root: &Path, number: i32) -> Result<Self, Box<dyn Error>> {
        let directory = root.join(number.to_string());
        fs::create_dir_all(&directory)?;
        let watermark = read_watermark(&directory)?;
        let mut sealed = BTreeMap::new();
        for id in segment_ids(&directory)? {
            let path = segment_path(&directory, id);
            let frames = whole_frames(&path)?;
            match frames.last().map(|last| last.position + last.bytes.len() as u64) {
                // The file is empty, so no agent sends or deletes it.
                None => fs::remove_file(&path)?,
                Some(end) => {
                    let file = File::options().write(true).open(&path)?;
                    // Trap: truncating a file changes its version. The file is listed only after this.
                    if file.metadata()?.len() > end {
                        file.set_len(end)?;
                    }
                    file.sync_all()?;
                    let last = frames.iter().filter_map(|frame| Some(frame.claimed_range()?.last())).max();
                    sealed.insert(id, last.ok_or("a frame without offsets")?);
                }
            }
        }
        File::open(&directory)?.sync_all()?;
        // Trap: the highest id may not hold the highest offset, because queues are written concurrently.
        let next_offset = sealed.values().map(|last| last + 1).max().unwrap_or(0).max(watermark);
        let next_segment = sealed.keys().next_back().map_or(0, |id| id + 1);
        let name = TopicPartition::new("orders", number)?;
        Ok(Self {
            name,
            directory,
            next_offset,
            next_segment,
            queues: Vec::new(),
            current: 0,
            sealed,
            rejected: BTreeMap::new(),
            watermark,
        })
    }

    /// Opens a queue with a new file. It never reuses an existing file.
    fn open_queue(&mut self) -> io::Result<usize> {
        let segment = self.next_segment;
        let path = segment_path(&self.directory, segment);
        let file = File::options().create_new(true).append(true).open(path)?;
        File::open(&self.directory)?.sync_all()?;
        self.next_segment += 1;
        self.queues.push(Queue { segment, file, size_bytes: 0, last_offset: None });
        Ok(self.queues.len() - 1)
    }

    /// Appends a batch to a queue's file. When this returns, the batch is durable and may be acknowledged.
    fn append(&mut self, queue: usize, logs: &mut Logs, records: u64) -> io::Result<Vec<String>> {
        let first = self.next_offset;
        // The offsets of a batch whose write fails are not used again.
        self.next_offset += records as i64;
        (first..self.next_offset).for_each(|offset| logs.push(offset));
        let batch = logs.take();
        let mut bytes = Vec::new();
        chronik::encode_v2(&self.name, &BatchHead::default(), Codec::None, &batch, None, &mut bytes);
        let queue = &mut self.queues[queue];
        queue.file.write_all(&bytes)?;
        queue.file.sync_data()?;
        queue.size_bytes += bytes.len() as u64;
        queue.last_offset = Some(self.next_offset - 1);
        let told = batch.iter().map(|record| {
            let value = Sha256::digest(record.value().unwrap_or_default());
            let value: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("ack {} {} {value}\n", self.name.partition(), record.offset())
        });
        Ok(told.collect())
    }

    /// Closes a queue's file. Only now is the segment sealed, because no writer can append to it any more.
    ///
    /// Trap: a file that is only marked as sealed in memory, for example after a while without writes, is
    /// still open. Data that is appended after the file was sent would be deleted with it.
    fn close_queue(&mut self, queue: usize) -> io::Result<()> {
        let Queue { segment, file, last_offset, .. } = self.queues.remove(queue);
        drop(file);
        match last_offset {
            Some(last) => {
                self.sealed.insert(segment, last);
                Ok(())
            }
            None => fs::remove_file(segment_path(&self.directory, segment)),
        }
    }

    /// Continues with a new file, which stays empty until something is written.
    fn rotate(&mut self) -> io::Result<()> {
        self.close_queue(self.current)?;
        self.current = self.open_queue()?;
        Ok(())
    }

    /// The ids of the segments that may be sent: sealed, and below every open file.
    ///
    /// Trap: the broker may continue with a lower id than the highest. Segments between two open files could
    /// also be deleted, but a partition is deleted from its front, and the front ends at the lowest open
    /// file.
    fn listed(&self) -> impl Iterator<Item = u64> {
        let open = self.queues.iter().map(|queue| queue.segment).min().unwrap_or(u64::MAX);
        self.sealed.range(..open).map(|(id, _)| *id)
    }

    /// Returns why a segment must stay although it is stored.
    fn hold(&self, id: u64, receipt: &Receipt) -> Option<Hold> {
        let Some(last) = receipt.offsets().map(|offsets| offsets.last()) else {
            return Some(Hold::BrokerNotReady("its receipt is from an older release".to_owned()));
        };
        // Trap: the newest segment may be empty, or its last frame may be torn. The segment from which
        // recovery takes the next offset stays, whatever comes after it.
        let sealed = self.sealed.range(id + 1..).map(|(_, last)| *last);
        let open =
            self.queues.iter().filter(|queue| queue.segment > id).filter_map(|queue| queue.last_offset);
        if !sealed.chain(open).any(|later| later > last) {
            return Some(Hold::EndOfLog);
        }
        // Trap: a watermark in memory does not survive a crash. Before a segment is deleted, a higher
        // watermark must be on disk.
        (self.watermark <= last)
            .then(|| Hold::BrokerNotReady(format!("its watermark is on disk up to {}", self.watermark)))
    }

    /// Deletes a segment's file permanently.
    fn delete(&mut self, segment: &Segment, receipt: &Receipt) -> Result<(), WalError> {
        let (id, path) = (segment.position, segment_path(&self.directory, segment.position));
        if !self.sealed.contains_key(&id) {
            // An earlier call deleted it, but may not have completed.
            return sync(&self.directory).map_err(|source| failed("sync", segment, source));
        }
        if !self.listed().any(|listed| listed == id) {
            return Err(WalError::MayGrow { name: segment.name.clone() });
        }
        // Trap: the answer to the agent's earlier question may have changed.
        if let Some(hold) = self.hold(id, receipt) {
            return Err(WalError::Held { name: segment.name.clone(), hold });
        }
        match wal::check_file(&path, segment) {
            Err(WalError::Gone { .. }) => {}
            checked => {
                checked?;
                fs::remove_file(&path).map_err(|source| failed("delete", segment, source))?;
            }
        }
        // Trap: without this sync, the file may reappear after a crash, with a gap before it.
        sync(&self.directory).map_err(|source| failed("sync", segment, source))?;
        self.sealed.remove(&id);
        self.rejected.remove(&id);
        Ok(())
    }

    /// Writes the next offset beside the segments.
    fn write_watermark(&mut self) -> io::Result<()> {
        if self.watermark == self.next_offset {
            return Ok(());
        }
        let (path, new) = (self.directory.join("watermark"), self.directory.join("watermark.new"));
        let mut file = File::create(&new)?;
        writeln!(file, "{}", self.next_offset)?;
        file.sync_all()?;
        fs::rename(new, path)?;
        sync(&self.directory)?;
        self.watermark = self.next_offset;
        Ok(())
    }
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn read_watermark(directory: &Path) -> Result<i64, Box<dyn Error>> {
    match fs::read_to_string(directory.join("watermark")) {
        Ok(text) => Ok(text.trim().parse()?),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error.into()),
    }
}

fn segment_path(directory: &Path, id: u64) -> PathBuf {
    directory.join(format!("{id}.segment"))
}

/// The ids of a partition's files, ascending.
fn segment_ids(directory: &Path) -> io::Result<Vec<u64>> {
    let mut ids = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        ids.extend(name.to_str().and_then(|name| name.strip_suffix(".segment")?.parse::<u64>().ok()));
    }
    ids.sort_unstable();
    Ok(ids)
}

/// The frames of a file before the first torn or damaged one.
pub fn whole_frames(path: &Path) -> io::Result<Vec<Frame>> {
    let bytes = Bytes::from(fs::read(path)?);
    let mut splitter = FrameSplitter::new(bytes.len() as u64, Some(SegmentFormat::ChronikWal));
    let mut frames = Vec::new();
    // Bytes that are no frame are left out of the result, so the error is not needed.
    let _ = splitter.push(bytes, &mut frames);
    let whole = frames.iter().take_while(|frame| frame.decode(FRAME_BYTES_MAX).is_ok()).count();
    frames.truncate(whole);
    Ok(frames)
}

impl Broker {
    /// Recovers the broker in this directory.
    pub fn recover(root: &Path) -> Result<Arc<Self>, Box<dyn Error>> {
        let partition = |number| Partition::recover(root, number).map(Mutex::new);
        let partitions = (0..PARTITIONS).map(partition).collect::<Result<_, _>>()?;
        Ok(Arc::new(Self { partitions }))
    }

    fn partition(&self, number: i32) -> MutexGuard<'_, Partition> {
        self.partitions[number as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes batches without end, as producers would send them. Prints what it acknowledged and what it did.
    fn write(&self, seed: u64) -> io::Result<()> {
        let (mut random, mut logs) = (StdRng::seed_from_u64(seed), Logs::new(seed));
        for number in 0..PARTITIONS {
            // Several producers find no open file, and each makes one.
            let queues = random.random_range(1..4);
            for _ in 0..queues {
                let mut partition = self.partition(number);
                let queue = partition.open_queue()?;
                tell(&partition.append(queue, &mut logs, 3)?.concat())?;
            }
            self.partition(number).current = random.random_range(0..queues);
        }
        loop {
            let number = random.random_range(0..PARTITIONS);
            let mut partition = self.partition(number);
            let current = partition.current;
            let told = partition.append(current, &mut logs, random.random_range(1..6))?;
            tell(&told.concat())?;
            if partition.queues[current].size_bytes >= SEGMENT_BYTES {
                tell(&format!("rotating {number}\n"))?;
                partition.rotate()?;
            } else if partition.queues.len() > 1 && random.random_range(0..40) == 0 {
                // Closes a queue that the broker did not continue with.
                let other = (current + 1) % partition.queues.len();
                partition.close_queue(other)?;
                partition.current -= usize::from(other < current);
            }
            drop(partition);
            std::thread::sleep(Duration::from_millis(random.random_range(0..4)));
        }
    }

    fn write_watermarks(&self) -> io::Result<()> {
        loop {
            std::thread::sleep(WATERMARK_EVERY);
            (0..PARTITIONS).try_for_each(|number| self.partition(number).write_watermark())?;
        }
    }
}

/// Prints all lines in one write, so that they are acknowledged together.
fn tell(lines: &str) -> io::Result<()> {
    io::stdout().write_all(lines.as_bytes())
}

fn failed(what: &str, segment: &Segment, source: io::Error) -> WalError {
    WalError::Io { what: format!("{what} segment {segment}"), source }
}

/// The broker as the agent sees it.
pub struct Offered(Arc<Broker>);

impl Offered {
    /// Works with files outside of the runtime's threads, because file operations block.
    async fn blocking<T: Send + 'static>(
        &self,
        segment: &Segment,
        act: impl FnOnce(&mut Partition) -> Result<T, WalError> + Send + 'static,
    ) -> Result<T, WalError> {
        let (broker, number) = (Arc::clone(&self.0), segment.partition.partition());
        let acting = tokio::task::spawn_blocking(move || act(&mut broker.partition(number)));
        acting.await.map_err(|error| failed("look after", segment, io::Error::other(error)))?
    }
}

impl SealedSegments for Offered {
    async fn list(&self) -> Result<Listing, WalError> {
        let broker = Arc::clone(&self.0);
        let listing = tokio::task::spawn_blocking(move || {
            let mut segments = Vec::new();
            for number in 0..PARTITIONS {
                let partition = broker.partition(number);
                for id in partition.listed() {
                    let path = segment_path(&partition.directory, id);
                    let name = format!("orders/{number}/{id}");
                    let gone = || WalError::Gone { name: name.clone() };
                    let (version, change_time) = wal::look_at(&path)?.ok_or_else(gone)?;
                    segments.push(Segment {
                        name,
                        partition: partition.name.clone(),
                        // Trap: a topic that is deleted and created again starts its offsets again. Give it
                        // another id.
                        log_id: LogId::new("example"),
                        format: Some(SegmentFormat::ChronikWal),
                        position: id,
                        version,
                        may_grow: false,
                        broker_deletes: false,
                        verdict: partition.rejected.get(&id).map(|_| Verdict::Rejected),
                        change_time: Some(change_time),
                        bounds: None,
                    });
                }
            }
            Ok(Listing::from(segments))
        });
        let stopped =
            |error| WalError::Io { what: "list segments".to_owned(), source: io::Error::other(error) };
        listing.await.map_err(stopped)?
    }

    async fn open(&self, segment: &Segment) -> Result<Reading, WalError> {
        let path = segment_path(&self.0.partition(segment.partition.partition()).directory, segment.position);
        wal::open_file(&path, segment).await
    }

    async fn hold(&self, segment: &Segment, receipt: &Receipt) -> Result<Option<Hold>, WalError> {
        let (id, receipt) = (segment.position, receipt.clone());
        self.blocking(segment, move |partition| Ok(partition.hold(id, &receipt))).await
    }

    async fn delete(&self, segment: &Segment, receipt: &Receipt) -> Result<(), WalError> {
        let (asked, receipt) = (segment.clone(), receipt.clone());
        self.blocking(segment, move |partition| {
            let told = |what| {
                let line = format!("{what} {} {}\n", partition.name.partition(), asked.position);
                tell(&line).map_err(|source| failed("tell of", &asked, source))
            };
            told("deleting")?;
            partition.delete(&asked, &receipt)?;
            tell(&format!("deleted {asked}\n")).map_err(|source| failed("tell of", &asked, source))
        })
        .await
    }

    async fn reject(&self, segment: &Segment, rejection: &Rejection) -> Result<(), WalError> {
        let (id, rejection) = (segment.position, rejection.clone());
        self.blocking(segment, move |partition| {
            partition.rejected.insert(id, rejection);
            Ok(())
        })
        .await
    }
}

/// Runs the broker until it is killed, or something fails.
pub async fn run(root: &Path, endpoint: &str, seed: u64) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(root)?;
    let broker = Broker::recover(root)?;
    let client = Client::start(vec![endpoint.parse()?], Security::default(), Timeouts::default()).await?;
    let checkpoint = Checkpoint::open(root, "agent").await?;
    let settings = Settings {
        interval: Duration::from_millis(100),
        min_segment_age: Duration::ZERO,
        ..Settings::default()
    };
    let in_flight_limit = InFlightLimit::new(NonZeroUsize::new(4).ok_or("no slots")?);
    let agent =
        Agent::new("broker", Offered(Arc::clone(&broker)), client, checkpoint, in_flight_limit, settings);
    let (writer, watermarks) = (Arc::clone(&broker), broker);
    let writing = tokio::task::spawn_blocking(move || writer.write(seed));
    let watermarks = tokio::task::spawn_blocking(move || watermarks.write_watermarks());
    tokio::select! {
        written = writing => Ok(written??),
        written = watermarks => Ok(written??),
        _ = agent.run(std::future::pending()) => Err("the agent has ended".into()),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(root), Some(endpoint)) = (arguments.next(), arguments.next()) else {
        return Err("usage: chronik_like_broker DIRECTORY ENDPOINT".into());
    };
    run(Path::new(&root), &endpoint, u64::from(std::process::id())).await
}
