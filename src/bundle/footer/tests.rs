use super::super::sample::{blocks_of, bundle_of, footer_of, frames};
use super::*;

/// A footer of three members of one byte each.
fn small() -> Footer {
    let member = |name: &str, position, crc32c| Member { name: name.into(), position, len: 1, crc32c };
    let footer = Footer::new(
        2,
        vec![
            member("manifest.json", 512, 0x1111_1111),
            member("records.zst", 1_536, 0x2222_2222),
            member("records.idx", 2_560, 0x3333_3333),
        ],
    );
    assert_eq!(footer.object_size(), 512 * 6 + 512 + 512 + 1_024);
    footer
}

/// The object's bytes from the footer offset on.
fn tail_of(footer: &Footer) -> Vec<u8> {
    [&footer.encode()[..], &[0; 1_024]].concat()
}

/// The tail with a changed trailer and the right checksum of that trailer.
fn with_trailer(change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut tail = tail_of(&small());
    let trailer = tail.len() - 1_024 - 32;
    change(&mut tail[trailer..]);
    let crc32c = crc32c::crc32c(&tail[trailer..trailer + 28]);
    tail[trailer + 28..trailer + 32].copy_from_slice(&crc32c.to_le_bytes());
    tail
}

/// The tail with changed members and all checksums right.
fn with_body(change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut body = tail_of(&small());
    let trailer = body.split_off(body.len() - 1_024 - 32);
    change(&mut body);
    let mut tail = body.clone();
    tail.extend(trailer);
    let at = body.len();
    tail[at + 12..at + 16].copy_from_slice(&(body.len() as u32).to_le_bytes());
    tail[at + 24..at + 28].copy_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    let crc32c = crc32c::crc32c(&tail[at..at + 28]);
    tail[at + 28..at + 32].copy_from_slice(&crc32c.to_le_bytes());
    tail
}

fn open_small(tail: &[u8]) -> Result<Opened, OpenError> {
    Footer::open(tail, small().object_size())
}

#[test]
fn the_footer_has_these_bytes() {
    #[rustfmt::skip]
    let body = [
        3, 0, 0, 0,                                             // three members
        13, 0,                                                  // a name of thirteen bytes
        b'm', b'a', b'n', b'i', b'f', b'e', b's', b't', b'.', b'j', b's', b'o', b'n',
        0x00, 0x02, 0, 0, 0, 0, 0, 0,                           // data at byte 512
        1, 0, 0, 0, 0, 0, 0, 0,                                 // one byte of them
        0x11, 0x11, 0x11, 0x11,                                 // their CRC-32C
        11, 0,
        b'r', b'e', b'c', b'o', b'r', b'd', b's', b'.', b'z', b's', b't',
        0x00, 0x06, 0, 0, 0, 0, 0, 0,                           // byte 1,536
        1, 0, 0, 0, 0, 0, 0, 0,
        0x22, 0x22, 0x22, 0x22,
        11, 0,
        b'r', b'e', b'c', b'o', b'r', b'd', b's', b'.', b'i', b'd', b'x',
        0x00, 0x0a, 0, 0, 0, 0, 0, 0,                           // byte 2,560
        1, 0, 0, 0, 0, 0, 0, 0,
        0x33, 0x33, 0x33, 0x33,
    ];
    #[rustfmt::skip]
    let trailer = [
        b'W', b'I', b'B', b'U', b'N', b'D', b'L', b'E',         // magic
        2, 0, 0, 0,                                             // format version
        105, 0, 0, 0,                                           // length of the above
        0x00, 0x14, 0, 0, 0, 0, 0, 0,                           // the object has 5,120 bytes
        0x85, 0x71, 0x03, 0x76,                                 // CRC-32C of the above
        0x45, 0xdc, 0x46, 0x06,                                 // CRC-32C of the trailer's first 28 bytes
    ];
    let encoded = small().encode();
    assert_eq!(encoded[..encoded.len() - 32], body);
    assert_eq!(encoded[encoded.len() - 32..], trailer);
    assert_eq!(open_small(&tail_of(&small())), Ok(Opened::Footer(small())));
}

#[test]
fn the_trailer_ends_1024_bytes_before_the_object_does() {
    for len in [1, 512, 100_000] {
        let (built, object) = bundle_of(vec![blocks_of(&frames(&[len], 1))]);
        let trailer = object.len() - 1_024 - 32;
        assert_eq!(object[trailer..trailer + 8], TRAILER_MAGIC);
        assert!(object[trailer + 32..].iter().all(|byte| *byte == 0));
        assert_eq!(object.len() % 512, 0);
        assert_eq!(footer_of(&object).footer_offset(), built.footer_offset);
    }
}

#[test]
fn one_read_opens_a_bundle_and_a_second_one_where_the_footer_is_longer() {
    let (built, object) = bundle_of(vec![blocks_of(&frames(&[200_000], 5))]);
    let size = object.len() as u64;
    let footer = footer_of(&object);
    let from = |position: u64| Footer::open(&object[position as usize..], size);
    assert_eq!(from(built.footer_offset), Ok(Opened::Footer(footer.clone())), "as the receipt says");
    assert_eq!(from(size.saturating_sub(TAIL_BYTES)), Ok(Opened::Footer(footer.clone())));
    for position in built.footer_offset + 1..=size - 1_024 - 32 {
        assert_eq!(from(position), Ok(Opened::NeedFrom(built.footer_offset)), "{position}");
    }
    for position in size - 1_024 - 31..=size {
        assert_eq!(from(position), Ok(Opened::NeedFrom(size.saturating_sub(TAIL_BYTES))), "{position}");
    }
}

#[test]
fn members_are_found_and_checked() {
    let (_, object) = bundle_of(vec![blocks_of(&frames(&[1_000], 5))]);
    let footer = footer_of(&object);
    let names: Vec<_> = footer.members().iter().map(|member| member.name.as_str()).collect();
    assert_eq!(names, ["manifest.json", "index/0a.term", "index/meta.json", "records.zst", "records.idx"]);
    assert_eq!(footer.index_files().map(|(name, _)| name).collect::<Vec<_>>(), ["0a.term", "meta.json"]);
    for member in footer.members() {
        let range = member.range();
        let data = &object[range.start as usize..range.end as usize];
        assert_eq!(member.check(data), Ok(()), "{}", member.name);
        let shorter = member.check(&data[1..]).expect_err("a byte is missing");
        assert!(matches!(shorter, MemberError::Length { .. }), "{shorter}");
        let mut changed = data.to_vec();
        changed[0] ^= 1;
        let changed = member.check(&changed).expect_err("a bit is wrong");
        assert!(matches!(changed, MemberError::Checksum { .. }), "{changed}");
    }
    let index = footer.block_index();
    let tail = object.slice(footer.records().range().end as usize..);
    let have = index.within(object.len() as u64 - tail.len() as u64, &tail).expect("it is there");
    assert_eq!(index.check(&have), Ok(()));
    assert_eq!(footer.manifest().within(object.len() as u64 - tail.len() as u64, &tail), None);
    assert_eq!(index.within(0, &object.slice(..index.range().end as usize - 1)), None, "a byte is missing");
}

#[test]
fn absent_is_not_corrupt_and_corrupt_is_not_newer() {
    let check = |tail: &[u8], size: u64, kind, message: &str| {
        let error = Footer::open(tail, size).expect_err(message);
        assert_eq!((error.kind(), error.to_string()), (kind, message.to_owned()));
    };
    let size = small().object_size();
    check(&[], 0, Kind::Absent, "no bundle: the object has 0 bytes, fewer than any bundle");
    check(&[0; 1_567], 1_567, Kind::Absent, "no bundle: the object has 1567 bytes, fewer than any bundle");
    let absent = "no bundle: WIBUNDLE is not at byte 4064";
    check(&[0; 5_120], size, Kind::Absent, absent);
    check(&[0; 1_568], 512, Kind::Corrupt, "1568 bytes were given as the end of an object of 512");
    let tail = tail_of(&small());
    check(&tail, size + 512, Kind::Corrupt, "the bundle states a size of 5120 bytes, the object has 5632");
    let newer = with_trailer(|trailer| trailer[8] = 7);
    check(&newer, size, Kind::Unsupported, "bundle format version 7 is newer than this build reads (3)");
    let zero = with_trailer(|trailer| trailer[8] = 0);
    check(&zero, size, Kind::Corrupt, "footer: there is no format version 0 at byte 4064");
    let huge = with_trailer(|trailer| trailer[12..16].fill(0xff));
    check(&huge, size, Kind::Corrupt, "footer: the footer's length is impossible at byte 4064");
    let beyond = with_trailer(|trailer| trailer[12..14].copy_from_slice(&3_553u16.to_le_bytes()));
    check(&beyond, size, Kind::Corrupt, "footer: the footer's length is impossible at byte 4064");
    let mut version_flipped = tail.clone();
    version_flipped[105 + 8] = 7;
    let error = open_small(&version_flipped).expect_err("the checksum shows that the version has changed");
    assert!(matches!(error, OpenError::Checksum { part: "trailer", position: 4_064, .. }), "{error}");
    let mut body_flipped = tail.clone();
    body_flipped[0] ^= 1;
    let error = open_small(&body_flipped).expect_err("a changed body");
    assert!(matches!(error, OpenError::Checksum { part: "footer", position: 3_959, .. }), "{error}");
    let mut end_flipped = tail;
    end_flipped[105 + 32 + 1_023] = 1;
    check(&end_flipped, size, Kind::Corrupt, "footer: the tar's end is not zeros at byte 5119");
}

#[test]
fn a_footer_that_describes_no_bundle_is_refused_though_its_checksums_fit() {
    let check = |what: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let error = open_small(&with_body(change)).expect_err(what);
        let OpenError::Malformed(malformed) = &error else { panic!("{error}") };
        assert_eq!(malformed.what, what);
    };
    assert_eq!(open_small(&with_body(|_| {})), Ok(Opened::Footer(small())), "unchanged");
    check("a field runs past the end", &|body| body.truncate(3));
    check("the number of members is too large for the bytes", &|body| body[..4].fill(0xff));
    check("a field runs past the end", &|body| body[0] = 4);
    check("bytes follow the last member", &|body| body[0] = 2);
    check("bytes follow the last member", &|body| body.push(0));
    check("a member's name is too long", &|body| body[4] = 101);
    check("a member's name is not UTF-8", &|body| body[6] = 0xff);
    check("a member is missing or not at its place", &|body| body[6] = b'M');
    check("a member ends beyond 63 bits", &|body| body[19..27].fill(0xff));
    check("a member ends beyond 63 bits", &|body| body[27..35].fill(0xff));
    check("a member does not follow the one before it", &|body| body[20] = 0x04);
    check("a member does not follow the one before it", &|body| body[28] = 0x02);
    check("a member is too long", &|body| body[27 + 4] = 2);
    check("a member is too long", &|body| body[27 + 3] = 0x80);
    check("a member is missing", &|body| {
        body.truncate(4 + 35 + 33);
        body[0] = 2;
    });
    check("the footer does not follow the last member", &|body| {
        let len = body.len() - 12;
        body[len + 1] = 0x04;
    });
}

#[test]
fn index_files_have_plain_names_in_ascending_order() {
    let with = |names: &[&str]| {
        let names = ["manifest.json"].iter().chain(names).chain(&["records.zst", "records.idx"]);
        let members = names.enumerate().map(|(number, name)| Member {
            name: (*name).into(),
            position: 512 + 512 * number as u64,
            len: 0,
            crc32c: 0,
        });
        let footer = Footer::new(2, members.collect());
        match Footer::open(&tail_of(&footer), footer.object_size()) {
            Ok(_) => "opened",
            Err(OpenError::Malformed(malformed)) => malformed.what,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(with(&[]), "opened");
    assert_eq!(with(&["index/a", "index/b"]), "opened");
    assert_eq!(with(&["index/b", "index/a"]), "the index's files are not in ascending order");
    assert_eq!(with(&["index/a", "index/a"]), "the index's files are not in ascending order");
    for name in ["index/../a", "/etc/passwd", "index/", "footer", "index/.."] {
        assert_eq!(with(&[name]), "a member has an invalid name", "{name}");
    }
}
