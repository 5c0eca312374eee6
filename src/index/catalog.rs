//! What was found in the values, and what cannot be searched: facts for the manifest and for queries.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{BitOr, BitOrAssign};

use super::paths::{Paths, SEPARATOR};

/// The types of value seen at one path.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct FieldTypes(u8);

impl FieldTypes {
    /// Words. Dates are words too.
    pub const TEXT: Self = Self(1);
    /// Whole numbers that fit an `i64`, however written: `1.0` is one.
    pub const I64: Self = Self(2);
    /// Whole numbers above those that fit a `u64`.
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

    /// Whether all of `other` were seen.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether a number of any kind was seen.
    pub fn has_numbers(self) -> bool {
        self.0 & (Self::I64.0 | Self::U64.0 | Self::F64.0) != 0
    }

    /// The names, as they stand in manifests: `text`, `i64`, `u64`, `f64`, `date`, `bool`, in this order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(types, _)| self.contains(*types)).map(|(_, name)| name)
    }

    /// The type of this name. Unknown names are `None`: a newer writer may know more.
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

/// What a name takes beside its bytes: its place in a tree whose nodes are half full, and an allocation.
const NAME_BYTES: usize = 80;

/// The paths in the values with their types, and the names of the headers. Sorted, so that equal records give equal catalogs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldCatalog {
    values: BTreeMap<String, FieldTypes>,
    headers: BTreeMap<String, ()>,
    /// Leaves at other paths, which have terms of their own.
    rest_leaves: u64,
    gaps: Gaps,
}

/// What an index has no terms or columns for, since it was written by an earlier release or beyond a limit: a query that asks for it cannot be
/// answered for sure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Numbers that are written as strings have no numeric terms and columns, and whole numbers beyond 2^53 beside fractions or beside numbers
    /// of the other sign are rounded in their column.
    pub numbers: bool,
    /// Some leaves are searchable as text, not by their path.
    pub paths: bool,
}

impl FieldCatalog {
    /// A catalog read back from a manifest. Paths are dotted, as [`FieldCatalog::values`] gives them.
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

    /// The same with so many leaves at paths that it does not name.
    pub fn with_rest(self, rest_leaves: u64) -> Self {
        Self { rest_leaves, ..self }
    }

    /// The same of an index with gaps.
    pub fn with_gaps(self, gaps: Gaps) -> Self {
        Self { gaps, ..self }
    }

    /// How many leaves are at paths that it does not name. They have terms of their own.
    pub fn rest_leaves(&self) -> u64 {
        self.rest_leaves
    }

    /// What the index cannot tell.
    pub fn gaps(&self) -> Gaps {
        self.gaps
    }

    /// The dotted paths below `value`, sorted, with the types seen there. A dot in a key separates as nesting does.
    pub fn values(&self) -> impl Iterator<Item = (&str, FieldTypes)> {
        self.values.iter().map(|(path, types)| (path.as_str(), *types))
    }

    /// The types at one dotted path; none where it was never seen.
    pub fn value(&self, path: &str) -> FieldTypes {
        self.values.get(path).copied().unwrap_or_default()
    }

    /// The headers' names, sorted.
    pub fn headers(&self) -> impl Iterator<Item = &str> {
        self.headers.keys().map(String::as_str)
    }

    /// Bytes in memory, about.
    pub fn mem_usage(&self) -> usize {
        let names = self.values.keys().chain(self.headers.keys());
        names.map(|name| name.len() + NAME_BYTES).sum()
    }

    /// Takes in another part's findings.
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

/// What is stored but cannot be searched, or only as text: nothing goes missing without being counted here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unsearchable {
    /// Values that are not UTF-8.
    pub values_not_utf8: u64,
    /// Values longer than [`VALUE_BYTES_MAX`](super::VALUE_BYTES_MAX).
    pub values_too_long: u64,
    /// Values that are not JSON objects, where the topic's setting asks for those only.
    pub values_not_json: u64,
    /// Keys longer than [`TERM_BYTES_MAX`](super::TERM_BYTES_MAX).
    pub keys_too_long: u64,
    /// Headers whose name or value is not UTF-8, whose value is longer than [`TERM_BYTES_MAX`](super::TERM_BYTES_MAX),
    /// whose name is too long, holds a NUL, or is one too many, or that make a record's headers longer than
    /// [`HEADERS_BYTES_MAX`](super::HEADERS_BYTES_MAX). Null values are not counted.
    pub headers: u64,
    /// Words longer than [`TERM_BYTES_MAX`](super::TERM_BYTES_MAX), each time they occur.
    pub words_too_long: u64,
    /// Dates before 1677 or after 2262: searchable as words, not by range.
    pub dates_out_of_range: u64,
    /// JSON values with over a million leaves, or nested deeper than 100 levels: what comes behind is searchable as text, not by path.
    pub objects_as_text: u64,
    /// Leaves whose path is too long or holds a NUL: searchable as text, not by path.
    pub leaves_without_path: u64,
    /// Leaves whose path is one too many for one value: searchable as text, not by path.
    pub leaves_beyond_paths: u64,
}

impl Unsearchable {
    /// The counts with their names, in the order of their declaration.
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
