//! Checks whether any process has a file open for writing.
//!
//! A read lease shows it: the kernel refuses a lease if any process has the file open for writing
//! (`fcntl(2)`, `F_SETLEASE`). A lease needs the file's owner or `CAP_LEASE`, a local file system, and the
//! same kernel as the writers. If there is no lease, the open files of all processes are checked (`proc(5)`),
//! provided that all processes are visible.

#![expect(
    unsafe_code,
    reason = "no well-kept crate offers leases: two calls of fcntl on a descriptor that is open"
)]

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The known facts about a file's writers.
#[derive(Debug)]
pub(super) enum Writers<'file> {
    /// No process has it open for writing. If there is a lease, no process can open it for writing while the
    /// lease is held.
    None {
        /// Held for its effect: the lease ends when this is dropped.
        _lease: Option<ReadLease<'file>>,
    },
    /// A process has it open for writing.
    Some,
    /// It is not known, for this reason.
    Unknown(String),
}

impl<'file> Writers<'file> {
    /// Looks for writers of a file that was opened for reading only. Blocks.
    pub(super) fn of(file: &'file File) -> io::Result<Self> {
        match ReadLease::take(file.as_fd()) {
            Ok(lease) => Ok(Self::None { _lease: Some(lease) }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Self::Some),
            Err(error) => {
                let metadata = file.metadata()?;
                Ok(match find_writer(&metadata) {
                    Ok(true) => Self::Some,
                    Ok(false) => Self::None { _lease: None },
                    Err(why) => Self::Unknown(format!("no lease ({error}), and {why}")),
                })
            }
        }
    }
}

/// The command that chooses the signal (`asm-generic/fcntl.h`); the crate `libc` does not have it.
const F_SETSIG: libc::c_int = 10;

/// A read lease on a file. A process that opens the file for writing waits until the lease is dropped, or for
/// the kernel's `lease-break-time`.
#[derive(Debug)]
pub(super) struct ReadLease<'file> {
    file: BorrowedFd<'file>,
}

impl<'file> ReadLease<'file> {
    fn take(file: BorrowedFd<'file>) -> io::Result<Self> {
        // The kernel sends a signal to the holder of a lease when a process wants to write. The default
        // signal, SIGIO, would end the process. SIGURG is ignored by default.
        fcntl(file, F_SETSIG, libc::SIGURG)?;
        fcntl(file, libc::F_SETLEASE, libc::F_RDLCK)?;
        Ok(Self { file })
    }
}

impl Drop for ReadLease<'_> {
    fn drop(&mut self) {
        // This cannot fail for a lease that is held. The kernel also removes the lease when the file is
        // closed.
        let _ = fcntl(self.file, libc::F_SETLEASE, libc::F_UNLCK);
    }
}

fn fcntl(file: BorrowedFd<'_>, command: libc::c_int, argument: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as it is borrowed, and both commands take an integer.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, argument) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// File systems to whose files only processes of this machine write.
const LOCAL: &[&str] =
    &["bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs"];

/// The inode of the initial PID namespace (`PROC_PID_INIT_INO` in the kernel), from which all processes are
/// visible.
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Whether a visible process has the file open for writing. The error says why this is not known.
fn find_writer(file: &Metadata) -> Result<bool, String> {
    if !is_local(file.dev()).map_err(|error| format!("the mounted file systems cannot be read: {error}"))? {
        return Err("other machines may write to its file system".to_owned());
    }
    let namespace =
        fs::metadata("/proc/self/ns/pid").map_err(|error| format!("there is no /proc: {error}"))?;
    if namespace.ino() != INITIAL_PID_NAMESPACE {
        return Err("not all processes are visible from this PID namespace".to_owned());
    }
    let processes = fs::read_dir("/proc").map_err(unlisted)?;
    any_writes(processes.map(|process| process.map(|process| process.path())), file)
}

fn unlisted(error: io::Error) -> String {
    format!("/proc cannot be listed: {error}")
}

/// Whether one of the processes among these entries of `/proc` has the file open for writing.
fn any_writes(entries: impl Iterator<Item = io::Result<PathBuf>>, file: &Metadata) -> Result<bool, String> {
    for entry in entries {
        let entry = entry.map_err(unlisted)?;
        let name = entry.file_name().unwrap_or_default();
        let is_process = name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
        if is_process && writes_to(&entry, file)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the process has the file open for writing. A process that has ended has not.
fn writes_to(process: &Path, file: &Metadata) -> Result<bool, String> {
    match fs::read_dir(process.join("fd")) {
        Ok(fds) => any_is_writer(process, fds.map(|fd| fd.map(|fd| fd.file_name())), file),
        Err(error) if is_gone(&error) => Ok(false),
        Err(error) => Err(unread(process, &error)),
    }
}

/// Whether one of these descriptors of the process is the file, open for writing.
fn any_is_writer(
    process: &Path,
    fds: impl Iterator<Item = io::Result<OsString>>,
    file: &Metadata,
) -> Result<bool, String> {
    for fd in fds {
        let fd = match fd {
            Ok(fd) => fd,
            Err(error) if is_gone(&error) => return Ok(false),
            Err(error) => return Err(unread(process, &error)),
        };
        let fdinfo = process.join("fdinfo").join(&fd);
        match fs::metadata(process.join("fd").join(&fd)) {
            Ok(open) if (open.dev(), open.ino()) != (file.dev(), file.ino()) => {}
            Ok(_) if is_for_writing(&fdinfo) => return Ok(true),
            Ok(_) => {}
            Err(error) if is_gone(&error) => {}
            // It may be any file.
            Err(error) if is_for_writing(&fdinfo) => return Err(unread(process, &error)),
            Err(_) => {}
        }
    }
    Ok(false)
}

fn unread(process: &Path, error: &io::Error) -> String {
    format!("the open files of {} cannot be read: {error}", process.display())
}

/// Whether this error means that the process has ended, or that it has closed the descriptor.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

/// Whether a descriptor is open for writing, by its `fdinfo`; true if that cannot be read.
fn is_for_writing(fdinfo: &Path) -> bool {
    let Ok(text) = fs::read_to_string(fdinfo) else { return true };
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
    flags.is_none_or(|flags| flags & libc::O_ACCMODE != libc::O_RDONLY)
}

/// Whether the mount with this device number has a local file system.
fn is_local(device: u64) -> io::Result<bool> {
    let number = format!("{}:{}", libc::major(device), libc::minor(device));
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(mounts.lines().any(|line| {
        let is_it = line.split(' ').nth(2) == Some(&*number);
        let file_system = line.split_once(" - ").and_then(|(_, rest)| rest.split(' ').next());
        is_it && file_system.is_some_and(|name| LOCAL.contains(&name))
    }))
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    fn file() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        fs::write(&path, "bytes").expect("a file");
        (dir, path)
    }

    #[test]
    fn a_file_has_writers_as_long_as_it_is_open_for_writing() {
        let (_dir, path) = file();
        let file = File::open(&path).expect("a file");
        let _reader = File::open(&path).expect("a file");
        assert!(matches!(Writers::of(&file).expect("an answer"), Writers::None { _lease: Some(_) }));
        for options in [OpenOptions::new().append(true), OpenOptions::new().read(true).write(true)] {
            let writer = options.open(&path).expect("a file");
            assert!(matches!(Writers::of(&file).expect("an answer"), Writers::Some));
            drop(writer);
            assert!(matches!(Writers::of(&file).expect("an answer"), Writers::None { _lease: Some(_) }));
        }
    }

    #[test]
    fn whoever_opens_a_leased_file_for_writing_waits_and_ends_nobody() {
        let (_dir, path) = file();
        let file = File::open(&path).expect("a file");
        let Writers::None { _lease: Some(lease) } = Writers::of(&file).expect("an answer") else {
            panic!("a writer")
        };
        let (opened, is_open) = std::sync::mpsc::channel();
        let opening = std::thread::spawn(move || {
            let file = OpenOptions::new().append(true).open(path).expect("a file");
            opened.send(()).expect("somebody waits");
            file
        });
        let brief = std::time::Duration::from_millis(200);
        assert!(is_open.recv_timeout(brief).is_err(), "it is leased");
        drop(lease);
        let _writer = opening.join().expect("it opens");
        assert!(matches!(Writers::of(&file).expect("an answer"), Writers::Some));
    }

    #[test]
    fn open_files_of_all_processes_are_looked_through_where_they_can_be_seen() {
        let (_dir, path) = file();
        let file = File::open(&path).expect("a file");
        let found = |file: &File| writes_to(Path::new("/proc/self"), &file.metadata().expect("a file"));
        assert_eq!(found(&file), Ok(false));
        let writer = OpenOptions::new().append(true).open(&path).expect("a file");
        assert_eq!(found(&file), Ok(true));
        drop(writer);
        assert_eq!(found(&file), Ok(false));
        assert_eq!(
            writes_to(Path::new("/proc/0"), &file.metadata().expect("a file")),
            Ok(false),
            "it has ended"
        );
        assert!(is_for_writing(Path::new("/nowhere")), "where nothing can be read, it counts as a writer");
    }

    #[test]
    fn what_cannot_be_read_of_open_files_is_unknown_and_what_has_gone_is_not() {
        let (dir, path) = file();
        let metadata = File::open(&path).expect("a file").metadata().expect("a file");
        // A process with one descriptor, whose file cannot be looked at: a link that leads to itself.
        let process = dir.path().join("1");
        for name in ["fd", "fdinfo"] {
            fs::create_dir_all(process.join(name)).expect("a directory");
        }
        std::os::unix::fs::symlink("3", process.join("fd/3")).expect("a link");
        for (flags, is_unknown) in [("0100001", true), ("0100002", true), ("0100000", false)] {
            fs::write(process.join("fdinfo/3"), format!("pos:\t0\nflags:\t{flags}\n")).expect("a file");
            let processes = [Ok(process.clone()), Ok(dir.path().join("self"))];
            assert_eq!(any_writes(processes.into_iter(), &metadata).is_err(), is_unknown, "{flags}");
        }
        fs::remove_file(process.join("fdinfo/3")).expect("a file");
        assert!(writes_to(&process, &metadata).is_err(), "nothing is known of the descriptor");

        let failed = |code| io::Error::from_raw_os_error(code);
        assert!(any_writes([Err(failed(libc::EIO))].into_iter(), &metadata).is_err());
        for (code, is_unknown) in
            [(libc::EIO, true), (libc::EACCES, true), (libc::ENOENT, false), (libc::ESRCH, false)]
        {
            assert_eq!(
                any_is_writer(&process, [Err(failed(code))].into_iter(), &metadata).is_err(),
                is_unknown,
                "{code}"
            );
        }
        let closed = [Ok("4".into())].into_iter();
        assert_eq!(any_is_writer(&process, closed, &metadata), Ok(false), "it was closed meanwhile");
    }
}
