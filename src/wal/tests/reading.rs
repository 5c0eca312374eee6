use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::Command;
use std::time::SystemTime;

use tokio::io::AsyncReadExt;

use super::{HOUR, Wal, kind};
use crate::wal::{Reading, SealedSegments, Segment, WalError};

const NAME: &str = "orders/0/wal_0_1.log";

/// More than is read ahead.
const BYTES: usize = 5 << 20;

async fn sealed() -> (Wal, Segment) {
    let wal = Wal::of(&["orders/0/wal_0_2.log"]);
    wal.write(NAME, &vec![7; BYTES]);
    wal.set_time(NAME, SystemTime::now() - HOUR);
    wait_for_the_clock_of_files(&wal);
    let segment = wal.segment(NAME).await;
    (wal, segment)
}

/// Waits until a new change to a file gets a later time than the earlier ones: the clock of files advances in
/// steps.
fn wait_for_the_clock_of_files(wal: &Wal) {
    let time = |name: &str| {
        let metadata = fs::metadata(wal.path(name)).expect("a file");
        (metadata.ctime(), metadata.ctime_nsec())
    };
    loop {
        wal.write("clock", b"");
        if time("clock") > time(NAME) {
            return;
        }
    }
}

async fn rest(reading: &mut Reading) -> Result<usize, &'static str> {
    let mut bytes = Vec::new();
    match reading.read_to_end(&mut bytes).await {
        Ok(len) => Ok(len),
        Err(error) => Err(WalError::from_io(&error).map_or("io", kind)),
    }
}

#[tokio::test]
async fn a_segment_is_read_to_its_end() {
    for size in [0, 1, 17, BYTES] {
        let wal = Wal::of(&["orders/0/wal_0_2.log"]);
        let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        wal.write(NAME, &bytes);
        wal.set_time(NAME, SystemTime::now() - HOUR);
        let mut reading = wal.dir.open(&wal.segment(NAME).await).await.expect("it is there");
        let mut read = Vec::new();
        reading.read_to_end(&mut read).await.expect("its bytes");
        assert!(read == bytes, "{size}");
        assert_eq!(reading.read(&mut [0; 9]).await.expect("the end stays"), 0);
    }
}

/// Checks the result of a reading while something happens to the file.
async fn check(expected: Result<usize, &'static str>, what_happens: impl Fn(&Wal, &mut File)) {
    let (wal, segment) = sealed().await;
    let mut reading = wal.dir.open(&segment).await.expect("it is there");
    let mut first = vec![0; 1 << 20];
    reading.read_exact(&mut first).await.expect("bytes");
    let mut file = File::options().read(true).write(true).open(wal.path(NAME)).expect("a file");
    what_happens(&wal, &mut file);
    assert_eq!(rest(&mut reading).await, expected.map(|len| len - first.len()));
    if expected.is_err() {
        assert_eq!(rest(&mut reading).await, expected, "an end that is none must not become one");
    }
}

#[tokio::test]
async fn a_file_that_is_written_to_while_it_is_read_has_no_end() {
    check(Ok(BYTES), |_, _| ()).await;
    check(Err("changed"), |_, file| {
        file.seek(std::io::SeekFrom::End(0)).expect("its end");
        file.write_all(b"more").expect("it grows");
    })
    .await;
    check(Err("changed"), |_, file| file.set_len(BYTES as u64 - 1).expect("it shrinks")).await;
    check(Err("changed"), |_, file| file.set_len(0).expect("it shrinks")).await;
    check(Err("changed"), |_, file| file.write_all(b"other").expect("bytes are replaced")).await;
    check(Err("changed"), |wal, file| {
        file.write_all(b"other").expect("bytes are replaced");
        fs::remove_file(wal.path(NAME)).expect("and it vanishes");
    })
    .await;
    check(Err("changed"), |_, file| {
        let before = file.metadata().expect("times").modified().expect("a time");
        file.write_all(b"other").expect("bytes are replaced");
        file.set_modified(before).expect("and the time is set back");
    })
    .await;
    check(Err("changed"), |_, file| {
        file.write_all(b"other").expect("the first bytes, which were read");
        file.set_len(BYTES as u64).expect("the same size");
    })
    .await;
}

#[tokio::test]
async fn a_file_that_vanishes_while_it_is_read_is_read_to_its_end() {
    check(Ok(BYTES), |wal, _| fs::remove_file(wal.path(NAME)).expect("it is there")).await;
    check(Ok(BYTES), |wal, _| fs::hard_link(wal.path(NAME), wal.path("backup")).expect("a link")).await;
    check(Ok(BYTES), |wal, _| {
        fs::remove_file(wal.path(NAME)).expect("it is there");
        wal.write(NAME, b"another segment");
    })
    .await;
}

/// Checks the result of opening a segment after something happened to it since it was listed.
async fn check_open(expected: &str, what_happens: impl Fn(&Wal)) {
    let (wal, segment) = sealed().await;
    what_happens(&wal);
    match wal.dir.open(&segment).await {
        Ok(_) => panic!("it opened, and not: {expected}"),
        Err(error) => assert_eq!(kind(&error), expected),
    }
}

#[tokio::test]
async fn only_what_was_listed_is_opened() {
    check_open("gone", |wal| fs::remove_file(wal.path(NAME)).expect("it is there")).await;
    check_open("gone", |wal| fs::remove_dir_all(wal.path("orders")).expect("it is there")).await;
    check_open("changed", |wal| wal.write(NAME, &[7; BYTES + 1])).await;
    check_open("changed", |wal| {
        let before = fs::metadata(wal.path(NAME)).expect("times").modified().expect("a time");
        wal.set_time(NAME, before - HOUR);
    })
    .await;
    // Another file with the same size and time.
    check_open("changed", |wal| {
        let before = fs::metadata(wal.path(NAME)).expect("times").modified().expect("a time");
        wal.write("copy", &[7; BYTES]);
        wal.set_time("copy", before);
        fs::rename(wal.path("copy"), wal.path(NAME)).expect("a name");
    })
    .await;
    check_open("changed", |wal| {
        fs::rename(wal.path(NAME), wal.path("moved")).expect("a name");
        symlink(wal.path("moved"), wal.path(NAME)).expect("a link");
    })
    .await;
    check_open("changed", |wal| {
        fs::remove_file(wal.path(NAME)).expect("it is there");
        assert!(Command::new("mkfifo").arg(wal.path(NAME)).status().expect("it runs").success());
    })
    .await;
}

#[tokio::test]
async fn a_name_that_leads_elsewhere_is_not_followed() {
    let (wal, segment) = sealed().await;
    wal.write("elsewhere", b"x");
    for name in ["elsewhere", "../elsewhere", "/etc/hostname", "orders/0/../../elsewhere"] {
        let Err(error) = wal.dir.open(&Segment { name: name.to_owned(), ..segment.clone() }).await else {
            panic!("{name} opened")
        };
        assert_eq!(kind(&error), "not a segment");
    }
}
