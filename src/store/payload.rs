//! Makes the body of one request from the parts of a bundle.

use bytes::{Bytes, BytesMut};
use object_store::PutPayload;

/// Parts shorter than this, in bytes, are joined with their neighbours. The local store writes each part with
/// its own call, and a small bundle has thirty parts of a few hundred bytes.
const GATHERED_BYTES_MAX: usize = 64 << 10;

/// Returns the body that consists of `parts`. Only short parts are copied.
pub(super) fn of(parts: &[Bytes]) -> PutPayload {
    let (mut body, mut gathered) = (Vec::new(), BytesMut::new());
    for part in parts {
        if part.len() < GATHERED_BYTES_MAX {
            gathered.extend_from_slice(part);
            continue;
        }
        body.push(gathered.split().freeze());
        body.push(part.clone());
    }
    body.push(gathered.freeze());
    body.into_iter().filter(|part| !part.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_parts_are_put_together_and_long_ones_stay_as_they_are() {
        let long = Bytes::from(vec![7; GATHERED_BYTES_MAX]);
        let short = |byte: u8| Bytes::from(vec![byte; 3]);
        let parts = [short(1), short(2), long.clone(), long.clone(), Bytes::new(), short(3)];
        let body: Vec<Bytes> = of(&parts).iter().cloned().collect();
        assert_eq!(body, [Bytes::from_static(&[1, 1, 1, 2, 2, 2]), long.clone(), long.clone(), short(3)]);
        assert_eq!(body[1].as_ptr(), long.as_ptr(), "not copied");
        assert_eq!(of(&[]).content_length(), 0);
    }
}
