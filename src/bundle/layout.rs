//! The tar around the members: names, headers, padding. The writer uses these functions, and the verifier
//! compares the object with their results, byte for byte.

use bytes::Bytes;

/// The first member.
pub const MANIFEST_NAME: &str = "manifest.json";
/// The prefix of the names of attachments.
pub const ATTACHMENT_PREFIX: &str = "attachments/";
/// The prefix of the names of index files.
pub const INDEX_PREFIX: &str = "index/";
/// The segment's frames.
pub const RECORDS_NAME: &str = "records.zst";
/// The hot cache: a second copy of what readers of a large bundle need first.
pub const HOT_NAME: &str = "hot.zst";
/// The block index: the table of the blocks in `records.zst`.
pub const BLOCK_INDEX_NAME: &str = "records.idx";
/// The last member; its data end with the trailer.
pub const FOOTER_NAME: &str = "footer";

/// The unit of a tar, in bytes. Headers have this length, data are padded to a multiple of it.
pub const TAR_BLOCK_BYTES: u64 = 512;
/// The end of a tar, in bytes: two blocks of zeros.
pub const TAR_END_BYTES: u64 = 2 * TAR_BLOCK_BYTES;
/// The longest name that a ustar header holds without splitting it.
pub const NAME_BYTES_MAX: usize = 100;
/// The largest member, in bytes. The size field of a ustar header has eleven octal digits, so a member is
/// smaller than 8 GiB. A segment has at most 2 GiB, so no member is nearly that large; the writer checks all
/// the same.
pub const MEMBER_BYTES_MAX: u64 = (1 << 33) - 1;

/// The largest manifest, hot cache or block index, in bytes. Readers read each of these in one piece, so
/// larger ones are neither written nor read. The block index for 2 GiB of blocks has some 200 KB. A manifest
/// has a few KB, unless compaction left millions of gaps.
pub const TABLE_BYTES_MAX: u64 = 1 << 30;

/// Returns the largest length of the data of the member with this name.
pub(super) fn member_bytes_max(name: &str) -> u64 {
    if [MANIFEST_NAME, HOT_NAME, BLOCK_INDEX_NAME].contains(&name) {
        TABLE_BYTES_MAX
    } else {
        MEMBER_BYTES_MAX
    }
}

static ZEROS: [u8; TAR_END_BYTES as usize] = [0; TAR_END_BYTES as usize];

/// Returns up to 1,024 zeros without an allocation.
pub(super) fn zeros(len: u64) -> Bytes {
    Bytes::from_static(&ZEROS[..len as usize])
}

/// Returns the number of zeros that follow data of `len` bytes.
pub(super) fn padding(len: u64) -> u64 {
    len.wrapping_neg() % TAR_BLOCK_BYTES
}

/// Tells whether a name is valid for an index file, a member right before the blocks. Such names are plain,
/// so that unpacking writes nowhere else.
pub(super) fn is_index_name(name: &str) -> bool {
    is_plain_file(name, INDEX_PREFIX)
}

/// Tells whether a name is valid for an attachment, a member between the manifest and the index files.
pub(super) fn is_attachment_name(name: &str) -> bool {
    is_plain_file(name, ATTACHMENT_PREFIX)
}

fn is_plain_file(name: &str, prefix: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    name.len() <= NAME_BYTES_MAX
        && name
            .strip_prefix(prefix)
            .is_some_and(|file| !file.is_empty() && !file.starts_with('.') && file.bytes().all(plain))
}

/// Returns a ustar header: a regular file, mode 0644, owner and group 0, modified at the start of 1970.
/// `name` has at most 100 bytes, and `len` has at most eleven octal digits.
pub(super) fn tar_header(name: &str, len: u64) -> [u8; TAR_BLOCK_BYTES as usize] {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(len);
    header.set_cksum();
    *header.as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_fills_the_last_tar_block() {
        for (len, zeros) in [(0, 0), (1, 511), (511, 1), (512, 0), (513, 511), (MEMBER_BYTES_MAX, 1)] {
            assert_eq!(padding(len), zeros, "{len}");
        }
    }

    #[test]
    fn index_names_are_plain_files_directly_under_index() {
        for name in ["index/meta.json", "index/0a1b.term", "index/a_b-c.d"] {
            assert!(is_index_name(name), "{name}");
        }
        let long = format!("index/{}", "a".repeat(95));
        for name in [
            "meta.json",
            "index/",
            "index/.",
            "index/..",
            "index/.managed.json",
            "index/a/b",
            "index/ä",
            "index/a\0",
            &long,
        ] {
            assert!(!is_index_name(name), "{name}");
        }
        assert!(is_index_name(&long[..NAME_BYTES_MAX]));
    }

    #[test]
    fn a_header_is_plain_ustar() {
        let header = tar_header("records.zst", 1_000_000);
        assert_eq!(&header[..12], b"records.zst\0", "name");
        assert_eq!(&header[100..108], b"0000644\0", "mode");
        assert_eq!(&header[108..124], b"0000000\x000000000\0", "uid and gid");
        assert_eq!(&header[124..136], b"00003641100\0", "size, octal");
        assert_eq!(&header[136..148], b"00000000000\0", "mtime");
        assert_eq!(header[156], b'0', "a regular file");
        assert_eq!(&header[257..265], b"ustar\x0000", "magic and version");
        assert!(header[265..].iter().all(|byte| *byte == 0), "no owner's name, no device, no prefix");
        let sum: u32 =
            (0..512).map(|i| if (148..156).contains(&i) { 32 } else { u32::from(header[i]) }).sum();
        assert_eq!(&header[148..156], format!("{sum:07o}\0").as_bytes(), "checksum");
    }
}
