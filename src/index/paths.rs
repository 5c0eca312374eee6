//! The paths of JSON values, interned. The keys of log records repeat, so a path is looked up by comparing
//! one key with the key that came next the last time.

use std::collections::HashMap;

use super::catalog::FieldTypes;
use super::schema::{PATH_BYTES_MAX, PATHS_MAX};

/// Separates a path's segments inside Tantivy (`JSON_PATH_SEGMENT_SEP`).
pub(super) const SEPARATOR: char = '\u{1}';
/// Ends a path inside Tantivy (`JSON_END_OF_PATH`). Tantivy would silently drop keys that contain it.
const END: char = '\0';
/// Maximum number of nodes in the tree, including inner nodes: many objects without a leaf must not fill the
/// memory.
const NODES_MAX: usize = 8 * PATHS_MAX;
/// Maximum number of additional nodes for one value. They are removed after it.
const PASSING_MAX: usize = 32 * PATHS_MAX;
/// A node with more children than this finds them by hash.
const SCANNED_MAX: usize = 16;

/// A path's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PathId(u32);

impl PathId {
    /// Returns the number as an index for a table of all paths.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The path of all leaves that cannot have one: their path is too long, or contains a NUL.
pub(super) const INVALID_PATH: PathId = PathId(0);
/// The empty path: the object itself.
pub(super) const ROOT: PathId = PathId(1);
/// The path of all leaves beyond the number of paths for one value.
const OVERFLOW_PATH: PathId = PathId(2);

/// Why a path is not one of those that an index lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// It is the empty path, of an element outside of objects.
    NoPath,
    /// The index lists as many paths as it may. The name of this one is known until the next value.
    Named,
    /// It is too long, or contains a NUL.
    Unnamable,
    /// The value has too many paths.
    TooMany,
}

/// How keys become segments of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dots {
    /// A dot in a key separates as nesting does: `{"a.b": 1}` and `{"a": {"b": 1}}` are the same path.
    Separate,
    /// A dot is a normal character.
    Kept,
}

/// All paths seen, as a tree.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    nodes: Vec<Node>,
    leaves: usize,
    dots: Dots,
}

#[derive(Clone, Debug, Default)]
struct Node {
    parent: u32,
    path: String,
    children: Vec<(Box<str>, u32)>,
    by_key: HashMap<Box<str>, u32>,
    next: usize,
    /// Whether the key cannot be written in JSON without escapes.
    has_escapes: bool,
    is_leaf: bool,
    types: FieldTypes,
}

impl Paths {
    pub fn new(dots: Dots) -> Self {
        Self { nodes: vec![Node::default(), Node::default(), Node::default()], leaves: 0, dots }
    }

    /// Returns the path one key below `parent`; [`INVALID_PATH`] or [`OVERFLOW_PATH`] if it cannot be kept.
    pub fn child(&mut self, parent: PathId, key: &str) -> PathId {
        if parent == INVALID_PATH || parent == OVERFLOW_PATH {
            return parent;
        }
        let node = &mut self.nodes[parent.0 as usize];
        if let Some((known, id)) = node.children.get(node.next)
            && **known == *key
        {
            node.next += 1;
            return PathId(*id);
        }
        let found = if node.children.len() > SCANNED_MAX {
            node.by_key.get(key).copied()
        } else {
            node.children.iter().find(|(known, _)| **known == *key).map(|(_, id)| *id)
        };
        match found {
            Some(id) => {
                // The children are sorted by their numbers, so the number gives the place of the child.
                node.next = node.children.partition_point(|(_, other)| *other <= id);
                PathId(id)
            }
            None => self.insert(parent, key),
        }
    }

    /// Returns the path whose key most likely follows, if `json` starts with exactly this key in quotes, and
    /// how many bytes that takes. This saves the search for the key's end.
    #[inline]
    pub fn predict(&mut self, parent: PathId, json: &[u8]) -> Option<(PathId, usize)> {
        let node = &mut self.nodes[parent.0 as usize];
        let (key, id) = node.children.get(node.next)?;
        let id = PathId(*id);
        let quoted_bytes = key.len() + 2;
        let is_next =
            json.get(1..1 + key.len()) == Some(key.as_bytes()) && json.get(1 + key.len()) == Some(&b'"');
        // A key with a quote or the like is never written like this: these bytes would be another key, or
        // none.
        if !is_next || self.nodes[id.0 as usize].has_escapes {
            return None;
        }
        self.nodes[parent.0 as usize].next += 1;
        Some((id, quoted_bytes))
    }

    /// Starts an object: its first key is most likely the first of all.
    pub fn enter(&mut self, id: PathId) {
        self.nodes[id.0 as usize].next = 0;
    }

    fn insert(&mut self, parent: PathId, key: &str) -> PathId {
        let above = &self.nodes[parent.0 as usize].path;
        let separated = parent != ROOT;
        if key.contains(END) || above.len() + usize::from(separated) + key.len() > PATH_BYTES_MAX {
            return INVALID_PATH;
        }
        if self.nodes.len() >= NODES_MAX + PASSING_MAX {
            return OVERFLOW_PATH;
        }
        let mut path = String::with_capacity(above.len() + 1 + key.len());
        path.push_str(above);
        if separated {
            path.push(SEPARATOR);
        }
        match self.dots {
            Dots::Separate => path.extend(key.chars().map(|c| if c == '.' { SEPARATOR } else { c })),
            Dots::Kept => path.push_str(key),
        }
        let id = self.nodes.len() as u32;
        let has_escapes = key.bytes().any(|byte| matches!(byte, 0..0x20 | b'"' | b'\\'));
        self.nodes.push(Node { parent: parent.0, path, has_escapes, ..Node::default() });
        let node = &mut self.nodes[parent.0 as usize];
        node.children.push((key.into(), id));
        node.next = node.children.len();
        if node.children.len() == SCANNED_MAX + 1 {
            node.by_key = node.children.iter().cloned().collect();
        } else if node.children.len() > SCANNED_MAX {
            node.by_key.insert(key.into(), id);
        }
        PathId(id)
    }

    /// Returns the number of nodes, as a mark for [`Paths::forget`].
    pub fn mark(&self) -> usize {
        self.nodes.len()
    }

    /// Removes all nodes that were added since the mark. None of them may have been admitted.
    pub fn forget(&mut self, mark: usize) {
        while self.nodes.len() > mark
            && let Some(node) = self.nodes.pop()
        {
            let parent = &mut self.nodes[node.parent as usize];
            if let Some((key, _)) = parent.children.pop() {
                parent.by_key.remove(&key);
            }
            parent.next = 0;
        }
    }

    /// Removes the nodes that only the last value needed.
    pub fn forget_passing(&mut self) {
        if self.nodes.len() > NODES_MAX {
            self.forget(NODES_MAX);
            self.nodes.shrink_to(2 * NODES_MAX);
        }
    }

    /// Returns why a path was not admitted.
    pub fn place(&self, id: PathId) -> Kept {
        match id {
            ROOT => Kept::NoPath,
            INVALID_PATH => Kept::Unnamable,
            OVERFLOW_PATH => Kept::TooMany,
            _ => Kept::Named,
        }
    }

    /// Returns whether a leaf of this type may be at this path. The first [`PATHS_MAX`] paths are allowed.
    pub fn admit(&mut self, id: PathId, types: FieldTypes) -> bool {
        if id.index() <= OVERFLOW_PATH.index() || id.index() >= NODES_MAX {
            return false;
        }
        let node = &mut self.nodes[id.0 as usize];
        if !node.is_leaf {
            if self.leaves == PATHS_MAX {
                return false;
            }
            node.is_leaf = true;
            self.leaves += 1;
        }
        node.types |= types;
        true
    }

    /// The path as Tantivy writes it.
    pub fn path(&self, id: PathId) -> &str {
        &self.nodes[id.0 as usize].path
    }

    /// Returns the admitted paths with the types seen there, in the order of their first appearance.
    /// Different nodes may have the same path.
    pub fn admitted(&self) -> impl Iterator<Item = (&str, FieldTypes)> {
        self.nodes.iter().filter(|node| node.is_leaf).map(|node| (node.path.as_str(), node.types))
    }

    /// Returns the memory in use, in bytes, approximately.
    pub fn mem_usage(&self) -> usize {
        self.nodes.len() * (size_of::<Node>() + 64)
            + self.nodes.iter().map(|node| node.path.len() * 3).sum::<usize>()
    }
}
