//! A double of Scality's sproxyd: a ring in memory, by key (`/proxy/chord`) and by path (`/proxy/bpchord`).
//!
//! What it answers is what the ring's public clients expect: 200 to a PUT, 412 to a conditional one of a key that is there,
//! 206 and 416 to ranges, `X-Scal-` headers with an object, 404 to a DELETE of nothing, `.conf` and `.batch_delete`.

use std::collections::BTreeMap;

use super::http::{Reply, Request, Service, ranged};

const KEYS_MAX: usize = 1000;

pub struct Ring {
    pub objects: BTreeMap<String, Vec<u8>>,
    /// So many GETs of a new object do not find it yet.
    pub late_reads: u64,
    unseen: BTreeMap<String, u64>,
    /// A checksum that is not of the octets is sent with them.
    pub wrong_crc: bool,
}

impl Ring {
    pub fn new() -> Ring {
        Ring { objects: BTreeMap::new(), late_reads: 0, unseen: BTreeMap::new(), wrong_crc: false }
    }

    fn with_headers(&self, reply: Reply, key: &str) -> Reply {
        let octets = &self.objects[key];
        let crc = crc32c::crc32c(octets) ^ u32::from(self.wrong_crc);
        reply
            .with("x-scal-size", octets.len())
            .with("x-scal-version", 1)
            .with("x-scal-crc32", format!("{crc:08x}"))
            .with("x-scal-ring-key", key)
    }
}

/// 20 octets in hexadecimal digits, the last four bits (the replica) zero.
fn is_ring_key(key: &str) -> bool {
    key.len() == 40 && key.bytes().all(|octet| octet.is_ascii_hexdigit()) && key.ends_with('0')
}

impl Service for Ring {
    fn answer(&mut self, request: &Request) -> Reply {
        let parts: Vec<&str> = request.path.trim_start_matches('/').splitn(3, '/').collect();
        let ["proxy", space, key] = parts[..] else { return Reply::text(404, "no such path") };
        let by_path = match space {
            "chord" | "arc" => false,
            "bpchord" | "bparc" => true,
            _ => return Reply::text(404, "no such proxy"),
        };
        match (request.method.as_str(), key) {
            ("GET", ".conf") => return Reply::text(200, "{\"by_path_enabled\": true}"),
            ("POST", ".batch_delete") => {
                let parsed: serde_json::Value = serde_json::from_slice(&request.body).unwrap_or_default();
                let keys = parsed["keys"].as_array().cloned().unwrap_or_default();
                if by_path || keys.len() > KEYS_MAX {
                    return Reply::text(400, "too many keys, or paths");
                }
                for key in keys.iter().filter_map(|key| key.as_str()) {
                    self.objects.remove(key);
                }
                return Reply::new(200);
            }
            _ => {}
        }
        if !by_path && !is_ring_key(key) {
            return Reply::text(400, "not a key");
        }
        match request.method.as_str() {
            "PUT" => {
                let create = request.header("if-none-match") == Some("*");
                if create && self.objects.contains_key(key) {
                    return Reply::new(412);
                }
                if !self.objects.contains_key(key) {
                    self.unseen.insert(key.to_owned(), self.late_reads);
                }
                self.objects.insert(key.to_owned(), request.body.clone());
                Reply::new(200)
            }
            "GET" | "HEAD" => {
                if let Some(left) = self.unseen.get_mut(key).filter(|left| **left > 0) {
                    *left -= 1;
                    return Reply::new(404);
                }
                match self.objects.get(key) {
                    None => Reply::new(404),
                    Some(octets) if request.method == "GET" => {
                        self.with_headers(ranged(request, octets), key)
                    }
                    Some(_) => self.with_headers(Reply::new(200), key),
                }
            }
            "DELETE" => match self.objects.remove(key) {
                Some(_) => Reply::new(200),
                None => Reply::new(404),
            },
            _ => Reply::new(405),
        }
    }
}
