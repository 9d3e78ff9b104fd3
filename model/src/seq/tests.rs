use super::*;
use quickcheck::quickcheck;
use std::collections::BTreeSet;

fn model(ranges: &[(u8, u8)]) -> (UidSet, BTreeSet<u32>) {
    let mut set = UidSet::new();
    let mut model = BTreeSet::new();
    for (first, last) in ranges {
        // Near both ends of the number space, and where ranges meet.
        let high = if *first > 200 { u32::MAX - 255 } else { 0 };
        let range = high + u32::from(*first)..=high + u32::from(*last.min(&first.saturating_add(9)));
        set.insert_range(range.clone());
        model.extend(range.filter(|number| *number > 0));
    }
    (set, model)
}

fn is_normal(set: &UidSet) -> bool {
    let ranges: Vec<_> = set.ranges().collect();
    ranges.iter().all(|range| *range.start() >= 1 && range.start() <= range.end())
        && ranges.windows(2).all(|pair| u64::from(*pair[0].end()) + 1 < u64::from(*pair[1].start()))
}

quickcheck! {
    fn sets_are_those_of_the_model(a: Vec<(u8, u8)>, b: Vec<(u8, u8)>) -> bool {
        let ((a, model_a), (b, model_b)) = (model(&a), model(&b));
        let (both, only) = (a.intersection(&b), a.difference(&b));
        is_normal(&a)
            && is_normal(&both)
            && is_normal(&only)
            && a.iter().eq(model_a.iter().copied())
            && a.len() == model_a.len() as u64
            && a.first() == model_a.first().copied()
            && a.last() == model_a.last().copied()
            && both.iter().eq(model_a.intersection(&model_b).copied())
            && only.iter().eq(model_a.difference(&model_b).copied())
            && model_b.iter().all(|number| a.contains(*number) == model_a.contains(number))
            && model_a.iter().copied().collect::<UidSet>() == a
            && a.ranges().collect::<UidSet>() == a
            && (a.is_empty() || SequenceSet::parse(a.to_string().as_bytes()).unwrap().resolve(7) == a)
    }

    fn any_octets_are_a_set_or_not(octets: Vec<u8>) -> bool {
        SequenceSet::parse(&octets).is_none_or(|set| is_normal(&set.resolve(1000)))
    }
}

#[test]
fn sequence_sets() {
    for (text, largest, expect) in [
        ("1", 5, "1"),
        ("2,4:7,9,12:*", 15, "2,4:7,9,12:15"),
        ("*:4,5:7", 10, "4:10"),
        ("5:1", 10, "1:5"),
        ("*", 0, ""),
        ("1:*", 0, ""),
        ("3:*", 2, "2:3"),
        ("1:4294967295", 5, "1:4294967295"),
        ("4294967295:1,7", 5, "1:4294967295"),
        ("1,1,1,2", 5, "1:2"),
    ] {
        let set = SequenceSet::parse(text.as_bytes()).unwrap();
        assert_eq!(set.to_string(), text);
        assert_eq!(set.resolve(largest).to_string(), expect, "{text}");
        assert_eq!(set.has_star(), text.contains('*'));
    }
    for text in
        ["", ",", "1,", ",1", "0", "01", "1:", ":1", "1:2:3", "a", "-1", "4294967296", "1 ", "**", "1:0"]
    {
        assert_eq!(SequenceSet::parse(text.as_bytes()), None, "{text}");
    }
    let many = vec!["1"; SequenceSet::RANGES_MAX + 1].join(",");
    assert_eq!(SequenceSet::parse(many.as_bytes()), None);
    assert!(SequenceSet::parse(&many.as_bytes()[2..]).is_some());
}

#[test]
fn places_count_across_ranges() {
    let set: UidSet = [2..=4, 7..=7, 10..=12].into_iter().collect();
    for (places, there) in
        [(0..0, ""), (0..2, "2:3"), (2..5, "4,7,10"), (4..99, "10:12"), (7..9, ""), (0..7, "2:4,7,10:12")]
    {
        assert_eq!(set.places(places.clone()).to_string(), there, "{places:?}");
    }
}
