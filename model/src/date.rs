//! Dates: INTERNALDATE with its zone, civil dates, and the Date header.
//!
//! # Limits
//! Years 0 to 9999, as the grammars have four digits; other instants are formatted as the nearest that fits.
//!
//! # RFC
//! RFC 3501 §9 (`date`, `date-time`), RFC 5322 §3.3 and §4.3.

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

const DAY_SECONDS: i64 = 86_400;
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const WEEKDAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
/// Longest Date header that is looked at, in octets: what is longer is no date.
const HEADER_OCTETS_MAX: usize = 512;

impl Date {
    /// `None` where there is no such day, or the year is not 0 to 9999.
    pub fn from_civil(year: i32, month: u32, day: u32) -> Option<Date> {
        let fits = (0..=9999).contains(&year) && (1..=12).contains(&month) && day >= 1;
        (fits && day <= month_days(year, month)).then(|| Date(days_from_civil(year, month, day)))
    }

    /// Year, month (1 to 12) and day (1 to 31), proleptic Gregorian.
    pub fn civil(self) -> (i32, u32, u32) {
        civil_from_days(self.0)
    }

    /// From an RFC 3501 `date` without quotes: `1-Feb-1994`, `01-Feb-1994`.
    pub fn parse(text: &[u8]) -> Option<Date> {
        let mut parts = text.split(|byte| *byte == b'-');
        let (day, month, year) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || day.is_empty() || day.len() > 2 || year.len() != 4 {
            return None;
        }
        Date::from_civil(digits(year)? as i32, month_number(month)?, digits(day)?)
    }
}

/// The wire form, `1-Feb-1994`.
impl std::fmt::Display for Date {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (year, month, day) = self.civil();
        write!(f, "{day}-{}-{:04}", MONTHS[month as usize - 1], year.clamp(0, 9999))
    }
}

impl InternalDate {
    /// The zone is cut to -1439 to 1439, the instant to years 0 to 9999.
    pub fn new(seconds: i64, zone_minutes: i16) -> InternalDate {
        InternalDate { seconds, zone_minutes }.bounded()
    }

    /// From an RFC 3501 `date-time` without quotes: ` 1-Jul-2026 10:00:00 +0200` (a leading space or zero, or, more
    /// leniently, one digit alone).
    pub fn parse(text: &[u8]) -> Option<InternalDate> {
        let text = text.strip_prefix(b" ").unwrap_or(text);
        let mut parts = text.split(|byte| *byte == b' ');
        let (date, time, zone) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let [hour, minute, second] = match time {
            [a, b, b':', c, d, b':', e, f] => [[*a, *b], [*c, *d], [*e, *f]],
            _ => return None,
        }
        .map(|pair| digits(&pair));
        InternalDate::from_parts(Date::parse(date)?, hour?, minute?, second?, zone_minutes(zone)?)
    }

    /// The sent date of SORT and THREAD, in seconds since 1970: as [`InternalDate::parse_header`]; a time that is invalid is
    /// 00:00:00.
    // RFC 5256 §2.2: "If the time is also invalid, the time SHOULD be treated as 00:00:00".
    pub fn sent_seconds(value: &[u8]) -> Option<i64> {
        if let Some(date) = InternalDate::parse_header(value) {
            return Some(date.seconds);
        }
        let words = header_words(value)?;
        let from = words.iter().position(|word| word.first().is_some_and(u8::is_ascii_digit))?;
        // Day, month and year are one word or three.
        let octets = if words[from].contains(&b'-') { 1 } else { 3 };
        let day = words.get(from..from + octets)?.join(&b' ');
        InternalDate::parse_header(&day).map(|date| date.seconds)
    }

    /// From the value of a Date header (RFC 5322 §3.3), with the obsolete forms of §4.3 and what is met in practice:
    /// comments anywhere, two-digit years, zone names, no weekday, no seconds, no zone (then UTC).
    pub fn parse_header(value: &[u8]) -> Option<InternalDate> {
        let words = header_words(value)?;
        let mut words = words.iter().map(Vec::as_slice).peekable();
        // A weekday is told by its letters; it is not compared with the date.
        if words.peek()?.iter().all(u8::is_ascii_alphabetic) && month_number(words.peek()?).is_none() {
            words.next();
        }
        let mut first = words.next()?;
        let (day, month, year);
        if let Some(number) = month_number(first) {
            // asctime: `Jan  2 15:04:05 2006`.
            (month, day) = (number, digits(words.next()?)?);
            let time = words.next()?;
            let mut rest: Vec<&[u8]> = words.collect();
            let at = rest.iter().position(|word| word.len() == 4 && digits(word).is_some())?;
            year = digits(rest.remove(at))?;
            let zone = rest.first().and_then(|zone| zone_minutes(zone)).unwrap_or(0);
            let (hour, minute, second) = time_of_day(time)?;
            return InternalDate::from_parts(
                Date::from_civil(year as i32, month, day)?,
                hour,
                minute,
                second,
                zone,
            );
        }
        let dashed: Vec<&[u8]> = first.split(|byte| *byte == b'-').collect();
        if let [d, m, y] = dashed[..] {
            (day, month, first) = (digits(d)?, month_number(m)?, y);
        } else {
            (day, month) = (digits(first)?, month_number(words.next()?)?);
            first = words.next()?;
        }
        // RFC 5322 §4.3: 00 to 49 mean 2000 to 2049, 50 to 99 and three digits are added to 1900.
        year = match (first.len(), digits(first)?) {
            (2, year) if year < 50 => year + 2000,
            (2 | 3, year) => year + 1900,
            (4, year) => year,
            _ => return None,
        };
        let (hour, minute, second) = time_of_day(words.next().unwrap_or(b"00:00:00"))?;
        // RFC 5322 §4.3: zones that are not known count as -0000.
        let zone = words.next().and_then(zone_minutes).unwrap_or(0);
        InternalDate::from_parts(Date::from_civil(year as i32, month, day)?, hour, minute, second, zone)
    }

    fn from_parts(date: Date, hour: u32, minute: u32, second: u32, zone: i16) -> Option<InternalDate> {
        // RFC 5322 §3.3: a leap second is 60; it is kept as the second after 59.
        if hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        let local = i64::from(date.0) * DAY_SECONDS + i64::from(hour * 3600 + minute * 60 + second);
        Some(InternalDate { seconds: local - i64::from(zone) * 60, zone_minutes: zone })
    }

    /// The civil date in its own zone: what ON, SINCE and BEFORE, SENTON, SENTSINCE and SENTBEFORE compare.
    // RFC 3501 §6.4.4: SINCE and BEFORE disregard time and timezone.
    pub fn date(self) -> Date {
        Date(self.bounded().local().div_euclid(DAY_SECONDS) as i32)
    }

    /// The RFC 3501 `date-time` without quotes, always 26 octets: ` 1-Jul-2026 10:00:00 +0200`.
    pub fn format(self) -> String {
        self.wire().iter().map(|byte| char::from(*byte)).collect()
    }

    /// [`InternalDate::format`] without an allocation: for answers of thousands of messages.
    pub fn wire(self) -> [u8; 26] {
        let (year, month, day) = self.date().civil();
        let bounded = self.bounded();
        let time = bounded.local().rem_euclid(DAY_SECONDS) as u32;
        let zone = u32::from(bounded.zone_minutes.unsigned_abs());
        let digit = |n: u32| b'0' + (n % 10) as u8;
        let mut wire = *b"dd-mmm-yyyy hh:mm:ss +zzzz";
        let mut put = |at: usize, n: u32| wire[at..at + 2].copy_from_slice(&[digit(n / 10), digit(n)]);
        let year = year.clamp(0, 9999) as u32;
        put(0, day);
        put(7, year / 100);
        put(9, year);
        put(12, time / 3600);
        put(15, time / 60 % 60);
        put(18, time % 60);
        put(22, zone / 60);
        put(24, zone % 60);
        if day < 10 {
            wire[0] = b' ';
        }
        wire[3..6].copy_from_slice(MONTHS[month as usize - 1].as_bytes());
        if bounded.zone_minutes < 0 {
            wire[21] = b'-';
        }
        wire
    }

    /// The RFC 5322 date-time, as Date and Received have it: `Wed, 1 Jul 2026 10:00:00 +0200`.
    pub fn format_header(self) -> String {
        let (year, month, day, [hour, minute, second], zone) = self.parts();
        let weekday = WEEKDAYS[(self.date().0 + 3).rem_euclid(7) as usize];
        let month = MONTHS[month as usize - 1];
        format!("{weekday}, {day} {month} {year:04} {hour:02}:{minute:02}:{second:02} {zone}")
    }

    fn parts(self) -> (i32, u32, u32, [i64; 3], String) {
        let (year, month, day) = self.date().civil();
        let bounded = self.bounded();
        let time = bounded.local().rem_euclid(DAY_SECONDS);
        let zone = bounded.zone_minutes;
        let sign = if zone < 0 { '-' } else { '+' };
        let zone = format!("{sign}{:02}{:02}", zone.unsigned_abs() / 60, zone.unsigned_abs() % 60);
        (year, month, day, [time / 3600, time / 60 % 60, time % 60], zone)
    }

    fn local(self) -> i64 {
        self.seconds + i64::from(self.zone_minutes) * 60
    }

    /// The nearest date whose local year has four digits: stored bytes may hold any.
    fn bounded(self) -> InternalDate {
        let zone_minutes = self.zone_minutes.clamp(-1439, 1439);
        let east = i64::from(zone_minutes) * 60;
        let first = i64::from(days_from_civil(0, 1, 1)) * DAY_SECONDS;
        let last = i64::from(days_from_civil(10_000, 1, 1)) * DAY_SECONDS - 1;
        InternalDate { seconds: self.seconds.clamp(first - east, last - east), zone_minutes }
    }
}

/// Words of a Date header: comments and folding removed, commas as separators.
fn header_words(value: &[u8]) -> Option<Vec<Vec<u8>>> {
    if value.len() > HEADER_OCTETS_MAX {
        return None;
    }
    let (mut words, mut word, mut depth) = (Vec::new(), Vec::new(), 0usize);
    let mut bytes = value.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b'\\' if depth > 0 => drop(bytes.next()),
            _ if depth > 0 => continue,
            b' ' | b'\t' | b'\r' | b'\n' | b',' => {}
            // RFC 5322 §4.3: obsolete times have space and comments around their colons.
            b':' if word.is_empty() => {
                word = words.pop().unwrap_or_default();
                word.push(byte);
                continue;
            }
            _ => {
                word.push(byte);
                continue;
            }
        }
        if !word.is_empty() && !word.ends_with(b":") {
            words.push(std::mem::take(&mut word));
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    Some(words)
}

fn time_of_day(text: &[u8]) -> Option<(u32, u32, u32)> {
    // Some senders write 10.20.30.
    let separator = if text.contains(&b':') { b':' } else { b'.' };
    let mut parts = text.split(|byte| *byte == separator);
    let hour = digits(parts.next()?)?;
    let minute = digits(parts.next()?)?;
    let second = match parts.next() {
        // A fraction of a second is met in practice.
        Some(second) => digits(second.split(|byte| *byte == b'.').next()?)?,
        None => 0,
    };
    parts.next().is_none().then_some((hour, minute, second))
}

/// `+hhmm`, or one of RFC 5322 §4.3's names.
fn zone_minutes(text: &[u8]) -> Option<i16> {
    if let [sign @ (b'+' | b'-'), rest @ ..] = text {
        let value = if rest.len() == 4 { digits(rest)? as i16 } else { return None };
        let minutes = value / 100 * 60 + value % 100;
        if value / 100 > 23 || value % 100 > 59 {
            return None;
        }
        return Some(if *sign == b'-' { -minutes } else { minutes });
    }
    Some(match text.to_ascii_uppercase().as_slice() {
        b"UT" | b"GMT" | b"UTC" | b"Z" => 0,
        b"EDT" => -4 * 60,
        b"EST" | b"CDT" => -5 * 60,
        b"CST" | b"MDT" => -6 * 60,
        b"MST" | b"PDT" => -7 * 60,
        b"PST" => -8 * 60,
        _ => return None,
    })
}

/// Up to nine digits and nothing else.
fn digits(text: &[u8]) -> Option<u32> {
    let fits = !text.is_empty() && text.len() <= 9 && text.iter().all(u8::is_ascii_digit);
    fits.then(|| text.iter().fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0')))
}

fn month_number(text: &[u8]) -> Option<u32> {
    let at = MONTHS.iter().position(|month| {
        // Full names are met in practice.
        text.len() >= 3
            && text[..3].eq_ignore_ascii_case(month.as_bytes())
            && text.iter().all(u8::is_ascii_alphabetic)
    })?;
    Some(at as u32 + 1)
}

fn month_days(year: i32, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days since 1970-01-01: years begin in March, so that the leap day is the last of its year.
fn days_from_civil(year: i32, month: u32, day: u32) -> i32 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = ((153 * ((month + 9) % 12) + 2) / 5 + day - 1) as i32;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn civil_from_days(days: i32) -> (i32, u32, u32) {
    let days = i64::from(days) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u32;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 } as u32;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year as i32, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn civil_days_round_trip() {
        assert_eq!(Date::from_civil(1970, 1, 1), Some(Date(0)));
        assert_eq!(Date::from_civil(2000, 3, 1), Some(Date(11_017)));
        assert_eq!(Date::from_civil(2023, 2, 29), None);
        assert_eq!(Date::from_civil(1900, 2, 29), None);
        assert!(Date::from_civil(2000, 2, 29).is_some());
        let mut previous = Date(i32::from(i16::MIN) * 22 - 1).civil();
        for days in i32::from(i16::MIN) * 22..3_000_000 {
            let civil = Date(days).civil();
            assert!(civil > previous);
            if let Some(back) = Date::from_civil(civil.0, civil.1, civil.2) {
                assert_eq!(back, Date(days));
            }
            previous = civil;
        }
    }

    #[test]
    fn imap_date_time_round_trips() {
        let date = InternalDate::parse(b" 1-Jul-2026 10:00:00 +0200").unwrap();
        assert_eq!((date.seconds, date.zone_minutes), (1_782_892_800, 120));
        assert_eq!(date.format(), " 1-Jul-2026 10:00:00 +0200");
        assert_eq!(date.format_header(), "Wed, 1 Jul 2026 10:00:00 +0200");
        for text in ["17-Jul-1996 02:44:25 -0700", "31-Dec-9999 23:59:59 +1400", " 1-Jan-0000 00:00:00 -0930"]
        {
            assert_eq!(InternalDate::parse(text.as_bytes()).unwrap().format(), text);
        }
        for text in [
            "",
            "1-Jul-2026",
            "1-Jul-2026 10:00:00",
            "1-Jul-2026 10:00 +0200",
            "32-Jul-2026 10:00:00 +0200",
            "1-Jul-2026 24:00:00 +0200",
            "1-Jul-2026 10:00:00 +2460",
            "1-Jul-2026 10:00:00 CET",
            "1-Jul-2026 10:00:00 +0200 ",
            "1-Jul-26 10:00:00 +0200",
        ] {
            assert_eq!(InternalDate::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn search_dates_disregard_the_zone() {
        let late = InternalDate::parse(b" 1-Jul-2026 23:30:00 -1100").unwrap();
        let early = InternalDate::parse(b" 1-Jul-2026 00:30:00 +1400").unwrap();
        assert_eq!(late.date(), Date::parse(b"1-Jul-2026").unwrap());
        assert_eq!(early.date(), late.date());
        assert_eq!(Date::parse(b"01-feb-1994").unwrap().to_string(), "1-Feb-1994");
        for text in ["", "1-Feb", "001-Feb-1994", "1-Feb-94", "1-Foo-1994", "30-Feb-1994", "+1-Feb-1994"] {
            assert_eq!(Date::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn any_stored_instant_formats() {
        for seconds in [i64::MIN, i64::MAX, 0, -1] {
            for zone_minutes in [i16::MIN, 0, i16::MAX] {
                let date = InternalDate { seconds, zone_minutes };
                assert_eq!(date.format().len(), 26, "{date:?}");
                assert!(InternalDate::parse(date.format().as_bytes()).is_some());
            }
        }
        Date(i32::MIN).civil();
        Date(i32::MAX).civil();
    }

    #[test]
    fn sent_dates_without_a_valid_time_are_midnight() {
        let midnight = InternalDate::parse(b"21-Nov-1997 00:00:00 +0000").unwrap().seconds;
        for text in ["Fri, 21 Nov 1997 25:00:00 +0100", "21-Nov-97 noon", "Fri, 21 Nov 1997"] {
            assert_eq!(InternalDate::sent_seconds(text.as_bytes()), Some(midnight), "{text}");
        }
        let west = InternalDate::sent_seconds(b"31 Dec 2000 16:01:33 -0800");
        assert_eq!(west, InternalDate::sent_seconds(b"1 Jan 2001 00:01:33 +0000"));
        for text in ["", "99 Nov 1997 00:00:00 +0000", "yesterday at 9"] {
            assert_eq!(InternalDate::sent_seconds(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn header_dates_are_read_liberally() {
        let expect = InternalDate::parse(b"21-Nov-1997 09:55:06 -0600").unwrap();
        for text in [
            "Fri, 21 Nov 1997 09:55:06 -0600",
            "21 Nov 97 09:55:06 CST",
            "Fri,\r\n 21\r\n Nov\r\n 1997\r\n 09:55:06\r\n -0600 (Newfoundland Time)",
            "Fri, 21 Nov 1997 09(comment):   55  :  06 -0600",
            " Fri,21 Nov 1997 09:55:06 -0600 (CST)",
            "Fri (a \\) (b)) , 21\r\n Nov 1997 09:55:06 -0600",
            "Friday, 21-Nov-97 09:55:06 -0600",
            "Fri Nov 21 09:55:06 1997 -0600",
            "Fri, 21 November 097 09:55:06 -0600",
        ] {
            assert_eq!(InternalDate::parse_header(text.as_bytes()), Some(expect), "{text}");
        }
        let utc = InternalDate::parse(b"21-Nov-1997 09:55:00 +0000").unwrap();
        for text in [
            "21 Nov 1997 09:55",
            "Fri, 21 Nov 1997 09:55 GMT",
            "21 Nov 1997 9.55 XYZ",
            "Fri Nov 21 09:55:00 1997",
        ] {
            assert_eq!(InternalDate::parse_header(text.as_bytes()), Some(utc), "{text}");
        }
        for text in [
            "",
            "yesterday",
            "Fri",
            "Fri, 21 Nov",
            "99 Nov 1997 00:00:00 +0000",
            "21 Nov 1997 25:00:00 +0000",
        ] {
            assert_eq!(InternalDate::parse_header(text.as_bytes()), None, "{text}");
        }
        assert_eq!(InternalDate::parse_header(&[b'('; 100_000]), None);
    }
}
