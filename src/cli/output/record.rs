//! A record as JSON that a reader can use as it is: keys, values and headers as JSON or text where they are, in base64 where they are not.

mod embed;

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::cli::{CliError, Exit, unknown_values};
use crate::proto::v1;

/// How keys, values and headers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// An object or an array of JSON as that, other text as a string, all else in base64 under a name of its own.
    Readable,
    /// Always in base64, as the mapping of protobuf to JSON has them.
    Base64,
}

impl Contents {
    /// As a flag says.
    pub fn of(is_base64: bool) -> Self {
        if is_base64 { Self::Base64 } else { Self::Readable }
    }
}

/// A record as one JSON object on a line of its own, with offset and partition also where they are 0.
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
    // The mapping of protobuf to JSON leaves out what is 0, and has numbers of 64 bits as strings.
    members.entry("partition").or_insert_with(|| 0.into());
    members.entry("offset").or_insert_with(|| "0".into());
    let mut line = serde_json::to_vec(&members)?;
    if let Some((key, value, headers)) = readable {
        // The object goes on. It is not empty.
        line.pop();
        // What is left out is not null: `omittedBytes` says that it is there.
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

/// A member behind others: `null` where there are no bytes.
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

/// As the mapping of protobuf to JSON has bytes.
fn base64(bytes: &Bytes) -> Result<Value, serde_json::Error> {
    let header = serde_json::to_value(v1::Header { name: String::new(), value: Some(bytes.clone()) })?;
    Ok(header["value"].clone())
}

#[cfg(test)]
mod tests;
