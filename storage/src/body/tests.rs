use super::format::*;

#[test]
fn frames_are_read_back_and_any_changed_octet_is_found() {
    for octets in [0, 1, 7, 8, 1000, CHUNK_OCTETS - 1, CHUNK_OCTETS, CHUNK_OCTETS + 1, 3 * CHUNK_OCTETS + 5] {
        let body: Vec<u8> = (0..octets).map(|n| (n * 7 % 251) as u8).collect();
        let mut frame = Vec::new();
        put_raw_frame(&body, &mut frame);
        assert_eq!(frame.len(), raw_frame_octets(octets));
        assert_eq!(decode_frame(&frame), Ok((body.clone(), frame.len() as u64)));
        let padding = (8 - (HEADER_OCTETS + octets + octets.div_ceil(CHUNK_OCTETS) * 8) % 8) % 8;
        let step = (frame.len() / 400).max(1);
        for at in (0..frame.len() - padding).step_by(step) {
            let mut bad = frame.clone();
            bad[at] ^= 0x10;
            assert!(decode_frame(&bad).is_err(), "octet {at} of {octets}");
            assert!(decode_frame(&frame[..at]).is_err(), "cut at {at} of {octets}");
        }
    }
}

#[test]
fn announced_sizes_do_not_allocate() {
    let shape = BodyShape::new(Codec::Zstd, u64::MAX / 2, 5, &[]);
    assert!(BodyShape::parse(&shape.header()).is_err());
    let table = [chunk_entry(b"x")];
    let shape = BodyShape::new(Codec::Raw, 1 << 40, 1 << 40, &table);
    assert!(decode_frame(&shape.header()).is_err());
}
