//! SEARCH: what must be found, from the words and dates of the model alone.

use std::collections::{BTreeMap, BTreeSet};

use culver_proto::imap::encode::ThreadStep;

use super::{Numbers, Played, Set, World, ok, set};
use crate::account::{CONTENT_ORDERS, CONTENTS, DATE_ORDER, DATES};
use crate::op::{CRITERIA, FLAGS, Key, Pick, Returns, SEARCH_DATES, WORDS};
use crate::session::{Found, check};

impl World {
    pub(super) fn search(&mut self, at: usize, uid: bool, key: &Key, returns: Option<Returns>) -> Played {
        let (text, modseq) = (self.key_text(at, key), mentions_modseq(key));
        let options = returns.map_or(String::new(), |returns| {
            let words = [
                (returns.min, "MIN"),
                (returns.max, "MAX"),
                (returns.all, "ALL"),
                (returns.count, "COUNT"),
                (returns.save, "SAVE"),
            ];
            let words: Vec<&str> = words.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
            format!("RETURN ({}) ", words.join(" "))
        });
        let command = format!("{}SEARCH {options}{text}", if uid { "UID " } else { "" });
        let (_, selected, mailbox) = self.session(at);
        let view = selected.view.iter().copied().filter(|uid| mailbox.messages.contains_key(uid));
        let found: Vec<u32> = view.filter(|uid| self.matches(at, key, *uid)).collect();
        let number =
            |given: u32| if uid { given } else { selected.sequence_of(given).expect("found in view") };
        let numbers: BTreeSet<u32> = found.iter().map(|given| number(*given)).collect();
        let modseq_of = |given: &u32| mailbox.messages[given].modseq;
        let (first, last) = (found.first(), found.last());
        let highest = found.iter().filter_map(modseq_of).max();
        let answer_modseq = |returns: Option<Returns>| match returns {
            // RFC 4731 §3.2: of the messages that are returned.
            Some(Returns { min, max, all: false, count: false, .. }) if min || max => {
                first.filter(|_| min).into_iter().chain(last.filter(|_| max)).filter_map(modseq_of).max()
            }
            _ => highest,
        };
        let expected_modseq = if modseq { answer_modseq(returns) } else { None };
        let (min, max) = (first.map(|given| number(*given)), last.map(|given| number(*given)));
        let ends: BTreeSet<u32> = match returns {
            Some(returns) => first
                .filter(|_| returns.min)
                .into_iter()
                .chain(last.filter(|_| returns.max))
                .copied()
                .collect(),
            None => BTreeSet::new(),
        };
        let answer = self.sessions[at].wire.command(command.as_bytes())?;
        self.sessions[at].enable_condstore(&self.account, modseq);
        ok(&answer)?;
        let gathered = self.absorb(at, &answer, uid)?;
        let Some(mut returns) = returns else {
            check!(
                gathered.search == Some((numbers.clone(), expected_modseq)),
                "{:?}, not {numbers:?}",
                gathered.search
            );
            return Ok(());
        };
        // RFC 4731 §3.1: none is ALL; RFC 5182 §2.1: SAVE alone returns nothing.
        if !(returns.min || returns.max || returns.all || returns.count || returns.save) {
            returns.all = true;
        }
        if returns.save {
            // RFC 5182 §2.4.
            let ends_only = (returns.min || returns.max) && !returns.all && !returns.count;
            self.sessions[at].saved = if ends_only { ends } else { found.iter().copied().collect() };
        }
        if !(returns.min || returns.max || returns.all || returns.count) {
            check!(gathered.esearch.is_none() && gathered.search.is_none(), "SAVE alone is answered");
            return Ok(());
        }
        let expected = Found {
            tag: Some(answer.tag.clone()),
            uid,
            min: min.filter(|_| returns.min),
            max: max.filter(|_| returns.max),
            count: returns.count.then_some(found.len() as u64),
            all: Some(numbers).filter(|numbers| returns.all && !numbers.is_empty()),
            modseq: expected_modseq,
        };
        check!(gathered.esearch.as_ref() == Some(&expected), "{:?}, not {expected:?}", gathered.esearch);
        Ok(())
    }

    /// The UIDs that match, ascending, and the number that is answered for each.
    fn found(&self, at: usize, uid: bool, key: &Key) -> Vec<(u32, u32)> {
        let (_, selected, mailbox) = self.session(at);
        let view = selected.view.iter().copied().filter(|uid| mailbox.messages.contains_key(uid));
        let found = view.filter(|given| self.matches(at, key, *given));
        let number =
            |given: u32| if uid { given } else { selected.sequence_of(given).expect("found in view") };
        found.map(|given| (given, number(given))).collect()
    }

    /// The place of a message under a criterion.
    fn order(&self, at: usize, given: u32, criterion: &str) -> u32 {
        let (_, _, mailbox) = self.session(at);
        let message = &mailbox.messages[&given];
        let [sent, from, subject] = CONTENT_ORDERS[message.content];
        match criterion {
            "ARRIVAL" => DATE_ORDER[message.date],
            "DATE" => sent,
            "FROM" => from,
            "SIZE" => CONTENTS[message.content].octets().len() as u32,
            _ => subject,
        }
    }

    pub(super) fn sort(&mut self, at: usize, uid: bool, key: &Key, criteria: &[(usize, bool)]) -> Played {
        let mut found = self.found(at, uid, key);
        found.sort_by_key(|(given, _)| {
            let order = criteria.iter().map(|(criterion, reverse)| {
                let order = self.order(at, *given, CRITERIA[*criterion]);
                if *reverse { u32::MAX - order } else { order }
            });
            (order.collect::<Vec<u32>>(), *given)
        });
        let modseq = mentions_modseq(key);
        let (_, _, mailbox) = self.session(at);
        let highest = found.iter().filter_map(|(given, _)| mailbox.messages[given].modseq).max();
        let numbers: Vec<u32> = found.iter().map(|(_, number)| *number).collect();
        let expected = (numbers, highest.filter(|_| modseq));
        let words: Vec<String> = criteria
            .iter()
            .map(|(at, reverse)| format!("{}{}", if *reverse { "REVERSE " } else { "" }, CRITERIA[*at]))
            .collect();
        let (prefix, key) = (if uid { "UID " } else { "" }, self.key_text(at, key));
        let command = format!("{prefix}SORT ({}) UTF-8 {key}", words.join(" "));
        let answer = self.sessions[at].wire.command(command.as_bytes())?;
        self.sessions[at].enable_condstore(&self.account, modseq);
        ok(&answer)?;
        let gathered = self.absorb(at, &answer, uid)?;
        check!(gathered.sort.as_ref() == Some(&expected), "{:?}, not {expected:?}", gathered.sort);
        Ok(())
    }

    pub(super) fn thread(&mut self, at: usize, uid: bool, key: &Key) -> Played {
        let mut threads: BTreeMap<u32, Vec<(u32, u32)>> = BTreeMap::new();
        for (given, number) in self.found(at, uid, key) {
            let sent = self.order(at, given, "DATE");
            threads.entry(self.order(at, given, "SUBJECT")).or_default().push((sent, number));
        }
        let mut threads: Vec<Vec<(u32, u32)>> = threads.into_values().collect();
        threads.iter_mut().for_each(|thread| thread.sort_unstable());
        threads.sort_unstable();
        let mut expected = Vec::new();
        for thread in threads {
            expected.push(ThreadStep::Open);
            for (place, (_, number)) in thread.iter().enumerate() {
                let nested = place > 0 && thread.len() > 2;
                expected.extend(nested.then_some(ThreadStep::Open));
                expected.push(ThreadStep::Number(*number));
                expected.extend(nested.then_some(ThreadStep::Close));
            }
            expected.push(ThreadStep::Close);
        }
        let modseq = mentions_modseq(key);
        let (prefix, key) = (if uid { "UID " } else { "" }, self.key_text(at, key));
        let command = format!("{prefix}THREAD ORDEREDSUBJECT UTF-8 {key}");
        let answer = self.sessions[at].wire.command(command.as_bytes())?;
        self.sessions[at].enable_condstore(&self.account, modseq);
        ok(&answer)?;
        let gathered = self.absorb(at, &answer, uid)?;
        check!(gathered.thread.as_ref() == Some(&expected), "{:?}, not {expected:?}", gathered.thread);
        Ok(())
    }

    pub(super) fn key_set(&self, at: usize, uid: bool, pick: &Pick) -> Option<Set> {
        let (_, selected, mailbox) = self.session(at);
        let count = selected.view.len() as u32;
        if count == 0 {
            return None;
        }
        Some(match uid {
            true => set(pick, mailbox.uid_next + 1, selected.view.last().copied().unwrap_or(0)),
            false => set(pick, count, count),
        })
    }

    /// Whether it is not determined which messages are \Recent here.
    pub(super) fn is_unsure(&self, at: usize) -> bool {
        let (_, selected, mailbox) = self.session(at);
        selected.view.iter().any(|uid| mailbox.unsure.contains(uid))
    }

    pub(super) fn key_text(&self, at: usize, key: &Key) -> String {
        match key {
            Key::All => "ALL".into(),
            Key::Flag(flag, on) => match (FLAGS[*flag].strip_prefix('\\'), on) {
                (Some(name), true) => name.to_ascii_uppercase(),
                (Some(name), false) => format!("UN{}", name.to_ascii_uppercase()),
                (None, true) => format!("KEYWORD {}", FLAGS[*flag]),
                (None, false) => format!("UNKEYWORD {}", FLAGS[*flag]),
            },
            Key::Recent | Key::New | Key::Old if self.is_unsure(at) => "ALL".into(),
            Key::Recent => "RECENT".into(),
            Key::New => "NEW".into(),
            Key::Old => "OLD".into(),
            Key::Sequence(pick) => self.key_set(at, false, pick).map_or("ALL".into(), |set| set.text),
            Key::Uid(pick) => self.key_set(at, true, pick).map_or("ALL".into(), |set| match set.numbers {
                Numbers::Saved => set.text,
                Numbers::Ranges(_) => format!("UID {}", set.text),
            }),
            Key::Before(date) => format!("BEFORE {}", SEARCH_DATES[*date].1),
            Key::On(date) => format!("ON {}", SEARCH_DATES[*date].1),
            Key::Since(date) => format!("SINCE {}", SEARCH_DATES[*date].1),
            Key::SentBefore(date) => format!("SENTBEFORE {}", SEARCH_DATES[*date].1),
            Key::SentOn(date) => format!("SENTON {}", SEARCH_DATES[*date].1),
            Key::SentSince(date) => format!("SENTSINCE {}", SEARCH_DATES[*date].1),
            Key::Larger(octets) => format!("LARGER {octets}"),
            Key::Smaller(octets) => format!("SMALLER {octets}"),
            Key::Subject(word) => format!("SUBJECT {}", WORDS[*word]),
            Key::From(word) => format!("FROM \"{}\"", WORDS[*word]),
            Key::Body(word) => format!("BODY {}", WORDS[*word]),
            Key::Text(word) => format!("TEXT {}", WORDS[*word]),
            Key::Tagged => "HEADER X-Tag \"\"".into(),
            Key::ModSeq(raw) => format!("MODSEQ {}", self.modseq(at, *raw)),
            Key::Not(key) => format!("NOT {}", self.key_text(at, key)),
            Key::Or(left, right) => format!("OR {} {}", self.key_text(at, left), self.key_text(at, right)),
            Key::And(keys) => {
                let keys: Vec<String> = keys.iter().map(|key| self.key_text(at, key)).collect();
                format!("({})", keys.join(" "))
            }
        }
    }

    pub(super) fn matches(&self, at: usize, key: &Key, uid: u32) -> bool {
        let (session, selected, mailbox) = self.session(at);
        let message = &mailbox.messages[&uid];
        let content = &CONTENTS[message.content];
        let has = |text: &str, word: &usize| text.contains(&WORDS[*word].to_ascii_lowercase());
        let (date, sent) = (DATES[message.date].0, content.sent.0);
        let recent = selected.recent.contains(&uid);
        let within = |by_uid: bool, pick: &Pick| match self.key_set(at, by_uid, pick) {
            None => true,
            Some(set) => {
                let saved = matches!(set.numbers, Numbers::Saved);
                let number =
                    if by_uid || saved { uid } else { selected.sequence_of(uid).expect("it is in view") };
                set.numbers.contains(number, &session.saved)
            }
        };
        match key {
            Key::All => true,
            Key::Flag(flag, on) => message.flags.contains(FLAGS[*flag]) == *on,
            Key::Recent | Key::New | Key::Old if self.is_unsure(at) => true,
            Key::Recent => recent,
            Key::New => recent && !message.flags.contains("\\seen"),
            Key::Old => !recent,
            Key::Sequence(pick) => within(false, pick),
            Key::Uid(pick) => within(true, pick),
            Key::Before(day) => date < SEARCH_DATES[*day].0,
            Key::On(day) => date == SEARCH_DATES[*day].0,
            Key::Since(day) => date >= SEARCH_DATES[*day].0,
            Key::SentBefore(day) => sent < SEARCH_DATES[*day].0,
            Key::SentOn(day) => sent == SEARCH_DATES[*day].0,
            Key::SentSince(day) => sent >= SEARCH_DATES[*day].0,
            Key::Larger(octets) => content.octets().len() > *octets as usize,
            Key::Smaller(octets) => content.octets().len() < *octets as usize,
            Key::Subject(word) => has(content.subject, word),
            Key::From(word) => has(content.from, word),
            Key::Body(word) => has(content.body, word),
            Key::Text(word) => {
                has(content.subject, word) || has(content.from, word) || has(content.body, word)
            }
            Key::Tagged => content.tagged,
            Key::ModSeq(raw) => message.modseq.is_some_and(|modseq| modseq >= self.modseq(at, *raw)),
            Key::Not(key) => !self.matches(at, key, uid),
            Key::Or(left, right) => self.matches(at, left, uid) || self.matches(at, right, uid),
            Key::And(keys) => keys.iter().all(|key| self.matches(at, key, uid)),
        }
    }
}

pub(super) fn mentions_modseq(key: &Key) -> bool {
    match key {
        Key::ModSeq(_) => true,
        Key::Not(key) => mentions_modseq(key),
        Key::Or(left, right) => mentions_modseq(left) || mentions_modseq(right),
        Key::And(keys) => keys.iter().any(mentions_modseq),
        _ => false,
    }
}
