//! Rebuilding an account on a simulated disk: whatever of its index is damaged or gone, its messages come back, each once, and no
//! UID is ever given to another message under one UIDVALIDITY.

use culver_mailbox::View;
use culver_mailbox::record::{Record, StoreOp};
use culver_mailbox::thread::{Step, thread};
use culver_mailbox::{Accounts, Applied, Arriving, Limits, Progress, Rebuilt, Session};
use culver_model::search::ThreadAlgorithm;
use culver_model::{
    AccountId, DeliveryId, EntryName, Flag, FlagSet, Guid, InternalDate, MailboxName, PartitionId,
    SystemFlag, UidSet,
};
use culver_shard::disk::{self, File};
use culver_shard::sim::{NodeId, Sim, SimConfig};
use culver_shard::time;
use culver_storage::{Limits as StorageLimits, OpenError, Place, Root, Storage};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

const PARTITION: PartitionId = PartitionId(0);
const REPORTS: Guid = Guid([5; 16]);
const NAME: &str = "Work/Reports";
const DATA: &str = "/store/data/0";

fn limits() -> StorageLimits {
    StorageLimits {
        partitions: 1,
        segment_octets: 256 << 10,
        reserve_octets: 64 << 10,
        // A message above it stands in a pack of its own.
        inline_body_max: 4 << 10,
        flush_age: Duration::from_secs(3600),
        ..StorageLimits::default()
    }
}

fn account(name: &str) -> AccountId {
    AccountId::parse(&format!("{name}@example.org")).expect("an id")
}

fn text(account: &str, nth: usize, octets: usize) -> Vec<u8> {
    let mut text = format!("Subject: {nth} of {account}\r\nFrom: a@example.net\r\n\r\n").into_bytes();
    let line = format!("line of {nth}\r\n").into_bytes();
    while text.len() < octets {
        text.extend_from_slice(&line);
    }
    text
}

async fn append(session: &Session, mailbox: Guid, nth: usize, octets: usize) {
    append_delivery(session, mailbox, nth, octets, None).await;
}

async fn append_delivery(
    session: &Session,
    mailbox: Guid,
    nth: usize,
    octets: usize,
    id: Option<u8>,
) -> Applied {
    let text = text(session.account().id().as_str(), nth, octets);
    let date = InternalDate::new(1_700_000_000 + nth as i64, 60);
    let mut arriving = Arriving::begin(session, mailbox, date, FlagSet::default(), text.len() as u64);
    arriving.set_delivery(id.map(|id| DeliveryId([id; DeliveryId::OCTETS])));
    arriving.feed(&text).await.expect("there is room");
    let (message, body) = arriving.finish().await.expect("there is room");
    let record = Record::Append { mailbox, message: Box::new(message) };
    let applied = session.change_with(record, Some(body)).await.expect("it is taken");
    // Messages are put in order by the second in which they came.
    time::sleep(Duration::from_secs(1)).await;
    applied
}

/// Messages in two mailboxes, some large, one seen, one expunged after a flush.
async fn fill(accounts: &Rc<Accounts>, name: &str) {
    let session = accounts.session(&account(name)).await.expect("it opens");
    let reports = MailboxName::parse(NAME).expect("a name");
    let create = Record::Create { guid: REPORTS, name: reports, special_use: None, selectable: true };
    session.change(create).await.expect("it is made");
    for nth in 0..6 {
        append(&session, Guid::INBOX, nth, if nth == 4 { 9_000 } else { 200 }).await;
    }
    for nth in 10..14 {
        append(&session, REPORTS, nth, if nth == 12 { 150_000 } else { 200 }).await;
    }
    let seen: FlagSet = [Flag::System(SystemFlag::Seen)].into_iter().collect();
    for mailbox in [Guid::INBOX, REPORTS] {
        let uids: UidSet = [3].into_iter().collect();
        let op = StoreOp::Add;
        let store = Record::Store { mailbox, uids, op, flags: seen.clone(), unchanged_since: None };
        session.change(store).await.expect("it is changed");
    }
    accounts.storage().flush(PARTITION).await.expect("it is flushed");
    let uids: UidSet = [1].into_iter().collect();
    session.change(Record::Expunge { mailbox: Guid::INBOX, uids, only_deleted: false }).await.expect("gone");
    accounts.storage().flush(PARTITION).await.expect("it is flushed");
    append(&session, Guid::INBOX, 6, 200).await;
}

/// What a mailbox says: UIDVALIDITY, and of each message UID, octets, date and whether it is seen.
#[derive(Clone, Debug, Default, PartialEq)]
struct Picture {
    uid_validity: u32,
    messages: Vec<(u32, Vec<u8>, InternalDate, bool)>,
}

impl Picture {
    /// The messages, whatever their UIDs and flags are.
    fn texts(&self) -> Vec<(Vec<u8>, i64)> {
        let mut texts: Vec<_> =
            self.messages.iter().map(|(_, text, date, _)| (text.clone(), date.seconds)).collect();
        texts.sort();
        texts
    }

    fn seen(&self) -> usize {
        self.messages.iter().filter(|(.., seen)| *seen).count()
    }
}

type Pictures = BTreeMap<String, Picture>;

async fn pictures(accounts: &Rc<Accounts>, name: &str) -> Result<Pictures, String> {
    let session = accounts.session(&account(name)).await.map_err(|error| error.to_string())?;
    let mut rows = Vec::new();
    let mut all = Pictures::new();
    for entry in &session.account().state().account.mailboxes {
        let state = session.account().state();
        let index = state.selectable(entry.guid).expect("it can be selected");
        let picture = Picture { uid_validity: index.uid_validity().get(), messages: Vec::new() };
        all.insert(entry.name.as_str().to_owned(), picture);
        for row in index.rows_all() {
            let place = Place::from_bytes(row.place()).expect("a place");
            let seen = row.has(SystemFlag::Seen);
            rows.push((entry.name.as_str().to_owned(), row.uid().get(), place, row.internal_date(), seen));
        }
    }
    for (mailbox, uid, place, date, seen) in rows {
        let text = accounts.storage().read_place(PARTITION, &place, 0..u64::MAX).await;
        let text = text.map_err(|error| error.to_string())?;
        all.get_mut(&mailbox).expect("inserted").messages.push((uid, text, date, seen));
    }
    Ok(all)
}

async fn rebuild(accounts: &Rc<Accounts>, name: &str) -> Rebuilt {
    let progress = Cell::new(Progress::default());
    accounts.rebuild(&account(name), false, &progress).await.expect("it is rebuilt")
}

struct Disk {
    sim: Sim,
    node: NodeId,
}

impl Disk {
    fn new(seed: u64) -> Disk {
        let sim = Sim::new(seed, SimConfig { panics_end_run: true, ..SimConfig::default() });
        let node = sim.node("mail");
        Disk { sim, node }
    }

    /// Something done to the disk while no store is open.
    fn at<F, Fut, T: 'static>(&self, work: F) -> T
    where
        F: Fn() -> Fut + 'static,
        Fut: Future<Output = T> + 'static,
    {
        let (work, out) = (Rc::new(work), Rc::new(RefCell::new(None)));
        let put = out.clone();
        self.sim.start(self.node, 1, move |_| {
            let (work, put) = (work.clone(), put.clone());
            async move {
                let done = work().await;
                *put.borrow_mut() = Some(done);
            }
        });
        let (sim, node) = (self.sim.clone(), self.node);
        self.sim.run(async move { sim.exited(node).await });
        out.take().expect("it ended")
    }

    /// One life of a server.
    fn live<F, Fut, T: 'static>(&self, salvage: bool, work: F) -> Result<T, String>
    where
        F: Fn(Rc<Accounts>) -> Fut + 'static,
        Fut: Future<Output = T> + 'static,
    {
        self.live_until(salvage, true, work)
    }

    /// One life of a server, with a flush at its end or without.
    fn live_until<F, Fut, T: 'static>(&self, salvage: bool, flush: bool, work: F) -> Result<T, String>
    where
        F: Fn(Rc<Accounts>) -> Fut + 'static,
        Fut: Future<Output = T> + 'static,
    {
        let work = Rc::new(work);
        self.at(move || {
            let work = work.clone();
            async move {
                let mut root = Root::open(Path::new("/store"), limits()).await.expect("it opens");
                if salvage {
                    root.salvage();
                }
                let share = match root.recover(1).await {
                    Ok(mut shares) => shares.remove(0),
                    Err(error @ OpenError::Corrupt { .. }) => return Err(error.to_string()),
                    Err(error) => panic!("{error}"),
                };
                let storage = Storage::start(share).await.expect("it starts");
                let accounts = Accounts::new(Limits::default());
                accounts.attach(storage.clone());
                let done = work(accounts).await;
                storage.close(flush).await;
                Ok(done)
            }
        })
    }

    fn filled(names: &'static [&'static str]) -> (Disk, BTreeMap<&'static str, Pictures>) {
        let disk = Disk::new(1);
        let before = disk.live(false, move |accounts| async move {
            let mut all = BTreeMap::new();
            for name in names {
                fill(&accounts, name).await;
                all.insert(*name, pictures(&accounts, name).await.expect("it is whole"));
            }
            all
        });
        (disk, before.expect("a new store starts"))
    }

    /// Paths of the partition that end so.
    fn data(&self, ends: &'static str) -> Vec<PathBuf> {
        self.at(move || async move {
            let entries = disk::list(DATA).await.expect("it is listed");
            let names = entries.into_iter().map(|entry| entry.name);
            names.filter(|name| name.ends_with(ends)).map(|name| Path::new(DATA).join(name)).collect()
        })
    }

    fn remove(&self, paths: Vec<PathBuf>) {
        assert!(!paths.is_empty());
        self.at(move || {
            let paths = paths.clone();
            async move {
                for path in paths {
                    disk::remove(path).await.expect("it is removed");
                }
            }
        });
    }

    /// Changes one octet of a file, `behind` octets after the first place where `needle` stands.
    fn flip(&self, path: PathBuf, needle: Vec<u8>, behind: usize) {
        self.at(move || {
            let (path, needle) = (path.clone(), needle.clone());
            async move {
                let bytes = disk::read(&path).await.expect("it is read");
                let at =
                    bytes.windows(needle.len()).position(|at| at == needle).expect("it is there") + behind;
                let file = File::open_rw(&path).await.expect("it opens");
                file.write_at(at as u64, vec![bytes[at] ^ 0x20]).await.expect("it is written");
                file.sync_data().await.expect("it is synced");
                file.close().await.expect("it is closed");
            }
        });
    }

    fn pictures(&self, name: &'static str) -> Result<Pictures, String> {
        self.live(false, move |accounts| async move { pictures(&accounts, name).await }).and_then(|told| told)
    }
}

/// Messages as before; in INBOX also the expunged one where nothing told of its expunge.
fn same_texts(before: &Pictures, after: &Pictures, with_expunged: bool) {
    let short = |mut texts: Vec<(Vec<u8>, i64)>| {
        texts.iter_mut().for_each(|(text, _)| text.truncate(60));
        texts
    };
    assert!(before[NAME].texts() == after[NAME].texts(), "{NAME}: {:?}", short(after[NAME].texts()));
    let mut inbox = before["INBOX"].texts();
    if with_expunged {
        inbox.push((text("joe@example.org", 0, 200), 1_700_000_000));
        inbox.sort();
    }
    assert!(inbox == after["INBOX"].texts(), "INBOX: {:?}", short(after["INBOX"].texts()));
}

#[test]
fn an_account_whose_tables_are_gone_is_rebuilt_from_its_bodies() {
    let (disk, before) = Disk::filled(&["joe"]);
    let before = &before["joe"];
    disk.remove(disk.data(".table"));
    let refused = disk.pictures("joe").expect_err("a table is missing");
    assert!(refused.contains("a table that the manifest names is missing"), "{refused}");
    let told = disk.live(true, |accounts| async move {
        let progress = Cell::new(Progress::default());
        let seen = accounts.rebuild(&account("joe"), true, &progress).await.expect("it is looked at");
        assert!(seen.dry_run && seen.damaged && accounts.session(&account("joe")).await.is_err());
        let done = rebuild(&accounts, "joe").await;
        assert_eq!((seen.restored, seen.list_lost), (done.restored, done.list_lost));
        done
    });
    let told = told.expect("it starts to be salvaged");
    assert!(told.damaged && told.list_lost, "{told:?}");
    assert_eq!((told.restored, told.gone), (11, 0), "{told:?}");
    let after = disk.pictures("joe").expect("it is whole, and the store starts");
    same_texts(before, &after, true);
    for name in ["INBOX", NAME] {
        assert!(after[name].uid_validity > before[name].uid_validity, "{name}");
        let uids: Vec<u32> = after[name].messages.iter().map(|(uid, ..)| *uid).collect();
        assert!(uids.windows(2).all(|pair| pair[0] < pair[1]), "{uids:?}");
    }
    // In the order in which they came.
    let dates: Vec<i64> = after[NAME].messages.iter().map(|(_, _, date, _)| date.seconds).collect();
    assert!(dates.is_sorted(), "{dates:?}");
    let again = disk.live(false, |accounts| async move {
        let again = rebuild(&accounts, "joe").await;
        let session = accounts.session(&account("joe")).await.expect("it opens");
        append(&session, Guid::INBOX, 50, 300).await;
        again
    });
    let again = again.expect("it starts");
    assert!(!again.damaged && again.restored == 0, "nothing was left to do: {again:?}");
    assert_eq!(disk.pictures("joe").expect("it is whole")["INBOX"].messages.len(), 8);
}

#[test]
fn a_damaged_mailbox_begins_anew_and_the_others_stay_as_they_are() {
    let (disk, before) = Disk::filled(&["joe"]);
    let before = &before["joe"];
    let table = disk.data(".table").into_iter().next().expect("there is a table");
    // Somewhere behind the beginning of the mailbox's block, which has its GUID.
    disk.flip(table, REPORTS.0.to_vec(), 40);
    let opened = disk.pictures("joe").expect_err("a block is damaged");
    assert!(opened.contains("checksum is wrong"), "{opened}");
    let told = disk.live(false, |accounts| async move { rebuild(&accounts, "joe").await });
    let told = told.expect("it starts");
    assert!(told.damaged && !told.list_lost && !told.findings.is_empty(), "{told:?}");
    let after = disk.pictures("joe").expect("it is whole");
    assert_eq!(after["INBOX"], before["INBOX"], "with UIDs, flags and UIDVALIDITY");
    same_texts(before, &after, false);
    assert!(after[NAME].uid_validity > before[NAME].uid_validity);
    // INBOX knows that it has not the expunged one, but not whether it was moved to the mailbox that was damaged.
    assert_eq!(after["Recovered"].texts(), vec![(text("joe@example.org", 0, 200), 1_700_000_000)]);
}

#[test]
fn a_mailbox_whose_copy_cannot_be_told_begins_anew() {
    let (disk, _) = Disk::filled(&["joe"]);
    let before = disk.live_until(false, false, |accounts| async move {
        let session = accounts.session(&account("joe")).await.expect("it opens");
        append(&session, Guid::INBOX, 20, 200).await;
        let (to, uids) = (Guid::INBOX, [1..=2].into_iter().collect());
        let copy = Record::Copy { from: REPORTS, uids, to, save_date: 0, remove: false, whole: false };
        session.change(copy).await.expect("copied");
        append(&session, Guid::INBOX, 21, 200).await;
        pictures(&accounts, "joe").await.expect("it is whole")
    });
    let before = before.expect("it starts");
    let table = disk.data(".table").into_iter().next().expect("there is a table");
    disk.flip(table, REPORTS.0.to_vec(), 40);
    let told = disk.live(false, |accounts| async move { rebuild(&accounts, "joe").await });
    let told = told.expect("it starts");
    assert!(told.damaged && told.changes_lost == 1, "{told:?}");
    let after = disk.pictures("joe").expect("it is whole");
    assert!(after["INBOX"].uid_validity > before["INBOX"].uid_validity, "its UIDs are others now");
    assert_eq!(before[NAME].texts(), after[NAME].texts());
    let texts = after["INBOX"].texts();
    for nth in [20, 21] {
        let wanted = text("joe@example.org", nth, 200);
        assert_eq!(texts.iter().filter(|(text, _)| *text == wanted).count(), 1, "{nth}");
    }
}

#[test]
fn a_delivery_that_was_sent_again_takes_no_uid_of_a_whole_mailbox() {
    let (disk, _) = Disk::filled(&["joe"]);
    let deliver = |flush, steps: &'static [(u8, usize, bool)]| {
        let all = disk.live_until(false, flush, move |accounts| async move {
            let session = accounts.session(&account("joe")).await.expect("it opens");
            for (id, nth, repeated) in steps {
                let applied = append_delivery(&session, Guid::INBOX, *nth, 200, Some(*id)).await;
                assert_eq!(applied == Applied::Repeated, *repeated, "{id}");
            }
            pictures(&accounts, "joe").await.expect("it is whole")
        });
        all.expect("it starts")
    };
    deliver(true, &[(1, 30, false)]);
    let before = deliver(false, &[(1, 30, true), (2, 31, false)]);
    let table = disk.data(".table").into_iter().next().expect("there is a table");
    disk.flip(table, REPORTS.0.to_vec(), 40);
    let told = disk.live(false, |accounts| async move { rebuild(&accounts, "joe").await });
    assert!(told.expect("it starts").damaged);
    let after = disk.pictures("joe").expect("it is whole");
    assert_eq!(after["INBOX"], before["INBOX"], "with UIDs and UIDVALIDITY");
    assert_eq!(before[NAME].texts(), after[NAME].texts());
    assert_eq!(
        deliver(true, &[(1, 30, true), (2, 31, true)])["INBOX"],
        before["INBOX"],
        "both are known still"
    );
}

#[test]
fn a_pack_that_is_gone_is_taken_out_of_a_mailbox_that_stays_as_it_is() {
    let (disk, before) = Disk::filled(&["joe"]);
    let before = &before["joe"];
    disk.remove(vec![disk.data(".pack")[0].clone()]);
    disk.pictures("joe").expect_err("a pack is missing");
    let told = disk.live(true, |accounts| async move { rebuild(&accounts, "joe").await });
    let told = told.expect("it starts to be salvaged");
    assert!(told.damaged && told.gone == 1 && told.restored == 0 && told.mailboxes.is_empty(), "{told:?}");
    let after = disk.pictures("joe").expect("it is whole, and the store starts");
    let mut lost = 0;
    for (name, before) in before {
        let kept: Vec<_> = before
            .messages
            .iter()
            .filter(|message| after[name].messages.contains(message))
            .cloned()
            .collect();
        lost += before.messages.len() - kept.len();
        assert_eq!(after[name], Picture { messages: kept, ..*before }, "{name}");
    }
    assert_eq!(lost, 1);
}

#[test]
fn an_append_whose_pack_is_gone_gives_its_uid_to_nobody() {
    let (disk, _) = Disk::filled(&["joe"]);
    let packs = disk.data(".pack");
    let before = disk.live_until(false, false, |accounts| async move {
        let session = accounts.session(&account("joe")).await.expect("it opens");
        append(&session, Guid::INBOX, 20, 9_000).await;
        append(&session, Guid::INBOX, 21, 200).await;
        pictures(&accounts, "joe").await.expect("it is whole")
    });
    let before = before.expect("it starts");
    let new: Vec<_> = disk.data(".pack").into_iter().filter(|pack| !packs.contains(pack)).collect();
    assert_eq!(new.len(), 1, "{new:?}");
    disk.remove(new);
    disk.pictures("joe").expect_err("a pack is missing");
    let told = disk.live(true, |accounts| async move { rebuild(&accounts, "joe").await });
    let told = told.expect("it starts to be salvaged");
    assert!(told.damaged && told.changes_lost == 1, "{told:?}");
    let after = disk.pictures("joe").expect("it is whole, and the store starts");
    assert_eq!(after[NAME], before[NAME], "with UIDs, flags and UIDVALIDITY");
    assert!(after["INBOX"].uid_validity > before["INBOX"].uid_validity, "its UIDs are others now");
    let mut wanted = before["INBOX"].texts();
    wanted.retain(|(body, _)| *body != text("joe@example.org", 20, 9_000));
    // What was expunged and not reclaimed comes back with a mailbox that begins anew.
    wanted.push((text("joe@example.org", 0, 200), 1_700_000_000));
    wanted.sort();
    assert!(after["INBOX"].texts() == wanted, "{} messages", after["INBOX"].messages.len());
}

#[test]
fn damaged_ids_of_deliveries_are_mended_and_mailboxes_stay_as_they_are() {
    let (disk, _) = Disk::filled(&["joe"]);
    let before = disk.live(false, |accounts| async move {
        let session = accounts.session(&account("joe")).await.expect("it opens");
        append_delivery(&session, Guid::INBOX, 30, 200, Some(1)).await;
        pictures(&accounts, "joe").await.expect("it is whole")
    });
    let before = before.expect("it starts");
    let table = disk.data(".table").pop().expect("there is a table");
    disk.flip(table, b"CULVDLV\n".to_vec(), 34);
    disk.pictures("joe").expect_err("a block is damaged");
    let told = disk.live(false, |accounts| async move { rebuild(&accounts, "joe").await });
    let told = told.expect("it starts");
    assert!(told.damaged && told.mailboxes.is_empty() && told.restored == 0, "{told:?}");
    assert_eq!(disk.pictures("joe"), Ok(before));
    let again = disk.live(false, |accounts| async move { rebuild(&accounts, "joe").await });
    assert!(!again.expect("it starts").damaged, "nothing is left to do");
}

#[test]
fn annotations_outlive_a_mailbox_that_begins_anew_and_damaged_ones_are_told() {
    let comment = || EntryName::parse(b"/private/comment").expect("an entry");
    let said = move |accounts: Rc<Accounts>| async move {
        let session = accounts.session(&account("joe")).await.expect("it opens");
        let state = session.account().state();
        state.annotations.get(Guid::INBOX, &comment()).map(<[u8]>::to_vec)
    };
    let kept = Some(b"kept".to_vec());
    for (damaged, behind, mailboxes, left) in
        [(&b"CULVIDX\n"[..], 40, true, kept), (&b"CULVANN\n"[..], 50, false, None)]
    {
        let (disk, _) = Disk::filled(&["joe"]);
        let set = disk.live(false, move |accounts| async move {
            let session = accounts.session(&account("joe")).await.expect("it opens");
            append(&session, Guid::INBOX, 40, 200).await;
            let entries = vec![(comment(), Some(b"kept".to_vec()))];
            session.change(Record::Annotate { mailbox: Some(Guid::INBOX), entries }).await.expect("set");
        });
        set.expect("it starts");
        let table = disk.data(".table").pop().expect("there is a table");
        disk.flip(table, damaged.to_vec(), behind);
        disk.pictures("joe").expect_err("a block is damaged");
        let told = disk.live(false, |accounts| async move { rebuild(&accounts, "joe").await });
        let told = told.expect("it starts");
        assert!(told.damaged && told.mailboxes.is_empty() != mailboxes, "{told:?}");
        assert_eq!(disk.live(false, said), Ok(left));
        let again = disk.live(false, |accounts| async move { rebuild(&accounts, "joe").await });
        assert!(!again.expect("it starts").damaged, "nothing is left to do");
    }
}

#[test]
fn flushes_go_on_while_a_rebuild_keeps_compactions_out() {
    let disk = Disk::new(1);
    let flushes = disk.live(false, |accounts| async move {
        let _held = accounts.storage().hold_compaction().await;
        // The housekeeping has its tick, and would wait.
        time::sleep(Duration::from_secs(60)).await;
        let session = accounts.session(&account("joe")).await.expect("it opens");
        append(&session, Guid::INBOX, 1, 200).await;
        time::sleep(2 * limits().flush_age).await;
        accounts.storage().status().flushes
    });
    assert_eq!(flushes, Ok(1));
}

#[test]
fn mail_that_comes_while_an_account_is_rebuilt_comes_once() {
    let (disk, before) = Disk::filled(&["joe"]);
    disk.remove(disk.data(".table"));
    let told = disk.live(true, |accounts| async move {
        let coming = accounts.clone();
        let delivery = culver_shard::spawn(culver_shard::Queue::Background, "delivery", async move {
            // The account opens in the middle of it.
            for nth in 40..60 {
                loop {
                    if let Ok(session) = coming.session(&account("joe")).await {
                        append(&session, Guid::INBOX, nth, 200).await;
                        break;
                    }
                    time::sleep(Duration::from_millis(1)).await;
                }
            }
        });
        let told = rebuild(&accounts, "joe").await;
        delivery.await.expect("it ends");
        told
    });
    told.expect("it starts to be salvaged");
    let after = disk.pictures("joe").expect("it is whole");
    // As before, with the one that was expunged.
    assert_eq!(after["INBOX"].messages.len(), before["joe"]["INBOX"].messages.len() + 1 + 20);
}

#[test]
fn a_lost_manifest_is_stood_in_for_by_what_is_listed_and_flags_stay() {
    let (disk, before) = Disk::filled(&["joe", "ann"]);
    disk.remove(disk.data(".manifest"));
    let refused = disk.pictures("joe").expect_err("the manifest is missing");
    assert!(refused.contains("a manifest that the journal names is missing"), "{refused}");
    let told = disk.live(true, |accounts| async move { rebuild(&accounts, "joe").await });
    assert!(told.expect("it starts to be salvaged").damaged);
    let after = disk.pictures("joe").expect("it is whole, and the store starts");
    // Whether the newest table was listed nobody can tell, so that what is not in an index may be missing there.
    same_texts(&before["joe"], &after, true);
    for name in ["INBOX", NAME] {
        assert!(after[name].uid_validity > before["joe"][name].uid_validity, "{name}");
        assert_eq!(after[name].seen(), before["joe"][name].seen(), "{name}");
    }
    // The other account of the partition is in doubt, and nobody is served a doubtful account.
    let other = disk.pictures("ann").expect_err("it is in doubt");
    assert!(other.contains("culver rebuild"), "{other}");
    let told = disk.live(false, |accounts| async move { rebuild(&accounts, "ann").await });
    assert!(told.expect("it starts").damaged);
    let after = disk.pictures("ann").expect("it is whole");
    assert_eq!(before["ann"][NAME].texts(), after[NAME].texts());
    assert_eq!(before["ann"]["INBOX"].texts().len() + 1, after["INBOX"].texts().len());
    same_texts(&before["joe"], &disk.pictures("joe").expect("it stays whole"), true);
}

#[test]
fn a_damaged_body_is_told_and_passed_over() {
    let (disk, before) = Disk::filled(&["joe"]);
    let packs = disk.data(".pack");
    assert_eq!(packs.len(), 2, "{packs:?}");
    disk.flip(packs[0].clone(), b"line of".to_vec(), 2);
    disk.remove(disk.data(".table"));
    let told = disk.live(true, |accounts| async move { rebuild(&accounts, "joe").await });
    let told = told.expect("it starts to be salvaged");
    assert_eq!(told.restored, 10, "all but one: {told:?}");
    let of_pack: Vec<_> = told.findings.iter().filter(|finding| finding.path == packs[0]).collect();
    assert_eq!(of_pack.len(), 1, "{told:?}");
    assert!(of_pack[0].what.contains("a message of the account: body chunk's checksum is wrong"), "{told:?}");
    let after = disk.pictures("joe").expect("it is whole");
    let count = |pictures: &Pictures| pictures.values().map(|picture| picture.messages.len()).sum::<usize>();
    // One lost, and the expunged one is back.
    assert_eq!(count(&after), count(&before["joe"]));
}

#[test]
fn a_message_whose_header_is_damaged_takes_no_other_thread_along() {
    let disk = Disk::new(1);
    let filled = disk.live(false, |accounts| async move {
        let session = accounts.session(&account("joe")).await.expect("it opens");
        append(&session, Guid::INBOX, 0, 200).await;
        // Its references are too many to be kept beside the envelope.
        let text = format!("References: {}\r\n\r\nline of it\r\n", "<one@example.org>\r\n ".repeat(4_000));
        let date = InternalDate::new(1_700_000_000, 60);
        let mut arriving =
            Arriving::begin(&session, Guid::INBOX, date, FlagSet::default(), text.len() as u64);
        arriving.feed(text.as_bytes()).await.expect("there is room");
        let (message, body) = arriving.finish().await.expect("there is room");
        assert!(!message.headers_complete);
        let record = Record::Append { mailbox: Guid::INBOX, message: Box::new(message) };
        session.change_with(record, Some(body)).await.expect("it is taken");
        append(&session, Guid::INBOX, 1, 200).await;
        accounts.storage().flush(PARTITION).await.expect("it is flushed");
    });
    filled.expect("a new store starts");
    for pack in disk.data(".pack") {
        disk.flip(pack, b"<one@example.org>".to_vec(), 2);
    }
    let threads = disk.live(false, |accounts| async move {
        let session = accounts.session(&account("joe")).await.expect("it opens");
        let view =
            View::new(session.account().state().selectable(Guid::INBOX).expect("it is"), UidSet::new());
        thread(&session, &view, &[1, 2, 3], ThreadAlgorithm::Refs).await.map_err(|error| error.to_string())
    });
    let steps = threads.expect("it starts").expect("it threads");
    assert_eq!(steps.iter().filter(|step| matches!(step, Step::Message(_))).count(), 3);
}

#[test]
fn a_pack_that_is_gone_takes_only_its_message_along() {
    let (disk, before) = Disk::filled(&["joe"]);
    let packs = disk.data(".pack");
    disk.remove(vec![packs[1].clone()]);
    disk.remove(disk.data(".table"));
    let told = disk.live(true, |accounts| async move { rebuild(&accounts, "joe").await });
    let told = told.expect("it starts to be salvaged");
    assert!(
        told.findings.iter().any(|finding| finding.path == packs[1] && finding.what == "missing"),
        "{told:?}"
    );
    let after = disk.pictures("joe").expect("it is whole, and the store starts");
    let count = |pictures: &Pictures| pictures.values().map(|picture| picture.messages.len()).sum::<usize>();
    assert_eq!(count(&after), count(&before["joe"]));
}

#[test]
fn a_whole_account_is_left_alone() {
    let (disk, before) = Disk::filled(&["joe"]);
    let told = disk.live(false, |accounts| async move { rebuild(&accounts, "joe").await });
    let told = told.expect("it starts");
    assert!(!told.damaged && told.findings.is_empty(), "{told:?}");
    assert_eq!(disk.pictures("joe").as_ref(), Ok(&before["joe"]));
}

#[test]
fn a_rebuild_that_is_killed_at_any_point_is_finished_by_the_next() {
    let mut unfinished = 0;
    for nth in 0..24 {
        let (disk, before) = Disk::filled(&["joe"]);
        disk.remove(disk.data(".table"));
        disk.sim.start(disk.node, 1, |_| async move {
            let mut root = Root::open(Path::new("/store"), limits()).await.expect("it opens");
            root.salvage();
            let share = root.recover(1).await.expect("it recovers").remove(0);
            let storage = Storage::start(share).await.expect("it starts");
            let accounts = Accounts::new(Limits::default());
            accounts.attach(storage.clone());
            rebuild(&accounts, "joe").await;
            storage.close(true).await;
        });
        for _ in 0..nth {
            disk.sim.step(8);
        }
        unfinished += u32::from(disk.sim.running(disk.node));
        disk.sim.kill(disk.node);
        let told = disk.live(true, |accounts| async move { rebuild(&accounts, "joe").await });
        told.expect("it starts to be salvaged");
        let after = disk.pictures("joe").expect("it is whole, and the store starts");
        same_texts(&before["joe"], &after, true);
    }
    assert!(unfinished > 5, "killed while it ran: {unfinished}");
}
