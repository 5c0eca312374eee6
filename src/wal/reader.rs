//! Reads exactly one version of a segment's file. It returns as many bytes as that version has, and reports
//! the end only if nobody has written to the file in the meantime.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf, Take};
use tokio::task::JoinHandle;

use super::scan::failed;
use super::{ChangeTime, Reading, Segment, Version, WalError, scan};

/// Returns the present version of a file, for a [`Segment`]; `None` if there is no file. It is used to
/// implement [`SealedSegments::list`]. Blocks.
///
/// [`SealedSegments::list`]: super::SealedSegments::list
///
/// # Errors
/// The metadata cannot be read, or the path is a link, a pipe or a directory.
pub fn look_at(path: &Path) -> Result<Option<(Version, ChangeTime)>, WalError> {
    let Some(metadata) = scan::metadata(path)? else { return Ok(None) };
    if !metadata.is_file() {
        return Err(WalError::NotASegment { name: path.display().to_string() });
    }
    let version = Version::of(&metadata).map_err(|error| failed("look at", path, error))?;
    Ok(Some((version, ChangeTime::of(&metadata))))
}

/// Opens a segment's file in the version that was listed, as [`SealedSegments::open`] requires. The reader
/// returns as many bytes as that version has. It reports the end only if nobody has written to the file in
/// the meantime, even if the file's times were set back.
///
/// [`SealedSegments::open`]: super::SealedSegments::open
///
/// # Errors
/// [`WalError::Gone`] and [`WalError::Changed`] if the file is not that version. The reader fails with the
/// same errors.
pub async fn open_file(path: &Path, segment: &Segment) -> Result<Reading, WalError> {
    let (path, segment) = (path.to_owned(), segment.clone());
    let opening = tokio::task::spawn_blocking(move || {
        let opened = Opened::new(&path, &segment)?;
        let reader = VersionReader::new(opened).map_err(|error| failed("open", &path, error))?;
        Ok(Box::pin(reader) as Reading)
    });
    let stopped = |error| WalError::Io { what: "open a segment".to_owned(), source: io::Error::other(error) };
    opening.await.map_err(stopped)?
}

/// Checks that a segment's file is still the listed version, as [`SealedSegments::delete`] must do first.
/// Blocks.
///
/// [`SealedSegments::delete`]: super::SealedSegments::delete
///
/// # Errors
/// [`WalError::Gone`], [`WalError::Changed`], or [`WalError::Touched`] if only the time of the last change
/// differs.
pub fn check_file(path: &Path, segment: &Segment) -> Result<(), WalError> {
    let name = || segment.name.clone();
    match look_at(path)? {
        None => Err(WalError::Gone { name: name() }),
        Some((version, _)) if version != segment.version => Err(WalError::Changed { name: name() }),
        Some((_, time)) if segment.change_time.is_some_and(|listed| listed != time) => {
            Err(WalError::Touched { name: name() })
        }
        Some(_) => Ok(()),
    }
}

/// A file that was the listed version when it was opened.
#[derive(Debug)]
pub(super) struct Opened {
    name: String,
    file: File,
    version: Version,
    touched: Touched,
}

/// Changes with every change of a file, even if its times are set back afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Touched {
    at: ChangeTime,
    links: u64,
}

impl Touched {
    fn of(metadata: &Metadata) -> Self {
        Self { at: ChangeTime::of(metadata), links: metadata.nlink() }
    }
}

impl Opened {
    /// Opens a segment's file. Blocks.
    pub(super) fn new(path: &Path, segment: &Segment) -> Result<Self, WalError> {
        let gone = || WalError::Gone { name: segment.name.clone() };
        let changed = || WalError::Changed { name: segment.name.clone() };
        // To open a pipe would wait for a writer, and a link may lead anywhere.
        if !scan::metadata(path)?.ok_or_else(gone)?.is_file() {
            return Err(changed());
        }
        let file = File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => gone(),
            _ => failed("open", path, error),
        })?;
        let look = |file: &File| {
            let metadata = file.metadata()?;
            Ok((metadata.is_file(), Version::of(&metadata)?, Touched::of(&metadata)))
        };
        match look(&file).map_err(|error| failed("look at", path, error))? {
            (true, version, touched) if version == segment.version => {
                Ok(Self { name: segment.name.clone(), file, version, touched })
            }
            _ => Err(changed()),
        }
    }

    /// Fails if the file was written to since it was opened. Blocks.
    fn check_unchanged(&self) -> io::Result<()> {
        let metadata = self.file.metadata()?;
        let touched = Touched::of(&metadata);
        // An added or removed name changes the file's change time, but not its bytes. For example, the file
        // may be deleted meanwhile.
        let untouched = touched.at == self.touched.at || touched.links != self.touched.links;
        match Version::of(&metadata)? == self.version && untouched {
            true => Ok(()),
            false => Err(self.changed()),
        }
    }

    fn changed(&self) -> io::Error {
        io::Error::other(WalError::Changed { name: self.name.clone() })
    }
}

/// Reads the bytes of an [`Opened`] file.
pub(super) struct VersionReader {
    bytes: Take<tokio::fs::File>,
    opened: Arc<Opened>,
    end: End,
}

enum End {
    /// There may be bytes left.
    Ahead,
    /// All bytes are read.
    Checking(JoinHandle<io::Result<()>>),
    /// They were the listed version.
    Reached,
    /// They were not the listed version.
    Broken,
}

impl VersionReader {
    pub(super) fn new(opened: Opened) -> io::Result<Self> {
        let file = tokio::fs::File::from_std(opened.file.try_clone()?);
        let bytes = file.take(opened.version.size_bytes);
        Ok(Self { bytes, opened: Arc::new(opened), end: End::Ahead })
    }

    fn check(&self) -> JoinHandle<io::Result<()>> {
        let opened = Arc::clone(&self.opened);
        let short = self.bytes.limit() > 0;
        tokio::task::spawn_blocking(move || match short {
            true => Err(opened.changed()),
            false => opened.check_unchanged(),
        })
    }
}

impl AsyncRead for VersionReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            match &mut self.end {
                End::Ahead => {
                    let before = buf.filled().len();
                    ready!(Pin::new(&mut self.bytes).poll_read(cx, buf))?;
                    if buf.filled().len() > before {
                        return Poll::Ready(Ok(()));
                    }
                    self.end = End::Checking(self.check());
                }
                End::Checking(check) => {
                    let checked = ready!(Pin::new(check).poll(cx)).map_err(io::Error::other).flatten();
                    self.end = if checked.is_ok() { End::Reached } else { End::Broken };
                    return Poll::Ready(checked);
                }
                End::Reached => return Poll::Ready(Ok(())),
                End::Broken => return Poll::Ready(Err(self.opened.changed())),
            }
        }
    }
}
