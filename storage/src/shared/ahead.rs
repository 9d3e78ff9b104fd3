//! A journal read ahead: several of its objects are under way, and are given in the order of their numbers.
//!
//! # Limits
//! [`UNDER_WAY_MAX`] objects are under way, also where the first of them is late: up to [`OBJECTS_MAX`] wait behind it, and all
//! together have [`OCTETS_MAX`] octets. What is under way counts as all that it may bring. An object that is larger than a
//! request brings ([`PIECE_MAX`]) is read whole when it is the next to be taken, whatever it has.
//!
//! # Cost
//! A request for each object; two for one that is larger than those before it. Behind the end up to [`UNDER_WAY_MAX`] in vain.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::format::Incarnation;
use super::keys;
use crate::store::{Patience, Store, StoreError};

/// Objects under way.
pub(super) const UNDER_WAY_MAX: usize = 16;
/// Objects under way or not taken yet.
pub(super) const OBJECTS_MAX: usize = 64;
/// Octets of them.
pub(super) const OCTETS_MAX: u64 = 64 << 20;
/// What one request brings at most: writers close an object at 4 MiB, and may exceed that by what came last.
pub(super) const PIECE: u64 = OCTETS_MAX / UNDER_WAY_MAX as u64;
/// The same, where one of the last [`UNDER_WAY_MAX`] objects had more.
pub(super) const PIECE_MAX: u64 = 2 * PIECE;

type Found = Result<Vec<u8>, StoreError>;

/// See the module. Nothing is asked for while nobody waits in [`Ahead::next`], and what was asked for does not go on then: it
/// is to be dropped before anything else is awaited that needs the store.
pub(super) struct Ahead<'a> {
    store: &'a Store,
    incarnation: Incarnation,
    patience: Patience,
    /// Of the first place.
    seq: u64,
    places: VecDeque<Place<'a>>,
    /// Objects until requests bring less again.
    large: usize,
}

enum Place<'a> {
    /// A request for so many octets did not bring all of it: it is asked for again, with a larger one or when it is the first.
    Cut(u64),
    /// Under way, with the octets that it may bring; `None`: all.
    Asked(Option<u64>, Pin<Box<dyn Future<Output = Found> + 'a>>),
    Came(Found),
}

impl Place<'_> {
    /// Octets that it holds or may hold.
    fn octets(&self) -> u64 {
        match self {
            Place::Cut(_) | Place::Came(Err(_)) => 0,
            Place::Asked(piece, _) => piece.unwrap_or(PIECE_MAX),
            Place::Came(Ok(octets)) => octets.len() as u64,
        }
    }
}

impl<'a> Ahead<'a> {
    /// Begins at a number.
    pub fn new(store: &'a Store, incarnation: Incarnation, from: u64, patience: Patience) -> Ahead<'a> {
        Ahead { store, incarnation, patience, seq: from, places: VecDeque::new(), large: 0 }
    }

    /// The next object's number, and its octets. Behind one that is not there nobody waits for anything: what stands there is
    /// void or not known yet.
    pub async fn next(&mut self) -> (u64, Found) {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(u64, Found)> {
        loop {
            self.ask();
            let (mut came, mut cut) = (false, false);
            for place in &mut self.places {
                let Place::Asked(piece, read) = place else { continue };
                let Poll::Ready(found) = read.as_mut().poll(cx) else { continue };
                came = true;
                // A request that brings all that it may has perhaps not brought all that there is.
                let full =
                    piece.filter(|piece| found.as_ref().is_ok_and(|found| found.len() as u64 >= *piece));
                cut |= full.is_some();
                *place = full.map_or(Place::Came(found), Place::Cut);
            }
            if cut {
                self.large = UNDER_WAY_MAX;
            }
            match self.places.front() {
                Some(Place::Came(_)) => {}
                // What came makes room for others.
                _ if came => continue,
                _ => return Poll::Pending,
            }
            let (seq, first) = (self.seq, self.places.pop_front());
            self.seq += 1;
            self.large = self.large.saturating_sub(1);
            match first {
                Some(Place::Came(found)) => return Poll::Ready((seq, found)),
                _ => unreachable!("it was looked at"),
            }
        }
    }

    /// Asks for what has room, in order; for nothing behind what is not there.
    fn ask(&mut self) {
        let piece = if self.large > 0 { PIECE_MAX } else { PIECE };
        let mut octets: u64 = self.places.iter().map(Place::octets).sum();
        let mut under_way = self.places.iter().filter(|place| matches!(place, Place::Asked(..))).count();
        for nth in 0..OBJECTS_MAX {
            let again = match self.places.get(nth) {
                Some(Place::Cut(piece)) if nth > 0 && *piece == PIECE_MAX => continue,
                Some(Place::Cut(_)) => true,
                Some(Place::Came(Err(_))) => return,
                Some(_) => continue,
                None => false,
            };
            // Of the first one all is read, so that no object is too large to be read at all.
            let piece = (nth > 0 || !again).then_some(piece);
            let room = octets + piece.unwrap_or(0) <= OCTETS_MAX && under_way < UNDER_WAY_MAX;
            if nth > 0 && !room {
                return;
            }
            let asked = Place::Asked(piece, self.read(self.seq + nth as u64, piece));
            octets += asked.octets();
            under_way += 1;
            match again {
                true => self.places[nth] = asked,
                false => self.places.push_back(asked),
            }
        }
    }

    fn read(&self, seq: u64, piece: Option<u64>) -> Pin<Box<dyn Future<Output = Found> + 'a>> {
        let (store, patience) = (self.store, self.patience);
        let key = keys::journal(self.incarnation, seq);
        Box::pin(async move { store.get(&key, piece.map(|piece| 0..piece), patience, None).await })
    }
}
