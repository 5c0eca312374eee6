//! Reads segments of the generator. Its encoders share no code with the decoders here, and each must
//! understand the other.

use std::num::NonZero;

use super::*;
use crate::generate::{Codec as Packing, Format, Size, Spec, Summary, generate};

fn make(spec: &Spec) -> (Summary, Vec<(Frame, DecodedFrame)>) {
    let mut bytes = Vec::new();
    let summary = generate(spec, &mut bytes).expect("in memory");
    let frames = read(&Bytes::from(bytes)).unwrap_or_else(|error| panic!("{spec:?}: {error}"));
    (summary, frames)
}

type Owned = (i64, Option<i64>, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

fn owned(frames: &[(Frame, DecodedFrame)]) -> Vec<Owned> {
    let own = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
    let records = frames.iter().flat_map(|(_, decoded)| decoded.records.iter());
    let records = records.map(|record| {
        let headers = record.headers().map(|(name, value)| (name.to_vec(), own(value))).collect();
        (record.offset(), record.timestamp_ms(), own(record.key()), own(record.value()), headers)
    });
    records.collect()
}

#[test]
fn all_formats_and_codecs_carry_the_same_records_and_as_many_as_were_made() {
    let spec = Spec { size: Size::Records(500), gap_every: NonZero::new(7), ..Spec::default() };
    let (_, plain) = make(&spec);
    let expected = owned(&plain);
    assert_eq!(expected.len(), 500);
    let is_v1 = |format| matches!(format, Format::ChronikV1 | Format::ChronikMixed);
    for format in Format::ALL {
        for codec in Packing::ALL {
            for producer_bytes in [true, false] {
                let spec = Spec { format, codec, producer_bytes, ..spec.clone() };
                let (summary, frames) = make(&spec);
                let mut found = owned(&frames);
                if is_v1(format) {
                    // V1 cannot distinguish null from empty, neither in values nor in headers' values.
                    let equal = found.iter().zip(&expected).all(|(a, b)| {
                        let value = |record: &Owned| record.3.clone().unwrap_or_default();
                        (a.0, a.1, &a.2, value(a)) == (b.0, b.1, &b.2, value(b)) && a.4.len() == b.4.len()
                    });
                    assert!(equal, "{format} {codec}");
                    found = expected.clone();
                }
                assert!(found == expected, "{format} {codec}");
                assert_eq!(summary.frames, frames.len() as u64, "{format} {codec}");
                let made = &summary.partitions[0];
                let range = frames.iter().filter_map(|(_, decoded)| decoded.range).reduce(|a, b| a.cover(&b));
                assert_eq!(range, Some(made.range), "{format} {codec}");
                let min = frames.iter().filter_map(|(_, decoded)| decoded.min_timestamp_ms).min();
                let max = frames.iter().filter_map(|(_, decoded)| decoded.max_timestamp_ms).max();
                assert_eq!((min, max), (Some(made.min_timestamp_ms), Some(made.max_timestamp_ms)));
            }
        }
    }
}

#[test]
fn frames_of_several_partitions_say_whose_they_are() {
    let spec = Spec {
        format: Format::ChronikV2,
        size: Size::Records(2_000),
        partitions: NonZero::new(3).expect("not zero"),
        ..Spec::default()
    };
    let (summary, frames) = make(&spec);
    assert_eq!(summary.partitions.len(), 3);
    for made in &summary.partitions {
        let of = frames.iter().filter(|(frame, _)| frame.partition.as_ref() == Some(&made.partition));
        assert_eq!(of.map(|(_, decoded)| decoded.records.records.len() as u64).sum::<u64>(), made.records);
    }
}
