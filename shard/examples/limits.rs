//! What this machine can do at most: ping-pong over loopback through this runtime and through plain epoll, loopback
//! throughput, appends and overwrites that are durable. One line of JSON on standard output.
//!
//! `cargo run --release --package culver-shard --example limits -- --dir DIR [--seconds 3] [--connections 50]`
//!
//! The served end stands on the first core that this process may use and the asking end on the last, so that on two
//! cores or more each has one for itself.
//!
//! # Cost
//! A round trip's processor time is the whole process's less the asking thread's: what the kernel does on threads
//! of the ring is in it.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use culver_shard::net::{Accepted, Listener, Stream};
use culver_shard::{Config, Queue, exec, run, spawn};
use rustix::event::epoll;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

const USAGE: &str = "limits --dir DIR [--seconds N] [--connections N]";

/// As much as a journal batch of one message of 10 KiB takes.
const SYNC_OCTETS: usize = 16 << 10;
const SYNC_FILE_OCTETS: u64 = 64 << 20;
const LOOPBACK_OCTETS: usize = 256 << 10;
/// The asking end answers this often before the clock starts.
const WARM_UP: Duration = Duration::from_millis(300);

struct Options {
    dir: PathBuf,
    time: Duration,
    connections: usize,
}

fn main() -> ExitCode {
    let result = options().and_then(|options| measure(&options));
    match result {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("limits: {error}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> io::Result<Options> {
    let wrong = |what: String| io::Error::new(ErrorKind::InvalidInput, format!("{what}; {USAGE}"));
    let mut options = Options { dir: PathBuf::new(), time: Duration::from_secs(3), connections: 50 };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| wrong(format!("{name} has no value")))?;
        let number = || value.parse::<u32>().ok().filter(|n| *n > 0);
        let number = || number().ok_or_else(|| wrong(format!("{name} {value}: not a number above 0")));
        match name.as_str() {
            "--dir" => options.dir = PathBuf::from(&value),
            "--seconds" => options.time = Duration::from_secs(u64::from(number()?)),
            "--connections" => options.connections = number()? as usize,
            _ => return Err(wrong(format!("{name} is not known"))),
        }
    }
    match options.dir.is_dir() {
        true => Ok(options),
        false => Err(wrong(format!("--dir {:?} is no directory", options.dir.display().to_string()))),
    }
}

fn measure(options: &Options) -> io::Result<String> {
    let cores = Cores::of_this_process()?;
    let mut lines = Vec::new();
    for connections in [1, options.connections] {
        for (name, server) in
            [("shard", serve_with_shard as fn(Cores, Served) -> io::Result<()>), ("epoll", serve_with_epoll)]
        {
            let trips = ping_pong(cores, connections, options.time, server)?;
            lines.push(format!(
                "{{\"server\":\"{name}\",\"connections\":{connections},\"per_second\":{:.0},\"server_cpu_us\":{:.3}}}",
                trips.per_second, trips.server_cpu_us
            ));
        }
    }
    let loopback = loopback(cores, options.time)?;
    let append = durable_writes(&options.dir, options.time, false)?;
    let overwrite = durable_writes(&options.dir, options.time, true)?;
    Ok(format!(
        "{{\"ping_pong\":[{}],\"loopback_mb_per_second\":{loopback:.0},\"append_sync_per_second\":{append:.0},\
         \"overwrite_sync_per_second\":{overwrite:.0},\"sync_octets\":{SYNC_OCTETS}}}",
        lines.join(",")
    ))
}

#[derive(Clone, Copy)]
struct Cores {
    serving: usize,
    asking: usize,
}

impl Cores {
    fn of_this_process() -> io::Result<Cores> {
        let set = sched_getaffinity(None)?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core));
        let serving = cores.next().ok_or(ErrorKind::NotFound)?;
        Ok(Cores { serving, asking: cores.next_back().unwrap_or(serving) })
    }
}

fn pin(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

fn cpu(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What a serving end is given: where to say its address, and how many connections it serves before it ends.
struct Served {
    address: mpsc::Sender<SocketAddr>,
    connections: usize,
}

struct Trips {
    per_second: f64,
    server_cpu_us: f64,
}

fn ping_pong(
    cores: Cores,
    connections: usize,
    time: Duration,
    server: fn(Cores, Served) -> io::Result<()>,
) -> io::Result<Trips> {
    let (address, told) = mpsc::channel();
    let serving: JoinHandle<io::Result<()>> =
        thread::spawn(move || server(cores, Served { address, connections }));
    let Ok(address) = told.recv() else {
        return Err(joined(serving).err().unwrap_or_else(|| ErrorKind::NotConnected.into()));
    };
    let asking = thread::spawn(move || {
        pin(cores.asking)?;
        ask(address, connections, time)
    });
    let trips = joined(asking)?;
    joined(serving)?;
    Ok(trips)
}

fn joined<T>(thread: JoinHandle<io::Result<T>>) -> io::Result<T> {
    thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
}

/// One octet is under way on each connection at any time.
fn ask(address: SocketAddr, connections: usize, time: Duration) -> io::Result<Trips> {
    let mut streams = Vec::new();
    for _ in 0..connections {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        streams.push(stream);
    }
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (at, stream) in streams.iter().enumerate() {
        epoll::add(&poll, stream, epoll::EventData::new_u64(at as u64), epoll::EventFlags::IN)?;
        (&*stream).write_all(b"x")?;
    }
    let mut trips = Asking { poll, streams, ready: Vec::with_capacity(connections.max(1)) };
    trips.until(Instant::now() + WARM_UP)?;
    let (start, all, own) = (Instant::now(), cpu(ClockId::ProcessCPUTime), cpu(ClockId::ThreadCPUTime));
    let count = trips.until(start + time)?;
    let (all, own) = (cpu(ClockId::ProcessCPUTime) - all, cpu(ClockId::ThreadCPUTime) - own);
    Ok(Trips {
        per_second: count as f64 / start.elapsed().as_secs_f64(),
        server_cpu_us: (all.saturating_sub(own)).as_secs_f64() * 1e6 / count.max(1) as f64,
    })
}

struct Asking {
    poll: rustix::fd::OwnedFd,
    streams: Vec<TcpStream>,
    ready: Vec<epoll::Event>,
}

impl Asking {
    fn until(&mut self, end: Instant) -> io::Result<u64> {
        let mut count = 0;
        let mut octets = [0; 64];
        while Instant::now() < end {
            self.ready.clear();
            epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut self.ready), None)?;
            for event in &self.ready {
                let mut stream = &self.streams[event.data.u64() as usize];
                if stream.read(&mut octets)? == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                stream.write_all(b"x")?;
                count += 1;
            }
        }
        Ok(count)
    }
}

fn loopback_address() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

fn serve_with_shard(cores: Cores, served: Served) -> io::Result<()> {
    // Shards are pinned to the cores that their starter may use.
    pin(cores.serving)?;
    let Served { address, connections } = served;
    let ended = run::<_, _, io::Error>(Config { shards: 1, ..Config::default() }, move |_| {
        let address = address.clone();
        async move {
            let listener = Listener::bind(loopback_address(), false)?;
            let _ = address.send(listener.local_addr());
            let mut tasks = Vec::new();
            for _ in 0..connections {
                if let Accepted::Conn(stream, _) = listener.accept().await? {
                    tasks.push(spawn(Queue::Interactive, "echo", echo(stream)));
                }
            }
            for task in tasks {
                let _ = task.await;
            }
            exec::stop();
            Ok(())
        }
    });
    ended.map_err(io::Error::other)
}

async fn echo(mut stream: Stream) -> io::Result<()> {
    let mut octets = [0; 64];
    loop {
        match stream.read(&mut octets).await? {
            0 => return Ok(()),
            got => stream.write_all(&octets[..got]).await?,
        }
    }
}

fn serve_with_epoll(cores: Cores, served: Served) -> io::Result<()> {
    pin(cores.serving)?;
    let listener = TcpListener::bind(loopback_address())?;
    let _ = served.address.send(listener.local_addr()?);
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut streams = Vec::new();
    for at in 0..served.connections {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        epoll::add(&poll, &stream, epoll::EventData::new_u64(at as u64), epoll::EventFlags::IN)?;
        streams.push(Some(stream));
    }
    let mut ready: Vec<epoll::Event> = Vec::with_capacity(served.connections.max(1));
    let mut octets = [0; 64];
    let mut open = served.connections;
    while open > 0 {
        ready.clear();
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut ready), None)?;
        for event in &ready {
            let place = &mut streams[event.data.u64() as usize];
            let Some(stream) = place else { continue };
            match stream.read(&mut octets) {
                Ok(0) | Err(_) => {
                    *place = None;
                    open -= 1;
                }
                Ok(got) => stream.write_all(&octets[..got])?,
            }
        }
    }
    Ok(())
}

/// Octets per second, in millions, from one core to the other.
fn loopback(cores: Cores, time: Duration) -> io::Result<f64> {
    let listener = TcpListener::bind(loopback_address())?;
    let address = listener.local_addr()?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let sending = thread::spawn(move || {
        pin(cores.serving)?;
        let (mut stream, _) = listener.accept()?;
        let octets = vec![b'x'; LOOPBACK_OCTETS];
        while !stopped.load(Ordering::Relaxed) {
            stream.write_all(&octets)?;
        }
        Ok(())
    });
    let receiving = thread::spawn(move || {
        pin(cores.asking)?;
        let mut stream = TcpStream::connect(address)?;
        let mut octets = vec![0; LOOPBACK_OCTETS];
        let (start, mut count) = (Instant::now(), 0);
        while start.elapsed() < time {
            count += stream.read(&mut octets)?;
        }
        let rate = count as f64 / start.elapsed().as_secs_f64() / 1e6;
        stop.store(true, Ordering::Relaxed);
        while stream.read(&mut octets)? > 0 {}
        Ok(rate)
    });
    let rate = joined(receiving)?;
    joined(sending)?;
    Ok(rate)
}

/// Writes with `fdatasync` per second, one after another: growing a file, or over what it has.
fn durable_writes(dir: &Path, time: Duration, overwrite: bool) -> io::Result<f64> {
    let path = dir.join(format!("limits-{}", std::process::id()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    // It has no name any more, and goes with its descriptor.
    std::fs::remove_file(&path)?;
    let octets = vec![b'x'; SYNC_OCTETS];
    if overwrite {
        for at in 0..SYNC_FILE_OCTETS / SYNC_OCTETS as u64 {
            file.write_all_at(&octets, at * SYNC_OCTETS as u64)?;
        }
        file.sync_all()?;
    }
    let octets_max = if overwrite { SYNC_FILE_OCTETS } else { u64::MAX };
    sync_rate(&file, &octets, octets_max, time)
}

fn sync_rate(file: &File, octets: &[u8], octets_max: u64, time: Duration) -> io::Result<f64> {
    let (start, mut count) = (Instant::now(), 0u64);
    while start.elapsed() < time {
        file.write_all_at(octets, count * octets.len() as u64 % octets_max)?;
        file.sync_data()?;
        count += 1;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}
