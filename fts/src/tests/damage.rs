//! Damage: no octets make the library panic, and what is damaged is refused or harmless.

use crate::{
    Builder, Field, Fields, Languages, Limits, Merge, Mode, Query, Segment, check, dump, rank, search,
    unknown,
};
use quickcheck::quickcheck;
use roaring::RoaringBitmap;

fn segment() -> Vec<u8> {
    let mut builder = Builder::new(Limits::default(), 9);
    for doc in 10..200 {
        builder.open(doc);
        builder.header_name("Subject");
        for word in 0..20 {
            builder.text(Field::Body, &format!("word{} other{}x ", doc * word % 97, word));
        }
        builder.end_text();
        builder.text(Field::Subject, "a subject of a1b2c3d4e5 somebody@example.org");
        builder.close();
    }
    builder.finish().expect("there are documents").run()
}

/// Everything that is done with a segment.
fn use_all(bytes: &[u8]) {
    let _ = check(bytes).map(|_| ());
    if let Ok(text) = dump(bytes) {
        let _ = text.to_string();
    }
    let Ok(segment) = Segment::open(bytes) else { return };
    let segments = [segment];
    for key in ["word5", "ord", "r", "er3x word", "b2c3", "nobody", "y@example.org"] {
        for mode in [Mode::Substring, Mode::Words, Mode::Prefix, Mode::Forms(Languages::ALL)] {
            let found = search(&segments, &Query::Key { fields: Fields::ALL, key: key.into(), mode });
            let _ =
                rank(&segments, &[(Fields::TEXT, key)], Languages::ALL, &(found.certain | found.possible));
        }
    }
    let one = Merge::new(&[&segments[0]], &RoaringBitmap::new());
    if let Ok(Some(merge)) = one {
        let _ = merge.run();
    }
}

#[test]
fn damaged_octets_are_refused_or_harmless() {
    let sound = segment();
    check(&sound).unwrap();
    use_all(&sound);
    let step = if cfg!(debug_assertions) { 97 } else { 7 };
    for at in (0..sound.len()).step_by(step) {
        let mut damaged = sound.clone();
        damaged[at] ^= 1 << (at % 8);
        // Padding between sections is under no checksum.
        let noticed = check(&damaged).is_err();
        let padding = damaged[at] ^ (1 << (at % 8)) == 0;
        assert!(noticed || padding, "octet {at}");
        use_all(&damaged);
    }
    for octets in (0..sound.len()).step_by(step) {
        assert!(Segment::open(&sound[..octets]).is_err());
        use_all(&sound[..octets]);
    }
}

quickcheck! {
    fn any_octets_are_no_segment(octets: Vec<u8>) -> bool {
        use_all(&octets);
        Segment::open(&octets).is_err()
    }

    /// Checksums made right over damage: what a program with a mistake would write. The fst alone must be as it was: who
    /// reads it does not look at its bounds.
    fn any_content_with_right_checksums_is_harmless(at: usize, value: u8, more: Vec<(usize, u8)>) -> bool {
        let mut bytes = segment();
        let sections = sections(&bytes);
        let index = Segment::open(&bytes).unwrap().layout().range(crate::format::Tag::Index);
        for (at, value) in more.into_iter().take(8).chain([(at, value)]) {
            let front = crate::format::front_octets(sections.len());
            let at = front + at % (bytes.len() - front);
            if !index.contains(&at) {
                bytes[at] = value;
            }
        }
        mend(&mut bytes);
        use_all(&bytes);
        true
    }
}

fn sections(bytes: &[u8]) -> Vec<crate::format::SectionEntry> {
    use zerocopy::FromBytes;
    let count = u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]) as usize;
    let table = <[crate::format::SectionEntry]>::ref_from_prefix_with_elems(&bytes[64..], count).unwrap().0;
    table.to_vec()
}

/// Checksums as they would be over these octets.
fn mend(bytes: &mut [u8]) {
    use zerocopy::{FromBytes, IntoBytes};
    let mut table = sections(bytes);
    for entry in &mut table {
        let begin = entry.offset.get() as usize;
        entry.crc = crc32c::crc32c(&bytes[begin..begin + entry.octets.get() as usize]).into();
    }
    let mut header = crate::format::Header::read_from_bytes(&bytes[..64]).unwrap();
    header.crc = crate::format::header_crc(&header, &table).into();
    bytes[..64].copy_from_slice(header.as_bytes());
    bytes[64..64 + table.as_bytes().len()].copy_from_slice(table.as_bytes());
}

#[test]
fn a_lost_segment_makes_its_documents_candidates() {
    let (one, mut other) = (segment(), segment());
    let lists = Segment::open(&other).unwrap().layout().range(crate::format::Tag::Blocks);
    other[lists].fill(0xff);
    let all: RoaringBitmap = (300..310).collect();
    let replaced = unknown(all.clone());
    check(&replaced).unwrap();
    for (bytes, damaged) in [(&one, false), (&other, true)] {
        let segments = [Segment::open(bytes).unwrap(), Segment::open(&replaced).unwrap()];
        let found = search(&segments, &Query::text("word5"));
        assert_eq!(found.damaged.len(), usize::from(damaged));
        assert_eq!(found.certain.is_empty(), damaged);
        assert!(all.is_subset(&found.possible));
        assert_eq!(found.possible.len() > 100, damaged);
    }
}

/// Small enough for the page that describes the format.
#[test]
fn the_worked_example() {
    let mut builder = Builder::new(Limits::default(), 1);
    builder.open(7);
    builder.text(Field::Body, "Red roses");
    builder.close();
    builder.open(9);
    builder.text(Field::Subject, "Roses");
    builder.end_text();
    builder.text(Field::Body, "red");
    builder.close();
    let bytes = builder.finish().unwrap().run();
    check(&bytes).unwrap();
    let lines: Vec<String> = bytes
        .chunks(16)
        .enumerate()
        .map(|(n, line)| {
            let octets: Vec<String> = line
                .chunks(4)
                .map(|four| four.iter().map(|octet| format!("{octet:02x}")).collect::<String>())
                .collect();
            format!("{:04x}  {}", n * 16, octets.join(" "))
        })
        .collect();
    let page = include_str!("../../../docs/format/fts-segment.md");
    for line in &lines {
        assert!(page.contains(line.as_str()), "the page does not have\n{}", lines.join("\n"));
    }
}
