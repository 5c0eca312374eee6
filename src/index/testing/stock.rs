//! Tantivy's own writer for the same records. Our writer must write the same files.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tantivy::SingleSegmentIndexWriter;
use tantivy::directory::RamDirectory;
use tantivy::tokenizer::{RawTokenizer, TextAnalyzer, Token, TokenStream, Tokenizer, TokenizerManager};

use super::super::TopicSettings;
use super::super::document::IndexedRecord;
use super::super::document::stock::{RecordDocument, StockFields};
use super::super::schema::{self, TERM_BYTES_MAX};
use super::super::segment::{PartSegment, files};
use super::super::words::{RAW, WORDS, next_word};
use crate::record::RecordBatch;

/// Returns the segment that Tantivy makes of all records, and how many words were too long for it.
pub(in super::super) fn segment(settings: TopicSettings, batches: &[RecordBatch]) -> (PartSegment, u64) {
    let (schema, _) = schema::build(settings.positions);
    let fields = StockFields::of(&schema);
    let (directory, dropped) = (RamDirectory::create(), Arc::default());
    let mut writer: SingleSegmentIndexWriter<RecordDocument> = tantivy::Index::builder()
        .schema(schema)
        .settings(schema::settings())
        .tokenizers(manager(&dropped))
        .single_segment_index_writer(directory.clone(), 1 << 20)
        .unwrap();
    let mut indexed = Arc::new(IndexedRecord::new(settings.value));
    for record in batches.iter().flat_map(RecordBatch::iter) {
        Arc::make_mut(&mut indexed).fill(&record);
        writer.add_document(RecordDocument(Arc::clone(&indexed), fields)).unwrap();
    }
    let metas = writer.finalize().unwrap().searchable_segment_metas().unwrap();
    let files = files(&metas[0], &directory).unwrap();
    (PartSegment { documents: metas[0].max_doc(), files }, dropped.load(Ordering::Relaxed))
}

/// Returns the tokenizers of the schema. They count the words that are too long.
pub(in super::super) fn manager(dropped: &Arc<AtomicU64>) -> TokenizerManager {
    let manager = TokenizerManager::new();
    manager.register(WORDS, TextAnalyzer::from(Words { dropped: Arc::clone(dropped) }));
    manager.register(RAW, TextAnalyzer::from(RawTokenizer::default()));
    manager
}

#[derive(Clone)]
struct Words {
    dropped: Arc<AtomicU64>,
}

impl Tokenizer for Words {
    type TokenStream<'a> = WordStream<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> WordStream<'a> {
        WordStream { text, at: 0, token: Token::default(), dropped: &self.dropped }
    }
}

struct WordStream<'a> {
    text: &'a str,
    at: usize,
    token: Token,
    dropped: &'a AtomicU64,
}

impl TokenStream for WordStream<'_> {
    fn advance(&mut self) -> bool {
        loop {
            let mut word = Vec::new();
            let Some(place) = next_word(self.text, self.at, &mut word) else { return false };
            self.at = place.end;
            self.token.position = self.token.position.wrapping_add(1);
            if word.len() <= TERM_BYTES_MAX {
                (self.token.offset_from, self.token.offset_to) = (place.start, place.end);
                self.token.text = String::from_utf8(word).unwrap();
                return true;
            }
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn token(&self) -> &Token {
        &self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        &mut self.token
    }
}
