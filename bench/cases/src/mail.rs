//! Made-up mail: the same number gives the same message, octet by octet, on every machine.
//!
//! The shapes are those that most mail has: a short text, a newsletter in two forms, and a text with a file.

use std::fmt::Write;

const WORDS: [&str; 24] = [
    "the",
    "of",
    "and",
    "to",
    "we",
    "invoice",
    "meeting",
    "is",
    "that",
    "on",
    "Tuesday",
    "with",
    "please",
    "for",
    "attached",
    "you",
    "will",
    "find",
    "report",
    "as",
    "discussed",
    "quarter",
    "thanks",
    "regards",
];

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    fn word(&mut self) -> &'static str {
        WORDS[self.below(WORDS.len() as u64) as usize]
    }

    fn words(&mut self, count: u64) -> String {
        (0..count).map(|_| self.word()).collect::<Vec<_>>().join(" ")
    }

    /// Lines of text of up to 78 octets, `octets` in all or a little more.
    fn lines(&mut self, octets: usize, out: &mut String) {
        let end = out.len() + octets;
        while out.len() < end {
            let words = 5 + self.below(6);
            out.push_str(&self.words(words));
            out.push_str("\r\n");
        }
    }
}

/// The header that a message has after three hops, without its blank line.
fn header(random: &mut Random, content: &str) -> String {
    let mut out = String::new();
    let add =
        |out: &mut String, text: std::fmt::Arguments<'_>| out.write_fmt(text).expect("a String takes all");
    for hop in 0..3 {
        let id = random.number();
        add(
            &mut out,
            format_args!(
                "Received: from mx{hop}.example.net (mx{hop}.example.net [192.0.2.{hop}])\r\n\tby mail.example.org \
                 (Postfix) with ESMTPS id {id:x}\r\n\tfor <joe@example.org>; Tue, 24 Nov 2026 10:0{hop}:07 +0100 \
                 (CET)\r\n"
            ),
        );
    }
    add(
        &mut out,
        format_args!("DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.net; s=k1;\r\n"),
    );
    for part in ["h=from:to:subject:date;\r\n\tb=", "", ""] {
        add(&mut out, format_args!("\t{part}"));
        for _ in 0..4 {
            add(&mut out, format_args!("{:016x}", random.number()));
        }
        out.push_str("\r\n");
    }
    let (subject_words, sender, id) = (3 + random.below(6), random.below(9000), random.number());
    add(&mut out, format_args!("From: \"Office {sender}\" <office{sender}@example.net>\r\n"));
    add(&mut out, format_args!("To: Joe Doe <joe@example.org>, =?utf-8?Q?J=C3=BCrgen?= <j@example.com>\r\n"));
    add(
        &mut out,
        format_args!("Cc: archive@example.org\r\nSubject: Re: {}\r\n", random.words(subject_words)),
    );
    add(
        &mut out,
        format_args!("Date: Tue, 24 Nov 2026 09:58:41 +0100\r\nMessage-ID: <{id:x}@example.net>\r\n"),
    );
    add(&mut out, format_args!("In-Reply-To: <{:x}@example.org>\r\n", random.number()));
    add(&mut out, format_args!("User-Agent: Example Mail 7.1\r\nMIME-Version: 1.0\r\n{content}\r\n"));
    out
}

/// A text of about 3 KiB.
pub fn plain(seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let content = "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 7bit\r\n";
    let mut out = header(&mut random, content);
    random.lines(1500, &mut out);
    out.into_bytes()
}

/// Text and HTML, about 24 KiB.
pub fn alternative(seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let content = "Content-Type: multipart/alternative;\r\n boundary=\"=_part_1\"\r\n";
    let mut out = header(&mut random, content);
    out.push_str("--=_part_1\r\nContent-Type: text/plain; charset=\"utf-8\"\r\n\r\n");
    random.lines(6_000, &mut out);
    out.push_str("\r\n--=_part_1\r\nContent-Type: text/html; charset=\"utf-8\"\r\n");
    out.push_str("Content-Transfer-Encoding: quoted-printable\r\n\r\n<html><body>\r\n");
    while out.len() < 24_000 {
        out.push_str("<p style=3D\"margin:0\">");
        random.lines(300, &mut out);
        out.push_str("</p>\r\n");
    }
    out.push_str("</body></html>\r\n--=_part_1--\r\n");
    out.into_bytes()
}

/// A text and a file of 150 KiB in base64, about 208 KiB.
pub fn attachment(seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let content = "Content-Type: multipart/mixed; boundary=\"=_mixed\"\r\n";
    let mut out = header(&mut random, content);
    out.push_str("--=_mixed\r\nContent-Type: text/plain; charset=us-ascii; format=flowed\r\n\r\n");
    random.lines(1_000, &mut out);
    out.push_str("\r\n--=_mixed\r\nContent-Type: application/pdf; name=\"report.pdf\"\r\n");
    out.push_str("Content-Disposition: attachment; filename=\"report.pdf\"\r\n");
    out.push_str("Content-Transfer-Encoding: base64\r\n\r\n");
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for _ in 0..2_700 {
        for _ in 0..19 {
            let number = random.number();
            (0..4).for_each(|at| out.push(char::from(DIGITS[(number >> (at * 6)) as usize % 64])));
        }
        out.push_str("\r\n");
    }
    out.push_str("--=_mixed--\r\n");
    out.into_bytes()
}
