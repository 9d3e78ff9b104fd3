//! DEFLATE (RFC 1951) below TLS and above the protocol, both ways, as IMAP's COMPRESS wants it (RFC 4978).
//!
//! # Invariants
//! What was written can be read by the peer at once: each write ends with a flush to an octet's boundary. Such a boundary is
//! all that a new compressor needs, so an idle connection keeps none; of the other way it keeps what the peer may refer to.
//!
//! # Limits
//! A read gives at most `READ_MAX` octets, however much they were compressed.

use std::io;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// How far back a peer may refer (RFC 1951 §2).
const WINDOW_OCTETS: usize = 32 << 10;
/// The end of an empty stored block: where a peer that flushes stops.
const FLUSHED: [u8; 4] = [0, 0, 0xff, 0xff];
/// Least room that a call of the library is given.
const ROOM_MIN: usize = 256;

/// Both ways of one connection.
pub(super) struct Deflate {
    /// Octets from the peer, and how many of them are inflated.
    pub wire: Vec<u8>,
    at: usize,
    inflate: Option<Box<Decompress>>,
    /// The last octets that were inflated, up to [`WINDOW_OCTETS`].
    window: Vec<u8>,
    /// The last octets of `wire` that were inflated.
    tail: [u8; 4],
    /// The peer said that nothing follows.
    ended: bool,
    deflate: Option<Box<Compress>>,
}

impl Deflate {
    /// `wire`: what was read already and is compressed.
    pub fn new(wire: Vec<u8>) -> Deflate {
        Deflate { wire, at: 0, inflate: None, window: Vec::new(), tail: FLUSHED, ended: false, deflate: None }
    }

    /// What was read and is not inflated.
    pub fn into_wire(mut self) -> Vec<u8> {
        self.wire.split_off(self.at)
    }

    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Inflates into `plain`, at most `room` octets.
    pub fn open(&mut self, plain: &mut Vec<u8>, room: usize) -> io::Result<()> {
        let from = plain.len();
        while !self.ended && self.at < self.wire.len() && plain.len() - from < room {
            let inflate = self.inflate.get_or_insert_with(|| {
                let mut inflate = Decompress::new(false);
                // Of a raw stream it can be said at any boundary of blocks.
                let _ = inflate.set_dictionary(&self.window);
                Box::new(inflate)
            });
            let left = room - (plain.len() - from);
            let held = plain.len();
            plain.resize(held + left.min(4 * (self.wire.len() - self.at) + ROOM_MIN), 0);
            let (read, wrote) = (inflate.total_in(), inflate.total_out());
            let done = inflate.decompress(&self.wire[self.at..], &mut plain[held..], FlushDecompress::None);
            let (read, wrote) =
                ((inflate.total_in() - read) as usize, (inflate.total_out() - wrote) as usize);
            plain.truncate(held + wrote);
            let done = done.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            for byte in &self.wire[self.at..][read.saturating_sub(FLUSHED.len())..read] {
                self.tail.rotate_left(1);
                self.tail[FLUSHED.len() - 1] = *byte;
            }
            self.at += read;
            self.ended = done == Status::StreamEnd;
            if read == 0 && wrote == 0 {
                break;
            }
        }
        if self.at == self.wire.len() {
            (self.wire, self.at) = (Vec::new(), 0);
        }
        self.remember(from, plain);
        Ok(())
    }

    fn remember(&mut self, from: usize, plain: &[u8]) {
        let new = &plain[from..];
        let new = &new[new.len().saturating_sub(WINDOW_OCTETS)..];
        let over = (self.window.len() + new.len()).saturating_sub(WINDOW_OCTETS);
        self.window.drain(..over);
        self.window.extend_from_slice(new);
    }

    /// Compresses, up to a boundary.
    pub fn seal(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> io::Result<()> {
        if plain.is_empty() {
            return Ok(());
        }
        let deflate = self.deflate.get_or_insert_with(|| Box::new(Compress::new(Compression::fast(), false)));
        let mut read = 0;
        loop {
            wire.reserve(ROOM_MIN + (plain.len() - read) / 2);
            let before = (deflate.total_in(), wire.capacity() - wire.len());
            deflate
                .compress_vec(&plain[read..], wire, FlushCompress::Sync)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
            read += (deflate.total_in() - before.0) as usize;
            // Room that is left over says that the flush is whole.
            if read == plain.len() && wire.len() < wire.capacity() {
                return Ok(());
            }
        }
    }

    /// Lets go of what can be made again: nothing waits to be sent, and what came was inflated.
    pub fn rest(&mut self) {
        self.deflate = None;
        // Octets that look like the end of a flush and are none would be the peer's own, within a block that is not compressed.
        let at_boundary =
            self.at == self.wire.len() && self.tail == FLUSHED && !self.window.ends_with(&FLUSHED);
        if at_boundary && !self.ended {
            self.inflate = None;
            self.window.shrink_to_fit();
        }
    }

    /// Octets of memory, but for what the library holds.
    pub fn buffers(&self) -> usize {
        let library = |there: bool| if there { WINDOW_OCTETS } else { 0 };
        self.wire.capacity()
            + self.window.capacity()
            + library(self.inflate.is_some())
            + library(self.deflate.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    fn text(words: &[u8]) -> Vec<u8> {
        words.iter().flat_map(|word| format!("a{word} FETCH {word} (FLAGS)\r\n").into_bytes()).collect()
    }

    /// Sends pieces from one end to the other, cut as `cuts` says; both rest between pieces where `rests`.
    fn through(pieces: &[Vec<u8>], cuts: &[usize], rests: bool) -> Vec<u8> {
        let (mut from, mut to) = (Deflate::new(Vec::new()), Deflate::new(Vec::new()));
        let (mut got, mut cuts) = (Vec::new(), cuts.iter().cycle());
        for piece in pieces {
            let mut wire = Vec::new();
            from.seal(piece, &mut wire).expect("sealed");
            let sent = got.len() + piece.len();
            let mut left = wire.as_slice();
            while !left.is_empty() {
                let cut = cuts.next().map_or(left.len(), |cut| cut % 50 + 1).min(left.len());
                to.wire.extend_from_slice(&left[..cut]);
                left = &left[cut..];
                while !to.wire.is_empty() {
                    let before = got.len();
                    to.open(&mut got, 1000).expect("inflated");
                    assert!(got.len() - before <= 1000);
                    if got.len() == before {
                        break;
                    }
                }
            }
            assert_eq!(got.len(), sent, "a piece can be read whole before the next is sent");
            if rests {
                from.rest();
                to.rest();
                assert!(from.deflate.is_none() && to.inflate.is_none(), "an idle end keeps neither");
            }
        }
        got
    }

    #[test]
    fn what_is_written_is_read_however_it_is_cut_and_whoever_rests() {
        fn law(pieces: Vec<Vec<u8>>, cuts: Vec<usize>, rests: bool) -> bool {
            let pieces: Vec<Vec<u8>> =
                pieces.iter().map(|words| text(words)).filter(|piece| !piece.is_empty()).collect();
            through(&pieces, &cuts, rests) == pieces.concat()
        }
        quickcheck(law as fn(Vec<Vec<u8>>, Vec<usize>, bool) -> bool);
    }

    #[test]
    fn more_than_a_window_and_what_cannot_be_compressed_pass() {
        let noise: Vec<u8> = (0..200_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let pieces = [vec![b'a'; 100_000], noise, text(&[1, 2, 3])];
        assert_eq!(through(&pieces, &[], true), pieces.concat());
    }

    #[test]
    fn a_little_that_inflates_to_much_comes_in_pieces() {
        let mut from = Deflate::new(Vec::new());
        let mut wire = Vec::new();
        from.seal(&vec![0; 10 << 20], &mut wire).expect("sealed");
        assert!(wire.len() < 1 << 20);
        let mut to = Deflate::new(wire);
        let mut plain = Vec::new();
        to.open(&mut plain, 64 << 10).expect("inflated");
        assert_eq!(plain.len(), 64 << 10);
    }

    #[test]
    fn what_is_not_deflated_is_an_error() {
        let mut to = Deflate::new(b"a NOOP\r\n\xff\xff\xff\xff\xff\xff".to_vec());
        assert!(to.open(&mut Vec::new(), 1000).is_err());
    }
}
