//! THREAD: what a search found, as a forest.
//!
//! # Limits
//! To find out that a link would make a loop, the ancestors are walked, which only a message that has children already needs:
//! [`WALKS_FACTOR`] steps for each message and reference, all told. Behind them a message that has children gets no parent
//! any more, and begins a thread.
//!
//! # Cost
//! Where the [`digest`](crate::digest) has the columns: one pass over messages and references, one sort.
//!
//! # RFC
//! RFC 5256 §3; REFS as draft-ietf-morg-inthread names it and Dovecot has it: REFERENCES without the subjects, threads in the order of
//! the latest sent date in each.

mod forest;

use crate::accounts::Session;
use crate::digest::{self, Column, Columns, Position};
use crate::search::{Search, SearchError};
use crate::steps::{self, Pace};
use crate::view::View;
use culver_model::search::{SortKey, ThreadAlgorithm};
use forest::{Forest, NONE};

/// Octets of memory for each message that is threaded.
const ITEM_OCTETS: usize = 128;
/// For each message ID, and for each that no message has: its place in the table, and its node.
const LINK_OCTETS: (usize, usize) = (4, 24);

/// Steps to ancestors for each message and reference: threads of mail have far fewer on the average.
const WALKS_FACTOR: usize = 16;

/// A step through a forest of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Open,
    Close,
    /// A place in the UIDs that were given.
    Message(u32),
}

/// The threads of `uids`, which ascend. A message that is gone meanwhile is left out.
pub async fn thread(
    session: &Session,
    view: &View,
    uids: &[u32],
    algorithm: ThreadAlgorithm,
) -> Result<Vec<Step>, SearchError> {
    if uids.is_empty() {
        return Ok(Vec::new());
    }
    let search = Search::of(session, view);
    let (date, subject) = (Column::Key(SortKey::Date), Column::Key(SortKey::Subject));
    let columns = match algorithm {
        ThreadAlgorithm::OrderedSubject => digest::columns(&search, &[date, subject]).await?,
        ThreadAlgorithm::References => digest::columns(&search, &[date, subject, Column::Links]).await?,
        ThreadAlgorithm::Refs => digest::columns(&search, &[date, Column::Links]).await?,
    };
    let mut octets = uids.len() * ITEM_OCTETS;
    if algorithm != ThreadAlgorithm::OrderedSubject {
        octets += columns.link_numbers * LINK_OCTETS.0
            + columns.references().min(columns.link_numbers) * LINK_OCTETS.1;
    }
    let _octets = session.accounts().search_octets.acquire(octets).await;
    let members = columns.positions(uids).await;
    let threads = Threads { columns, members };
    Ok(match algorithm {
        ThreadAlgorithm::OrderedSubject => threads.by_subject().await,
        ThreadAlgorithm::References => threads.by_references().await,
        ThreadAlgorithm::Refs => threads.by_refs().await,
    })
}

struct Threads {
    columns: Columns,
    members: Vec<(u32, Position)>,
}

impl Threads {
    fn position(&self, member: u32) -> Position {
        self.members[member as usize].1
    }

    /// By sent date, and where that is the same by sequence number (RFC 5256 §2.2).
    fn date(&self, member: u32) -> (i64, u32) {
        (self.columns.number(SortKey::Date, self.position(member)), member)
    }

    async fn by_subject(&self) -> Vec<Step> {
        let mut pace = Pace::default();
        let mut items = Vec::with_capacity(self.members.len());
        for member in 0..self.members.len() as u32 {
            let (subject, _) = self.columns.subject(self.position(member));
            items.push((subject, self.date(member)));
            pace.step().await;
        }
        let items = steps::sort(items, |one, other| one.cmp(other)).await;
        let mut threads: Vec<((i64, u32), usize, usize)> = Vec::new();
        for (at, (subject, date)) in items.iter().enumerate() {
            match threads.last_mut() {
                Some((_, first, len)) if items[*first].0 == *subject => *len += 1,
                _ => threads.push((*date, at, 1)),
            }
            pace.step().await;
        }
        let threads = steps::sort(threads, |one, other| one.0.cmp(&other.0)).await;
        let mut out = Vec::with_capacity(3 * items.len());
        for (_, first, len) in threads {
            out.push(Step::Open);
            for (at, (_, (_, member))) in items[first..first + len].iter().enumerate() {
                // The second and those after it are children of the first; one alone needs no parentheses.
                let nested = at > 0 && len > 2;
                out.extend(nested.then_some(Step::Open));
                out.push(Step::Message(self.members[*member as usize].0));
                out.extend(nested.then_some(Step::Close));
                pace.step().await;
            }
            out.push(Step::Close);
        }
        out
    }

    async fn by_references(&self) -> Vec<Step> {
        let mut forest = self.link().await;
        let roots = forest.prune().await;
        // RFC 5256 §3 step 4.
        for root in &roots {
            if !forest.is_message(*root) {
                self.sort_children(&mut forest, *root).await;
            }
        }
        let mut roots = self.sort_roots(&forest, roots).await;
        self.merge_subjects(&mut forest, &mut roots).await;
        // Step 6.
        self.sort_all(&mut forest).await;
        roots.retain(|root| *root != NONE);
        let roots = self.sort_roots(&forest, roots).await;
        self.steps(&forest, &roots).await
    }

    async fn by_refs(&self) -> Vec<Step> {
        let mut forest = self.link().await;
        let roots = forest.prune().await;
        self.sort_all(&mut forest).await;
        let mut pace = Pace::default();
        let mut latest = Vec::with_capacity(roots.len());
        let mut below = Vec::new();
        for root in roots {
            let (mut newest, mut first) = (i64::MIN, NONE);
            below.push(root);
            while let Some(node) = below.pop() {
                if forest.is_message(node) {
                    newest = newest.max(self.columns.number(SortKey::Date, self.position(node)));
                    first = first.min(node);
                }
                below.extend(forest.children(node));
                pace.step().await;
            }
            latest.push((newest, first, root));
        }
        let latest = steps::sort(latest, |one, other| one.cmp(other)).await;
        let roots: Vec<u32> = latest.into_iter().map(|(_, _, root)| root).collect();
        self.steps(&forest, &roots).await
    }

    /// RFC 5256 §3 REFERENCES, step 1: the links that message IDs make.
    async fn link(&self) -> Forest {
        let mut pace = Pace::default();
        let mut holders = vec![NONE; self.columns.link_numbers];
        let mut links = self.members.len();
        for (member, (_, position)) in self.members.iter().enumerate() {
            let (own, references) = self.columns.links(*position);
            links += references.len();
            let holder = &mut holders[own as usize];
            // Of messages with one message ID the first has it; without one, nobody refers to it.
            if own != 0 && *holder == NONE {
                *holder = member as u32;
            }
            pace.step().await;
        }
        let mut forest = Forest::new(self.members.len(), WALKS_FACTOR * links);
        for (member, (_, position)) in self.members.iter().enumerate() {
            let (_, references) = self.columns.links(*position);
            let mut parent = NONE;
            for number in references {
                let holder = &mut holders[*number as usize];
                if *holder == NONE {
                    *holder = forest.add_dummy();
                }
                let node = *holder;
                // Step 1.A: a link that is there stays.
                if parent != NONE
                    && !forest.has_parent(node)
                    && !forest.may_be_below(parent, node, &mut pace).await
                {
                    forest.link(parent, node);
                }
                parent = node;
                pace.step().await;
            }
            // Step 1.B: the last reference is the parent, whatever was thought before.
            let node = member as u32;
            forest.unlink(node);
            if parent != NONE && !forest.may_be_below(parent, node, &mut pace).await {
                forest.link(parent, node);
            }
            pace.step().await;
        }
        forest
    }

    /// A dummy stands where its first child would.
    fn root_date(&self, forest: &Forest, root: u32) -> (i64, u32) {
        match forest.is_message(root) {
            true => self.date(root),
            false => self.date(forest.first_child(root)),
        }
    }

    async fn sort_roots(&self, forest: &Forest, roots: Vec<u32>) -> Vec<u32> {
        steps::sort(roots, |one, other| self.root_date(forest, *one).cmp(&self.root_date(forest, *other)))
            .await
    }

    async fn sort_all(&self, forest: &mut Forest) {
        let mut pace = Pace::default();
        for node in 0..forest.nodes() {
            self.sort_children(forest, node).await;
            pace.step().await;
        }
    }

    async fn sort_children(&self, forest: &mut Forest, node: u32) {
        if forest.has_siblings_below(node) {
            let children: Vec<u32> = forest.children(node).collect();
            let sorted = steps::sort(children, |one, other| self.date(*one).cmp(&self.date(*other))).await;
            forest.set_children(node, &sorted);
        }
    }

    /// Of the message, or of a dummy's first child.
    fn subject(&self, forest: &Forest, root: u32) -> u32 {
        let member = if forest.is_message(root) { root } else { forest.first_child(root) };
        self.columns.subject(self.position(member)).0
    }

    fn is_reply(&self, forest: &Forest, root: u32) -> bool {
        forest.is_message(root) && self.columns.subject(self.position(root)).1
    }

    /// RFC 5256 §3 REFERENCES, step 5. Roots that went into others are [`NONE`] then.
    async fn merge_subjects(&self, forest: &mut Forest, roots: &mut [u32]) {
        let mut pace = Pace::default();
        // By subject the place among the roots.
        let mut table = vec![NONE; self.columns.subjects()];
        for at in 0..roots.len() {
            pace.step().await;
            let (root, subject) = (roots[at], self.subject(forest, roots[at]));
            if subject == 0 {
                continue;
            }
            let place = &mut table[subject as usize];
            let better = *place == NONE || {
                let have = roots[*place as usize];
                // Step 5.B.iv.
                forest.is_message(have)
                    && (!forest.is_message(root)
                        || self.is_reply(forest, have) && !self.is_reply(forest, root))
            };
            if better {
                *place = at as u32;
            }
        }
        for at in 0..roots.len() {
            pace.step().await;
            let (root, subject) = (roots[at], self.subject(forest, roots[at]));
            let place = table[subject as usize] as usize;
            if subject == 0 || place == at {
                continue;
            }
            let have = roots[place];
            // Step 5.C.
            match (forest.is_message(have), forest.is_message(root)) {
                (false, false) => forest.give_children(root, have),
                (false, true) => forest.give(root, have),
                (true, _) if self.is_reply(forest, root) && !self.is_reply(forest, have) => {
                    forest.give(root, have);
                }
                (true, _) => {
                    let dummy = forest.add_dummy();
                    forest.give(have, dummy);
                    forest.give(root, dummy);
                    roots[place] = dummy;
                }
            }
            roots[at] = NONE;
        }
    }

    async fn steps(&self, forest: &Forest, roots: &[u32]) -> Vec<Step> {
        enum Work {
            Open,
            Close,
            Node(u32),
        }
        let mut pace = Pace::default();
        let mut out = Vec::with_capacity(3 * self.members.len());
        let mut work = Vec::new();
        let mut below: Vec<u32> = Vec::new();
        for root in roots {
            work.extend([Work::Close, Work::Node(*root), Work::Open]);
            while let Some(next) = work.pop() {
                pace.step().await;
                let node = match next {
                    Work::Open => {
                        out.push(Step::Open);
                        continue;
                    }
                    Work::Close => {
                        out.push(Step::Close);
                        continue;
                    }
                    Work::Node(node) => node,
                };
                if forest.is_message(node) {
                    out.push(Step::Message(self.members[node as usize].0));
                }
                if !forest.has_siblings_below(node) {
                    work.extend(forest.children(node).map(Work::Node));
                    continue;
                }
                below.clear();
                below.extend(forest.children(node));
                for child in below.iter().rev() {
                    work.extend([Work::Close, Work::Node(*child), Work::Open]);
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests;
