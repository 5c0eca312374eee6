//! A record as JSON for direct use: keys, values and headers are JSON or text where possible, and base64
//! otherwise.

mod embed;

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::cli::{CliError, Exit, unknown_values};
use crate::proto::v1;

/// The form of keys, values and headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// A JSON object or array is embedded as such, other text is a string, and other bytes are base64 in a
    /// member of another name.
    Readable,
    /// Always base64, as in the JSON mapping of protobuf.
    Base64,
}

impl Contents {
    /// From the value of `--base64`.
    pub fn of(is_base64: bool) -> Self {
        if is_base64 { Self::Base64 } else { Self::Readable }
    }
}

/// Prints a record as one JSON object on a line of its own. Offset and partition are printed even if they are
/// 0.
pub fn record(record: v1::Record, contents: Contents) -> Result<(), CliError> {
    let line = line(record, contents);
    let line = line.map_err(|error| CliError::new(Exit::Failed, "cannot write JSON", &error))?;
    super::print(&line)
}

fn line(mut record: v1::Record, contents: Contents) -> Result<Vec<u8>, serde_json::Error> {
    let is_whole = record.omitted_bytes.is_none();
    let readable = match contents {
        Contents::Base64 => None,
        Contents::Readable => {
            Some((record.key.take(), record.value.take(), std::mem::take(&mut record.headers)))
        }
    };
    let mut members = match serde_json::to_value(unknown_values::record(record))? {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    // The JSON mapping of protobuf omits values of 0, and writes 64-bit numbers as strings.
    members.entry("partition").or_insert_with(|| 0.into());
    members.entry("offset").or_insert_with(|| "0".into());
    let mut line = serde_json::to_vec(&members)?;
    if let Some((key, value, headers)) = readable {
        // Removes the `}`, so that more members can follow. The object has members already.
        line.pop();
        // An omitted key or value is not null: `omittedBytes` says that it exists.
        if is_whole || key.is_some() {
            member(&mut line, "key", key.as_ref())?;
        }
        if is_whole {
            member(&mut line, "value", value.as_ref())?;
        }
        if !headers.is_empty() {
            line.extend_from_slice(br#","headers":["#);
            for (nth, header) in headers.iter().enumerate() {
                line.extend_from_slice(if nth == 0 { br#"{"name":"# } else { br#",{"name":"# });
                embed::string(&mut line, &header.name)?;
                member(&mut line, "value", header.value.as_ref())?;
                line.push(b'}');
            }
            line.push(b']');
        }
        line.push(b'}');
    }
    line.push(b'\n');
    Ok(line)
}

/// Appends a member after other members: `null` if there are no bytes.
fn member(line: &mut Vec<u8>, name: &str, bytes: Option<&Bytes>) -> Result<(), serde_json::Error> {
    let Some(bytes) = bytes else {
        line.extend_from_slice(format!(r#","{name}":null"#).as_bytes());
        return Ok(());
    };
    match str::from_utf8(bytes) {
        Err(_) => {
            line.extend_from_slice(format!(r#","{name}Base64":{}"#, base64(bytes)?).as_bytes());
            Ok(())
        }
        Ok(text) => {
            line.extend_from_slice(format!(r#","{name}":"#).as_bytes());
            match embed::is_whole_in_json(text) {
                true => {
                    embed::on_one_line(line, text);
                    Ok(())
                }
                false => embed::string(line, text),
            }
        }
    }
}

/// Encodes bytes as the JSON mapping of protobuf does.
fn base64(bytes: &Bytes) -> Result<Value, serde_json::Error> {
    let header = serde_json::to_value(v1::Header { name: String::new(), value: Some(bytes.clone()) })?;
    Ok(header["value"].clone())
}

#[cfg(test)]
mod tests;
