//! Content-Transfer-Encoding: octets as they stand to octets as they are meant.
//!
//! Decoders take pieces of any size and never fail: what is not of the encoding is skipped (base64) or stands for
//! itself (quoted-printable), as RFC 2045 §6.7 and §6.8 advise. What an encoding that is not known means cannot be
//! told, so that [`Encoding::decoder`] refuses it; [`Decoder::new`] takes it as it stands, for those who only look for
//! words.

/// A transfer encoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Encoding {
    /// 7BIT, 8BIT and BINARY, or none.
    #[default]
    Identity = 0,
    QuotedPrintable = 1,
    Base64 = 2,
    /// One that is not known: the octets' meaning is unknown too (RFC 2045 §6.4).
    Unknown = 3,
}

impl Encoding {
    /// By its name, as [`Part::encoding`](super::Part::encoding) has it.
    pub fn of(name: &[u8]) -> Encoding {
        match name.trim_ascii().to_ascii_lowercase().as_slice() {
            b"" | b"7bit" | b"8bit" | b"binary" | b"7-bit" | b"8-bit" => Encoding::Identity,
            b"quoted-printable" => Encoding::QuotedPrintable,
            b"base64" => Encoding::Base64,
            _ => Encoding::Unknown,
        }
    }

    /// What undoes it.
    // RFC 3516 §4.3: what cannot be decoded is refused with UNKNOWN-CTE, not given as it stands.
    pub fn decoder(self) -> Result<Decoder, UnknownEncoding> {
        if self == Encoding::Unknown { Err(UnknownEncoding) } else { Ok(Decoder::new(self)) }
    }
}

/// A part's Content-Transfer-Encoding is none that is known. The client must fetch the octets as they stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Content-Transfer-Encoding is not known")]
pub struct UnknownEncoding;

/// A decoder; where the input is cut has no influence. What it gives is kept ([`feed`](Decoder::feed)) or only counted
/// ([`count`](Decoder::count)).
#[derive(Clone, Debug)]
pub struct Decoder {
    encoding: Encoding,
    /// Base64: bits not written yet, and how many.
    bits: u32,
    count: u32,
    /// Quoted-printable: octets whose meaning depends on what follows.
    held: Vec<u8>,
}

impl Decoder {
    /// Longest run of white space before a line end that is held back to be dropped.
    const HELD_OCTETS_MAX: usize = 1000;

    pub fn new(encoding: Encoding) -> Decoder {
        Decoder { encoding, bits: 0, count: 0, held: Vec::new() }
    }

    /// Appends what `input` decodes to; never more octets than have been fed.
    pub fn feed(&mut self, input: &[u8], output: &mut Vec<u8>) {
        self.run(input, output);
    }

    /// What was held back at the end of the input.
    pub fn finish(&mut self, output: &mut Vec<u8>) {
        self.end(output);
    }

    /// The number of octets that [`feed`](Decoder::feed) would append.
    pub fn count(&mut self, input: &[u8]) -> u64 {
        let mut octets = 0;
        self.run(input, &mut octets);
        octets
    }

    /// The number of octets that [`finish`](Decoder::finish) would append.
    pub fn finish_count(&mut self) -> u64 {
        let mut octets = 0;
        self.end(&mut octets);
        octets
    }

    fn run(&mut self, input: &[u8], output: &mut impl Sink) {
        match self.encoding {
            Encoding::Identity | Encoding::Unknown => output.extend(input),
            Encoding::Base64 => self.base64(input, output),
            Encoding::QuotedPrintable => {
                let mut rest = input;
                while let Some((first, after)) = rest.split_first() {
                    // Most octets stand for themselves.
                    let plain = match self.held.is_empty() {
                        true => {
                            rest.iter().position(|byte| matches!(byte, b'=' | b' ' | b'\t' | b'\r' | b'\n'))
                        }
                        false => Some(0),
                    };
                    match plain {
                        Some(0) => {
                            self.quoted_printable(*first, output);
                            rest = after;
                        }
                        plain => {
                            let (now, later) = rest.split_at(plain.unwrap_or(rest.len()));
                            output.extend(now);
                            rest = later;
                        }
                    }
                }
            }
        }
    }

    fn end(&mut self, output: &mut impl Sink) {
        if self.encoding == Encoding::QuotedPrintable
            && self.held.first() == Some(&b'=')
            && self.held[1..].iter().any(u8::is_ascii_hexdigit)
        {
            output.extend(&self.held);
        }
        self.held.clear();
        (self.bits, self.count) = (0, 0);
    }

    fn give(&mut self, output: &mut impl Sink) {
        output.extend(&self.held);
        self.held.clear();
    }

    fn base64(&mut self, input: &[u8], output: &mut impl Sink) {
        output.reserve(input.len() / 4 * 3 + 3);
        for byte in input {
            let value = BASE64[usize::from(*byte)];
            if value < 64 {
                self.bits = self.bits << 6 | u32::from(value);
                self.count += 6;
                if self.count >= 8 {
                    self.count -= 8;
                    output.push((self.bits >> self.count) as u8);
                }
            } else if *byte == b'=' {
                // Padding ends a unit; what follows, if anything, is another text encoded on its own.
                (self.bits, self.count) = (0, 0);
            }
        }
    }

    fn quoted_printable(&mut self, byte: u8, output: &mut impl Sink) {
        if self.held.first() == Some(&b'=') {
            let second = self.held.get(1).copied();
            match (second, byte) {
                (None, _) if byte.is_ascii_hexdigit() => return self.held.push(byte),
                (Some(high), _) if high.is_ascii_hexdigit() && byte.is_ascii_hexdigit() => {
                    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or(0);
                    output.push((digit(high) << 4 | digit(byte)) as u8);
                    return self.held.clear();
                }
                // RFC 2045 §6.7 (5): a soft line break, with the white space that transports add.
                (_, b'\n') if !second.is_some_and(|byte| byte.is_ascii_hexdigit()) => {
                    return self.held.clear();
                }
                (_, b' ' | b'\t' | b'\r')
                    if !second.is_some_and(|byte| byte.is_ascii_hexdigit())
                        && self.held.len() < Decoder::HELD_OCTETS_MAX =>
                {
                    return self.held.push(byte);
                }
                _ => self.give(output),
            }
        }
        match byte {
            b'=' => {
                self.give(output);
                self.held.push(byte);
            }
            b' ' | b'\t' | b'\r' => {
                if self.held.len() == Decoder::HELD_OCTETS_MAX {
                    self.give(output);
                }
                self.held.push(byte);
            }
            b'\n' => {
                // RFC 2045 §6.7 (3): white space at a line's end was added on the way.
                let crlf = self.held.last() == Some(&b'\r');
                self.held.clear();
                output.extend(if crlf { b"\r\n" } else { b"\n" });
            }
            _ => {
                self.give(output);
                output.push(byte);
            }
        }
    }
}

/// Where decoded octets go.
trait Sink {
    fn reserve(&mut self, _octets: usize) {}
    fn push(&mut self, octet: u8);
    fn extend(&mut self, octets: &[u8]);
}

impl Sink for Vec<u8> {
    fn reserve(&mut self, octets: usize) {
        Vec::reserve(self, octets);
    }

    fn push(&mut self, octet: u8) {
        Vec::push(self, octet);
    }

    fn extend(&mut self, octets: &[u8]) {
        self.extend_from_slice(octets);
    }
}

/// Counted, not kept.
impl Sink for u64 {
    fn push(&mut self, _: u8) {
        *self += 1;
    }

    fn extend(&mut self, octets: &[u8]) {
        *self += octets.len() as u64;
    }
}

/// Values of the base64 alphabet; 64 for other octets.
const BASE64: [u8; 256] = {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut values = [64; 256];
    let mut at = 0;
    while at < alphabet.len() {
        values[alphabet[at] as usize] = at as u8;
        at += 1;
    }
    values
};
