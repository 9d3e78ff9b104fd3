//! THREAD against the RFC's steps written down once more, plainly: trees by value, and everything looked for anew.

use super::*;
use crate::digest::TestMessage as Message;
use culver_shard::sim::{Sim, SimConfig};
use quickcheck::quickcheck;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
struct Tree {
    message: Option<usize>,
    children: Vec<Tree>,
}

impl Tree {
    fn date(&self, messages: &[Message]) -> (i64, usize) {
        match self.message {
            Some(message) => (messages[message].0, message),
            None => self.children[0].date(messages),
        }
    }

    fn sort(&mut self, messages: &[Message]) {
        self.children.iter_mut().for_each(|child| child.sort(messages));
        self.children.sort_by_key(|child| child.date(messages));
    }

    fn subject(&self, messages: &[Message]) -> (u32, bool) {
        match self.message {
            Some(message) => messages[message].2,
            None => (self.children[0].subject(messages).0, false),
        }
    }

    fn latest(&self, messages: &[Message]) -> i64 {
        let own = self.message.map_or(i64::MIN, |message| messages[message].0);
        self.children.iter().map(|child| child.latest(messages)).fold(own, i64::max)
    }

    fn pruned(self) -> Vec<Tree> {
        let children: Vec<Tree> = self.children.into_iter().flat_map(Tree::pruned).collect();
        match self.message {
            Some(_) => vec![Tree { message: self.message, children }],
            None => children,
        }
    }

    fn write(&self, out: &mut String) {
        if let Some(message) = self.message {
            out.push_str(&format!("{message}"));
        }
        match &self.children[..] {
            [] => {}
            [child] => {
                out.push(' ');
                child.write(out);
            }
            children => {
                out.push_str(if self.message.is_some() { " " } else { "" });
                for child in children {
                    out.push('(');
                    child.write(out);
                    out.push(')');
                }
            }
        }
    }
}

fn written(roots: &[Tree]) -> String {
    let mut out = String::new();
    for root in roots {
        out.push('(');
        root.write(&mut out);
        out.push(')');
    }
    out
}

/// Steps 1 to 3.
fn linked(messages: &[Message]) -> Vec<Tree> {
    let mut of: BTreeMap<u32, Option<usize>> = BTreeMap::new();
    let mut parents: BTreeMap<u32, u32> = BTreeMap::new();
    let mut ids = Vec::new();
    for (at, message) in messages.iter().enumerate() {
        let taken = of.get(&message.3).is_some_and(Option::is_some);
        let id = if message.3 == 0 || taken { 1_000 + at as u32 } else { message.3 };
        of.insert(id, Some(at));
        ids.push(id);
    }
    let above = |parents: &BTreeMap<u32, u32>, above: u32, node: u32| {
        let mut at = Some(node);
        while let Some(id) = at {
            if id == above {
                return true;
            }
            at = parents.get(&id).copied();
        }
        false
    };
    for (at, message) in messages.iter().enumerate() {
        for id in &message.4 {
            of.entry(*id).or_insert(None);
        }
        for pair in message.4.windows(2) {
            if !parents.contains_key(&pair[1]) && !above(&parents, pair[1], pair[0]) {
                parents.insert(pair[1], pair[0]);
            }
        }
        parents.remove(&ids[at]);
        if let Some(last) = message.4.last().filter(|last| !above(&parents, ids[at], **last)) {
            parents.insert(ids[at], *last);
        }
    }
    fn tree(id: u32, of: &BTreeMap<u32, Option<usize>>, parents: &BTreeMap<u32, u32>) -> Tree {
        let below = of.keys().filter(|child| parents.get(child) == Some(&id));
        Tree { message: of[&id], children: below.map(|child| tree(*child, of, parents)).collect() }
    }
    let roots = of.keys().filter(|id| !parents.contains_key(id)).map(|id| tree(*id, &of, &parents));
    let pruned = roots.flat_map(|root| match root.message {
        Some(_) => root.pruned(),
        None => match root.pruned() {
            several if several.len() > 1 => vec![Tree { message: None, children: several }],
            few => few,
        },
    });
    pruned.collect()
}

/// Steps 4 to 6.
fn by_references(messages: &[Message]) -> String {
    let mut roots = linked(messages);
    roots.iter_mut().filter(|root| root.message.is_none()).for_each(|root| root.sort(messages));
    roots.sort_by_key(|root| root.date(messages));
    let mut table: BTreeMap<u32, usize> = BTreeMap::new();
    for (at, root) in roots.iter().enumerate() {
        let (subject, reply) = root.subject(messages);
        if subject == 0 {
            continue;
        }
        let have = *table.entry(subject).or_insert(at);
        let had_reply = roots[have].subject(messages).1;
        if roots[have].message.is_some() && (root.message.is_none() || had_reply && !reply) {
            table.insert(subject, at);
        }
    }
    let mut roots: Vec<Option<Tree>> = roots.into_iter().map(Some).collect();
    for at in 0..roots.len() {
        let root = roots[at].take().expect("each is met once");
        let (subject, reply) = root.subject(messages);
        if subject == 0 || table[&subject] == at {
            roots[at] = Some(root);
            continue;
        }
        let slot = &mut roots[table[&subject]];
        let mut have = slot.take().expect("those in the table stay");
        let merged = match (have.message, root.message) {
            (None, None) => {
                have.children.extend(root.children);
                have
            }
            (None, Some(_)) => {
                have.children.push(root);
                have
            }
            _ if reply && !have.subject(messages).1 => {
                have.children.push(root);
                have
            }
            _ => Tree { message: None, children: vec![have, root] },
        };
        *slot = Some(merged);
    }
    let mut roots: Vec<Tree> = roots.into_iter().flatten().collect();
    roots.iter_mut().for_each(|root| root.sort(messages));
    roots.sort_by_key(|root| root.date(messages));
    written(&roots)
}

fn by_refs(messages: &[Message]) -> String {
    let mut roots = linked(messages);
    roots.iter_mut().for_each(|root| root.sort(messages));
    fn first(tree: &Tree) -> usize {
        tree.children.iter().map(first).chain(tree.message).min().expect("a thread has a message")
    }
    roots.sort_by_key(|root| (root.latest(messages), first(root)));
    written(&roots)
}

fn ours(messages: &[Message], algorithm: ThreadAlgorithm) -> String {
    let columns = Columns::of(messages);
    let members = (0..messages.len() as u32).map(|at| (at, Position(at))).collect();
    let steps = Sim::new(1, SimConfig::default()).run(async move {
        let threads = Threads { columns, members };
        match algorithm {
            ThreadAlgorithm::OrderedSubject => threads.by_subject().await,
            ThreadAlgorithm::References => threads.by_references().await,
            ThreadAlgorithm::Refs => threads.by_refs().await,
        }
    });
    let mut out = String::new();
    let mut after_number = false;
    for step in steps {
        let space = if after_number && step != Step::Close { " " } else { "" };
        after_number = matches!(step, Step::Message(_));
        out.push_str(&match step {
            Step::Open => format!("{space}("),
            Step::Close => ")".to_owned(),
            Step::Message(at) => format!("{space}{at}"),
        });
    }
    out
}

quickcheck! {
    fn threads_are_those_of_the_rfc(drawn: Vec<(u8, u8, u8, Vec<u8>)>) -> bool {
        let messages: Vec<Message> = drawn
            .into_iter()
            .take(14)
            .map(|(date, subject, own, references)| {
                let references = references.into_iter().take(4).map(|id| u32::from(id % 9) + 1).collect();
                let subject = (u32::from(subject % 5), subject & 0x80 != 0);
                (i64::from(date % 8), i64::from(date / 16), subject, u32::from(own % 9), references)
            })
            .collect();
        let (one, other) = (ours(&messages, ThreadAlgorithm::References), by_references(&messages));
        assert_eq!(one, other, "{messages:?}");
        let (one, other) = (ours(&messages, ThreadAlgorithm::Refs), by_refs(&messages));
        assert_eq!(one, other, "{messages:?}");
        true
    }
}

#[test]
fn a_chain_of_any_length_is_one_thread() {
    // Told from its end, so that each message makes the next one's parent; then deep threads are hung up below each other.
    const LENGTH: u32 = 20_000;
    let chain: Vec<Message> =
        (0..LENGTH).map(|n| (0, 0, (0, false), LENGTH - n, vec![LENGTH - n + 1])).collect();
    let text = ours(&chain, ThreadAlgorithm::References);
    assert_eq!(text.matches('(').count(), 1);
    assert!(text.starts_with("(0 1 2 3 "), "{}", &text[..40]);
}

#[test]
fn walks_to_ancestors_are_bounded_all_told() {
    // A long chain, then pairs of which the child comes first and its parent hangs below the chain's end.
    const LENGTH: u32 = 33_000;
    let chain = (1..=LENGTH).map(|n| (0, 0, (0, false), n, Vec::from_iter((n > 1).then_some(n - 1))));
    let pairs = (1..=LENGTH).flat_map(|n| {
        let (x, y) = (LENGTH + 2 * n - 1, LENGTH + 2 * n);
        [(0, 0, (0, false), y, vec![x]), (0, 0, (0, false), x, vec![LENGTH])]
    });
    let messages: Vec<Message> = chain.chain(pairs).collect();
    let links = messages.iter().map(|message| 1 + message.4.len()).sum::<usize>();
    let columns = Columns::of(&messages);
    let members = (0..messages.len() as u32).map(|at| (at, Position(at))).collect();
    let (walks_left, has_parent) = Sim::new(1, SimConfig::default()).run(async move {
        let forest = Threads { columns, members }.link().await;
        let has_parent: Vec<bool> = (0..forest.nodes()).map(|node| forest.has_parent(node)).collect();
        (forest.walks_left(), has_parent)
    });
    // Used up, by some of the pairs; all others stand: the chain, and each child below its parent.
    assert_eq!(walks_left, 0);
    let (chain, pairs) = has_parent.split_at(LENGTH as usize);
    assert!(chain[1..].iter().all(|has| *has));
    assert!(pairs.chunks(2).all(|pair| pair[0]));
    let hung = pairs.chunks(2).filter(|pair| pair[1]).count();
    assert_eq!(hung, 16 * links / (LENGTH as usize));
}
