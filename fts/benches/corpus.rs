//! The index over the mail of the world: messages a second, octets of index beside octets of mail, times of queries.
//!
//! `cargo bench -p culver-fts --bench corpus`; on one core. Mail is read and scanned for its parts before time is taken, as a
//! server has done when the message arrived. For 100,000 messages the corpus is taken again with every letter replaced by
//! another one, so that the dictionary grows with the messages.

#[path = "load.rs"]
mod load;

use std::time::{Duration, Instant};

use culver_fts::{
    Builder, Fields, Found, Limits, Merge, Mode, Query, Segment, Step, Summary, check, rank, search, snippet,
};
use culver_model::mime::{Message, PartTable};
use culver_model::text::{Scope, TextSearch, fold};

struct Mail {
    table: PartTable,
    octets: Vec<u8>,
}

fn mail(messages: Vec<Vec<u8>>) -> Vec<Mail> {
    let scanned = |octets: Vec<u8>| Mail { table: Message::scan(&octets).table(), octets };
    messages.into_iter().map(scanned).collect()
}

fn per_cent(part: usize, whole: usize) -> f64 {
    part as f64 * 100.0 / whole as f64
}

/// Builds segments as an account would get them, and merges them into one. Gives it, and how long it took.
fn index(name: &str, mail: &[Mail], first: u32) -> Vec<u8> {
    let raw: usize = mail.iter().map(|mail| mail.octets.len()).sum();
    let (mut segments, mut builder) = (Vec::new(), Builder::new(Limits::default(), 1));
    let (mut slowest, mut longest_step, mut builder_max) = (Duration::ZERO, Duration::ZERO, 0);
    let begin = Instant::now();
    let mut more_max = 0;
    let (mut adding, mut finishing) = (Duration::ZERO, Duration::ZERO);
    for (n, Mail { table, octets }) in mail.iter().enumerate() {
        let start = Instant::now();
        builder.message(first + n as u32, table, octets);
        let took = start.elapsed();
        adding += took;
        slowest = slowest.max(took);
        if builder.is_full() || n + 1 == mail.len() {
            builder_max = builder_max.max(builder.octets());
            let before = memory(true);
            let full = std::mem::replace(&mut builder, Builder::new(Limits::default(), 1));
            let start = Instant::now();
            let mut finish = full.finish().expect("there are messages");
            loop {
                let start = Instant::now();
                let step = finish.step(64 * 1024);
                longest_step = longest_step.max(start.elapsed());
                if step == Step::Done {
                    break;
                }
            }
            segments.push(finish.into_bytes());
            more_max = more_max.max(memory(false).saturating_sub(before));
            finishing += start.elapsed();
        }
    }
    let built = begin.elapsed();
    let begin = Instant::now();
    let opened: Vec<Segment<'_>> =
        segments.iter().map(|bytes| Segment::open(bytes).expect("sound")).collect();
    let merge = Merge::new(&opened.iter().collect::<Vec<_>>(), &Default::default()).expect("sound");
    let mut merge = merge.expect("documents are left");
    let mut merge_step = Duration::ZERO;
    loop {
        let start = Instant::now();
        let step = merge.step(64 * 1024).expect("sound");
        merge_step = merge_step.max(start.elapsed());
        if step == Step::Done {
            break;
        }
    }
    let merged = merge.into_bytes();
    let merging = begin.elapsed();
    let packed = zstd::bulk::compress(&merged, 3).expect("it compresses").len();
    let packed_raw: usize = mail
        .chunks(64)
        .map(|some| {
            let some: Vec<u8> = some.iter().flat_map(|mail| mail.octets.iter().copied()).collect();
            zstd::bulk::compress(&some, 3).expect("it compresses").len()
        })
        .sum();
    let Summary { terms, postings, grams, incomplete, .. } = check(&merged).expect("sound");
    println!("{name}: {} messages, {raw} octets ({packed_raw} as zstd of 64 messages)", mail.len());
    println!(
        "  {:.0} messages/s, {:.1} MB/s ({:.0} % adding, {:.0} % finishing); slowest message {slowest:.1?}",
        mail.len() as f64 / built.as_secs_f64(),
        raw as f64 / 1e6 / built.as_secs_f64(),
        adding.as_secs_f64() * 100.0 / built.as_secs_f64(),
        finishing.as_secs_f64() * 100.0 / built.as_secs_f64(),
    );
    println!(
        "  {} segments, builder {builder_max} octets at most and {more_max} more while it finished, merged in {merging:.1?}; longest step {longest_step:.1?}, of a \
         merge {merge_step:.1?}",
        segments.len()
    );
    println!(
        "  index {} octets: {:.1} % of the mail; as zstd {packed}: {:.1} %; {terms} terms, {postings} postings, {grams} places of \
         grams, {incomplete} incomplete",
        merged.len(),
        per_cent(merged.len(), raw),
        per_cent(packed, raw)
    );
    let layout = Segment::open(&merged).expect("sound").layout().clone();
    for tag in culver_fts::format::Tag::ALL {
        let section = layout.octets(&merged, tag);
        let packed = zstd::bulk::compress(section, 3).expect("it compresses").len();
        println!(
            "    {:<22} {:>9} {:>5.2} %  as zstd {packed:>9} {:>5.2} %",
            tag.name(),
            section.len(),
            per_cent(section.len(), raw),
            per_cent(packed, raw)
        );
    }
    merged
}

/// The most memory of this process so far, in octets; `anew`: from now on.
fn memory(anew: bool) -> usize {
    if anew {
        // Best effort: without it the figure is that of the whole run.
        let _ = std::fs::write("/proc/self/clear_refs", "5");
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0");
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap_or(0) * 1024
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % bound.max(1)
    }
}

/// A run of words out of some message's body.
fn words(mail: &[Mail], random: &mut Random, count: usize) -> String {
    loop {
        let mail = &mail[random.below(mail.len())];
        let body = mail.table.parts().first().map_or(0, |root| root.body().start as usize);
        let text = fold(&String::from_utf8_lossy(&mail.octets[body.min(mail.octets.len())..]));
        let words: Vec<&str> = text.split(' ').collect();
        let begin = random.below(words.len());
        let Some(words) = words.get(begin..begin + count) else { continue };
        let plain = |word: &&str| {
            (3..16).contains(&word.len()) && word.bytes().all(|octet| octet.is_ascii_lowercase())
        };
        if words.iter().all(plain) {
            return words.join(" ");
        }
    }
}

fn times(name: &str, mail: &[Mail], segments: &[Segment<'_>], make: impl Fn(&mut Random) -> Query) {
    const QUERIES: usize = 2_000;
    let mut random = Random(7);
    let (mut times, mut certain, mut possible) = (Vec::new(), 0, 0);
    for _ in 0..QUERIES {
        let query = make(&mut random);
        let begin = Instant::now();
        let Found { certain: sure, possible: maybe, .. } = search(segments, &query);
        times.push(begin.elapsed());
        certain += sure.len();
        possible += maybe.len();
    }
    times.sort();
    let at = |share: f64| times[((QUERIES - 1) as f64 * share) as usize];
    println!(
        "  {name:<28} p50 {:>8.1?}  p99 {:>8.1?}  max {:>8.1?}; {:.1} certain, {:.1} possible each ({} messages)",
        at(0.5),
        at(0.99),
        at(1.0),
        certain as f64 / QUERIES as f64,
        possible as f64 / QUERIES as f64,
        mail.len()
    );
}

fn ask(mail: &[Mail], segments: &[Segment<'_>]) {
    let key = |key: String, mode| Query::Key { fields: Fields::TEXT, key, mode };
    let part = |random: &mut Random, from: usize, to: usize| {
        let word = words(mail, random, 1);
        let octets = (from + random.below(to - from + 1)).min(word.len());
        let begin = random.below(word.len() - octets + 1);
        word[begin..begin + octets].to_owned()
    };
    times("word", mail, segments, |random| key(words(mail, random, 1), Mode::Words));
    times("prefix of 3 to 6", mail, segments, |random| key(part(random, 3, 6), Mode::Prefix));
    times("substring of 3", mail, segments, |random| key(part(random, 3, 3), Mode::Substring));
    times("substring of 4 to 8", mail, segments, |random| key(part(random, 4, 8), Mode::Substring));
    times("substring of 2", mail, segments, |random| key(part(random, 2, 2), Mode::Substring));
    times("phrase of 2", mail, segments, |random| key(words(mail, random, 2), Mode::Substring));
    times("phrase of 4", mail, segments, |random| key(words(mail, random, 4), Mode::Substring));
    times("words, 3", mail, segments, |random| key(words(mail, random, 3), Mode::Words));
    let languages = culver_fts::Languages::parse("en de fr").expect("known");
    times("forms in 3 languages", mail, segments, |random| {
        key(words(mail, random, 1), Mode::Forms(languages))
    });
    let begin = Instant::now();
    let found = search(segments, &key("python server".into(), Mode::Forms(languages)));
    let searched = begin.elapsed();
    let begin = Instant::now();
    let ranked =
        rank(segments, &[(Fields::TEXT, "python server")], languages, &found.certain).expect("sound");
    println!("  relevance of {} found in {searched:.1?}: {:.1?}", ranked.len(), begin.elapsed());
    let begin = Instant::now();
    let shown: usize = mail
        .iter()
        .take(1000)
        .map(|mail| snippet(&mail.table, &mail.octets, &["python server"], 200).text.len())
        .sum();
    println!("  snippet: {:.1?} each ({shown} octets of 1000)", begin.elapsed() / 1000);
    let begin = Instant::now();
    let mut scan = TextSearch::new([(Scope::Text, "needle in no message")]);
    mail.iter().for_each(|mail| scan.search(&mail.table, &mail.octets));
    println!("  a scan of all of them: {:.1?}", begin.elapsed());
}

/// Every letter of the bodies is another one.
fn turned(mail: &[Mail], by: u8) -> Vec<Mail> {
    let turn = |mail: &Mail| {
        let body = mail.table.parts().first().map_or(0, |root| root.body().start as usize);
        let mut octets = mail.octets.clone();
        let begin = body.min(octets.len());
        for octet in &mut octets[begin..] {
            match *octet {
                b'a'..=b'z' => *octet = (*octet - b'a' + by) % 26 + b'a',
                b'A'..=b'Z' => *octet = (*octet - b'A' + by) % 26 + b'A',
                _ => {}
            }
        }
        Mail { table: Message::scan(&octets).table(), octets }
    };
    mail.iter().map(turn).collect()
}

fn main() {
    let Some(root) = load::root() else { return };
    let read = |names: &[&str]| {
        let mut messages = Vec::new();
        names.iter().for_each(|name| load::archive(&root, name, &mut messages));
        mail(messages)
    };
    let lists = read(&["twisted-python", "twisted-web"]);
    index("mailing lists", &lists, 1);
    let whole = read(&[
        "spamassassin-easy-ham-1",
        "spamassassin-easy-ham-2",
        "spamassassin-hard-ham-1",
        "spamassassin-spam-1",
        "spamassassin-spam-2",
    ]);
    index("mail with all its headers", &whole, 1);
    let mut messages = Vec::new();
    load::folder(&root.join("lang"), &mut messages);
    index("29 languages", &mail(messages), 1);
    let generated = (0..2_000).map(|n| match n % 10 {
        0..3 => cases::mail::attachment(n),
        3..6 => cases::mail::alternative(n),
        _ => cases::mail::plain(n),
    });
    index("generated, three in ten with an attachment", &mail(generated.collect()), 1);

    let mut all = lists;
    all.extend(whole);
    let (five, eleven) = (turned(&all, 5), turned(&all, 11));
    all.extend(five);
    all.extend(eleven);
    all.truncate(100_000);
    let one = index("100,000 messages", &all, 1);
    println!("one segment:");
    ask(&all, &[Segment::open(&one).expect("sound")]);
}
