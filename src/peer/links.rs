//! All connections of this node: made when first needed, shared, replaced when they break.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::{
    Request, StatusCode,
    header::{CONNECTION, HOST, UPGRADE},
    upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    CallError, Conn, Handler, Network, PATH, PROTOCOL, Socket,
    conn::Call,
    heights::{Heights, OwnHeight},
    hello::{self, Hello, HelloError, Identity, Lane, Refusal, Welcome},
};
use crate::ids::{NodeId, StoreId};

/// The time for a connection to be made, greetings included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// After a failed attempt, calls to the same node fail at once for this long.
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// Attempts to reach a node whose connection has just broken, so long apart.
const PROBES: u32 = 20;
const PROBE_PAUSE: Duration = Duration::from_millis(15);

/// Between two looks whether all calls are answered.
const QUIET_POLL: Duration = Duration::from_millis(2);

/// Nodes that may wait to be reported as gone; more at once means that this node is the one cut off.
const MAX_GONE_REPORTS: usize = 1024;

/// Whom to call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A member of the cluster, where the directory says it is.
    Node(NodeId),
    /// Whoever listens at `host:port`.
    Addr(String),
}

/// Where the nodes of the cluster are and which stores they have.
pub type Directory = HashMap<NodeId, (String, StoreId)>;

/// The connections of this node.
pub struct Links {
    me: ArcSwap<Identity>,
    directory: ArcSwap<Directory>,
    slots: Mutex<HashMap<(Peer, Lane), Arc<Slot>>>,
    /// Connections that others have made; calls may come on any of them.
    accepted: Mutex<Vec<Weak<Conn>>>,
    gone: Mutex<HashSet<NodeId>>,
    gone_reports: mpsc::Sender<NodeId>,
    closed: AtomicBool,
    handler: Arc<dyn Handler>,
    /// In the place of TCP.
    network: Option<Arc<dyn Network>>,
    own_height: OwnHeight,
    pub(super) heights: Heights,
    /// The height that this node's directory was at before it went back.
    pub(super) outgrown: watch::Sender<Option<u64>>,
}

/// One place in the table of connections. The async lock makes callers of a node that is not
/// connected share one attempt.
#[derive(Default)]
struct Slot {
    current: Mutex<Option<Arc<Conn>>>,
    connecting: tokio::sync::Mutex<Option<(Instant, CallError)>>,
}

impl Slot {
    fn alive(&self) -> Option<Arc<Conn>> {
        self.current.lock().clone().filter(|conn| !conn.is_closed())
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("node {0} is not known here")]
    UnknownNode(NodeId),
    #[error("cannot connect to {addr}: {source}")]
    Io { addr: String, source: io::Error },
    #[error("cannot connect to {addr}: no answer within {} ms", CONNECT_TIMEOUT.as_millis())]
    Timeout { addr: String },
    #[error("{addr} does not speak {PROTOCOL}")]
    Protocol { addr: String },
    #[error("{addr} does not talk to this node: {reason}")]
    Refused { addr: String, reason: String },
}

impl Links {
    /// No connections yet; `own_height` reads how high this node's store stands. The receiver is told of
    /// nodes whose process has ended (see [`Links::is_gone`]).
    pub fn new(
        me: Identity,
        handler: Arc<dyn Handler>,
        own_height: OwnHeight,
    ) -> (Arc<Self>, mpsc::Receiver<NodeId>) {
        Self::over(None, me, handler, own_height)
    }

    /// The same over another network than TCP.
    pub fn over(
        network: Option<Arc<dyn Network>>,
        me: Identity,
        handler: Arc<dyn Handler>,
        own_height: OwnHeight,
    ) -> (Arc<Self>, mpsc::Receiver<NodeId>) {
        let (gone_reports, reports) = mpsc::channel(MAX_GONE_REPORTS);
        let links = Self {
            me: ArcSwap::from_pointee(me),
            directory: ArcSwap::default(),
            slots: Mutex::default(),
            accepted: Mutex::default(),
            gone: Mutex::default(),
            gone_reports,
            closed: AtomicBool::new(false),
            handler,
            network,
            own_height,
            heights: Heights::default(),
            outgrown: watch::Sender::new(None),
        };
        (Arc::new(links), reports)
    }

    /// Who this node says it is from now on.
    pub fn set_identity(&self, me: Identity) {
        self.me.store(Arc::new(me));
    }

    /// Who this node says it is.
    pub fn identity(&self) -> Arc<Identity> {
        self.me.load_full()
    }

    /// Where the others are from now on. Connections to nodes that moved are dropped.
    pub fn set_directory(&self, directory: Directory) {
        self.heights.set_members(&directory.values().map(|(_, store)| *store).collect());
        let old = self.directory.swap(Arc::new(directory));
        let new = self.directory.load();
        let mut slots = self.slots.lock();
        slots.retain(|(peer, _), slot| {
            let Peer::Node(node) = peer else { return true };
            let stays = new.get(node) == old.get(node) || !old.contains_key(node);
            if !stays && let Some(conn) = slot.alive() {
                conn.close();
            }
            stays
        });
    }

    /// Adds nodes of which the directory knows nothing yet. What it knows is newer: it came from the
    /// map, and this may come late.
    pub fn add_to_directory(&self, nodes: &Directory) {
        self.heights.add_members(nodes.values().map(|(_, store)| *store));
        self.directory.rcu(|known| {
            let mut directory = Directory::clone(known);
            for (node, place) in nodes {
                directory.entry(*node).or_insert_with(|| place.clone());
            }
            directory
        });
    }

    /// Where the others are.
    pub fn directory(&self) -> Arc<Directory> {
        self.directory.load_full()
    }

    /// Whether the process of a node is known to have ended: its connection was reset and a new one
    /// was refused, and none has been made since. Says nothing about a silent network.
    pub fn is_gone(&self, node: NodeId) -> bool {
        self.gone.lock().contains(&node)
    }

    /// Calls and waits for the answer, connecting first where that is needed.
    pub async fn call(
        self: &Arc<Self>,
        to: &Peer,
        lane: Lane,
        method: u8,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, CallError> {
        self.start_call(to, lane, method, body, deadline).await?.answer(deadline).await
    }

    /// Sends a call, connecting first where that is needed.
    pub async fn start_call(
        self: &Arc<Self>,
        to: &Peer,
        lane: Lane,
        method: u8,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Call, CallError> {
        self.connection(to, lane, deadline).await?.call(method, body)
    }

    /// The connection to a node, made now where there is none.
    pub async fn connection(
        self: &Arc<Self>,
        to: &Peer,
        lane: Lane,
        deadline: Instant,
    ) -> Result<Arc<Conn>, CallError> {
        let slot = self.slot(to, lane);
        if let Some(conn) = slot.alive() {
            return Ok(conn);
        }
        if self.outgrown().is_some() {
            return Err(CallError::NotSent("this node's directory is an older copy of itself".into()));
        }
        if self.closed.load(Ordering::Relaxed) {
            return Err(CallError::NotSent("this node is stopping".into()));
        }
        let connect = async {
            let mut failed = slot.connecting.lock().await;
            if let Some(conn) = slot.alive() {
                return Ok(conn);
            }
            if let Some((at, why)) = &*failed
                && at.elapsed() < RETRY_AFTER
            {
                return Err(why.clone());
            }
            match self.connect(to, lane).await {
                Ok(conn) => {
                    *failed = None;
                    self.adopt(to.clone(), lane, &conn);
                    Ok(conn)
                }
                Err(error) => {
                    if let Peer::Node(node) = to
                        && let ConnectError::Io { source, .. } = &error
                        && source.kind() == io::ErrorKind::ConnectionRefused
                    {
                        self.report_gone(*node);
                    }
                    let why = match error {
                        ConnectError::Refused { .. } => CallError::Refused(error.to_string()),
                        _ => CallError::NotSent(error.to_string()),
                    };
                    *failed = Some((Instant::now(), why.clone()));
                    Err(why)
                }
            }
        };
        match timeout_at(deadline, connect).await {
            Ok(result) => result,
            Err(_) => Err(CallError::NotSent(format!("no connection to {to:?} in time"))),
        }
    }

    /// Takes over a connection that another node has made to this one and that has left HTTP.
    pub async fn accept(self: &Arc<Self>, socket: impl Socket) {
        match timeout(CONNECT_TIMEOUT, self.greet(socket)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "greet peer"),
            Err(_) => tracing::debug!("greet peer: it said nothing"),
        }
    }

    /// Asks all others to send no more calls, and waits until every call that came has its answer on
    /// the wire, at most until the deadline. So a call that is cut off was not even begun.
    pub async fn part(&self, deadline: Instant) {
        let accepted: Vec<_> = self.accepted.lock().iter().filter_map(Weak::upgrade).collect();
        let own: Vec<_> = self.slots.lock().values().filter_map(|slot| slot.alive()).collect();
        let conns: Vec<_> = accepted.into_iter().chain(own).collect();
        conns.iter().for_each(|conn| conn.say_goodbye());
        let is_quiet = |conn: &Arc<Conn>| conn.is_closed() || conn.is_quiet();
        while !conns.iter().all(is_quiet) && Instant::now() < deadline {
            sleep(QUIET_POLL).await;
        }
    }

    /// Closes every connection and makes no more.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        let accepted: Vec<_> = self.accepted.lock().iter().filter_map(Weak::upgrade).collect();
        let own: Vec<_> = self.slots.lock().values().filter_map(|slot| slot.alive()).collect();
        accepted.into_iter().chain(own).for_each(|conn| conn.close());
    }

    fn slot(&self, to: &Peer, lane: Lane) -> Arc<Slot> {
        self.slots.lock().entry((to.clone(), lane)).or_default().clone()
    }

    async fn greet(self: &Arc<Self>, mut socket: impl Socket) -> Result<(), HelloError> {
        let hello: Hello = hello::receive(&mut socket).await?;
        let me = self.identity();
        let known =
            hello.from.node.and_then(|node| self.directory.load().get(&node).map(|(_, store)| *store));
        let judged = match hello.refusal(&me, known) {
            Some(reason) => Err(Refusal::Other(reason)),
            None => self.judge(&hello, &me),
        };
        let heard = match judged {
            Ok(heard) => heard,
            Err(refusal) => {
                tracing::warn!(from = ?hello.from.node, reason = %refusal, "refuse peer");
                return hello::send(&mut socket, &Welcome::Err(refusal)).await;
            }
        };
        hello::send(&mut socket, &Welcome::Ok((*me).clone())).await?;
        let conn = self.start(hello.from.clone(), socket, heard);
        let mut accepted = self.accepted.lock();
        accepted.retain(|conn| conn.upgrade().is_some_and(|conn| !conn.is_closed()));
        accepted.push(Arc::downgrade(&conn));
        drop(accepted);
        self.close_late(&conn);
        // Answering on the caller's connection spares making one of our own. Not so before this node
        // has a number: the caller was not told it, and would not take this node's appends there.
        if me.node.is_some()
            && let Some(node) = hello.from.node
            && self.slot(&Peer::Node(node), hello.lane).alive().is_none()
        {
            self.adopt(Peer::Node(node), hello.lane, &conn);
        }
        Ok(())
    }

    async fn connect(self: &Arc<Self>, to: &Peer, lane: Lane) -> Result<Arc<Conn>, ConnectError> {
        let (addr, meant) = match to {
            Peer::Addr(addr) => (addr.clone(), None),
            Peer::Node(node) => match self.directory.load().get(node) {
                Some((addr, store)) => (addr.clone(), Some((*node, *store))),
                None => return Err(ConnectError::UnknownNode(*node)),
            },
        };
        match timeout(CONNECT_TIMEOUT, self.connect_to(&addr, meant, lane)).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::Timeout { addr }),
        }
    }

    async fn connect_to(
        self: &Arc<Self>,
        addr: &str,
        meant: Option<(NodeId, StoreId)>,
        lane: Lane,
    ) -> Result<Arc<Conn>, ConnectError> {
        let io_error = |source| ConnectError::Io { addr: addr.into(), source };
        if let Some(network) = &self.network {
            let socket = network.connect(addr).await.map_err(io_error)?;
            return self.introduce(socket, addr, meant, lane).await;
        }
        let tcp = TcpStream::connect(addr).await.map_err(io_error)?;
        tcp.set_nodelay(true).map_err(io_error)?;
        let upgraded =
            upgrade(tcp, addr).await.ok_or_else(|| ConnectError::Protocol { addr: addr.into() })?;
        self.introduce(raw(upgraded).map_err(io_error)?, addr, meant, lane).await
    }

    /// Exchanges the greetings on a connection that this node has made.
    async fn introduce(
        self: &Arc<Self>,
        mut socket: impl Socket,
        addr: &str,
        meant: Option<(NodeId, StoreId)>,
        lane: Lane,
    ) -> Result<Arc<Conn>, ConnectError> {
        let mut from = (*self.identity()).clone();
        if meant.is_none() && from.cluster.is_none() {
            // A number means something within a cluster only. Whoever is asked may know another store
            // under it, and must still be able to say so.
            from.node = None;
        }
        let heard = meant.and_then(|(_, store)| self.heights.of(store));
        let exchange = async {
            hello::send(&mut socket, &Hello::new(from, meant, lane, heard)).await?;
            hello::receive::<Welcome>(&mut socket).await?.map_err(HelloError::Refused)
        };
        let peer = exchange.await.map_err(|error| match error {
            HelloError::Io(source) => ConnectError::Io { addr: addr.into(), source },
            HelloError::Malformed => ConnectError::Protocol { addr: addr.into() },
            HelloError::Refused(refusal) => {
                if let Refusal::Outgrown(height) = refusal {
                    self.take_part_no_more(height);
                }
                ConnectError::Refused { addr: addr.into(), reason: refusal.to_string() }
            }
        })?;
        match self.meet(&peer) {
            Ok(heard) => Ok(self.start(peer, socket, heard)),
            Err(height) => Err(ConnectError::Refused {
                addr: addr.into(),
                reason: format!("its directory is an older copy: it was at height {height} before"),
            }),
        }
    }

    fn start(&self, peer: Identity, socket: impl Socket, heard: Arc<AtomicU64>) -> Arc<Conn> {
        Conn::start(peer, socket.into_halves(), self.handler.clone(), self.own_height.clone(), heard)
    }

    /// Closes a connection that was made while all were being closed.
    fn close_late(&self, conn: &Conn) {
        if self.closed.load(Ordering::Relaxed) {
            conn.close();
        }
    }

    fn adopt(self: &Arc<Self>, peer: Peer, lane: Lane, conn: &Arc<Conn>) {
        if let Some(node) = conn.peer().node {
            self.gone.lock().remove(&node);
        }
        *self.slot(&peer, lane).current.lock() = Some(conn.clone());
        self.close_late(conn);
        if let (Peer::Node(node), Lane::Main) = (peer, lane) {
            tokio::spawn(probe_when_closed(self.clone(), node, conn.clone()));
        }
    }

    fn report_gone(&self, node: NodeId) {
        if self.gone.lock().insert(node) {
            tracing::info!(%node, "the process of a peer is gone");
            // A full queue only means that elections wait for their ordinary timeout.
            let _ = self.gone_reports.try_send(node);
        }
    }
}

/// When a connection breaks, finds out at once whether the process behind it is gone: then a new
/// one is refused. It need not be at first: Linux may end a killed process's connections before its
/// listener, and takes new ones for that meanwhile.
async fn probe_when_closed(links: Arc<Links>, node: NodeId, conn: Arc<Conn>) {
    conn.wait_closed().await;
    for _ in 0..PROBES {
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        if links.connection(&Peer::Node(node), Lane::Main, deadline).await.is_ok() || links.is_gone(node) {
            break;
        }
        sleep(PROBE_PAUSE).await;
    }
}

async fn upgrade(tcp: TcpStream, addr: &str) -> Option<Upgraded> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await.ok()?;
    tokio::spawn(connection.with_upgrades());
    let request = Request::get(PATH)
        .header(HOST, addr)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, PROTOCOL)
        .body(Empty::<Bytes>::new())
        .ok()?;
    let response = sender.send_request(request).await.ok()?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return None;
    }
    hyper::upgrade::on(response).await.ok()
}

/// The socket under an upgraded connection.
fn raw(upgraded: Upgraded) -> Result<TcpStream, io::Error> {
    let parts = upgraded
        .downcast::<TokioIo<TcpStream>>()
        .map_err(|_| io::Error::other("the upgraded connection is not a plain TCP stream"))?;
    // The other side waits for our greeting, so nothing can stand behind its 101.
    if !parts.read_buf.is_empty() {
        return Err(io::Error::other("the other side spoke before it was spoken to"));
    }
    Ok(parts.io.into_inner())
}
