//! Builds one Tantivy segment: it takes records and returns the files.

use bytes::{Bytes, BytesMut};
use tantivy::SegmentMeta;
use tantivy::columnar::NumericalValue;
use tantivy::directory::error::OpenReadError;
use tantivy::directory::{Directory, RamDirectory, TerminatingWrite, WritePtr};
use tantivy::fieldnorm::FieldNormsSerializer;
use tantivy::index::{Segment, SegmentComponent};
use tantivy::schema::Type;
use tantivy::store::StoreWriter;

use super::columns::Columns;
use super::document::IndexedRecord;
use super::inverted::{FieldKey, Inverted, PathKeys};
use super::json::{Number, Scalar};
use super::schema::{self, Fields};

/// A finished Tantivy segment without a name.
#[derive(Clone, Debug)]
pub(super) struct PartSegment {
    pub documents: u32,
    /// The files by extension, sorted.
    pub files: Vec<(String, Bytes)>,
}

/// A Tantivy segment under construction.
pub(super) struct SegmentBuilder {
    positions: bool,
    documents: u32,
    inverted: Inverted,
    columns: Columns,
    key: FieldKey,
    text: FieldKey,
    headers: PathKeys,
    words: PathKeys,
    i64s: PathKeys,
    u64s: PathKeys,
    f64s: PathKeys,
    bools: PathKeys,
}

impl SegmentBuilder {
    pub fn new(fields: &Fields, positions: bool) -> Self {
        let mut inverted = Inverted::new();
        let value = |kind| PathKeys::new(fields.value, kind, positions && kind == Type::Str);
        Self {
            positions,
            documents: 0,
            key: inverted.field_key(fields.key, Type::Bytes, false),
            text: inverted.field_key(fields.text, Type::Str, positions),
            headers: PathKeys::new(fields.header, Type::Str, false),
            words: value(Type::Str),
            i64s: value(Type::I64),
            u64s: value(Type::U64),
            f64s: value(Type::F64),
            bools: value(Type::Bool),
            inverted,
            columns: Columns::new(),
        }
    }

    /// Adds a record as the next document.
    pub fn add(&mut self, indexed: &IndexedRecord) {
        let doc = self.documents;
        self.columns.push_offset(doc, indexed.offset());
        if let Some(timestamp_ms) = indexed.timestamp_ms() {
            self.columns.push_timestamp(doc, timestamp_ms);
        }
        if let Some(key) = indexed.key() {
            self.inverted.push_bytes(self.key, key);
        }
        for (name, value) in indexed.headers() {
            self.inverted.push_exact(&mut self.headers, name, indexed.names(), value);
        }
        let (inverted, columns, paths) = (&mut self.inverted, &mut self.columns, indexed.paths());
        for (path, scalar) in indexed.leaves() {
            match scalar {
                Scalar::Text(text) => inverted.push_words(&mut self.words, path, paths, text),
                Scalar::Date(text, nanos) => {
                    inverted.push_words(&mut self.words, path, paths, text);
                    columns.push_date(doc, path, paths, nanos);
                }
                Scalar::NumberText(text, number) => {
                    inverted.push_words(&mut self.words, path, paths, text);
                    let (path_keys, bits, value) = match number {
                        Number::I64(number) => {
                            (&mut self.i64s, tantivy::i64_to_u64(number), NumericalValue::I64(number))
                        }
                        Number::U64(number) => (&mut self.u64s, number, NumericalValue::U64(number)),
                        Number::F64(number) => {
                            (&mut self.f64s, tantivy::f64_to_u64(number), NumericalValue::F64(number))
                        }
                    };
                    inverted.push_number(path_keys, path, paths, bits);
                    columns.push_number(doc, path, paths, value);
                }
                Scalar::I64(number) => {
                    inverted.push_number(&mut self.i64s, path, paths, tantivy::i64_to_u64(number));
                    columns.push_number(doc, path, paths, NumericalValue::I64(number));
                }
                Scalar::U64(number) => {
                    inverted.push_number(&mut self.u64s, path, paths, number);
                    columns.push_number(doc, path, paths, NumericalValue::U64(number));
                }
                Scalar::F64(number) => {
                    inverted.push_number(&mut self.f64s, path, paths, tantivy::f64_to_u64(number));
                    columns.push_number(doc, path, paths, NumericalValue::F64(number));
                }
                Scalar::Bool(value) => inverted.push_number(&mut self.bools, path, paths, value.into()),
            }
        }
        for text in indexed.texts() {
            self.inverted.push_text(self.text, text);
        }
        self.inverted.end_document();
        self.documents += 1;
    }

    /// Returns how many words were left out because they are longer than a term may be.
    pub fn words_too_long(&self) -> u64 {
        self.inverted.words_too_long()
    }

    /// Bytes in memory.
    pub fn mem_usage(&self) -> usize {
        let path_keys = [&self.headers, &self.words, &self.i64s, &self.u64s, &self.f64s, &self.bools];
        let path_keys: usize = path_keys.into_iter().map(PathKeys::mem_usage).sum();
        self.inverted.mem_usage() + self.columns.mem_usage() + path_keys
    }

    /// Returns the memory in bytes that [`SegmentBuilder::finish`] takes at most, in addition to what is in
    /// use now. It includes the files.
    pub fn finish_usage(&self) -> usize {
        let columns = self.columns.write_usage();
        let inverted = self.inverted.write_usage() + self.columns.file_usage();
        columns.max(inverted.saturating_sub(self.columns.mem_usage()))
    }

    /// Returns the size in bytes of what is kept of the documents. It depends only on the documents, so that
    /// equal records are always split into the same segments.
    pub fn bytes(&self) -> usize {
        self.inverted.bytes() + self.columns.bytes()
    }

    /// Writes the files.
    pub fn finish(self) -> tantivy::Result<PartSegment> {
        let Self { documents, inverted, columns, positions, .. } = self;
        let directory = RamDirectory::create();
        let (schema, _) = schema::build(positions);
        let index = tantivy::Index::builder()
            .schema(schema)
            .settings(schema::settings())
            .open_or_create(directory.clone())?;
        let segment = index.new_segment().with_max_doc(documents);
        FieldNormsSerializer::from_write(open(&segment, SegmentComponent::FieldNorms)?)?.close()?;
        let mut to = open(&segment, SegmentComponent::FastFields)?;
        columns.write(documents, &mut to)?;
        to.terminate()?;
        inverted.write(&segment)?;
        write_store(&segment, documents)?;
        Ok(PartSegment { documents, files: files(segment.meta(), &directory)? })
    }
}

fn open(segment: &Segment, component: SegmentComponent) -> tantivy::Result<WritePtr> {
    Ok(segment.open_write(component)?)
}

/// Writes the document store, which cannot be left out. A document without stored fields is only their
/// number, 0.
fn write_store(segment: &Segment, documents: u32) -> tantivy::Result<()> {
    const NO_FIELDS: [u8; 1] = [0x80]; // zero in Tantivy's encoding of variable length
    let settings = schema::settings();
    let mut store = StoreWriter::new(
        open(segment, SegmentComponent::Store)?,
        settings.docstore_compression,
        settings.docstore_blocksize,
        settings.docstore_compress_dedicated_thread,
    )?;
    for _ in 0..documents {
        store.store_bytes(&NO_FIELDS)?;
    }
    Ok(store.close()?)
}

/// The files of a Tantivy segment, by extension.
const COMPONENTS: [SegmentComponent; 6] = [
    SegmentComponent::FastFields,
    SegmentComponent::FieldNorms,
    SegmentComponent::Postings,
    SegmentComponent::Positions,
    SegmentComponent::Store,
    SegmentComponent::Terms,
];

/// Takes the files out of the directory.
pub(super) fn files(meta: &SegmentMeta, directory: &RamDirectory) -> tantivy::Result<Vec<(String, Bytes)>> {
    let mut files = Vec::with_capacity(COMPONENTS.len());
    for component in COMPONENTS {
        // This bypasses Tantivy's own wrapper of the directory, which would hide the files' checksums.
        let file = match directory.open_read(&meta.relative_path(component.clone())) {
            Err(OpenReadError::FileDoesNotExist(_)) => continue,
            file => file?,
        };
        files.push((component.to_string(), Bytes::from_owner(file.read_bytes()?)));
    }
    let bytes = files.iter().map(|(_, bytes)| bytes.len()).sum();
    if bytes <= GATHERED_BYTES_MAX {
        gather(&mut files, bytes);
    }
    Ok(files)
}

/// Files up to this total size, in bytes, share one buffer: each by itself takes more memory for its
/// allocations than for its bytes.
const GATHERED_BYTES_MAX: usize = 16 << 10;

fn gather(files: &mut [(String, Bytes)], bytes: usize) {
    let mut all = BytesMut::with_capacity(bytes);
    for (_, file) in files {
        all.extend_from_slice(file);
        *file = all.split().freeze();
    }
}

/// Memory that a file takes in addition to its bytes, in bytes: its name, and the address of the bytes.
const FILE_BYTES: usize = size_of::<(String, Bytes)>() + 32;

impl PartSegment {
    /// Bytes in memory.
    pub fn mem_usage(&self) -> usize {
        let files = self.files.iter().map(|(_, bytes)| bytes.len() + FILE_BYTES);
        size_of::<Self>() + files.sum::<usize>()
    }
}

#[cfg(test)]
mod tests;
