//! The forest that THREAD builds: nodes by number, messages first, then the dummies that stand for what was not found.
//!
//! # Invariants
//! No node is its own ancestor. After [`Forest::prune`] only a root is a dummy, and it has several children; lists of children
//! are what counts from then on, and who is whose parent is not asked any more.

use crate::steps::Pace;

/// No node.
pub const NONE: u32 = u32::MAX;

pub struct Forest {
    messages: u32,
    parent: Vec<u32>,
    /// How many children each node has while links are made.
    children: Vec<u32>,
    /// Steps to ancestors that may still be made.
    walks_left: usize,
    /// The list of a node's children, and the next of each child.
    first: Vec<u32>,
    last: Vec<u32>,
    next: Vec<u32>,
}

impl Forest {
    /// With so many steps to ancestors, all told, to find out which links would make loops.
    pub fn new(messages: usize, walks_max: usize) -> Forest {
        Forest {
            messages: messages as u32,
            parent: vec![NONE; messages],
            children: vec![0; messages],
            walks_left: walks_max,
            first: Vec::new(),
            last: Vec::new(),
            next: Vec::new(),
        }
    }

    pub fn nodes(&self) -> u32 {
        self.parent.len() as u32
    }

    pub fn is_message(&self, node: u32) -> bool {
        node < self.messages
    }

    pub fn add_dummy(&mut self) -> u32 {
        self.parent.push(NONE);
        self.children.push(0);
        if !self.first.is_empty() {
            self.first.push(NONE);
            self.last.push(NONE);
            self.next.push(NONE);
        }
        self.nodes() - 1
    }

    pub fn has_parent(&self, node: u32) -> bool {
        self.parent[node as usize] != NONE
    }

    /// Whether `node` is `above` or one of its descendants, or it costs too much to tell.
    pub async fn may_be_below(&mut self, node: u32, above: u32, pace: &mut Pace) -> bool {
        if node == above {
            return true;
        }
        if self.children[above as usize] == 0 {
            return false;
        }
        let mut at = node;
        while at != NONE && at != above {
            let Some(left) = self.walks_left.checked_sub(1) else { return true };
            self.walks_left = left;
            at = self.parent[at as usize];
            pace.step().await;
        }
        at == above
    }

    #[cfg(test)]
    pub fn walks_left(&self) -> usize {
        self.walks_left
    }

    /// `child` has no parent, and `parent` is not below it.
    pub fn link(&mut self, parent: u32, child: u32) {
        self.parent[child as usize] = parent;
        self.children[parent as usize] += 1;
    }

    pub fn unlink(&mut self, child: u32) {
        let parent = std::mem::replace(&mut self.parent[child as usize], NONE);
        if parent != NONE {
            self.children[parent as usize] -= 1;
        }
    }

    /// Makes the lists of children, without dummies, and gives the roots.
    // RFC 5256 §3 REFERENCES, steps 2 and 3: a dummy's children take its place, but at the root, where it stays if it has
    // several.
    pub async fn prune(&mut self) -> Vec<u32> {
        let mut pace = Pace::default();
        let nodes = self.parent.len();
        (self.first, self.last, self.next) = (vec![NONE; nodes], vec![NONE; nodes], vec![NONE; nodes]);
        let mut top = Vec::new();
        for node in (0..nodes as u32).rev() {
            let parent = self.parent[node as usize];
            if parent == NONE {
                top.push(node);
            } else {
                self.next[node as usize] = self.first[parent as usize];
                self.first[parent as usize] = node;
            }
            pace.step().await;
        }
        // Parents before their children; so backwards the children's lists are made first.
        let mut order = top.clone();
        let mut at = 0;
        while let Some(node) = order.get(at).copied() {
            order.extend(self.children(node));
            at += 1;
            pace.step().await;
        }
        for node in order.into_iter().rev() {
            let mut child = std::mem::replace(&mut self.first[node as usize], NONE);
            while child != NONE {
                let after = std::mem::replace(&mut self.next[child as usize], NONE);
                match self.is_message(child) {
                    true => self.give(child, node),
                    false => self.give_children(child, node),
                }
                child = after;
                pace.step().await;
            }
        }
        let mut roots = Vec::with_capacity(top.len());
        for node in top {
            let (first, last) = (self.first[node as usize], self.last[node as usize]);
            if self.is_message(node) || first != last {
                roots.push(node);
            } else {
                // No child, or one, which takes the dummy's place.
                roots.extend(Some(first).filter(|first| *first != NONE));
                (self.first[node as usize], self.last[node as usize]) = (NONE, NONE);
            }
            pace.step().await;
        }
        roots
    }

    pub fn first_child(&self, node: u32) -> u32 {
        self.first[node as usize]
    }

    pub fn has_siblings_below(&self, node: u32) -> bool {
        self.first[node as usize] != self.last[node as usize]
    }

    pub fn children(&self, node: u32) -> impl Iterator<Item = u32> + '_ {
        let mut child = self.first[node as usize];
        std::iter::from_fn(move || {
            let this = child;
            (this != NONE).then(|| {
                child = self.next[this as usize];
                this
            })
        })
    }

    /// Puts `child`, which stands in no list, at the end of `node`'s.
    pub fn give(&mut self, child: u32, node: u32) {
        self.splice(child, child, node);
    }

    /// Puts the children of `from` at the end of `node`'s.
    pub fn give_children(&mut self, from: u32, node: u32) {
        let first = std::mem::replace(&mut self.first[from as usize], NONE);
        let last = std::mem::replace(&mut self.last[from as usize], NONE);
        if first != NONE {
            self.splice(first, last, node);
        }
    }

    fn splice(&mut self, first: u32, last: u32, node: u32) {
        match self.last[node as usize] {
            NONE => self.first[node as usize] = first,
            before => self.next[before as usize] = first,
        }
        self.last[node as usize] = last;
        self.next[last as usize] = NONE;
    }

    pub fn set_children(&mut self, node: u32, children: &[u32]) {
        (self.first[node as usize], self.last[node as usize]) = (NONE, NONE);
        for child in children {
            self.give(*child, node);
        }
    }
}
