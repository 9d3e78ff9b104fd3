//! Messages whose octets follow from their number.

/// At least this long, for the header.
pub const OCTETS_MIN: u64 = 100;

pub fn content(serial: u64, octets: u64) -> Vec<u8> {
    let mut text =
        format!("Message-ID: <{serial}@sim.example>\r\nSubject: number {serial}\r\n\r\n").into_bytes();
    let mut state = serial.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while (text.len() as u64) < octets {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Half of it compresses.
        let word = if text.len() / 512 % 2 == 0 { state >> 8 } else { serial };
        // Fourteen hexadecimal digits: simulations make and compare gigabytes of these.
        let mut line = *b"00000000000000\r\n";
        for (at, digit) in line[..14].iter_mut().enumerate() {
            *digit = b"0123456789abcdef"[(word >> (4 * (13 - at)) & 15) as usize];
        }
        text.extend_from_slice(&line);
    }
    text.truncate(octets as usize);
    text
}
