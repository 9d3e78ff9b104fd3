//! The simulated network: pipes with delay, bounded windows, resets and partitions.
//!
//! # Invariants
//! Octets arrive whole and in order, or the connection is reset. A partition keeps what was sent and lets it
//! arrive when it heals, as TCP would.
//!
//! # Limits
//! [`WINDOW`] octets on their way in one direction; [`crate::Limits::accept_queue_max`] connections waiting
//! for their acceptor, after which a connect is refused.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::{NodeId, Seat, Sleep, World};
use crate::context;
use crate::sync::Notify;
use crate::time;

/// Octets on their way in one direction of one connection.
const WINDOW: usize = 64 << 10;

/// Where ports begin that nobody chose.
const PORT_FIRST: u16 = 40_000;

#[derive(Default)]
pub(crate) struct Net {
    listeners: RefCell<BTreeMap<SocketAddr, Vec<Rc<Listening>>>>,
    cut: RefCell<BTreeSet<(NodeId, NodeId)>>,
    links: RefCell<Vec<Weak<Mutex<Link>>>>,
    ports: Cell<u16>,
}

struct Listening {
    node: NodeId,
    life: u64,
    queue_max: usize,
    queue: RefCell<VecDeque<End>>,
    came: Notify,
}

/// One connection.
struct Link {
    nodes: [NodeId; 2],
    /// `flows[n]` carries what end n has sent.
    flows: [Flow; 2],
    reset: bool,
}

#[derive(Default)]
struct Flow {
    packets: VecDeque<(u64, Vec<u8>)>,
    octets: usize,
    /// The end of the stream arrives after the packets.
    finished: Option<u64>,
    /// Its sender, or its reader, is gone.
    abandoned: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Link {
    fn wake(&mut self) {
        for flow in &mut self.flows {
            for waker in [flow.reader.take(), flow.writer.take()].into_iter().flatten() {
                waker.wake();
            }
        }
    }
}

/// One end of a connection; can go to another shard.
pub(crate) struct End {
    link: Arc<Mutex<Link>>,
    side: usize,
    local: SocketAddr,
    peer: SocketAddr,
}

impl End {
    fn lock(&self) -> MutexGuard<'_, Link> {
        self.link.lock().expect("no panic while held")
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let at = context::seat().map_or(0, |seat| seat.world.now());
        let side = self.side;
        let mut link = self.lock();
        // TCP: closing with unread octets resets the connection.
        if !link.flows[1 - side].packets.is_empty() {
            link.reset = true;
        }
        link.flows[side].finished.get_or_insert(at);
        link.flows[1 - side].abandoned = true;
        link.wake();
    }
}

impl Net {
    pub fn partition(&self, a: NodeId, b: NodeId, cut: bool) {
        let pair = (a.min(b), a.max(b));
        if cut {
            self.cut.borrow_mut().insert(pair);
        } else {
            self.cut.borrow_mut().remove(&pair);
        }
    }

    fn is_cut(&self, a: NodeId, b: NodeId) -> bool {
        self.cut.borrow().contains(&(a.min(b), a.max(b)))
    }

    fn each_link(&self, mut f: impl FnMut(&mut Link)) {
        self.links.borrow_mut().retain(|link| link.strong_count() > 0);
        let links: Vec<_> = self.links.borrow().iter().filter_map(Weak::upgrade).collect();
        for link in links {
            f(&mut link.lock().expect("no panic while held"));
        }
    }

    pub fn wake_all(&self) {
        self.each_link(Link::wake);
    }

    pub fn reset_between(&self, a: NodeId, b: NodeId) {
        self.each_link(|link| {
            if link.nodes == [a, b] || link.nodes == [b, a] {
                link.reset = true;
                link.wake();
            }
        });
    }

    pub fn node_ended(&self, node: NodeId) {
        for listening in self.listeners.borrow_mut().values_mut() {
            listening.retain(|l| l.node != node);
        }
        self.each_link(|link| {
            if link.nodes.contains(&node) {
                link.reset = true;
                link.wake();
            }
        });
    }

    fn port(&self) -> u16 {
        let port = self.ports.get().max(PORT_FIRST);
        self.ports.set(port.checked_add(1).unwrap_or(PORT_FIRST));
        port
    }
}

pub(crate) struct Listener {
    seat: Seat,
    listening: Rc<Listening>,
    pub addr: SocketAddr,
}

impl Listener {
    pub fn bind(
        seat: &Seat,
        mut addr: SocketAddr,
        reuse_port: bool,
        queue_max: usize,
    ) -> io::Result<Listener> {
        let net = &seat.world.net;
        if addr.port() == 0 {
            addr.set_port(net.port());
        }
        let mut listeners = net.listeners.borrow_mut();
        let there = listeners.entry(addr).or_default();
        if there.iter().any(|l| l.node != seat.node || !reuse_port) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let listening = Rc::new(Listening {
            node: seat.node,
            life: seat.life,
            queue_max,
            queue: RefCell::default(),
            came: Notify::new(),
        });
        there.push(listening.clone());
        Ok(Listener { seat: seat.clone(), listening, addr })
    }

    pub async fn accept(&self) -> (Stream, SocketAddr) {
        loop {
            let seen = self.listening.came.version();
            let end = self.listening.queue.borrow_mut().pop_front();
            if let Some(end) = end {
                let peer = end.peer;
                return (Stream::new(end), peer);
            }
            self.listening.came.changed_since(seen).await;
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut listeners = self.seat.world.net.listeners.borrow_mut();
        if let Some(there) = listeners.get_mut(&self.addr) {
            there.retain(|l| !Rc::ptr_eq(l, &self.listening));
        }
    }
}

pub(crate) async fn connect(seat: &Seat, addr: SocketAddr) -> io::Result<Stream> {
    let world = &seat.world;
    Sleep::new(time::now() + Duration::from_nanos(world.net_delay_ns() + 1)).await;
    let there: Vec<_> = {
        let listeners = world.net.listeners.borrow();
        let alive = |l: &&Rc<Listening>| world.nodes.borrow()[l.node.0].life == l.life;
        listeners.get(&addr).into_iter().flatten().filter(alive).cloned().collect()
    };
    if there.is_empty() {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    let listening = &there[world.below(there.len() as u64) as usize];
    if world.net.is_cut(seat.node, listening.node) {
        Sleep::new(time::now() + Duration::from_secs(30)).await;
        return Err(io::ErrorKind::TimedOut.into());
    }
    if listening.queue.borrow().len() >= listening.queue_max {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    let local = SocketAddr::new([127, 0, 0, 1].into(), world.net.port());
    let nodes = [seat.node, listening.node];
    let link = Arc::new(Mutex::new(Link { nodes, flows: Default::default(), reset: false }));
    let mut links = world.net.links.borrow_mut();
    links.retain(|link| link.strong_count() > 0);
    links.push(Arc::downgrade(&link));
    drop(links);
    let far = End { link: link.clone(), side: 1, local: addr, peer: local };
    listening.queue.borrow_mut().push_back(far);
    listening.came.notify_all();
    Ok(Stream::new(End { link, side: 0, local, peer: addr }))
}

pub(crate) struct Stream {
    end: End,
    timer: Option<Sleep>,
}

impl Stream {
    pub fn new(end: End) -> Stream {
        Stream { end, timer: None }
    }

    pub fn into_end(self) -> End {
        self.end
    }

    pub fn local(&self) -> SocketAddr {
        self.end.local
    }

    pub fn peer(&self) -> SocketAddr {
        self.end.peer
    }

    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let world = here();
        loop {
            let at = {
                let mut link = self.end.lock();
                if link.reset {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                let cut = world.net.is_cut(link.nodes[0], link.nodes[1]);
                let flow = &mut link.flows[1 - self.end.side];
                let next = flow.packets.front().map(|(at, _)| *at).or(flow.finished);
                let Some(at) = next.filter(|_| !cut) else {
                    flow.reader = Some(cx.waker().clone());
                    return Poll::Pending;
                };
                if at <= world.now() {
                    let Some((_, packet)) = flow.packets.front_mut() else { return Poll::Ready(Ok(0)) };
                    let taken = packet.len().min(buffer.len());
                    buffer[..taken].copy_from_slice(&packet[..taken]);
                    packet.drain(..taken);
                    if packet.is_empty() {
                        flow.packets.pop_front();
                    }
                    flow.octets -= taken;
                    if let Some(writer) = flow.writer.take() {
                        writer.wake();
                    }
                    return Poll::Ready(Ok(taken));
                }
                // A reset wakes a reader that waits for a packet on its way.
                flow.reader = Some(cx.waker().clone());
                at
            };
            let timer = self.timer.insert(Sleep::new(time::Instant(at)));
            if Pin::new(timer).poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let world = here();
        let delay = world.net_delay_ns() + 1;
        let mut link = self.end.lock();
        let flow = &mut link.flows[self.end.side];
        if flow.finished.is_some() || flow.abandoned {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = WINDOW - flow.octets;
        if room == 0 {
            flow.writer = Some(cx.waker().clone());
        }
        let last = flow.packets.back().map_or(0, |(at, _)| *at);
        if link.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if room == 0 {
            return Poll::Pending;
        }
        let taken = bytes.len().min(room);
        let flow = &mut link.flows[self.end.side];
        flow.packets.push_back(((world.now() + delay).max(last), bytes[..taken].to_vec()));
        flow.octets += taken;
        if let Some(reader) = flow.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(taken))
    }

    pub fn shutdown_write(&mut self) {
        let world = here();
        let at = world.now() + world.net_delay_ns();
        let mut link = self.end.lock();
        let flow = &mut link.flows[self.end.side];
        let last = flow.packets.back().map_or(0, |(at, _)| *at);
        flow.finished.get_or_insert(at.max(last));
        if let Some(reader) = flow.reader.take() {
            reader.wake();
        }
    }
}

fn here() -> Rc<World> {
    context::seat().expect("polled in the simulation").world
}
