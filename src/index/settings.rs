//! How each topic's records are indexed: the settings file.
//!
//! ```toml
//! # The first entry whose pattern matches the topic's name counts.
//! # Without one: `value = "auto"` and `positions = false`.
//! [[topic]]
//! pattern = "payments-*"   # a glob: * ? [abc] {a,b}
//! value = "json"           # auto | json | text | none
//! positions = true         # phrases match exactly; costs space
//! ```

use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Serialize};

/// How a record's value is indexed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ValueMode {
    /// A JSON object becomes paths and leaves, other UTF-8 becomes text.
    #[default]
    Auto,
    /// As `Auto`, but other UTF-8 is only stored and counted. It is not searchable.
    Json,
    /// All UTF-8 is text, including JSON.
    Text,
    /// Values are stored only.
    None,
}

impl ValueMode {
    /// Returns the name as in settings files and manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Json => "json",
            Self::Text => "text",
            Self::None => "none",
        }
    }
}

/// The settings of one topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicSettings {
    /// How the value is indexed.
    pub value: ValueMode,
    /// Whether words have positions, so that phrases match exactly.
    pub positions: bool,
}

/// The settings file, read and checked.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    topics: Vec<(GlobMatcher, TopicSettings)>,
}

/// Why a settings file is refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// It is not TOML, or names something that does not exist.
    #[error("the settings are not valid: {0}")]
    Toml(#[from] toml::de::Error),
    /// A pattern is not a glob.
    #[error("the pattern {pattern:?} of [[topic]] number {number} is not valid")]
    Pattern {
        /// The pattern as it was written.
        pattern: String,
        /// Which entry it is, from 1.
        number: usize,
        /// What is wrong with it.
        source: globset::Error,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    topic: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    pattern: String,
    #[serde(default)]
    value: ValueMode,
    #[serde(default)]
    positions: bool,
}

impl Settings {
    /// Reads the text of a settings file. An empty text is valid.
    pub fn parse(toml: &str) -> Result<Self, SettingsError> {
        let file: File = toml::from_str(toml)?;
        let topics =
            file.topic.into_iter().enumerate().map(|(index, entry)| {
                let glob = GlobBuilder::new(&entry.pattern).build().map_err(|source| {
                    SettingsError::Pattern { pattern: entry.pattern.clone(), number: index + 1, source }
                })?;
                Ok((glob.compile_matcher(), TopicSettings { value: entry.value, positions: entry.positions }))
            });
        Ok(Self { topics: topics.collect::<Result<_, SettingsError>>()? })
    }

    /// The settings for a topic: those of the first pattern that matches its whole name.
    pub fn for_topic(&self, topic: &str) -> TopicSettings {
        let found = self.topics.iter().find(|(glob, _)| glob.is_match(topic));
        found.map(|(_, settings)| *settings).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
