//! `culver gc` beside a running node.

use std::fs;

use super::{HAND_OVER, Site, command, fill, picture, same, serves_all};
use crate::ensure;
use crate::support::Fallible;

pub fn gc() -> Fallible {
    let site = Site::new("gc")?;
    let mut a = site.start("a")?;
    fill(&a)?;
    // A second epoch: what is of the first and named by nothing is an orphan.
    a.terminate()?;
    a.restart(1)?;
    serves_all(&a, HAND_OVER)?;
    let before = picture(&a)?;
    let data = site.dir.path().join("store/data");
    let orphan = data.join("0/0/0-900001.pack");
    fs::create_dir_all(data.join("0/0"))?;
    fs::write(&orphan, b"somebody was killed here")?;
    let told = command(&["gc", "--json"], &a.data())?;
    let listed = "\"orphan_keys\":[\"data/0/0/0-900001.pack\"]";
    ensure!(told.code == Some(0) && told.output.contains(listed), "{}", told.output);
    ensure!(told.output.contains("\"missing\":0") && orphan.exists(), "{}", told.output);
    let told = command(&["gc", "--remove"], &a.data())?;
    ensure!(
        told.code == Some(0) && told.output.contains("removed data/0/0/0-900001.pack"),
        "{}",
        told.output
    );
    ensure!(
        told.output.contains("everything that is needed is there") && !orphan.exists(),
        "{}",
        told.output
    );
    let told = command(&["gc"], &a.data())?;
    ensure!(told.code == Some(0) && told.output.contains(" 0 orphans"), "{}", told.output);
    a.terminate()?;
    a.restart(1)?;
    serves_all(&a, HAND_OVER)?;
    same(&before, &picture(&a)?)?;
    // One of the tables goes, of any partition that has accounts.
    let mut tables = Vec::new();
    for partition in fs::read_dir(&data)? {
        for epoch in fs::read_dir(partition?.path())? {
            for object in fs::read_dir(epoch?.path())? {
                let path = object?.path();
                if path.extension().is_some_and(|kind| kind == "table") {
                    tables.push(path);
                }
            }
        }
    }
    let table = tables.first().ok_or("no partition has a table")?;
    let aside = site.dir.path().join("aside");
    fs::rename(table, &aside)?;
    let told = command(&["gc"], &a.data())?;
    let key = table.strip_prefix(site.dir.path().join("store"))?.display().to_string();
    ensure!(told.code == Some(1) && told.output.contains(&format!("missing {key}")), "{}", told.output);
    fs::rename(&aside, table)?;
    let told = command(&["gc"], &a.data())?;
    ensure!(told.code == Some(0), "{}", told.output);
    a.terminate()
}
