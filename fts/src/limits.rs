//! What is bounded, and where.

/// Bounds of the index. The configuration fills them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Octets of one message's texts, folded, that are indexed. What lies behind them is found by verification alone.
    pub text_octets_max: usize,
    /// Octets of one message that are looked at for its texts.
    pub message_octets_max: usize,
    /// Different words of one message that are indexed.
    pub words_max: usize,
    /// Octets that a builder takes before it is full. Finishing takes half as much again, and the
    /// segment.
    pub builder_octets_max: usize,
    /// Octets of a segment above which it is merged no further.
    pub segment_octets_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            text_octets_max: 4 << 20,
            message_octets_max: 16 << 20,
            words_max: 100_000,
            builder_octets_max: 32 << 20,
            segment_octets_max: 256 << 20,
        }
    }
}
