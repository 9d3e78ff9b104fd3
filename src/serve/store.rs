//! The store of this process: opened by shard 0, started on every shard, ended in an order of its own.
//!
//! # Order
//! On a shared store the node joins first; every shard starts its part; only then the node claims partitions. At the end the
//! node hands them over, and no shard closes before it has.
//!
//! # Limits
//! [`LEAVE_WITHIN`] and [`CLOSE_WITHIN`]: a store that is away holds up no stop.

use super::Shard;
use crate::config::{Config, SharedStore};
use crate::control::{self, Control};
use anyhow::Result;
use culver_shard as shard;
use culver_shard::{mesh, time};
use culver_storage::store::{ProbeError, StoreError};
use culver_storage::{Node, NodeShare, OpenError, Root, Share, Storage};
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// For handing all partitions over. What is not handed over then is taken over by whoever comes next, from the journal.
const LEAVE_WITHIN: Duration = Duration::from_secs(15);
/// For closing a shard's part of a shared store, when all that can be handed over is.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks at another shard.
const LOOK: Duration = Duration::from_millis(5);

/// What shard 0 gives to a shard.
pub enum Part {
    Local(Box<Share>),
    Node(Box<NodeShare>),
}

/// One for each shard, until it has taken it.
pub type Parts = Arc<Mutex<Vec<Option<Part>>>>;

/// Opens the store, on shard 0, and lays out what each shard gets. The node, on a shared store.
pub async fn open(config: &Config, parts: &Parts) -> Result<Option<Node>> {
    let directory = &config.storage.directory;
    let began = time::now();
    let (laid, node) = match &config.storage.shared {
        None => {
            let mut root = Root::open(directory, culver_storage::Limits::default()).await?;
            let recovered = root.recover(shard::shards()).await?;
            // Kept until every shard has ended, however it ends: with it goes the lock of the store.
            shard::set_local(Rc::new(root));
            tracing::info!(store = %directory.display(), ms = began.elapsed().as_millis() as u64, "store recovered");
            (recovered.into_iter().map(|share| Some(Part::Local(Box::new(share)))).collect(), None)
        }
        Some(shared) => {
            let node = join(config, shared, directory).await?;
            tracing::info!(store = %shared.url, node = shared.name, ms = began.elapsed().as_millis() as u64, "store joined");
            let shares = (0..shard::shards()).map(|_| Some(Part::Node(Box::new(node.share()))));
            (shares.collect::<Vec<_>>(), Some(node))
        }
    };
    empty_spool(directory).await?;
    if let Ok(mut parts) = parts.lock() {
        *parts = laid;
    }
    Ok(node)
}

async fn join(config: &Config, shared: &SharedStore, directory: &Path) -> Result<Node> {
    let node = shared.node(config.imap_address());
    // Large, and done once: not for the stack of a shard.
    let joined = Box::pin(Node::join(&shared.url, directory, shared.limits(), node)).await;
    joined.map_err(|error| {
        let late = matches!(
            &error,
            OpenError::Store(StoreError::Late { .. })
                | OpenError::Probe(ProbeError::Store(StoreError::Late { .. }))
        );
        let remedy = if late { "; look whether it runs, and whether this machine reaches it" } else { "" };
        anyhow::anyhow!("store {}: {error}{remedy}", shared.url)
    })
}

/// Lets the operator's commands find this process, on shard 0.
pub async fn announce(config: &Config, node: Option<&Node>) -> Result<()> {
    let control = Control::new(config, node.map_or("of this machine", Node::name));
    let (written, directory) = (control.clone(), config.storage.directory.clone());
    let done = shard::annex::run(move || written.write(&directory)).await;
    done??;
    shard::set_local(Rc::new(control));
    Ok(())
}

/// Starts this shard's part.
pub async fn start(part: Part) -> Result<Storage> {
    Ok(match part {
        Part::Local(share) => Storage::start(*share).await?,
        Part::Node(share) => Storage::start_shared(*share).await?,
    })
}

/// Hands everything over and takes leave of the store.
pub async fn leave(node: &Node) {
    let began = time::now();
    match time::deadline(LEAVE_WITHIN, node.leave()).await {
        Ok(()) => tracing::info!(ms = began.elapsed().as_millis() as u64, "handed over"),
        Err(_) => tracing::warn!(
            within = ?LEAVE_WITHIN,
            "not all is handed over in time: others take it over when they take this node for dead; nothing acknowledged is lost"
        ),
    }
}

/// Ends this shard's part of the store. `node`: on shard 0 of a shared one. `flush`: of a local one.
pub async fn end(here: &Shard, node: Option<&Node>, storage: Storage, flush: bool) {
    if shard::local::<Control>().is_some() {
        let control = control::path(&here.config().storage.directory);
        if let Err(error) = shard::disk::remove(&control).await {
            tracing::warn!(path = %control.display(), %error, "left behind");
        }
    }
    if !storage.is_shared() {
        return storage.close(flush).await;
    }
    match node {
        Some(node) => leave(node).await,
        None => {
            // Shard 0 drains as this one did, and then takes leave.
            let within = 2 * here.config().drain + LEAVE_WITHIN;
            let _ = time::deadline(within, left()).await;
        }
    }
    here.left.set(true);
    if time::deadline(CLOSE_WITHIN, storage.close(false)).await.is_err() {
        tracing::warn!(within = ?CLOSE_WITHIN, "the store does not answer: this shard ends without it");
    }
}

/// Ready when shard 0 has handed everything over, or is gone.
async fn left() {
    let left = || async { Shard::here().is_none_or(|shard| shard.left.get()) };
    while let Ok(false) = mesh::call(0, left).await {
        time::sleep(LOOK).await;
    }
}

/// What messages on their way in left behind when the last process was killed.
async fn empty_spool(store: &Path) -> Result<()> {
    let spool = store.join("spool");
    shard::disk::create_dir_all(&spool).await?;
    for entry in shard::disk::list(&spool).await? {
        shard::disk::remove(spool.join(entry.name)).await?;
    }
    Ok(())
}
