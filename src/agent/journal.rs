//! A file of lines that outlives the process. The first line says what the file is. Each other line has a
//! CRC-32C and JSON. New lines are appended. Reading ends at the first line that is torn or damaged.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;

/// The file is written anew when its obsolete lines outnumber its live lines by more than this number.
const GARBAGE_LINES: usize = 256;

/// A journal file, to which lines are appended.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    first_line: &'static str,
    /// The file, open for appending. `None`: the file must be written anew first, because a line that is
    /// appended now might not be read.
    file: Option<File>,
    lines: usize,
}

/// The contents of a journal.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Contents<T> {
    /// All lines in their order, also lines that later lines replace.
    pub lines: Vec<T>,
    /// The number of the first damaged line, counted from 1.
    pub damaged_line: Option<usize>,
}

impl Journal {
    /// Reads the journal at `path`. Returns it with its contents. The contents are `None` if the file is
    /// something else. Nothing is written yet.
    pub(super) async fn read<T: DeserializeOwned>(
        path: PathBuf,
        first_line: &'static str,
    ) -> io::Result<(Self, Option<Contents<T>>)> {
        let bytes = match tokio::fs::read(&path).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let contents = read(&bytes, first_line);
        let lines = contents.as_ref().map_or(0, |contents| contents.lines.len());
        Ok((Self { path, first_line, file: None, lines }, contents))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds `line`. `live` gives all lines that count, and `line` is one of them. After an error, the line is
    /// remembered for this process only.
    pub(super) async fn add<T: Serialize>(
        &mut self,
        line: &T,
        live: impl ExactSizeIterator<Item = T>,
    ) -> io::Result<()> {
        let garbage = self.lines.saturating_sub(live.len());
        match self.file.take() {
            Some(file) if garbage <= live.len() + GARBAGE_LINES => self.append(file, text(line)?).await,
            _ => self.write_anew(live).await,
        }
    }

    /// Appends a line. The file stays open for the next line only if this line was written as a whole.
    async fn append(&mut self, mut file: File, line: String) -> io::Result<()> {
        file.write_all(line.as_bytes()).await?;
        file.flush().await?;
        self.lines += 1;
        self.file = Some(file);
        Ok(())
    }

    /// Writes all live lines to a temporary file, which then replaces the journal.
    pub(super) async fn write_anew<T: Serialize>(&mut self, live: impl Iterator<Item = T>) -> io::Result<()> {
        let (mut whole, mut lines) = (format!("{}\n", self.first_line), 0);
        for line in live {
            whole.push_str(&text(&line)?);
            lines += 1;
        }
        let mut temporary = self.path.clone().into_os_string();
        temporary.push(".new");
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&temporary).await?;
        file.write_all(whole.as_bytes()).await?;
        file.sync_all().await?;
        tokio::fs::rename(&temporary, &self.path).await?;
        if let Some(dir) = self.path.parent() {
            File::open(dir).await?.sync_all().await?;
        }
        (self.lines, self.file) = (lines, Some(file));
        Ok(())
    }
}

fn text(line: &impl Serialize) -> io::Result<String> {
    let json = serde_json::to_string(line)?;
    Ok(format!("{:08x} {json}\n", crc32c::crc32c(json.as_bytes())))
}

/// Parses the bytes of a journal. Returns `None` if they are something else. No bytes at all, or a first line
/// that is cut off, mean an empty journal.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8], first_line: &str) -> Option<Contents<T>> {
    let mut contents = Contents { lines: Vec::new(), damaged_line: None };
    let first = format!("{first_line}\n");
    let Some(rest) = bytes.strip_prefix(first.as_bytes()) else {
        return first.as_bytes().starts_with(bytes).then_some(contents);
    };
    for line in rest.split_inclusive(|byte| *byte == b'\n') {
        match read_line(line) {
            Some(line) => contents.lines.push(line),
            None => {
                contents.damaged_line = Some(contents.lines.len() + 2);
                break;
            }
        }
    }
    Some(contents)
}

fn read_line<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    let (checksum, json) = line.strip_suffix(b"\n")?.split_at_checked(9)?;
    let checksum = std::str::from_utf8(checksum).ok()?.strip_suffix(' ')?;
    let is_whole = u32::from_str_radix(checksum, 16) == Ok(crc32c::crc32c(json));
    is_whole.then(|| serde_json::from_slice(json).ok())?
}
