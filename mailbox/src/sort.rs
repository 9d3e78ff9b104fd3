//! SORT: what a search found, in the order of the criteria.
//!
//! # Cost
//! Where the [`digest`](crate::digest) has the columns, some tens of nanoseconds for each message, in pieces.

use crate::accounts::Session;
use crate::digest::{self, Column, Position};
use crate::search::{Search, SearchError};
use crate::steps;
use crate::view::View;
use culver_model::search::SortCriterion;
use std::cmp::Ordering;

/// Octets of memory for each message that is sorted.
const ITEM_OCTETS: usize = 48;

/// The places in `uids`, which ascend, in the order of `criteria`. A message that is gone meanwhile is left out.
// RFC 5256 §3: what is equal under all criteria stays in the order of sequence numbers, REVERSE or not.
pub async fn sort(
    session: &Session,
    view: &View,
    uids: &[u32],
    criteria: &[SortCriterion],
) -> Result<Vec<u32>, SearchError> {
    if uids.is_empty() {
        return Ok(Vec::new());
    }
    let search = Search::of(session, view);
    let wanted: Vec<Column> = criteria.iter().map(|criterion| Column::Key(criterion.key)).collect();
    let columns = digest::columns(&search, &wanted).await?;
    let _octets = session.accounts().search_octets.acquire(uids.len() * ITEM_OCTETS).await;
    let order = |criterion: &SortCriterion, at: Position| {
        let order = columns.order(criterion.key, at);
        if criterion.reverse { !order } else { order }
    };
    let Some((first, rest)) = criteria.split_first() else { return Ok(Vec::new()) };
    let positions = columns.positions(uids).await;
    let mut pace = steps::Pace::default();
    let mut items = Vec::with_capacity(positions.len());
    for (at, (_, position)) in positions.iter().enumerate() {
        items.push((order(first, *position), at as u32));
        pace.step().await;
    }
    let compare = |one: &(u64, u32), other: &(u64, u32)| {
        let later = || {
            let position = |item: &(u64, u32)| positions[item.1 as usize].1;
            rest.iter().fold(Ordering::Equal, |so_far, criterion| {
                so_far.then_with(|| order(criterion, position(one)).cmp(&order(criterion, position(other))))
            })
        };
        one.0.cmp(&other.0).then_with(later).then(one.1.cmp(&other.1))
    };
    let sorted = steps::sort(items, compare).await;
    Ok(sorted.into_iter().map(|(_, at)| positions[at as usize].0).collect())
}
