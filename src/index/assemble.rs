//! Puts parts together to one index: gives the files their names, and writes one `meta.json` for all of them.

use std::sync::OnceLock;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tantivy::index::SegmentId;
use tantivy::{IndexMeta, SegmentMeta};

use super::builder::IndexPart;
use super::catalog::{FieldCatalog, Unsearchable};
use super::settings::TopicSettings;
use super::{Doing, IndexError, schema};
use crate::formatting::hex;

/// A whole index, ready to be put into a bundle.
#[derive(Clone, Debug)]
pub struct Index {
    /// The files with their names, including `meta.json`, sorted by name.
    pub files: Vec<(String, Bytes)>,
    /// The Tantivy segments in the order of their records.
    pub segments: Vec<IndexSegment>,
    /// The paths, types and header names that were found in the records.
    pub fields: FieldCatalog,
    /// Counts of what cannot be searched.
    pub unsearchable: Unsearchable,
    /// How the records were indexed.
    pub settings: TopicSettings,
    /// The version and the index format of the Tantivy that built it.
    pub tantivy_version: &'static str,
    /// The format of its term dictionaries. It decides which builds of Tantivy can open the index.
    pub dictionary: &'static str,
}

/// A Tantivy segment of an [`Index`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexSegment {
    /// Its id: 32 hexadecimal digits. The names of its files begin with it.
    pub name: String,
    /// Number of its documents: one for each record.
    pub documents: u32,
}

/// Name of the file that describes an index to Tantivy.
pub const META_FILE: &str = "meta.json";

/// Puts parts together in order. `seed` decides the names of the files: the same seed and parts give the same
/// index.
///
/// Extracted into a folder, the index opens with stock Tantivy that is built with its `quickwit` feature.
pub fn assemble(
    parts: Vec<IndexPart>,
    seed: &[u8; 32],
    settings: &TopicSettings,
) -> Result<Index, IndexError> {
    let failed = |source| IndexError::tantivy(Doing::Assembling, source);
    let (schema, _) = schema::build(settings.positions);
    let tantivy = empty_index(settings.positions).map_err(failed)?;
    let mut index = Index {
        files: Vec::new(),
        segments: Vec::new(),
        fields: FieldCatalog::default(),
        unsearchable: Unsearchable::default(),
        settings: *settings,
        tantivy_version: tantivy::version_string(),
        dictionary: "sstable",
    };
    let mut metas: Vec<SegmentMeta> = Vec::new();
    for part in parts {
        if part.settings != *settings {
            return Err(IndexError::SettingsDiffer { part: part.settings, index: *settings });
        }
        index.fields.merge(part.fields);
        index.unsearchable.merge(&part.unsearchable);
        for segment in part.segments {
            let name = segment_name(seed, index.segments.len());
            let id = SegmentId::from_uuid_string(&name)
                .map_err(|_| IndexError::SegmentName { name: name.clone() })?;
            metas.push(tantivy.new_segment_meta(id, segment.documents));
            index
                .files
                .extend(segment.files.into_iter().map(|(ext, bytes)| (format!("{name}.{ext}"), bytes)));
            index.segments.push(IndexSegment { name, documents: segment.documents });
        }
    }
    let meta =
        IndexMeta { index_settings: schema::settings(), segments: metas, ..IndexMeta::with_schema(schema) };
    let meta = serde_json::to_vec_pretty(&meta).map_err(|source| failed(source.into()))?;
    index.files.push((META_FILE.to_owned(), meta.into()));
    index.files.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(index)
}

/// Returns an index without files, which creates the metadata of segments. There is one for each schema: to
/// create one takes longer than all other work here for a small partition.
fn empty_index(positions: bool) -> tantivy::Result<&'static tantivy::Index> {
    static MADE: [OnceLock<tantivy::Index>; 2] = [const { OnceLock::new() }; 2];
    let made = &MADE[usize::from(positions)];
    if let Some(index) = made.get() {
        return Ok(index);
    }
    let (schema, _) = schema::build(positions);
    let index = tantivy::Index::builder().schema(schema).settings(schema::settings()).create_in_ram()?;
    Ok(made.get_or_init(|| index))
}

/// Returns the id of the nth Tantivy segment: a UUID of version 8 (RFC 9562). The other bits are a hash.
fn segment_name(seed: &[u8; 32], ordinal: usize) -> String {
    let hash = Sha256::new().chain_update(seed).chain_update((ordinal as u64).to_be_bytes()).finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    id[6] = id[6] & 0x0f | 0x80;
    id[8] = id[8] & 0x3f | 0x80;
    hex(&id)
}

#[cfg(test)]
mod tests;
