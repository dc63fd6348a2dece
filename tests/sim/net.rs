//! The network between simulated nodes: connections as pairs of directed pipes, whose bytes arrive
//! later, in order, and under faults not at all.
//!
//! Faults, each for a directed pair of nodes: slow (a longer delay), cut (bytes are held back until
//! it is healed, as TCP would send them again; connections stay, new ones come to nothing), refused
//! (new connections are refused though the process lives). And for both directions a reset. A process
//! that is killed resets its connections and refuses new ones; a machine without power is silent,
//! and resets what it no longer knows when it is up again.
//!
//! Time is that of the simulation, in ms; nothing arrives in the ms in which it was sent. Every
//! directed pair draws its delays from a source of its own.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    future::{pending, poll_fn},
    io,
    ops::RangeInclusive,
    sync::Arc,
    task::{Poll, Waker},
    time::Duration,
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use quoring::peer::network::{Boxed, Network};
use rand::{RngExt, rngs::StdRng};
use tokio::time::{Instant, sleep_until};

use super::{
    pipe::{End, Item, Pipe, Stream},
    rng,
};

/// Which node, by its place in the list of nodes.
pub(crate) type Place = usize;

/// What a healthy network takes, ms.
pub(crate) const USUAL_DELAY_MS: RangeInclusive<u64> = 1..=2;

/// How long a machine that was without power takes to reset old connections: their other ends send
/// again by a timer. ms.
const RETRANSMIT_MS: RangeInclusive<u64> = 1..=300;

/// A node as the network sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Machine {
    /// No process listens; the machine says so.
    Down,
    /// It answers nothing.
    Silent,
    Up,
}

/// One direction between two nodes.
struct Way {
    rng: StdRng,
    delay_ms: RangeInclusive<u64>,
    cut: bool,
    refused: bool,
}

struct Port {
    addr: String,
    machine: Machine,
    /// Connections that were made and not yet accepted.
    backlog: VecDeque<Stream>,
    acceptor: Option<Waker>,
}

/// A connection; side 0 made it.
pub(super) struct Connection {
    ends: [Place; 2],
    /// Whose stream was dropped.
    pub(super) gone: [bool; 2],
    /// What each side reads.
    pub(super) pipes: [Pipe; 2],
}

#[derive(Default)]
pub(super) struct State {
    now_ms: u64,
    ports: Vec<Port>,
    ways: Vec<Way>,
    pub(super) connections: BTreeMap<u64, Connection>,
    made: u64,
    /// When something may arrive: the moment, the connection and the side that reads it.
    due: BinaryHeap<Reverse<(u64, u64, usize)>>,
}

/// The network.
#[derive(Default)]
pub(crate) struct Net(pub(super) Mutex<State>);

/// What a connection attempt comes to at the other end.
enum Knock {
    Lost,
    Refused,
    Open(Stream),
}

impl State {
    fn way(&mut self, from: Place, to: Place) -> &mut Way {
        let count = self.ports.len();
        &mut self.ways[from * count + to]
    }

    fn delay(&mut self, from: Place, to: Place) -> u64 {
        let way = self.way(from, to);
        way.rng.random_range(way.delay_ms.clone())
    }

    fn is_cut(&mut self, from: Place, to: Place) -> bool {
        self.way(from, to).cut || self.ports[to].machine == Machine::Silent
    }

    /// Sends something to `side` of a connection.
    pub(super) fn send(&mut self, id: u64, side: usize, item: Item) {
        let Some(connection) = self.connections.get(&id) else { return };
        let (from, to) = (connection.ends[1 - side], connection.ends[side]);
        let at = self.now_ms + self.delay(from, to);
        self.push(id, side, at, item);
    }

    fn push(&mut self, id: u64, side: usize, at: u64, item: Item) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let at = connection.pipes[side].push(at, item);
        self.due.push(Reverse((at, id, side)));
    }

    /// What the machine of a stream that is dropped tells the other side.
    pub(super) fn dropped(&mut self, id: u64, side: usize) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.gone[side] = true;
        connection.pipes[side].forget();
        if connection.gone[1 - side] {
            self.connections.remove(&id);
            return;
        }
        match self.ports[connection.ends[side]].machine {
            Machine::Up => self.send(id, 1 - side, Item::End(End::Closed)),
            Machine::Down => self.send(id, 1 - side, Item::End(End::Reset)),
            Machine::Silent => {}
        }
    }

    /// A stream writes to a side that is gone: whoever is there now says so.
    pub(super) fn write_to_nobody(&mut self, id: u64, side: usize) {
        let Some(connection) = self.connections.get(&id) else { return };
        let (from, to) = (connection.ends[side], connection.ends[1 - side]);
        if !self.is_cut(from, to) && !connection_is_ended(&self.connections[&id], side) {
            self.send(id, side, Item::End(End::Reset));
        }
    }

    fn between(&self, a: Place, b: Place) -> Vec<u64> {
        let joins = |connection: &Connection| connection.ends == [a, b] || connection.ends == [b, a];
        self.connections.iter().filter(|(_, connection)| joins(connection)).map(|(id, _)| *id).collect()
    }
}

fn connection_is_ended(connection: &Connection, side: usize) -> bool {
    connection.pipes[side].is_ending()
}

impl Net {
    /// Nodes at these addresses, none of which is up.
    pub(crate) fn new(seed: u64, addrs: &[String]) -> Arc<Net> {
        let port = |addr: &String| Port {
            addr: addr.clone(),
            machine: Machine::Down,
            backlog: VecDeque::new(),
            acceptor: None,
        };
        let way = |n: usize| Way {
            rng: rng(seed, "way", n as u64),
            delay_ms: USUAL_DELAY_MS,
            cut: false,
            refused: false,
        };
        let state = State {
            ports: addrs.iter().map(port).collect(),
            ways: (0..addrs.len() * addrs.len()).map(way).collect(),
            ..State::default()
        };
        Arc::new(Net(Mutex::new(state)))
    }

    /// Lets arrive what is due.
    pub(crate) fn advance_to(&self, now_ms: u64) {
        let mut wake = Vec::new();
        let mut state = self.0.lock();
        state.now_ms = now_ms;
        while let Some(Reverse((at, id, side))) = state.due.peek().copied()
            && at <= now_ms
        {
            state.due.pop();
            let Some(connection) = state.connections.get(&id) else { continue };
            let (from, to) = (connection.ends[1 - side], connection.ends[side]);
            if state.is_cut(from, to) {
                continue;
            }
            let pipe = &mut state.connections.get_mut(&id).expect("looked up above").pipes[side];
            wake.extend(pipe.arrive(now_ms));
        }
        drop(state);
        wake.into_iter().for_each(Waker::wake);
    }

    /// The process of a node listens.
    pub(crate) fn start(&self, place: Place) {
        let mut state = self.0.lock();
        state.ports[place].machine = Machine::Up;
        // What an earlier life knew of is reset by the machine when it hears of it again.
        let old: Vec<(u64, usize)> = state
            .connections
            .iter()
            .filter_map(|(id, c)| {
                let side = c.ends.iter().position(|end| *end == place).filter(|side| c.gone[*side])?;
                (!connection_is_ended(c, 1 - side)).then_some((*id, 1 - side))
            })
            .collect();
        for (id, side) in old {
            let ends = state.connections[&id].ends;
            let after = state.way(ends[1 - side], ends[side]).rng.random_range(RETRANSMIT_MS);
            let at = state.now_ms + after;
            state.push(id, side, at, Item::End(End::Reset));
        }
    }

    /// The process of a node ends; to be called before its streams are dropped.
    pub(crate) fn stop(&self, place: Place, silently: bool) {
        let mut state = self.0.lock();
        let port = &mut state.ports[place];
        port.machine = if silently { Machine::Silent } else { Machine::Down };
        port.acceptor = None;
        let backlog = std::mem::take(&mut port.backlog);
        drop(state);
        drop(backlog);
    }

    /// Holds back what goes from one node to another, or lets it go on.
    pub(crate) fn set_cut(&self, from: Place, to: Place, cut: bool) {
        let mut state = self.0.lock();
        if std::mem::replace(&mut state.way(from, to).cut, cut) && !cut {
            for id in state.between(from, to) {
                let side = usize::from(state.connections[&id].ends[1] == to);
                let at = state.now_ms + state.delay(from, to);
                state.due.push(Reverse((at, id, side)));
            }
        }
    }

    /// Sets how long bytes take from one node to another.
    pub(crate) fn set_delay(&self, from: Place, to: Place, ms: RangeInclusive<u64>) {
        assert!(*ms.start() > 0, "nothing arrives in the ms in which it was sent");
        self.0.lock().way(from, to).delay_ms = ms;
    }

    /// Sets whether new connections are refused.
    pub(crate) fn set_refused(&self, from: Place, to: Place, refused: bool) {
        self.0.lock().way(from, to).refused = refused;
    }

    /// Breaks every connection between two nodes; what is on its way is lost.
    pub(crate) fn reset(&self, a: Place, b: Place) {
        let mut wake = Vec::new();
        let mut state = self.0.lock();
        for id in state.between(a, b) {
            if let Some(connection) = state.connections.get_mut(&id) {
                wake.extend(connection.pipes.iter_mut().flat_map(Pipe::reset));
            }
        }
        drop(state);
        wake.into_iter().for_each(Waker::wake);
    }

    /// Takes every fault back; a node that is down stays so.
    pub(crate) fn heal(&self) {
        let count = self.0.lock().ports.len();
        for (from, to) in (0..count).flat_map(|from| (0..count).map(move |to| (from, to))) {
            self.set_cut(from, to, false);
            self.set_delay(from, to, USUAL_DELAY_MS);
            self.set_refused(from, to, false);
        }
    }

    /// The next connection that another node has made to this one.
    pub(crate) async fn accept(self: Arc<Self>, place: Place) -> Boxed {
        let stream = poll_fn(|context| {
            let port = &mut self.0.lock().ports[place];
            match port.backlog.pop_front() {
                Some(stream) => Poll::Ready(stream),
                None => {
                    port.acceptor = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        });
        Box::new(stream.await)
    }

    fn knock(self: &Arc<Self>, from: Place, to: Place) -> Knock {
        let mut state = self.0.lock();
        if state.is_cut(from, to) {
            return Knock::Lost;
        }
        if state.way(from, to).refused || state.ports[to].machine == Machine::Down {
            return Knock::Refused;
        }
        state.made += 1;
        let id = state.made;
        let connection = Connection { ends: [from, to], gone: [false; 2], pipes: Default::default() };
        state.connections.insert(id, connection);
        let port = &mut state.ports[to];
        port.backlog.push_back(Stream::new(self.clone(), id, 1));
        let acceptor = port.acceptor.take();
        drop(state);
        if let Some(acceptor) = acceptor {
            acceptor.wake();
        }
        Knock::Open(Stream::new(self.clone(), id, 0))
    }
}

/// The network as one node has it.
pub(crate) struct Uplink(pub(crate) Arc<Net>, pub(crate) Place);

impl Network for Uplink {
    fn connect(&self, addr: &str) -> BoxFuture<'static, io::Result<Boxed>> {
        let (net, from) = (self.0.clone(), self.1);
        let planned = {
            let mut state = net.0.lock();
            let to = state.ports.iter().position(|port| port.addr == addr);
            to.map(|to| (to, state.delay(from, to), state.delay(to, from)))
        };
        Box::pin(async move {
            let Some((to, there, back)) = planned else {
                return Err(io::Error::new(io::ErrorKind::NotFound, "no such name"));
            };
            pass(there).await;
            let knock = net.knock(from, to);
            pass(back).await;
            // Whoever asked gives up in its own time.
            if matches!(knock, Knock::Lost) || net.0.lock().is_cut(to, from) {
                return pending().await;
            }
            match knock {
                Knock::Open(stream) => Ok(Box::new(stream) as Boxed),
                _ => Err(io::ErrorKind::ConnectionRefused.into()),
            }
        })
    }
}

async fn pass(ms: u64) {
    sleep_until(Instant::now() + Duration::from_millis(ms)).await;
}
