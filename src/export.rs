//! Exports a bundle's index and manifest as a `tar.gz` with all files at the top. Chronik's embedded indexer
//! uploads this form, so tools that open that form can open the export. The records are not exported.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::archive::{Archive, ArchiveError};
use crate::atomic_file::AtomicFile;
use crate::bundle::MANIFEST_NAME;

/// Why a bundle cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The bundle cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The I/O error.
        source: io::Error,
    },
}

/// The size of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Number of files, including the manifest.
    pub files: usize,
    /// Size of all files, uncompressed, in bytes.
    pub bytes: u64,
}

/// Writes the manifest and the index's files to `out`. Each file is checked. The same bundle always gives the
/// same file.
pub async fn export(archive: &Archive, out: &Path) -> Result<Exported, ExportError> {
    let manifest = archive.member(archive.footer().manifest()).await?;
    let mut files = vec![(MANIFEST_NAME.to_owned(), manifest)];
    files.extend(archive.index_files().await?);
    let exported =
        Exported { files: files.len(), bytes: files.iter().map(|(_, bytes)| bytes.len() as u64).sum() };
    let path = out.to_owned();
    let written = archive.blocking(move || write(&path, &files)).await?;
    written.map_err(|source| ExportError::Write { path: out.to_owned(), source })?;
    Ok(exported)
}

fn write(out: &Path, files: &[(String, Bytes)]) -> io::Result<()> {
    let partial = AtomicFile::create(out)?;
    let file = partial.file();
    let mut tar = tar::Builder::new(GzEncoder::new(BufWriter::new(&*file), Compression::default()));
    for (name, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        header.set_mtime(0);
        tar.append_data(&mut header, name, bytes.as_ref())?;
    }
    tar.into_inner()?.finish()?.flush()?;
    partial.keep()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;
    use crate::archive::Source;
    use crate::archive::testing::{fixture, put_segment, store};
    use crate::bundle::Manifest;
    use crate::index::META_FILE;

    #[tokio::test]
    async fn manifest_and_index_are_exported_at_the_top_of_a_tar_gz_and_always_the_same() {
        let (store, dir) = (store(), tempfile::tempdir().expect("a directory"));
        let packed = put_segment(&store, &fixture("kafka/zstd.log")).await;
        let source = Source::of_key(&store, &packed[0].key).await.expect("a bundle");
        let archive = Archive::open(source).await.expect("a bundle");
        let out = dir.path().join("out.tar.gz");
        let exported = export(&archive, &out).await.expect("exported");
        let bytes = std::fs::read(&out).expect("a file");
        let mut files = BTreeMap::new();
        let mut tar = tar::Archive::new(GzDecoder::new(bytes.as_slice()));
        for entry in tar.entries().expect("a tar") {
            let mut entry = entry.expect("an entry");
            let (name, mut data) = (entry.path().expect("a name").display().to_string(), Vec::new());
            entry.read_to_end(&mut data).expect("data");
            files.insert(name, data);
        }
        assert_eq!(files.len(), exported.files);
        assert_eq!(Manifest::parse(&files[MANIFEST_NAME]).expect("a manifest"), packed[0].manifest);
        assert!(files.contains_key(META_FILE) && files.keys().all(|name| !name.contains('/')), "{files:?}");
        export(&archive, &out).await.expect("exported again");
        assert_eq!(std::fs::read(&out).expect("a file"), bytes);
    }
}
