//! Term keys: where a term can be, which is a field, a path in it and a type. Terms are sorted by their term
//! key first.

use std::collections::HashMap;

use tantivy::schema::{Field, Type};

use super::super::paths::{PathId, Paths};

/// The number of a term key.
pub(super) type TermKeyId = u16;

/// A field, a path in it and a type.
#[derive(Clone, Debug)]
pub(super) struct TermKey {
    pub field: Field,
    /// The path as Tantivy writes it; `None` in fields without paths.
    pub path: Option<Box<str>>,
    pub kind: Type,
    /// Whether its terms have positions.
    pub has_positions: bool,
    /// How many terms it has. Each occurrence is counted.
    pub tokens: u64,
    /// The last document that added terms, and the position of its next word.
    doc: u32,
    position: u32,
}

impl TermKey {
    /// Returns the position of the next word of this document.
    pub fn position(&self, doc: u32) -> u32 {
        if self.doc == doc { self.position } else { 0 }
    }

    /// Ends a value of this document before this position. One position is skipped between values, so that no
    /// phrase spans two of them.
    pub fn end_value(&mut self, doc: u32, position: u32) {
        (self.doc, self.position) = (doc, position.wrapping_add(1));
    }

    /// Returns the bytes before the terms of this key in the dictionary.
    pub fn prefix(&self) -> Vec<u8> {
        let path = self.path.iter().flat_map(|path| path.bytes().chain([0, self.kind.to_code()]));
        path.collect()
    }
}

/// All term keys.
#[derive(Debug, Default)]
pub(super) struct TermKeys {
    term_keys: Vec<TermKey>,
    by_name: HashMap<(Field, Type, Option<Box<str>>), TermKeyId>,
}

impl TermKeys {
    /// Returns the term key of this name. It is created if it is new.
    pub fn name(&mut self, field: Field, kind: Type, path: Option<&str>, has_positions: bool) -> TermKeyId {
        let term_keys = &mut self.term_keys;
        *self.by_name.entry((field, kind, path.map(Box::from))).or_insert_with_key(|(_, _, path)| {
            let path = path.clone();
            term_keys.push(TermKey {
                field,
                path,
                kind,
                has_positions,
                tokens: 0,
                doc: u32::MAX,
                position: 0,
            });
            // The number fits: a part has a thousand paths and a thousand headers, with five types each.
            (term_keys.len() - 1) as TermKeyId
        })
    }

    #[inline]
    pub fn get_mut(&mut self, term_key: TermKeyId) -> &mut TermKey {
        &mut self.term_keys[usize::from(term_key)]
    }

    pub fn get(&self, term_key: TermKeyId) -> &TermKey {
        &self.term_keys[usize::from(term_key)]
    }

    /// Returns all term keys in the order of the dictionary.
    pub fn sorted(&self) -> Vec<TermKeyId> {
        let mut sorted: Vec<TermKeyId> = (0..self.term_keys.len() as TermKeyId).collect();
        sorted.sort_by_key(|term_key| {
            let term_key = self.get(*term_key);
            (term_key.field, &term_key.path, term_key.kind.to_code())
        });
        sorted
    }

    /// Returns how many terms a field has. Each occurrence is counted.
    pub fn tokens(&self, field: Field) -> u64 {
        self.term_keys.iter().filter(|term_key| term_key.field == field).map(|term_key| term_key.tokens).sum()
    }

    /// Returns the memory in use, in bytes, approximately.
    pub fn mem_usage(&self) -> usize {
        let paths: usize =
            self.term_keys.iter().filter_map(|term_key| term_key.path.as_deref()).map(str::len).sum();
        self.term_keys.capacity() * size_of::<TermKey>() + self.by_name.capacity() * 48 + 2 * paths
    }
}

/// The term keys of one type in a field with paths, by path id. Different path ids may mean the same path:
/// then they have the same term key.
#[derive(Debug)]
pub(in super::super) struct PathKeys {
    field: Field,
    kind: Type,
    has_positions: bool,
    by_path: Vec<TermKeyId>,
}

const UNKNOWN: TermKeyId = TermKeyId::MAX;

impl PathKeys {
    pub fn new(field: Field, kind: Type, has_positions: bool) -> Self {
        Self { field, kind, has_positions, by_path: Vec::new() }
    }

    #[inline]
    pub(super) fn term_key(&mut self, term_keys: &mut TermKeys, id: PathId, paths: &Paths) -> TermKeyId {
        match self.by_path.get(id.index()) {
            Some(term_key) if *term_key != UNKNOWN => *term_key,
            _ => self.name(term_keys, id, paths),
        }
    }

    #[cold]
    fn name(&mut self, term_keys: &mut TermKeys, id: PathId, paths: &Paths) -> TermKeyId {
        if self.by_path.len() <= id.index() {
            self.by_path.resize(id.index() + 1, UNKNOWN);
        }
        let term_key = term_keys.name(self.field, self.kind, Some(paths.path(id)), self.has_positions);
        self.by_path[id.index()] = term_key;
        term_key
    }

    pub fn mem_usage(&self) -> usize {
        self.by_path.capacity() * size_of::<TermKeyId>()
    }
}
