//! `--busy-poll`: the runtime looks at its sockets again and again, and never sleeps.

use std::cell::Cell;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

/// A turn of the runtime that is shorter found nothing to do.
const EMPTY: Duration = Duration::from_micros(3);

thread_local! {
    static IDLE: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Seconds of this thread's processor time in which it only looked.
pub fn idle_seconds() -> f64 {
    IDLE.get().as_secs_f64()
}

/// Keeps the runtime from sleeping until it is dropped.
pub struct Polling(JoinHandle<()>);

impl Polling {
    /// Begins on the current `LocalSet`.
    pub fn start() -> Polling {
        Polling(tokio::task::spawn_local(async {
            loop {
                let began = Instant::now();
                tokio::task::yield_now().await;
                let turn = began.elapsed();
                if turn < EMPTY {
                    IDLE.set(IDLE.get() + turn);
                }
            }
        }))
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn looking_is_told_from_work() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let shares = tokio::task::LocalSet::new().block_on(&runtime, async {
            let _polling = Polling::start();
            let share = async |work: fn()| {
                let (cpu, idle) = (crate::costs::thread_cpu_seconds(), idle_seconds());
                for _ in 0..10 {
                    work();
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                (idle_seconds() - idle) / (crate::costs::thread_cpu_seconds() - cpu)
            };
            let rest = share(|| ()).await;
            let hard = share(|| {
                let mut zeros = [0; 1 << 16];
                let mut file = std::fs::File::open("/dev/zero").unwrap();
                (0..2000).for_each(|_| file.read_exact(&mut zeros).unwrap());
            })
            .await;
            (rest, hard)
        });
        assert!(shares.0 > 0.3 && shares.1 < shares.0, "{shares:?}");
    }
}
