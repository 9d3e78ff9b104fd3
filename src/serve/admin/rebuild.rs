//! A rebuild that the operator asked for: one at a time, on the account's shard, while others look how far it is.

use super::node::wrong;
use crate::rebuild::{decoded, report};
use crate::serve::Shard;
use culver_mailbox::Progress;
use culver_model::{AccountId, PartitionId};
use culver_shard as shard;
use culver_shard::{Queue, local, mesh};
use culver_storage::Node;
use hyper::StatusCode;
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// The newest rebuild, on shard 0.
struct Job {
    account: AccountId,
    /// Where it runs.
    shard: usize,
    done: RefCell<Option<Result<Value, String>>>,
}

/// How far it is, on the shard where it runs.
struct Running(Cell<Progress>);

/// `POST /rebuild?dry_run=false&account=…`: begins it.
pub fn begin(here: &Shard, query: &str) -> (StatusCode, Value) {
    let parts = query.strip_prefix("dry_run=").and_then(|rest| rest.split_once("&account="));
    let Some((Ok(dry_run), Some(name))) = parts.map(|(dry, name)| (dry.parse::<bool>(), decoded(name)))
    else {
        return wrong(StatusCode::BAD_REQUEST, "write /rebuild?dry_run=false&account=user@example.org");
    };
    let account = match AccountId::parse(&name) {
        Ok(account) => account,
        Err(error) => return wrong(StatusCode::BAD_REQUEST, format!("account {name}: {error}")),
    };
    if here.is_draining() {
        return wrong(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping");
    }
    if let Some(job) = local::<Job>().filter(|job| job.done.borrow().is_none()) {
        let what = format!("{} is being rebuilt; try again when that is done", job.account);
        return wrong(StatusCode::CONFLICT, what);
    }
    let partition = here.accounts().storage().partition_of(&account);
    let at = here.accounts().shard_of(&account);
    let job = Rc::new(Job { account: account.clone(), shard: at, done: RefCell::new(None) });
    shard::set_local(job.clone());
    shard::spawn(Queue::Background, "rebuild", async move {
        let done = rebuilt(account.clone(), partition, at, dry_run).await;
        match &done {
            Ok(report) => {
                let (restored, damaged) = (&report["restored"], &report["damaged"]);
                tracing::info!(account = account.as_str(), dry_run, %restored, %damaged, "rebuild");
            }
            Err(error) => tracing::error!(account = account.as_str(), error, "rebuild"),
        }
        job.done.replace(Some(done));
    })
    .detach();
    (StatusCode::OK, json!({"started": true}))
}

async fn rebuilt(
    account: AccountId,
    partition: PartitionId,
    at: usize,
    dry_run: bool,
) -> Result<Value, String> {
    if let Some(node) = local::<Node>().filter(|node| node.is_damaged(partition)) {
        if dry_run {
            return Err(format!(
                "partition {partition} is not served, for something of it is damaged or missing (see the log); to look into it \
                 it has to be taken: run it without --dry-run"
            ));
        }
        match node.salvage(partition).await {
            Ok(true) => {}
            Ok(false) => return Err(format!("partition {partition} cannot be taken; look at the log")),
            Err(error) => return Err(format!("partition {partition} cannot be taken: {error}")),
        }
    }
    let ran = mesh::call(at, move || async move {
        let shard = Shard::here().ok_or("the server is stopping")?;
        let running = Rc::new(Running(Cell::default()));
        shard::set_local(running.clone());
        let rebuilt = Box::pin(shard.accounts().rebuild(&account, dry_run, &running.0)).await;
        rebuilt.map(|rebuilt| report(&rebuilt)).map_err(|error| error.to_string())
    });
    ran.await.map_err(|error| error.to_string())?
}

/// `GET /rebuild`: how far it is, or what came of it.
pub async fn told() -> (StatusCode, Value) {
    let Some(job) = local::<Job>() else {
        return wrong(StatusCode::NOT_FOUND, "no rebuild was asked for since the server's start");
    };
    let account = job.account.as_str();
    let told = match job.done.borrow().as_ref() {
        Some(Ok(report)) => Some(json!({"account": account, "report": report})),
        Some(Err(failed)) => Some(json!({"account": account, "failed": failed})),
        None => None,
    };
    if let Some(told) = told {
        return (StatusCode::OK, told);
    }
    let asked = mesh::call(job.shard, || async { local::<Running>().map(|running| running.0.get()) });
    let progress = asked.await.ok().flatten().unwrap_or_default();
    let Progress { objects, objects_all, restored } = progress;
    (
        StatusCode::OK,
        json!({"account": account, "objects": objects, "objects_all": objects_all, "restored": restored}),
    )
}
