//! Operators of other query languages, which have no meaning here. A word that contains one is refused with
//! the right spelling. If it separated words instead, the query would silently have another meaning. After
//! `\` and in quotation marks each of them is a normal character.

use super::scan::{Bare, Piece};
use super::{QueryError, QueryProblem, shown};

/// Refuses a word without a field that contains such an operator.
pub(super) fn refuse_in_word(piece: &Piece) -> Result<(), QueryError> {
    refuse_in_value(piece)?;
    for (before, bare) in piece.bare() {
        let rest = &piece.text[bare.byte + bare.c.len_utf8()..];
        let name = piece.text[..bare.byte].trim_end_matches(['!', '=', '~', '<', '>']);
        let value = rest.trim_start_matches(['=', '~', '<', '>']);
        let (name, value) = (or(name, "name"), or(value, "value"));
        let hint = match bare.c {
            '=' if matches!(before, Some('!')) => format!("-{name}:{value}"),
            '=' if matches!(before, Some('<' | '>')) => continue,
            '=' => format!("{name}:{value}"),
            '<' | '>' if bare.byte == 0 || !rest.is_empty() => {
                let equals = if rest.starts_with('=') { "=" } else { "" };
                format!("{name}:{}{equals}{value}", bare.c)
            }
            _ => continue,
        };
        return refuse(bare, operator_at(piece, bare.byte), &hint);
    }
    Ok(())
}

/// Refuses what follows a name and its colon if it starts with such an operator, or contains one that is a
/// wildcard.
pub(super) fn refuse_in_value(piece: &Piece) -> Result<(), QueryError> {
    let text = &piece.text;
    for (before, bare) in piece.bare() {
        let starts = bare.byte == 0;
        let rest = &text[bare.byte + bare.c.len_utf8()..];
        let value = or(rest.trim_start_matches(['!', '=', '~', '<', '>']), "value").trim_end_matches('/');
        let hint = match bare.c {
            '!' if starts => format!("-{value} or name:(-{value})"),
            '=' | '~' if starts => format!("name:{value}"),
            '~' if rest.is_empty() || rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') => {
                format!("{}*", or(&text[..bare.byte], "word"))
            }
            '?' => format!("{}*", or(&text[..bare.byte], "word")),
            '/' if starts && text.len() > 1 && text.ends_with('/') => {
                format!("{}*", or(leading_word(value), "word"))
            }
            '&' if before == Some('&') => "a AND b".to_owned(),
            '|' if before == Some('|') => "a OR b".to_owned(),
            _ => continue,
        };
        let operator = if bare.c == '/' { "/…/".to_owned() } else { operator_at(piece, bare.byte) };
        return refuse(bare, operator, &hint);
    }
    Ok(())
}

/// Refuses a name that contains an operator: `!level:error`, `_exists_:user`.
pub(super) fn refuse_in_name(name: &Piece, value: &str) -> Result<(), QueryError> {
    let (operator, hint) = match name.text.as_str() {
        "_exists_" => ("_exists_", format!("{}:*", or(value, "name"))),
        "_missing_" => ("_missing_", format!("-{}:*", or(value, "name"))),
        text => match name.bare().next() {
            Some((_, bare)) if bare.byte == 0 && bare.c == '!' => {
                ("!", format!("-{}:{}", or(&text[1..], "name"), or(value, "value")))
            }
            _ => return Ok(()),
        },
    };
    let problem = QueryProblem::NoOperator { written: operator.to_owned(), instead: shown(&hint) };
    Err(QueryError { position: name.at, problem })
}

fn refuse(bare: Bare, written: String, hint: &str) -> Result<(), QueryError> {
    let problem = QueryProblem::NoOperator { written: shown(&written), instead: shown(hint) };
    Err(QueryError { position: bare.at, problem })
}

/// Returns the operator at this byte: all characters of operators that are next to each other there.
fn operator_at(piece: &Piece, byte: usize) -> String {
    let is_part = |c: char| matches!(c, '!' | '=' | '~' | '<' | '>' | '&' | '|' | '?');
    let before = piece.text[..byte].chars().rev().take_while(|c| is_part(*c)).collect::<Vec<_>>();
    let behind = piece.text[byte..].chars().take_while(|c| is_part(*c));
    before.into_iter().rev().chain(behind).collect()
}

fn leading_word(text: &str) -> &str {
    &text[..text.find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len())]
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}
