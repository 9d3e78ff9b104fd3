//! What a fuzzer needs: damaged files whose checksums are right, so that what stands behind a checksum is reached too.
//!
//! Only with the feature `fuzzing`, never in a release.

use crate::journal::format::SEGMENT_MAGIC;
use crate::manifest::MANIFEST_MAGIC;
use crate::pack::format::PACK_MAGIC;
use crate::table::format::TABLE_MAGIC;

/// Writes the right checksums into a segment, pack, table or manifest, as far as its sizes lead to them.
pub fn mend_checksums(file: &mut [u8]) {
    let magic: [u8; 8] = file.get(..8).and_then(|magic| magic.try_into().ok()).unwrap_or_default();
    match magic {
        SEGMENT_MAGIC => crate::journal::format::mend(file),
        PACK_MAGIC => crate::pack::format::mend(file),
        TABLE_MAGIC => crate::table::format::mend(file),
        MANIFEST_MAGIC => crate::manifest::mend(file),
        _ => {}
    }
}

/// Puts the checksum of `bytes`, with zeros in its own place, at `at`.
pub(crate) fn put_crc(bytes: &mut [u8], at: usize) {
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.fill(0);
        let crc = crc32c::crc32c(bytes);
        bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    }
}
