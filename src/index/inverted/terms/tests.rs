use super::*;

/// Inserts the terms, and returns the longest distance from the slot where a term belongs to the slot where
/// it is.
fn longest_way<T: AsRef<[u8]>>(words: impl Iterator<Item = T>) -> usize {
    let mut terms = Terms::new();
    let hasher = terms.hasher();
    let mut buffer = Vec::new();
    for word in words {
        let word = word.as_ref();
        buffer.clear();
        buffer.extend_from_slice(word);
        buffer.extend_from_slice(&[0; 8]);
        let mark = mark(3, word.len());
        let hashed = hasher.hash(&buffer, 0, word.len(), mark);
        let (term, _, is_new) = terms.find(hashed, mark, word, 0);
        assert!(is_new);
        assert_eq!(terms.find(hashed, mark, word, 1).0, term);
    }
    let mask = terms.slots.len() - 1;
    let taken = terms.slots.iter().enumerate().filter(|(_, slot)| slot.term != 0);
    taken.map(|(at, slot)| at.wrapping_sub(slot.hash as usize) & mask).max().unwrap_or(0)
}

#[test]
fn terms_that_are_much_alike_do_not_fall_together() {
    type Term = Box<dyn Fn(u64) -> Vec<u8>>;
    const TERMS: u64 = 150_000;
    let long = "x".repeat(500);
    let kinds: [(&str, Term); 7] = [
        ("numbers", Box::new(|n| n.to_be_bytes().to_vec())),
        ("high bytes", Box::new(|n| (n << 46).to_be_bytes().to_vec())),
        ("digits", Box::new(|n| n.to_string().into())),
        ("same start", Box::new(|n| format!("request{n:09}").into())),
        ("same end", Box::new(|n| format!("{n:09}-and-the-same-long-end-of-all").into())),
        ("middles", Box::new(|n| format!("0123456789abcdef{n:016x}0123456789abcdef").into())),
        ("long", Box::new(move |n| format!("{long}{n}").into())),
    ];
    for (name, term) in kinds {
        let way = longest_way((0..TERMS).map(term));
        assert!(way < 2_000, "{name}: {way}");
    }
}

#[test]
fn terms_of_every_length_and_place_are_told_apart() {
    let mut terms = Terms::new();
    let hasher = terms.hasher();
    let bytes = [b'a'; 300];
    let mut expected = 0;
    for term_key in 0..3 {
        for len in 0..290 {
            let mark = mark(term_key, len);
            let hashed = hasher.hash(&bytes, 0, len, mark);
            assert_eq!(terms.find(hashed, mark, &bytes[..len], 0).0, expected);
            expected += 1;
        }
    }
    assert_eq!(terms.len(), 870);
}
