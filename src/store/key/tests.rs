use super::*;

fn key(topic: &str, log_id: &str, base: i64, last: i64, times: Option<(i64, i64)>) -> BundleKey {
    let partition = TopicPartition::new(topic, 7).unwrap();
    let log_id = LogId::new(log_id);
    let hash = KeyHash::new(&[0; 32], &log_id, &partition).hash16();
    BundleKey::new(partition, log_id, OffsetRange::new(base, last).unwrap(), times, hash).unwrap()
}

#[test]
fn a_key_reads_as_the_scheme_says() {
    let key = key("orders", "", 0, 41, Some((1_700_000_000_000, 1_700_000_000_999)));
    let hash = key.hash();
    assert_eq!(
        key.to_string(),
        format!(
            "orders/7/0/00000000000000000000-00000000000000000041_00000001700000000000-00000001700000000999_{hash}.tar"
        )
    );
}

#[test]
fn printing_and_parsing_are_inverse_for_the_oddest_names() {
    let long = "é".repeat(41);
    let names =
        ["orders", ".", "..", "...", "a/b", "a%2Fb", "a b", "%", "héllo", "a#1", "a\\b", "-_.", "\0", &long];
    for topic in names {
        for log_id in names {
            for times in [None, Some((0, 1)), Some((5, i64::MAX))] {
                let key = key(topic, log_id, 3, i64::MAX, times);
                let printed = key.to_string();
                assert_eq!(printed.parse(), Ok(key), "{printed}");
                let path = under(&Path::default(), &printed).unwrap();
                assert_eq!(path.as_ref(), printed, "the path must not encode again");
                assert_eq!(path.parts().count(), 4, "{printed}");
            }
        }
    }
}

#[test]
fn dots_that_mean_something_to_paths_are_encoded_wholly() {
    assert!(key(".", "..", 0, 0, None).to_string().starts_with("%2E/7/%2E%2E/"));
}

#[test]
fn absent_and_negative_times_are_zeros_and_in_every_time_range() {
    for times in [None, Some((-1, 5)), Some((-9, -3)), Some((0, 0))] {
        let key = key("t", "l", 0, 0, times);
        assert!(key.to_string().contains("_00000000000000000000-00000000000000000000_"), "{times:?}");
        assert_eq!(key.times_ms(), None);
        assert!(key.may_hold_times(i64::MIN, i64::MIN) && key.may_hold_times(i64::MAX, i64::MAX));
    }
    let key = key("t", "l", 0, 0, Some((10, 20)));
    assert!(key.may_hold_times(20, 30) && key.may_hold_times(0, 10) && key.may_hold_times(12, 13));
    assert!(!key.may_hold_times(21, 30) && !key.may_hold_times(0, 9));
}

#[test]
fn parts_that_make_no_key_are_refused_each_for_its_own_reason() {
    let partition = |topic: &str| TopicPartition::new(topic, 0).unwrap();
    let hash = Hash16([0; 8]);
    let new = |topic: &str, log: &str, first, times| {
        BundleKey::new(partition(topic), LogId::new(log), OffsetRange::new(first, 10).unwrap(), times, hash)
            .map(|key| key.to_string())
    };
    assert!(new(&"a".repeat(249), &"b".repeat(249), 0, None).is_ok());
    assert_eq!(new(&"/".repeat(84), "0", 0, None), Err(KeyError::TopicTooLong { bytes: 252 }));
    assert_eq!(new("t", &"b".repeat(250), 0, None), Err(KeyError::LogIdTooLong { bytes: 250 }));
    assert_eq!(new("t", "0", -1, None), Err(KeyError::NegativeOffset { offset: -1 }));
    let reversed = Err(KeyError::TimesReversed { min_ms: 9, max_ms: 8 });
    assert_eq!(new("t", "0", 0, Some((9, 8))), reversed);
}

#[test]
fn what_this_module_would_not_write_is_no_key() {
    let good = key("a/b", "0", 1, 2, None).to_string();
    assert!(good.parse::<BundleKey>().is_ok());
    for bad in [
        good.replace("%2F", "%2f"),
        good.replace("a%2Fb", "%61%2Fb"),
        good.replace("/7/", "/07/"),
        good.replace("/7/", "/+7/"),
        good.replace("/7/", "/-7/"),
        good.replace(".tar", ".tar#1"),
        good.replace(".tar", ""),
        good.replace("00000000000000000001-", "1-"),
        good.replace("00000000000000000001-", "00000000000000000009-"),
        format!("x/{good}"),
        good.replacen("a%2Fb", "", 1),
        good.replace("/0/", "//"),
        good[..good.len() - 6].to_owned() + "é.tar",
        String::new(),
    ] {
        assert!(bad.parse::<BundleKey>().is_err(), "{bad}");
    }
}

#[test]
fn the_order_of_keys_is_the_order_of_offsets() {
    let mut keys: Vec<_> =
        [10, 9, 100_000, 99, 0].map(|base| key("t", "0", base, base, None).to_string()).into();
    keys.sort();
    let bases: Vec<_> = keys.iter().map(|key| key.parse::<BundleKey>().unwrap().range().first()).collect();
    assert_eq!(bases, [0, 9, 10, 99, 100_000]);
}

#[test]
fn the_hash_is_that_of_the_design() {
    let partition = TopicPartition::new("orders", 3).unwrap();
    let hash = KeyHash::new(&[0xAB; 32], &LogId::new("log-1"), &partition);
    let mut input = vec![0xAB; 32]; // SHA-256 of the source bytes
    input.extend(b"log-1\0"); // log id, 0
    input.extend(b"orders\0"); // topic, 0
    input.extend(b"3"); // partition, decimal
    assert_eq!(hash.bytes()[..], Sha256::digest(&input)[..]);
    let hex: String = hash.bytes()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hash.hash16().to_string(), hex);
}

#[test]
fn a_prefix_lists_whole_segments() {
    let partition = TopicPartition::new("a/b", 1).unwrap();
    assert_eq!(KeyPrefix::topic("a/b").as_str(), "a%2Fb");
    assert_eq!(KeyPrefix::partition(&partition).as_str(), "a%2Fb/1");
    assert_eq!(KeyPrefix::log(&partition, &LogId::new("..")).as_str(), "a%2Fb/1/%2E%2E");
    let root = Path::parse("pre/fix").unwrap();
    assert_eq!(under(&root, KeyPrefix::all().as_str()).unwrap().as_ref(), "pre/fix");
    assert_eq!(under(&root, KeyPrefix::topic("a").as_str()).unwrap().as_ref(), "pre/fix/a");
}

#[test]
fn a_markers_key_is_made_of_the_front_and_the_hash_of_its_bundles_key() {
    for (topic, log_id) in [("orders", ""), ("..", "a/b"), ("a%2Fb", "%"), (&"é".repeat(41), ".")] {
        let bundle = key(topic, log_id, 3, 41, Some((5, 6)));
        let marker = MarkerKey::of(&bundle);
        let parts = (bundle.partition().clone(), bundle.log_id().clone());
        assert_eq!(MarkerKey::new(parts.0, parts.1, 3, bundle.hash()), Ok(marker.clone()));
        let (bundle, printed) = (bundle.to_string(), marker.to_string());
        let folder = bundle.rsplit_once('/').unwrap().0;
        assert_eq!(printed, format!("{folder}/00000000000000000003_{}.deleted", marker.hash()));
        assert_eq!(printed.parse(), Ok(marker));
        assert_eq!(printed.parse::<BundleKey>(), Err(ParseKeyError::Form), "a marker is no bundle");
        assert!(bundle.parse::<MarkerKey>().is_err(), "and a bundle no marker");
        for bad in [
            printed.to_uppercase(),
            printed.replace("_", "-"),
            printed.replace("/00", "/0"),
            printed.replace("/00", "/+0"),
            printed.replace(".deleted", ".deleted.bak"),
            format!("{printed}/x"),
        ] {
            assert!(bad.parse::<MarkerKey>().is_err(), "{bad}");
        }
    }
    let negative = MarkerKey::new(TopicPartition::new("t", 0).unwrap(), LogId::new(""), -1, Hash16([0; 8]));
    assert_eq!(negative, Err(KeyError::NegativeOffset { offset: -1 }));
}
