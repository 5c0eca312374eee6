//! Terms of leaves at paths that the index does not list. Each term begins with its path, so no list of paths
//! is needed to find it.
//!
//! The terms are in the field of the headers, under a name that no header has. A term is the path as Tantivy
//! writes it, a NUL, a letter for the type, and the word or the number. A number has sixteen hexadecimal
//! digits that sort as the numbers do: so a range of numbers is a range of terms.

use tantivy::{f64_to_u64, i64_to_u64};

use super::json::{Number, Scalar};
use super::schema::TERM_BYTES_MAX;
use super::words;

/// The name under which the terms are indexed. A header with this name is not searchable.
pub(super) const NAME: &str = "\u{2}paths";

/// Ends a path.
const END: char = '\0';

/// The type of a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Word,
    I64,
    U64,
    F64,
    Date,
    Bool,
}

impl Kind {
    fn letter(self) -> char {
        match self {
            Self::Word => 's',
            Self::I64 => 'i',
            Self::U64 => 'u',
            Self::F64 => 'f',
            Self::Date => 'd',
            Self::Bool => 'b',
        }
    }
}

/// Returns the start of all terms of a type at a path. The path is as Tantivy writes it.
pub(super) fn start(path: &str, kind: Kind) -> String {
    format!("{path}{END}{}", kind.letter())
}

/// Returns the start of all terms at a path.
pub(super) fn start_of_all(path: &str) -> String {
    format!("{path}{END}")
}

/// Returns a number's type, and its order-preserving form.
pub(super) fn number(number: Number) -> (Kind, u64) {
    match number {
        Number::I64(value) => (Kind::I64, i64_to_u64(value)),
        Number::U64(value) => (Kind::U64, value),
        Number::F64(value) => (Kind::F64, f64_to_u64(value)),
    }
}

/// Returns digits that sort as the numbers do.
pub(super) fn digits(number: u64) -> String {
    format!("{number:016x}")
}

/// Appends the terms of a leaf to `text`, and calls `each` with the start and the length of each term.
/// Returns how many words were too long for a term.
pub(super) fn terms(
    path: &str,
    scalar: Scalar<'_>,
    text: &mut String,
    each: &mut dyn FnMut(u32, u32),
) -> u64 {
    let mut too_long = 0;
    let mut push = |kind: Kind, rest: &str| {
        if path.len() + 2 + rest.len() > TERM_BYTES_MAX {
            too_long += 1;
            return;
        }
        let at = text.len();
        text.push_str(path);
        text.push(END);
        text.push(kind.letter());
        text.push_str(rest);
        each(at as u32, (text.len() - at) as u32);
    };
    let numeric = |push: &mut dyn FnMut(Kind, &str), value: Number| {
        let (kind, value) = number(value);
        push(kind, &digits(value));
    };
    match scalar {
        Scalar::Text(words) | Scalar::Date(words, _) | Scalar::NumberText(words, _) => {
            words::words(words).iter().for_each(|word| push(Kind::Word, word));
        }
        Scalar::I64(value) => numeric(&mut push, Number::I64(value)),
        Scalar::U64(value) => numeric(&mut push, Number::U64(value)),
        Scalar::F64(value) => numeric(&mut push, Number::F64(value)),
        Scalar::Bool(value) => push(Kind::Bool, &digits(value.into())),
    }
    match scalar {
        Scalar::Date(_, nanos) => push(Kind::Date, &digits(i64_to_u64(nanos))),
        Scalar::NumberText(_, value) => numeric(&mut push, value),
        _ => {}
    }
    too_long
}
