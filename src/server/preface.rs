//! Reads the start of HTTP/2: the client's preface and its SETTINGS. A connection is served only after these
//! have come as a whole. So a connection that stops earlier can be closed like one that sends nothing.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD_BYTES: usize = 9;
const SETTINGS: u8 = 4;

/// The maximum size of the first SETTINGS, in bytes. Clients send about ten settings of 6 bytes.
const SETTINGS_BYTES_MAX: usize = 1_024;

/// Whether the bytes so far are enough to serve the connection.
enum Preface {
    Incomplete,
    /// Complete, or something else, to which the HTTP/2 library responds.
    Served,
    /// No SETTINGS, or too many of them. HTTP/2 must begin with SETTINGS.
    Wrong,
}

/// Reads to the end of the first SETTINGS, and perhaps beyond. `None` if the caller has closed the connection
/// before.
pub(super) async fn read(line: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut received = Vec::new();
    loop {
        match check(&received) {
            Preface::Served => return Ok(Some(received)),
            Preface::Wrong => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "HTTP/2 without settings"));
            }
            Preface::Incomplete => {}
        }
        let mut buffer = [0; PREFACE.len() + HEAD_BYTES + SETTINGS_BYTES_MAX];
        match line.read(&mut buffer).await? {
            0 => return Ok(None),
            bytes => received.extend_from_slice(&buffer[..bytes]),
        }
    }
}

fn check(received: &[u8]) -> Preface {
    let common = received.len().min(PREFACE.len());
    if received[..common] != PREFACE[..common] {
        return Preface::Served;
    }
    let Some(rest) = received.get(PREFACE.len()..) else { return Preface::Incomplete };
    let Some(head) = rest.first_chunk::<HEAD_BYTES>() else { return Preface::Incomplete };
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    match head[3] {
        SETTINGS if length > SETTINGS_BYTES_MAX => Preface::Wrong,
        SETTINGS if rest.len() < HEAD_BYTES + length => Preface::Incomplete,
        SETTINGS => Preface::Served,
        _ => Preface::Wrong,
    }
}
