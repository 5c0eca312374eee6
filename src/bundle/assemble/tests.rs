use super::super::sample::{blocks_of, bundle_of, footer_of, frames};
use super::super::verify;

#[test]
fn what_is_assembled_can_be_verified() {
    let frames = frames(&[700_000, 200_000, 300_000, 2_500_000, 10], 7);
    let (built, object) = bundle_of(vec![blocks_of(&frames[..2]), blocks_of(&frames[2..])]);
    assert_eq!(built.size_bytes, object.len() as u64);
    assert_eq!(built.crc32c, crc32c::crc32c(&object));
    let verified = verify(&object).expect("a sound bundle");
    assert_eq!(verified.crc32c, built.crc32c);
    assert_eq!(verified.footer.footer_offset(), built.footer_offset);
    assert_eq!(verified.footer, footer_of(&object));
    assert_eq!(verified.manifest.record_count, 35);
}
