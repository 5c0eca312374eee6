//! Physical limits: how long the machine's own commands take for a segment file.

use std::error::Error;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::segments::{Scratch, Segment};

/// The result of one command.
#[derive(Clone, Copy, Debug)]
pub struct Baseline {
    pub seconds: f64,
    pub out_bytes: u64,
}

/// A segment file, and the commands that read it.
#[derive(Debug)]
pub struct Baselines {
    source: Scratch,
    target: Scratch,
}

impl Baselines {
    pub fn new(directory: &Path, segment: &Segment) -> io::Result<Self> {
        Ok(Self {
            source: Scratch::write(directory, "segment", &segment.bytes)?,
            target: Scratch::write(directory, "copy", b"")?,
        })
    }

    /// Runs `cp`, then `sync` on the copy, because the worker also answers only after its object is on the
    /// disk.
    pub fn cp(&self) -> Result<Option<Baseline>, Box<dyn Error>> {
        self.run("cp SOURCE TARGET && sync TARGET")
    }

    /// Runs `zstd -1` with its defaults, which compresses on one thread; then `sync`.
    pub fn zstd(&self) -> Result<Option<Baseline>, Box<dyn Error>> {
        self.run("zstd -1 --quiet --force SOURCE -o TARGET && sync TARGET")
    }

    /// Returns `None` if the command is not installed.
    fn run(&self, script: &str) -> Result<Option<Baseline>, Box<dyn Error>> {
        let (script, name) =
            (script.replace("SOURCE", "\"$1\"").replace("TARGET", "\"$2\""), script.split(' ').next());
        let started = Instant::now();
        let status = Command::new("sh")
            .args(["-c", &script, "sh"])
            .args([&self.source.0, &self.target.0])
            .stderr(Stdio::null())
            .status()?;
        let seconds = started.elapsed().as_secs_f64();
        match status.code() {
            Some(0) => Ok(Some(Baseline { seconds, out_bytes: self.target.0.metadata()?.len() })),
            Some(127) => Ok(None),
            _ => Err(format!("{}: {status}", name.unwrap_or_default()).into()),
        }
    }
}
