//! Mail of the world, for tests and measurements: where it is, and how it is read.

use std::path::{Path, PathBuf};

/// The corpora beside the workspace; `CULVER_CORPUS` says where else they are.
pub fn root() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    let root = std::env::var_os("CULVER_CORPUS").map_or(beside, PathBuf::from);
    if !root.exists() {
        println!("skipped: no corpus");
        return None;
    }
    Some(root)
}

/// The messages below a folder, in the order of their paths.
pub fn folder(path: &Path, messages: &mut Vec<Vec<u8>>) {
    let entries = std::fs::read_dir(path).expect("a folder of messages");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            folder(&path, messages);
        } else if path.extension().is_some_and(|extension| extension == "eml") {
            messages.push(std::fs::read(&path).expect("it is readable"));
        }
    }
}

/// The messages of `bulk/NAME.tar.zst`: one a file, or many in a file of mbox form.
pub fn archive(root: &Path, name: &str, messages: &mut Vec<Vec<u8>>) {
    let file = std::fs::File::open(root.join("bulk").join(format!("{name}.tar.zst"))).expect("an archive");
    let octets = zstd::decode_all(file).expect("it is whole");
    let mut rest = octets.as_slice();
    while let Some((header, behind)) = rest.split_at_checked(512) {
        let size = std::str::from_utf8(&header[124..135]).unwrap_or("0").trim();
        let Ok(size) = usize::from_str_radix(size, 8) else { return };
        let Some(content) = behind.get(..size) else { return };
        rest = behind.get(size.next_multiple_of(512)..).unwrap_or_default();
        if header[156] != b'0' || size == 0 {
            continue;
        }
        if content.starts_with(b"From ") { mbox(content, messages) } else { messages.push(content.to_vec()) }
    }
}

fn mbox(content: &[u8], messages: &mut Vec<Vec<u8>>) {
    let mut begin = None;
    let mut at = 0;
    while at < content.len() {
        let end = memchr::memchr(b'\n', &content[at..]).map_or(content.len(), |line_end| at + line_end + 1);
        let line = content[at..end].trim_ascii_end();
        // The line that parts messages ends with a year; a line of text that begins like it seldom does.
        let parts = line.starts_with(b"From ")
            && (at == 0 || content[..at].ends_with(b"\n\n"))
            && line.len() > 4
            && line[line.len() - 4..].iter().all(u8::is_ascii_digit);
        if parts {
            if let Some(begin) = begin {
                messages.push(content[begin..at].to_vec());
            }
            begin = Some(end);
        }
        at = end;
    }
    if let Some(begin) = begin {
        messages.push(content[begin..].to_vec());
    }
}
