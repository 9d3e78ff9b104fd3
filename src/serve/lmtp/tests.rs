use super::spool::{Content, Spool, Spooled};
use culver_shard::disk::{self, File};
use culver_shard::sim::{Sim, SimConfig};
use culver_shard::time;
use std::path::PathBuf;
use std::time::Duration;

/// Runs `root` on the one shard of a simulated node to its end.
fn simulate<Fut: Future<Output = ()> + 'static>(root: impl Fn() -> Fut + Clone + 'static) {
    let sim = Sim::new(7, SimConfig::default());
    let node = sim.node("a");
    sim.start(node, 1, move |_| root());
    let watch = sim.clone();
    sim.run(async move { watch.exited(node).await });
}

async fn spooled(message: &[u8], piece: usize) -> Spooled {
    let mut spool = Spool::new(PathBuf::from("/store/spool"));
    for octets in message.chunks(piece) {
        spool.write(octets).await.expect("written");
    }
    spool.finish().await.expect("finished")
}

async fn read(content: &Content) -> Vec<u8> {
    match content {
        Content::Memory(octets) => octets.to_vec(),
        Content::File { path, octets } => {
            let file = File::open(path).await.expect("opened");
            file.read_at(0, *octets as usize + 1).await.expect("read")
        }
    }
}

fn message(octets: usize) -> Vec<u8> {
    (0..octets).map(|at| (at % 251) as u8).collect()
}

#[test]
fn a_small_message_stays_in_memory_and_a_large_one_has_a_file_while_it_is_held() {
    simulate(|| async {
        for (octets, in_file) in
            [(0, false), (1, false), (256 * 1024, false), (256 * 1024 + 1, true), (3 << 20, true)]
        {
            for piece in [1000, 64 * 1024, 1 << 20] {
                let message = message(octets);
                let spooled = spooled(&message, piece).await;
                let content = spooled.content().clone();
                assert_eq!(content.octets(), octets as u64);
                assert_eq!(matches!(content, Content::File { .. }), in_file, "{octets} by {piece}");
                assert!(read(&content).await == message, "{octets} by {piece}");
                drop(spooled);
                // The removal is a task of its own.
                while !disk::list("/store/spool").await.unwrap_or_default().is_empty() {
                    time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
    });
}

#[test]
fn where_memory_is_used_up_messages_go_to_files() {
    simulate(|| async {
        let message = message(256 * 1024);
        let mut held = Vec::new();
        for _ in 0..256 {
            held.push(spooled(&message, 64 * 1024).await);
        }
        assert!(held.iter().all(|spooled| matches!(spooled.content(), Content::Memory(_))));
        let late = spooled(b"Subject: late\r\n", 4).await;
        assert!(matches!(late.content(), Content::File { .. }));
        assert_eq!(read(late.content()).await, b"Subject: late\r\n");
        held.clear();
        let later = spooled(b"Subject: later\r\n", 4).await;
        assert!(matches!(later.content(), Content::Memory(_)));
    });
}

#[test]
fn a_message_that_is_given_up_leaves_nothing() {
    simulate(|| async {
        let mut spool = Spool::new(PathBuf::from("/store/spool"));
        spool.write(&message(1 << 20)).await.expect("written");
        assert_eq!(disk::list("/store/spool").await.expect("listed").len(), 1);
        drop(spool);
        while !disk::list("/store/spool").await.expect("listed").is_empty() {
            time::sleep(Duration::from_millis(1)).await;
        }
    });
}
