//! What was found in the values, and what cannot be searched. The manifest stores these facts, and queries
//! use them.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{BitOr, BitOrAssign};

use super::paths::{Paths, SEPARATOR};

/// The types of value seen at one path.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct FieldTypes(u8);

impl FieldTypes {
    /// Words. A date also counts as words.
    pub const TEXT: Self = Self(1);
    /// Whole numbers that fit an `i64`, in any notation: `1.0` is one.
    pub const I64: Self = Self(2);
    /// Whole numbers that fit a `u64` and are too large for an `i64`.
    pub const U64: Self = Self(4);
    /// All other numbers.
    pub const F64: Self = Self(8);
    /// RFC 3339 dates between the years 1677 and 2262.
    pub const DATE: Self = Self(16);
    /// `true` and `false`.
    pub const BOOL: Self = Self(32);

    const NAMES: [(Self, &'static str); 6] = [
        (Self::TEXT, "text"),
        (Self::I64, "i64"),
        (Self::U64, "u64"),
        (Self::F64, "f64"),
        (Self::DATE, "date"),
        (Self::BOOL, "bool"),
    ];

    /// No type at all.
    pub const fn none() -> Self {
        Self(0)
    }

    /// Returns whether all types of `other` were seen.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns whether a number of any kind was seen.
    pub fn has_numbers(self) -> bool {
        self.0 & (Self::I64.0 | Self::U64.0 | Self::F64.0) != 0
    }

    /// Returns the names as in manifests: `text`, `i64`, `u64`, `f64`, `date`, `bool`, in this order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(types, _)| self.contains(*types)).map(|(_, name)| name)
    }

    /// Returns the type with this name. Unknown names are `None`: a newer writer may know more types.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.into_iter().find(|(_, known)| *known == name).map(|(types, _)| types)
    }
}

impl BitOr for FieldTypes {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for FieldTypes {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl fmt::Debug for FieldTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// Memory that a name takes in addition to its bytes, in bytes: its place in a tree whose nodes are half
/// full, and an allocation.
const NAME_BYTES: usize = 80;

/// The paths in the values with their types, and the names of the headers. They are sorted, so that equal
/// records give equal catalogs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldCatalog {
    values: BTreeMap<String, FieldTypes>,
    headers: BTreeMap<String, ()>,
    /// Leaves at paths that are not listed here. They have terms of their own.
    rest_leaves: u64,
    gaps: Gaps,
}

/// What an index has no terms or columns for, because an earlier release wrote it or because of a limit. A
/// query that needs it has no certain answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Numbers that are written as strings have no numeric terms and columns. In a column, whole numbers
    /// beyond 2^53 are rounded if the path also has fractions or numbers of the other sign.
    pub numbers: bool,
    /// Some leaves are searchable as text, but not by their path.
    pub paths: bool,
}

impl FieldCatalog {
    /// Creates a catalog from a manifest. Paths are dotted, as [`FieldCatalog::values`] returns them.
    pub fn new(
        values: impl IntoIterator<Item = (String, FieldTypes)>,
        headers: impl IntoIterator<Item = String>,
    ) -> Self {
        let mut catalog = Self::default();
        for (path, types) in values {
            *catalog.values.entry(path).or_default() |= types;
        }
        catalog.headers.extend(headers.into_iter().map(|name| (name, ())));
        catalog
    }

    pub(super) fn from_paths(values: &Paths, headers: &Paths, rest_leaves: u64) -> Self {
        let catalog = Self::new(
            values.admitted().map(|(path, types)| (path.replace(SEPARATOR, "."), types)),
            headers.admitted().map(|(name, _)| name.to_owned()),
        );
        catalog.with_rest(rest_leaves)
    }

    /// Returns the catalog with this number of leaves at paths that it does not list.
    pub fn with_rest(self, rest_leaves: u64) -> Self {
        Self { rest_leaves, ..self }
    }

    /// Returns the catalog with the gaps of its index.
    pub fn with_gaps(self, gaps: Gaps) -> Self {
        Self { gaps, ..self }
    }

    /// Returns how many leaves are at paths that the catalog does not list. They have terms of their own.
    pub fn rest_leaves(&self) -> u64 {
        self.rest_leaves
    }

    /// What the index has no terms or columns for.
    pub fn gaps(&self) -> Gaps {
        self.gaps
    }

    /// Returns the dotted paths below `value`, sorted, with the types seen there. A dot in a key separates as
    /// nesting does.
    pub fn values(&self) -> impl Iterator<Item = (&str, FieldTypes)> {
        self.values.iter().map(|(path, types)| (path.as_str(), *types))
    }

    /// Returns the types at one dotted path; none if the path was never seen.
    pub fn value(&self, path: &str) -> FieldTypes {
        self.values.get(path).copied().unwrap_or_default()
    }

    /// Returns the names of the headers, sorted.
    pub fn headers(&self) -> impl Iterator<Item = &str> {
        self.headers.keys().map(String::as_str)
    }

    /// Returns the memory in use, in bytes, approximately.
    pub fn mem_usage(&self) -> usize {
        let names = self.values.keys().chain(self.headers.keys());
        names.map(|name| name.len() + NAME_BYTES).sum()
    }

    /// Adds what was found in another part.
    pub fn merge(&mut self, other: Self) {
        for (path, types) in other.values {
            *self.values.entry(path).or_default() |= types;
        }
        self.headers.extend(other.headers);
        self.rest_leaves += other.rest_leaves;
        self.gaps.numbers |= other.gaps.numbers;
        self.gaps.paths |= other.gaps.paths;
    }
}

/// Counts of what is stored but cannot be searched, or only as text. Everything that is left out is counted
/// here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unsearchable {
    /// Values that are not UTF-8.
    pub values_not_utf8: u64,
    /// Values longer than [`VALUE_BYTES_MAX`](super::VALUE_BYTES_MAX).
    pub values_too_long: u64,
    /// Values that are not JSON objects, if the topic's settings allow only those.
    pub values_not_json: u64,
    /// Keys longer than [`TERM_BYTES_MAX`](super::TERM_BYTES_MAX).
    pub keys_too_long: u64,
    /// Headers that are not indexed. Their name or value is not UTF-8, their value is longer than
    /// [`TERM_BYTES_MAX`](super::TERM_BYTES_MAX), their name is too long or holds a NUL, there are too many
    /// names, or the record's headers are longer than [`HEADERS_BYTES_MAX`](super::HEADERS_BYTES_MAX). Null
    /// values are not counted.
    pub headers: u64,
    /// Words longer than [`TERM_BYTES_MAX`](super::TERM_BYTES_MAX). Each occurrence is counted.
    pub words_too_long: u64,
    /// Dates before 1677 or after 2262: searchable as words, not by range.
    pub dates_out_of_range: u64,
    /// JSON values with over a million leaves, or nested deeper than 100 levels. What is beyond these limits
    /// is searchable as text, not by path.
    pub objects_as_text: u64,
    /// Leaves whose path is too long or holds a NUL: searchable as text, not by path.
    pub leaves_without_path: u64,
    /// Leaves beyond the number of paths for one value, or beyond the size of terms for one record:
    /// searchable as text, not by path.
    pub leaves_beyond_paths: u64,
}

impl Unsearchable {
    /// Returns the counts with their names, in the order of the fields.
    pub fn counts(&self) -> [(&'static str, u64); 10] {
        [
            ("values_not_utf8", self.values_not_utf8),
            ("values_too_long", self.values_too_long),
            ("values_not_json", self.values_not_json),
            ("keys_too_long", self.keys_too_long),
            ("headers", self.headers),
            ("words_too_long", self.words_too_long),
            ("dates_out_of_range", self.dates_out_of_range),
            ("objects_as_text", self.objects_as_text),
            ("leaves_without_path", self.leaves_without_path),
            ("leaves_beyond_paths", self.leaves_beyond_paths),
        ]
    }

    /// Adds another part's counts.
    pub fn merge(&mut self, other: &Self) {
        self.values_not_utf8 += other.values_not_utf8;
        self.values_too_long += other.values_too_long;
        self.values_not_json += other.values_not_json;
        self.keys_too_long += other.keys_too_long;
        self.headers += other.headers;
        self.words_too_long += other.words_too_long;
        self.dates_out_of_range += other.dates_out_of_range;
        self.objects_as_text += other.objects_as_text;
        self.leaves_without_path += other.leaves_without_path;
        self.leaves_beyond_paths += other.leaves_beyond_paths;
    }
}
