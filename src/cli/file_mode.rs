//! `--file-mode`: the permissions of the files that a worker or an agent creates.

use nix::sys::stat::{Mode, umask};

/// The permissions of new files.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct FileModeArgs {
    /// The permissions, in octal, of files that this process creates (bundles on a local disk, checkpoints,
    /// notes). The umask does not change them. Users who may read files may also enter directories. Existing
    /// files keep their permissions.
    #[arg(long, env = "WAL_INDEXER_FILE_MODE", default_value = "640", value_name = "MODE", value_parser = file_mode)]
    file_mode: u32,
}

impl FileModeArgs {
    /// Sets the umask of the whole process. Call it before the process creates any file.
    pub fn apply(self) {
        umask(Mode::from_bits_truncate(umask_of(self.file_mode)));
    }
}

/// Returns the umask for this file mode. Files are created with all permissions except execute, and
/// directories with all permissions, so the umask alone decides.
fn umask_of(file_mode: u32) -> u32 {
    let directory_mode = file_mode | (file_mode & 0o444) >> 2;
    0o777 & !directory_mode
}

fn file_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| mode & !0o666 == 0 && mode & 0o600 == 0o600);
    mode.ok_or_else(|| {
        "permissions in octal that let the owner read and write, such as 600, 640 or 644".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_what_files_get_and_directories_can_be_entered_by_readers() {
        for (text, file, directory) in [
            ("600", 0o600, 0o700),
            ("0640", 0o640, 0o750),
            ("644", 0o644, 0o755),
            ("660", 0o660, 0o770),
            ("664", 0o664, 0o775),
        ] {
            let mask = umask_of(file_mode(text).expect("a mode"));
            assert_eq!((0o666 & !mask, 0o777 & !mask), (file, directory), "{text}");
        }
        for text in ["", "400", "0740", "1640", "rw-r-----", "888"] {
            assert!(file_mode(text).is_err(), "{text}");
        }
    }
}
