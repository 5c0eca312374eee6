//! The names, roles and tokens of callers, from a file. This module knows nothing of the calls themselves.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::hot_reload::Reloadable;

/// The minimum length of a token, in bytes. A token must be random. A shorter one can be guessed.
const TOKEN_BYTES_MIN: usize = 16;

/// The maximum number of tokens. More would slow down each call, because every token is compared.
const TOKENS_MAX: usize = 1_000;

/// What a token allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// `IndexSegment`.
    Index,
    /// `SearchService`. A caller with this role can read all records.
    Search,
    /// `GetStats` and `Health`.
    Stats,
    /// `ArchiveService`. A caller with this role can store, read and hide whole segments.
    Archive,
}

impl Role {
    /// The name of the role in files and errors.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::Search => "search",
            Self::Stats => "stats",
            Self::Archive => "archive",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl FromStr for Role {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let all = [Self::Index, Self::Search, Self::Stats, Self::Archive];
        all.into_iter().find(|role| role.name() == text).ok_or(())
    }
}

/// The name and the roles of a token's holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    /// The name of the holder.
    pub name: Arc<str>,
    roles: u8,
}

impl Grant {
    /// Whether this role is among its roles.
    pub(super) fn has(&self, role: Role) -> bool {
        self.roles & role.bit() != 0
    }
}

/// All tokens, as hashes, so that nothing can reveal them.
pub(super) struct Tokens(Vec<([u8; 32], Grant)>);

impl Tokens {
    /// Returns the grant of a token. The time that this takes does not depend on how much of the token is
    /// right, or on where it is in the file.
    pub(super) fn grant(&self, token: &[u8]) -> Option<&Grant> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let (mut found, mut at) = (Choice::from(0), 0u64);
        for (number, (known, _)) in (0u64..).zip(&self.0) {
            let same = known.ct_eq(&digest);
            at.conditional_assign(&number, same);
            found |= same;
        }
        let (_, grant) = self.0.get(usize::try_from(at).ok()?)?;
        bool::from(found).then_some(grant)
    }
}

/// Shows only the names.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(_, grant)| &grant.name)).finish()
    }
}

/// Why a file of tokens is not valid. The error says where, and never what is there.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It is not UTF-8.
    #[error("{} is not UTF-8", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// It holds no token, so no caller could call anything.
    #[error("{} holds no token", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// It holds too many tokens.
    #[error("{} holds more than {TOKENS_MAX} tokens", path.display())]
    TooMany {
        /// The file.
        path: PathBuf,
    },
    /// A line is not valid.
    #[error("{}, line {line}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The number of the line, counted from 1.
        line: usize,
        /// The cause.
        #[source]
        source: LineError,
    },
}

/// Why a line of a file of tokens is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// It does not have three words.
    #[error("a line is NAME ROLE[,ROLE] TOKEN")]
    NotThreeWords,
    /// It names an unknown role.
    #[error("roles are index, search and stats")]
    UnknownRole,
    /// The token is too short, and could be guessed.
    #[error("a token has at least {TOKEN_BYTES_MIN} characters")]
    TooShort,
    /// A name or token has characters that cannot be sent in a header.
    #[error("names and tokens are visible ASCII")]
    NotVisible,
    /// An earlier line has the same token, so it is not clear whose calls these are.
    #[error("the token is that of line {first}")]
    Duplicate {
        /// The number of the earlier line, counted from 1.
        first: usize,
    },
}

impl Reloadable for Tokens {
    const WHAT: &'static str = "tokens";
    type Files = PathBuf;
    type Error = TokensError;

    fn paths(path: &PathBuf) -> Vec<PathBuf> {
        vec![path.clone()]
    }

    fn unreadable(path: &PathBuf, _: usize, source: io::Error) -> TokensError {
        TokensError::File { path: path.clone(), source }
    }

    fn parse(path: &PathBuf, contents: &[Vec<u8>]) -> Result<Self, TokensError> {
        let path = || path.clone();
        let text = std::str::from_utf8(contents.first().map_or(&[], Vec::as_slice));
        let text = text.map_err(|_| TokensError::NotText { path: path() })?;
        let mut tokens: Vec<([u8; 32], Grant)> = Vec::new();
        let mut lines = Vec::new();
        for (line, words) in (1..).zip(text.lines()) {
            if words.trim().is_empty() || words.trim_start().starts_with('#') {
                continue;
            }
            let refused = |source| TokensError::Line { path: path(), line, source };
            let (digest, grant) = read_line(words).map_err(refused)?;
            if let Some(at) = tokens.iter().position(|(known, _)| *known == digest) {
                let first = lines.get(at).copied().unwrap_or_default();
                return Err(refused(LineError::Duplicate { first }));
            }
            tokens.push((digest, grant));
            lines.push(line);
            if tokens.len() > TOKENS_MAX {
                return Err(TokensError::TooMany { path: path() });
            }
        }
        if tokens.is_empty() {
            return Err(TokensError::Empty { path: path() });
        }
        Ok(Self(tokens))
    }
}

fn read_line(line: &str) -> Result<([u8; 32], Grant), LineError> {
    let words: Vec<_> = line.split_whitespace().collect();
    let [name, roles, token] = words.as_slice() else { return Err(LineError::NotThreeWords) };
    if !name.bytes().chain(token.bytes()).all(|byte| byte.is_ascii_graphic()) {
        return Err(LineError::NotVisible);
    }
    let roles = roles.split(',').try_fold(0, |roles, role| {
        role.parse::<Role>().map(|role| roles | role.bit()).map_err(|()| LineError::UnknownRole)
    })?;
    if token.len() < TOKEN_BYTES_MIN {
        return Err(LineError::TooShort);
    }
    Ok((Sha256::digest(token).into(), Grant { name: Arc::from(*name), roles }))
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    const TOKEN: &str = "hunter2-hunter2-hunter2";

    fn read(text: &str) -> Result<Tokens, TokensError> {
        Tokens::parse(&"tokens".into(), &[text.as_bytes().to_vec()])
    }

    #[track_caller]
    fn refused(text: &str, expected: &str) {
        let error = read(text).expect_err(expected);
        let shown = format!("{error}: {:?} {error:?}", error.source().map(ToString::to_string));
        assert!(shown.contains(expected), "{text}: {shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn a_token_opens_what_its_line_says() {
        let text =
            format!("# who\n\n agent index {TOKEN}-1 \nagent index {TOKEN}-2\nops search,stats {TOKEN}-3");
        let tokens = read(&text).expect("they read");
        for (token, name, roles) in [
            ("-1", "agent", &[Role::Index][..]),
            ("-2", "agent", &[Role::Index]),
            ("-3", "ops", &[Role::Search, Role::Stats]),
        ] {
            let grant = tokens.grant(format!("{TOKEN}{token}").as_bytes()).expect("it is known");
            assert_eq!(&*grant.name, name);
            for role in [Role::Index, Role::Search, Role::Stats] {
                assert_eq!(grant.has(role), roles.contains(&role), "{name}: {role:?}");
            }
        }
    }

    #[test]
    fn nothing_else_is_a_token() {
        let tokens =
            read(&format!("agent index {TOKEN}\nops stats another-one-of-them\n")).expect("they read");
        for wrong in [
            "",
            "hunter2",
            "hunter2-hunter2-hunter",
            "hunter2-hunter2-hunter22",
            "agent",
            "HUNTER2-hunter2-hunter2",
        ] {
            assert_eq!(tokens.grant(wrong.as_bytes()), None, "{wrong}");
        }
        assert!(!format!("{tokens:?}").contains("hunter2"));
    }

    #[test]
    fn lesson_20_what_does_not_read_is_refused_by_its_line_and_not_repeated() {
        refused("", "no token");
        refused("# hunter2\n\n", "no token");
        refused(TOKEN, "line 1");
        refused(&format!("agent {TOKEN}"), "NAME ROLE");
        refused(&format!("agent index {TOKEN} more"), "NAME ROLE");
        refused(&format!("#\nagent index,admin {TOKEN}"), "line 2");
        refused(&format!("agent {TOKEN} index"), "roles are");
        refused("agent index hunter2", "at least 16");
        refused("agent index hunter2-hunter2-hünter2", "visible ASCII");
        refused(&format!("a index {TOKEN}\n\nb stats {TOKEN}"), "that of line 1");
        let error = Tokens::parse(&"tokens".into(), &[vec![0xff; 40]]).expect_err("it is no text");
        assert!(matches!(error, TokensError::NotText { .. }), "{error:?}");
    }
}
