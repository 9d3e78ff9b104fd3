//! Dates: INTERNALDATE with its zone, civil dates, and the Date header.

/// A civil date, as days since 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date(pub i32);

/// The internal date (RFC 3501 §2.3.3): an instant, and the zone in which it was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct InternalDate {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub seconds: i64,
    /// Minutes east of UTC, -1439 to 1439.
    pub zone_minutes: i16,
}
