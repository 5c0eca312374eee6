//! Opens a bundle's index.

use super::error::{ArchiveError, Fault};
use super::read::Archive;
use crate::bundle::Manifest;
use crate::index::{FieldCatalog, FieldTypes, Gaps, IndexReader};

/// The prefixes of field names in manifests and queries.
const VALUE_PREFIX: &str = "value.";
const HEADER_PREFIX: &str = "header.";

/// Reads the index files and opens the index. The whole index stays in memory as long as the reader exists.
pub async fn open_index(archive: &Archive) -> Result<IndexReader, ArchiveError> {
    let files = archive.index_files().await?;
    let catalog = catalog(archive.manifest());
    let opened = archive.blocking(move || IndexReader::open(files, &catalog)).await?;
    let reader = opened.map_err(|error| archive.error(error))?;
    let (stated, found) = (archive.manifest().record_count, reader.documents());
    if stated != found {
        return Err(archive.error(Fault::Documents { stated, found }));
    }
    Ok(reader)
}

/// Returns the fields that the manifest lists, in the form that the index uses. Kinds and types that this
/// build does not know are left out: a later release may have more of them.
pub fn catalog(manifest: &Manifest) -> FieldCatalog {
    let fields = &manifest.index.fields;
    let values = fields.iter().filter_map(|field| {
        let path = field.path.strip_prefix(VALUE_PREFIX)?;
        let types = field.types.iter().filter_map(|name| FieldTypes::from_name(name));
        Some((path.to_owned(), types.fold(FieldTypes::none(), |all, one| all | one)))
    });
    let headers = fields.iter().filter_map(|field| field.path.strip_prefix(HEADER_PREFIX));
    let unsearchable = |name: &str| manifest.index.unsearchable.get(name).copied().unwrap_or(0);
    let rest_leaves = manifest.index.rest_leaves;
    let lost = if rest_leaves.is_some() { "leaves_beyond_paths" } else { "leaves_without_path" };
    let gaps = Gaps { numbers: rest_leaves.is_none(), paths: unsearchable(lost) > 0 };
    let catalog = FieldCatalog::new(values, headers.map(str::to_owned));
    catalog.with_rest(rest_leaves.unwrap_or(0)).with_gaps(gaps)
}
