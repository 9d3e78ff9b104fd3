//! Directed tests of `ack = "local"`: what a node acknowledges on its disk, what a successor makes of it, and what becomes of it
//! when the node is back; each with crashes where they hurt.

use std::cell::Cell;
use std::collections::BTreeMap;

use super::super::Ack;
use super::*;
use crate::journal::format::RecordHeader;
use crate::shared::format::{Content, ObjectHead, head_octets};
use crate::shared::tail::object_head;
use crate::source::{LateRecord, Merged};
use crate::storage::LoadedRecord;

/// How far a gap raises the numbers of a ledger.
const GAP: u32 = 1000;
/// How long something is given that ought to wait.
const MOMENT: Duration = Duration::from_secs(2);

thread_local! {
    /// Ledgers cannot read [`stuck`] accounts.
    static STUCK: Cell<bool> = const { Cell::new(false) };
}

/// A mail layer whose accounts give each number that they are told a UID, as mailboxes do.
struct Ledger(Storage);

/// One account of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Page {
    given: u32,
    /// By number: the UIDs it has. A number that has two was merged twice.
    uids: BTreeMap<u8, Vec<u32>>,
    /// By journal: the last late record that counts.
    marks: BTreeMap<Guid, u64>,
}

impl Page {
    /// A record is a number; a late one has its origin before it.
    fn apply(&mut self, meta: &[u8]) {
        let (origin, number) = meta.split_at(meta.len() - 1);
        if !origin.is_empty() {
            let of = Guid(origin[..16].try_into().unwrap());
            let lsn = u64::from_le_bytes(origin[16..].try_into().unwrap());
            if self.marks.get(&of).is_some_and(|mark| *mark >= lsn) {
                return;
            }
            self.marks.insert(of, lsn);
        }
        self.given += 1;
        self.uids.entry(number[0]).or_default().push(self.given);
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = self.given.to_le_bytes().to_vec();
        out.push(self.marks.len() as u8);
        for (of, lsn) in &self.marks {
            out.extend_from_slice(&of.0);
            out.extend_from_slice(&lsn.to_le_bytes());
        }
        for (number, uid) in
            self.uids.iter().flat_map(|(number, uids)| uids.iter().map(move |uid| (number, uid)))
        {
            out.push(*number);
            out.extend_from_slice(&uid.to_le_bytes());
        }
        out
    }

    fn decode(bytes: &[u8]) -> Page {
        let mut page = Page { given: u32::from_le_bytes(bytes[..4].try_into().unwrap()), ..Page::default() };
        let (marks, entries) = bytes[5..].split_at(usize::from(bytes[4]) * 24);
        for mark in marks.chunks(24) {
            let of = Guid(mark[..16].try_into().unwrap());
            page.marks.insert(of, u64::from_le_bytes(mark[16..].try_into().unwrap()));
        }
        for entry in entries.chunks(5) {
            page.uids.entry(entry[0]).or_default().push(u32::from_le_bytes(entry[1..].try_into().unwrap()));
        }
        page
    }

    fn uid(&self, number: u8) -> Result<u32, String> {
        match self.uids.get(&number).map(Vec::as_slice) {
            Some([uid]) => Ok(*uid),
            Some(uids) => Err(format!("{number} is there as {uids:?}")),
            None => Err(format!("{number} is missing")),
        }
    }
}

async fn page(storage: &Storage, account: &AccountId) -> Result<(Position, Page), String> {
    let loaded = storage.load(account.partition(2), account).await;
    let loaded = loaded.map_err(|error| format!("load: {error}"))?;
    let mut page = loaded.blocks.first().map_or(Page::default(), |(_, blocks)| Page::decode(&blocks[0]));
    let mut position = loaded.position;
    let mut steps: BTreeMap<Position, Option<LoadedRecord>> =
        loaded.gaps.into_iter().map(|(gap, _)| (gap, None)).collect();
    steps.extend(loaded.records.into_iter().map(|record| (record.position, Some(record))));
    for (at, step) in steps {
        match step {
            Some(record) => page.apply(&record.meta),
            None => page.given += GAP,
        }
        position = at;
    }
    Ok((position, page))
}

impl Source for Ledger {
    fn blocks<'a>(
        &'a self,
        _: PartitionId,
        account: &'a AccountId,
        _: Position,
    ) -> LocalFuture<'a, Result<AccountBlocks, SourceError>> {
        Box::pin(async move {
            let (position, page) = page(&self.0, account).await.map_err(SourceError)?;
            Ok(AccountBlocks { position, blocks: vec![(Guid([1; 16]), BlockKind::Base, page.encode())] })
        })
    }

    fn flushed(&self, _: PartitionId, _: &AccountId, _: Position) {}

    fn live<'a>(
        &'a self,
        _: PartitionId,
        _: &'a AccountId,
        places: &'a [Place],
    ) -> LocalFuture<'a, Result<Vec<bool>, SourceError>> {
        Box::pin(async { Ok(vec![true; places.len()]) })
    }

    fn relocated<'a>(
        &'a self,
        _: PartitionId,
        _: &'a AccountId,
        _: Vec<(Place, Body)>,
    ) -> LocalFuture<'a, Result<(), SourceError>> {
        Box::pin(async { Err(SourceError("no record here has a body that moves".to_owned())) })
    }

    fn merge<'a>(
        &'a self,
        partition: PartitionId,
        account: &'a AccountId,
        of: Guid,
        records: Vec<LateRecord>,
    ) -> LocalFuture<'a, Result<Merged, SourceError>> {
        Box::pin(async move {
            if STUCK.get() && *account == stuck(partition) {
                return Err(SourceError("damaged".to_owned()));
            }
            let mut merged = Merged::default();
            for record in records {
                let meta = [&of.0[..], &record.lsn.to_le_bytes(), &record.meta].concat();
                let committed = self.0.commit(partition, account, meta, record.bodies).await;
                committed.map_err(|error| SourceError(error.to_string()))?;
                merged.records += 1;
            }
            Ok(merged)
        })
    }

    fn reset(&self, _: Option<&AccountId>) {}

    fn lost(&self, _: PartitionId) {}
}

fn local() -> NodeConfig {
    let ack = Ack::Local { octets_max: 1 << 20 };
    NodeConfig { ack, windows: eager(), late_look: Duration::ZERO, ..NodeConfig::new("a") }
}

fn plain(name: &str) -> NodeConfig {
    NodeConfig { windows: eager(), late_look: Duration::ZERO, ..NodeConfig::new(name) }
}

/// A node with a ledger.
async fn start(sim: &Sim, store: &SimStore, id: NodeId, config: NodeConfig) -> Result<Rc<Machine>, String> {
    let machine = Machine::configured(sim, store, id, config, Limits::default()).await;
    let ledger = machine.on(|seat| async move {
        *seat.storage.0.source.borrow_mut() = Some(Rc::new(Ledger(seat.storage.clone())));
    });
    ledger.await?;
    Ok(machine)
}

impl Machine {
    async fn page(&self, account: AccountId) -> Result<Page, String> {
        self.on(move |seat| async move { page(&seat.storage, &account).await }).await?.map(|(_, page)| page)
    }

    /// Appends to an account, and tells the UID that its client is told.
    async fn tell(&self, account: AccountId, number: u8) -> Result<u32, String> {
        let appended = time::deadline(MOMENT, self.append_to(account.clone(), number));
        appended.await.map_err(|_| format!("{number} is not acknowledged"))??;
        self.page(account).await?.uid(number)
    }

    async fn merge(&self) -> Verdict {
        let merged = self.on(|seat| async move { seat.node.0.merge_late().await }).await?;
        merged.map_err(|error| format!("merge: {error}"))
    }

    /// What a node does before it claims anything.
    async fn come_back(&self) -> Verdict {
        self.take_over(&[]).await
    }
}

/// The incarnation whose tail has come late.
fn of_a(store: &SimStore) -> Result<String, String> {
    let keys = store.objects().into_keys();
    let mut done = keys.filter_map(|key| Some(key.strip_prefix("late/")?.strip_suffix("/done")?.to_owned()));
    done.next().ok_or_else(|| "nothing is said to be done".to_owned())
}

/// A acknowledges 1, which the store has, and 2 and 3, which it has not when A loses its power.
async fn a_dies(sim: &Sim, store: &SimStore) -> Result<(NodeId, [u32; 3]), String> {
    let id = sim.node("a");
    let a = start(sim, store, id, local()).await?;
    a.take_over(&[P, Q]).await?;
    let first = a.tell(account(P), 1).await?;
    let sent = async {
        while a.seat().node.unsent().parts > 0 {
            time::sleep(Duration::from_millis(10)).await;
        }
    };
    sent.await;
    store.cut("a", true);
    let told = [first, a.tell(account(P), 2).await?, a.tell(account(P), 3).await?];
    sim.crash(id);
    store.cut("a", false);
    Ok((id, told))
}

/// The tail of a node that was taken over by nobody goes to its place when it starts again: nothing is missing, and nothing is raised.
#[test]
fn a_node_that_comes_back_sends_what_it_had_acknowledged() {
    let scenario = |sim: Sim, store: SimStore| async move {
        let (id, told) = a_dies(&sim, &store).await?;
        let a = start(&sim, &store, id, local()).await?;
        a.take_over(&[P, Q]).await?;
        let page = a.page(account(P)).await?;
        for (number, uid) in (1..).zip(told) {
            ensure(page.uid(number)? == uid, "a UID means something else")?;
        }
        ensure(page.given == 3, "a gap was left though nothing was missing")?;
        ensure(a.tell(account(P), 4).await? == 4, "the next UID is not the next")
    };
    holds(|| in_sim(scenario), Some(Fault::TailForgotten));
}

/// The same, with a crash at each request of the return.
#[test]
fn a_return_that_is_cut_short_is_begun_again() {
    for (kind, key) in [(Kind::Put, "journal/*"), (Kind::Put, "late/*"), (Kind::Put, "owner/*")] {
        for (hold, pass) in [(Hold::Before, 0), (Hold::After, 0), (Hold::After, 1), (Hold::Before, 2)] {
            let scenario = |sim: Sim, store: SimStore| async move {
                let (id, told) = a_dies(&sim, &store).await?;
                let held = store.hold("a", kind, key, pass, hold);
                let a = start(&sim, &store, id, local()).await?;
                let coming = a.begin(|seat| async move { seat.node.take_over(&[P, Q]).await.map(drop) });
                let met = time::deadline(MOMENT, held.met()).await.is_ok();
                sim.crash(id);
                drop(coming);
                let a = start(&sim, &store, id, local()).await?;
                a.take_over(&[P, Q]).await?;
                let page = a.page(account(P)).await?;
                for (number, uid) in (1..).zip(told) {
                    ensure(page.uid(number)? == uid, "a UID means something else")?;
                }
                ensure(met || pass > 0, "the request was not made")
            };
            assert_eq!(in_sim(scenario), Ok(()), "{key} {hold:?} {pass}");
        }
    }
}

/// What a killed process wrote last may be lost in a power cut between two tries to send it: what came through counts.
#[test]
fn a_return_takes_what_an_earlier_try_had_sent() {
    let scenario = |sim: Sim, store: SimStore| async move {
        let (id, _) = a_dies(&sim, &store).await?;
        let b = start(&sim, &store, sim.node("b"), plain("b")).await?;
        b.take_over(&[P, Q]).await?;
        let held = store.hold("a", Kind::Put, "late/*", 0, Hold::After);
        let a = start(&sim, &store, id, local()).await?;
        let coming = a.begin(|seat| async move { seat.node.take_over(&[P, Q]).await.map(drop) });
        held.met().await;
        sim.crash(id);
        drop(coming);
        let sent = store.objects().into_iter().find(|(key, _)| key.starts_with("late/"));
        let (key, octets) = sent.ok_or("nothing was sent")?;
        store.tamper(&key, Some(with_first_twice(&octets)?));
        let a = start(&sim, &store, id, local()).await?;
        a.come_back().await?;
        b.merge().await?;
        let page = b.page(account(P)).await?;
        ensure(page.uids.get(&2).is_some_and(|uids| uids.len() == 2), "what came through does not count")?;
        page.uid(3).map(drop)
    };
    holds(|| in_sim(scenario), None);
}

/// An object of a tail with one more record, which is its first once more.
fn with_first_twice(object: &[u8]) -> Result<Vec<u8>, String> {
    let head = ObjectHead::parse(object)?;
    let Content::Records(parts) = &head.content else { return Err("a seal".to_owned()) };
    let records = &object[head_octets(parts.len())..];
    let first = RecordHeader::parse(records).ok_or("no record")?.length as usize;
    let all = [records, &records[..first]].concat();
    let (count, crc) = (parts[0].records + 1, crc32c::crc32c(&all));
    let head = object_head(head.store, head.incarnation, head.seq, count, all.len() as u32, crc);
    Ok([head.encode(), all].concat())
}

/// A successor never says a UID of something else that the dead one had told; also not of an account that nobody has opened
/// since, nor after flushes, trims and further owners.
#[test]
fn a_takeover_leaves_a_gap_where_something_may_be_missing() {
    let scenario = |sim: Sim, store: SimStore| async move {
        let (_, told) = a_dies(&sim, &store).await?;
        let b = start(&sim, &store, sim.node("b"), plain("b")).await?;
        b.take_over(&[P, Q]).await?;
        let fourth = b.tell(account(P), 4).await?;
        ensure(!told.contains(&fourth), "a UID was told of two messages")?;
        ensure(b.page(account(P)).await?.uid(2).is_err(), "what is missing is there")?;
        b.flush(P).await?;
        b.flush(Q).await?;
        b.trim().await?;
        b.sweep().await?;
        let before = b.page(account(P)).await?;
        sim.kill(b.id);
        let c = start(&sim, &store, sim.node("c"), plain("c")).await?;
        c.take_over(&[P, Q]).await?;
        ensure(c.page(account(P)).await? == before, "the next owner gives other UIDs")?;
        for partition in [P, Q] {
            let quiet = c.tell(named("quiet", partition), 1).await?;
            ensure(quiet > GAP, "the gap was forgotten with the journals")?;
        }
        // Not a second time where the owner before told nothing that is missing.
        ensure(c.tell(account(P), 5).await? == fourth + 1, "one missing tail left two gaps")
    };
    holds(|| in_sim(scenario), Some(Fault::GapForgotten));
}

/// A manifest that is lost takes its gaps with it: who stands in for it waits for what is missing all the same.
#[test]
fn a_lost_manifest_does_not_forget_what_is_missing() {
    let scenario = |sim: Sim, store: SimStore| async move {
        a_dies(&sim, &store).await?;
        let b = start(&sim, &store, sim.node("b"), plain("b")).await?;
        b.take_over(&[P, Q]).await?;
        b.tell(account(P), 4).await?;
        b.flush(P).await?;
        b.flush(Q).await?;
        b.trim().await?;
        b.sweep().await?;
        sim.kill(b.id);
        let manifests = store.objects().into_keys().filter(|key| key.starts_with("data/0/"));
        for key in manifests.filter(|key| key.ends_with(".manifest")) {
            store.tamper(&key, None);
        }
        let c = start(&sim, &store, sim.node("c"), plain("c")).await?;
        let salvaged = c.on(|seat| async move {
            seat.node.0.state.borrow_mut().salvaging.insert(P);
            seat.node.take_over(&[P]).await.map(drop)
        });
        salvaged.await?.map_err(|error| error.to_string())?;
        ensure(c.serves(P), "C does not serve it")?;
        ensure(c.seat().node.late().awaited == 1, "nobody waits for what is missing")
    };
    holds(|| in_sim(scenario), None);
}

/// A node that leaves in order leaves no gap.
#[test]
fn a_node_that_leaves_in_order_leaves_no_gap() {
    let scenario = |sim: Sim, store: SimStore| async move {
        let a = start(&sim, &store, sim.node("a"), local()).await?;
        a.take_over(&[P, Q]).await?;
        a.tell(account(P), 1).await?;
        a.on(|seat| async move { seat.node.leave().await }).await?;
        sim.kill(a.id);
        let b = start(&sim, &store, sim.node("b"), plain("b")).await?;
        b.take_over(&[P, Q]).await?;
        ensure(b.tell(account(P), 2).await? == 2, "a gap was left")
    };
    holds(|| in_sim(scenario), None);
}

/// What the dead node had told comes back once, under new UIDs, whoever owns the partition, and however often it is tried.
#[test]
fn what_a_dead_node_had_acknowledged_comes_back_once() {
    let scenario = |sim: Sim, store: SimStore| async move {
        let (id, told) = a_dies(&sim, &store).await?;
        let b = start(&sim, &store, sim.node("b"), plain("b")).await?;
        b.take_over(&[P, Q]).await?;
        b.tell(account(P), 4).await?;
        b.merge().await?;
        let a = start(&sim, &store, id, local()).await?;
        a.come_back().await?;
        b.merge().await?;
        let page = b.page(account(P)).await?;
        for number in [2, 3] {
            ensure(!told.contains(&page.uid(number)?), "it came back under a UID of the gap")?;
        }
        ensure(page.uid(1)? == told[0], "what was there has another UID")?;
        ensure(b.seat().node.late().awaited == 0, "it is still waited for")?;
        let late =
            |key: &String| key.starts_with("late/") && !key.ends_with("/end") && !key.ends_with("/done");
        ensure(!store.objects().keys().any(late), "the tail is not tidied up")?;
        b.flush(P).await?;
        sim.kill(b.id);
        // Also a partition that had no record in it waits no more, though the tail is gone.
        store.tamper(&format!("merged/{}/{Q}", of_a(&store)?), None);
        // The node that had lost it takes it back.
        a.take_over(&[P, Q]).await?;
        a.merge().await?;
        ensure(a.page(account(P)).await? == page, "the next owner has something else")?;
        ensure(a.seat().node.late().awaited == 0, "the next owner waits still")
    };
    holds(|| in_sim(scenario), None);
}

/// An account that is damaged keeps from no other what came late, and gets its own when it is whole again.
#[test]
fn late_mail_comes_also_behind_a_damaged_account() {
    let scenario = |sim: Sim, store: SimStore| async move {
        // More than take theirs up together, the damaged one the first of them.
        let names = (0..).map(|nth| AccountId::parse(&format!("user{nth}@example.org")).unwrap());
        let of_p = names.filter(|account| account.partition(2) == P);
        let all: Vec<AccountId> = [stuck(P)].into_iter().chain(of_p.take(40)).collect();
        ensure(all.iter().min() == Some(&stuck(P)), "the damaged one is not the first")?;
        let id = sim.node("a");
        let a = start(&sim, &store, id, local()).await?;
        a.take_over(&[P, Q]).await?;
        store.cut("a", true);
        for account in &all {
            a.tell(account.clone(), 1).await?;
        }
        sim.crash(id);
        store.cut("a", false);
        let b = start(&sim, &store, sim.node("b"), plain("b")).await?;
        b.take_over(&[P, Q]).await?;
        start(&sim, &store, id, local()).await?.come_back().await?;
        STUCK.set(true);
        b.merge().await?;
        for account in &all[1..] {
            b.page(account.clone()).await?.uid(1)?;
        }
        ensure(b.page(stuck(P)).await?.uids.is_empty(), "it was not damaged")?;
        ensure(b.seat().node.late().awaited == 1, "what the damaged one has to get is forgotten")?;
        STUCK.set(false);
        b.merge().await?;
        for account in &all {
            b.page(account.clone()).await?.uid(1)?;
        }
        ensure(b.seat().node.late().awaited == 0, "it is still waited for")
    };
    holds(|| in_sim(scenario), None);
}

/// A merge that is cut short anywhere loses nothing and doubles nothing.
#[test]
fn a_merge_that_is_cut_short_is_done_once() {
    let cut_at = |key: &'static str, hold: Hold, pass: u64| {
        move |sim: Sim, store: SimStore| async move {
            let (id, _) = a_dies(&sim, &store).await?;
            let b = start(&sim, &store, sim.node("b"), plain("b")).await?;
            b.take_over(&[P, Q]).await?;
            let a = start(&sim, &store, id, local()).await?;
            a.come_back().await?;
            let key = key.replace("OF_B", &b.incarnation().to_string());
            let held = store.hold("b", Kind::Put, &key, pass, hold);
            let merging = b.begin(|seat| async move { seat.node.0.merge_late().await });
            let met = time::deadline(MOMENT, held.met()).await.is_ok();
            sim.kill(b.id);
            drop(merging);
            let c = start(&sim, &store, sim.node("c"), plain("c")).await?;
            c.take_over(&[P, Q]).await?;
            c.merge().await?;
            c.merge().await?;
            let page = c.page(account(P)).await?;
            for number in 1..4 {
                page.uid(number)?;
            }
            c.flush(P).await?;
            ensure(c.page(account(P)).await? == page, "a flush changes what came late")?;
            ensure(met, "the request was not made")
        }
    };
    for (key, hold, pass) in [
        ("journal/OF_B/*", Hold::After, 0),
        ("journal/OF_B/*", Hold::Before, 1),
        ("journal/OF_B/*", Hold::After, 1),
        ("merged/*", Hold::Before, 0),
        ("merged/*", Hold::After, 0),
    ] {
        let verdict = in_sim(cut_at(key, hold, pass));
        assert_eq!(verdict, Ok(()), "{key} {hold:?} {pass}");
    }
    holds(|| in_sim(cut_at("journal/OF_B/*", Hold::Before, 0)), Some(Fault::MergedTooEarly));
}

/// A body that a late record names is no orphan where the record is merged while the search for orphans goes on.
#[test]
fn a_search_for_orphans_spares_what_is_merged_meanwhile() {
    let scenario = |sim: Sim, store: SimStore| async move {
        let id = sim.node("a");
        let a = start(&sim, &store, id, local()).await?;
        a.take_over(&[P, Q]).await?;
        a.tell(account(P), 1).await?;
        while a.seat().node.unsent().parts > 0 {
            time::sleep(Duration::from_millis(10)).await;
        }
        // The body comes to the store, the record that names it does not.
        let of_a = format!("journal/{}/*", a.incarnation());
        let _held = store.hold("a", Kind::Put, &of_a, 0, Hold::Before);
        let committed = a.on(|seat| async move {
            let account = account(P);
            let octets = vec![7; seat.storage.limits().inline_body_max + 1];
            let mut writer = seat.storage.body_writer(P, &account, None);
            writer.write(&octets).await.map_err(|error| error.to_string())?;
            let body = writer.finish().await.map_err(|error| error.to_string())?;
            let committed = seat.storage.commit(P, &account, vec![2], vec![body]).await;
            committed.map_err(|error| error.to_string())
        });
        let place = committed.await??.bodies[0];
        sim.crash(id);
        let b = start(&sim, &store, sim.node("b"), plain("b")).await?;
        b.take_over(&[P, Q]).await?;
        let a = start(&sim, &store, id, local()).await?;
        a.come_back().await?;
        // B has read the names when it asks what is there.
        let listing = store.hold("b", Kind::List, "data/0/*", 0, Hold::Before);
        let collected = b.begin(|seat| async move { seat.node.collect(P, true).await });
        listing.met().await;
        b.merge().await?;
        listing.release();
        collected.await.map_err(|_| "the job panicked")?.map_err(|error| error.to_string())?;
        b.page(account(P)).await?.uid(2)?;
        let read = b.on(move |seat| async move { seat.storage.read_place(P, &place, 0..100).await });
        read.await?.map(drop).map_err(|error| error.to_string())
    };
    holds(|| in_sim(scenario), Some(Fault::OrphansAwaited));
}

/// A node that is taken over while it lives finds the seal, and what it had told beyond it comes back.
#[test]
fn a_node_that_is_taken_over_alive_gives_its_tail() {
    let scenario = |sim: Sim, store: SimStore| async move {
        let a = start(&sim, &store, sim.node("a"), local()).await?;
        a.take_over(&[P, Q]).await?;
        a.tell(account(P), 1).await?;
        store.cut("a", true);
        a.tell(account(P), 2).await?;
        let b = start(&sim, &store, sim.node("b"), plain("b")).await?;
        b.take_over(&[P, Q]).await?;
        let third = b.tell(account(P), 3).await?;
        a.tell(account(P), 4).await?;
        store.cut("a", false);
        while !a.seat().node.0.journal.borrow().has_ended() {
            time::sleep(Duration::from_millis(10)).await;
        }
        a.on(|seat| async move { seat.node.0.renew().await }).await?;
        a.come_back().await?;
        b.merge().await?;
        let page = b.page(account(P)).await?;
        ensure((1..5).all(|number| page.uid(number).is_ok()), "something is missing or doubled")?;
        ensure(page.uid(3)? == third, "a UID has changed")
    };
    holds(|| in_sim(scenario), None);
}

/// What others may act on is told when the store has it: a Flush frees what only the one before names.
#[test]
fn a_flush_counts_when_the_store_has_it() {
    let scenario = |sim: Sim, store: SimStore| async move {
        let a = start(&sim, &store, sim.node("a"), local()).await?;
        a.take_over(&[P, Q]).await?;
        a.tell(account(P), 1).await?;
        a.flush(P).await?;
        a.tell(account(P), 2).await?;
        let of_a = format!("journal/{}/*", a.incarnation());
        let _held = store.hold("a", Kind::Put, &of_a, 0, Hold::Before);
        let flushing = a.begin(|seat| async move { seat.storage.flush(P).await });
        let told = time::deadline(MOMENT, flushing).await.is_ok();
        sim.kill(a.id);
        let b = start(&sim, &store, sim.node("b"), plain("b")).await?;
        b.take_over(&[P, Q]).await?;
        ensure(!told, "a Flush was told before the store had it")?;
        b.page(account(P)).await?.uid(1).map(drop)
    };
    holds(|| in_sim(scenario), Some(Fault::FirmToldEarly));
}

/// The bounds: octets, and the proof that nobody else owns what this node owns.
#[test]
fn beyond_its_bounds_a_change_waits_for_the_store() {
    let waits = |config: fn() -> NodeConfig, pause: Duration| {
        move |sim: Sim, store: SimStore| async move {
            let a = start(&sim, &store, sim.node("a"), config()).await?;
            a.take_over(&[P, Q]).await?;
            store.cut("a", true);
            time::sleep(pause).await;
            let waiting = a.begin(|seat| async move {
                let committed = seat.storage.commit(P, &account(P), vec![1], Vec::new()).await;
                committed.map_err(|error| error.to_string())
            });
            time::sleep(MOMENT).await;
            ensure(a.seat().node.unsent().parts == 0, "it was acknowledged")?;
            ensure(a.seat().node.unsent().waited > 0, "nobody can see that it waited")?;
            store.cut("a", false);
            waiting.await.map_err(|_| "the job panicked".to_owned())?.map(drop)
        }
    };
    let small = || NodeConfig { ack: Ack::Local { octets_max: 1 }, ..local() };
    assert_eq!(in_sim(waits(small, Duration::ZERO)), Ok(()));
    let short = || NodeConfig { windows: Windows { proof: Duration::from_secs(3), ..eager() }, ..local() };
    assert_eq!(in_sim(waits(short, Duration::from_secs(4))), Ok(()));
}

/// A message is read where it was acknowledged, before the store has it, and after.
#[test]
fn a_body_is_read_before_the_store_has_it() {
    let scenario = |sim: Sim, store: SimStore| async move {
        let a = start(&sim, &store, sim.node("a"), local()).await?;
        a.take_over(&[P, Q]).await?;
        a.tell(account(P), 1).await?;
        store.cut("a", true);
        let committed = a.on(|seat| async move {
            let body = Body::inline(b"a message".to_vec(), seat.storage.limits()).map_err(|_| "too large")?;
            let committed = seat.storage.commit(P, &account(P), vec![2], vec![body]).await;
            committed.map_err(|_| "not committed")
        });
        let place = committed.await??.bodies[0];
        let read = move |seat: Seat| async move { seat.storage.read_place(P, &place, 0..100).await };
        for cut in [true, false] {
            store.cut("a", cut);
            time::sleep(if cut { Duration::ZERO } else { MOMENT }).await;
            let octets = a.on(read).await?.map_err(|error| error.to_string())?;
            ensure(octets == b"a message", "it is another message")?;
        }
        ensure(a.seat().node.unsent().parts == 0, "it was not sent")
    };
    holds(|| in_sim(scenario), None);
}
