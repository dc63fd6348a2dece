//! A node: the only place that constructs. It opens the store, starts the groups, the connections
//! and the front-end, plays its role, and stops all of it in order.

use std::{
    future::pending,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use parking_lot::{Mutex, RwLock};
use raft_store::Store;
use tokio::{
    net::TcpListener,
    sync::watch,
    time::{Instant, timeout},
};

use self::{dispatch::Dispatcher, identity::Member, seen::Seen};
use crate::{
    config::{self, Address, Role, Settings},
    consensus::{alarms::Timer, host::Host, log_limits::LogLimits, machine::Shared},
    error::Error,
    http,
    ids::{ClusterId, Epoch, NodeId},
    peer::{Identity, Links, Network, Peer},
    router::Router,
};

pub mod bare;
mod coordinate;
mod coordinator;
mod dispatch;
mod gauges;
mod identity;
mod info;
mod maps;
mod outgrown;
mod reconcile;
mod seats;
mod seen;
mod split;
mod upkeep;
mod worker;

/// The time for handing leaderships over when the node stops.
const HAND_OVER: Duration = Duration::from_millis(800);

/// The time for telling the coordinators that this node is about to stop.
const FAREWELL: Duration = Duration::from_millis(250);

/// The time for requests that others have passed on to end when the node stops is twice this, and for
/// the streams to the others half of it.
const DRAIN: Duration = Duration::from_millis(500);

/// A running node.
pub(crate) struct Node {
    host: Arc<Host>,
    links: Arc<Links>,
    router: Router,
    advertise: Address,
    settings: Settings,
    role: http::Role,
    name: String,
    member: RwLock<Option<Member>>,
    maps: maps::Turn,
    /// Why the node cannot serve yet, or no longer.
    obstacle: watch::Sender<Option<String>>,
    stopping: AtomicBool,
    /// A worker's replicas of before it was started do not all run yet.
    opening: AtomicBool,
    /// Requests that other nodes have passed on to this one.
    passed_on: dispatch::PassedOn,
    /// The disk does not finish its syncs in time.
    limping: AtomicBool,
    /// The cluster has taken this node out for good.
    expelled: AtomicBool,
    /// Where a coordinator without a seat waits for one.
    entrance: seats::Entrance,
    /// Coordinators whose cluster a worker is asked to join.
    invitations: watch::Sender<Vec<Address>>,
    /// On coordinators, the group's state.
    coordinator: Option<Arc<Shared>>,
    /// On the coordinator that leads, what it has heard.
    seen: Mutex<Seen>,
}

impl Node {
    fn number(&self) -> Option<NodeId> {
        self.member.read().map(|member| member.node)
    }

    fn member(&self) -> Option<Member> {
        *self.member.read()
    }

    fn epoch(&self) -> Epoch {
        *self.router.epochs().borrow()
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Stops every group here for good: the cluster counts on none of them any more, or must not, and
    /// such a replica must not go on standing for election.
    async fn expel(&self) {
        if !self.expelled.swap(true, Ordering::Relaxed) {
            self.host.shutdown().await;
        }
    }

    /// Sets or clears why the node is not ready.
    fn set_obstacle(&self, obstacle: Option<String>) {
        self.obstacle.send_if_modified(|current| {
            let news = *current != obstacle;
            if news && let Some(why) = &obstacle {
                tracing::info!(%why, "not ready");
            }
            *current = obstacle;
            news
        });
    }

    /// Whether the node can serve.
    fn ready(&self) -> Result<(), String> {
        if self.is_stopping() {
            return Err("the node is stopping".into());
        }
        if self.limping.load(Ordering::Relaxed) {
            return Err("the disk of this node does not finish its syncs in time".into());
        }
        if let Some(height) = self.links.outgrown() {
            return Err(outgrown::sentence(self, height));
        }
        if let Some(why) = &*self.obstacle.borrow() {
            return Err(why.clone());
        }
        if self.number().is_none() || self.router.map().is_none() {
            return Err(match self.coordinator {
                Some(_) => "waiting for the cluster to be founded".into(),
                None => "this worker belongs to no cluster yet".into(),
            });
        }
        if self.opening.load(Ordering::Relaxed) {
            return Err("this worker is opening its replicas".into());
        }
        Ok(())
    }

    /// Takes its number, and its cluster where that is known; durable on return.
    fn set_member(&self, node: NodeId, cluster: Option<ClusterId>) -> anyhow::Result<()> {
        let member = Member { node, cluster };
        if *self.member.read() != Some(member) {
            identity::set_member(self.host.store(), member)?;
            *self.member.write() = Some(member);
        }
        self.router.set_me(node);
        let me = self.links.identity();
        self.links.set_identity(Identity { cluster, node: Some(node), ..(*me).clone() });
        Ok(())
    }

    fn become_member(&self, node: NodeId, cluster: ClusterId) -> anyhow::Result<()> {
        if let Some(Member { node: old, .. }) = self.member() {
            anyhow::ensure!(old == node, "this store is node {old}, the coordinators call it {node}");
        }
        self.set_member(node, Some(cluster))
    }

    /// Asks this worker to join the cluster of these coordinators.
    fn invite(&self, coordinators: &[String]) -> Result<(), Error> {
        if self.coordinator.is_some() {
            return Err(Error::Refused(
                "this node is a coordinator, and only workers join; add it with POST /cluster/coordinators"
                    .into(),
            ));
        }
        if let Some(cluster) = self.member().and_then(|member| member.cluster) {
            return Err(Error::Refused(format!("this worker is a member of cluster {cluster} already")));
        }
        let coordinators = worker::addresses(coordinators)?;
        self.invitations.send_replace(coordinators);
        Ok(())
    }
}

/// Runs a node until `shutdown` ends or it fails. `Ok` is a graceful stop.
pub async fn run(config: config::Node, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    // The port first: a node that cannot be reached must not touch its directory.
    let address = SocketAddr::new(config.listen, config.port);
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let prometheus = crate::metrics::install()?;
    let store = open_store(&config).await?;
    let name = match config.role {
        Role::Coordinator { .. } => format!("coordinator-{}", config.port),
        Role::Worker { .. } => identity::worker_id(config.dir.as_deref())?.to_string(),
    };
    let node = build(&config, store, name, None)?;
    let (stop_http, http_stopped) = watch::channel(false);
    let context = http::Context::new(node.router.clone(), Arc::new(info::Info(node.clone())), prometheus);
    let server = tokio::spawn(http::serve(listener, context.clone(), asked(http_stopped)));
    tracing::info!(role = ?node.role, name = node.name, %address, "listening");

    let failure = tokio::select! {
        error = until_failed(&node, &config) => Some(error),
        () = shutdown => None,
    };
    context.leave();
    stop(&node, stop_http, server).await;
    match failure {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

async fn asked(mut stop: watch::Receiver<bool>) {
    // An error means that the sender is gone, and with it the node.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn open_store(config: &config::Node) -> anyhow::Result<Store> {
    let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let memory = &config.memory;
    let options = raft_store::Options {
        dir: config.dir.clone(),
        block_cache_bytes: bytes(memory.cache_bytes),
        memtable_bytes: bytes(memory.memtables_bytes - memory.log_memtables_bytes()),
        log_memtable_bytes: bytes(memory.log_memtables_bytes()),
        log_tail_bytes: bytes(memory.queues_bytes - memory.waiting_bytes()),
        queue_bytes: bytes(memory.waiting_bytes()),
        ..raft_store::Options::default()
    };
    Ok(tokio::task::spawn_blocking(move || Store::open(options)).await??)
}

fn build(
    config: &config::Node,
    store: Store,
    name: String,
    network: Option<Arc<dyn Network>>,
) -> anyhow::Result<Arc<Node>> {
    let coordinates = matches!(config.role, Role::Coordinator { .. });
    let (own, opening) = (identity::store_id(&store), outgrown::opening(&store));
    let me = Identity { cluster: None, node: None, store: own, opening };
    let measured = store.clone();
    let host = Host::new(store);
    let dispatcher = Arc::new(Dispatcher::default());
    let own_height = Arc::new(move || measured.height());
    let timer = if network.is_some() { Timer::Tokio } else { Timer::Kernel };
    let (links, gone) = Links::over(network, me, dispatcher.clone(), own_height);
    host.connect(links.clone(), timer);
    let router = Router::new(host.clone(), links.clone(), dispatcher.clone());
    let node = Arc::new(Node {
        host,
        links,
        router,
        advertise: config.advertise.clone(),
        settings: config.settings.clone(),
        role: if coordinates { http::Role::Coordinator } else { http::Role::Worker },
        name,
        member: RwLock::default(),
        maps: maps::Turn::default(),
        obstacle: watch::Sender::new(None),
        stopping: AtomicBool::new(false),
        opening: AtomicBool::new(!coordinates),
        passed_on: dispatch::PassedOn::default(),
        limping: AtomicBool::new(false),
        expelled: AtomicBool::new(false),
        entrance: seats::Entrance::new(),
        invitations: watch::Sender::new(Vec::new()),
        coordinator: coordinates.then(Shared::new),
        seen: Mutex::default(),
    });
    if matches!(&config.role, Role::Coordinator { peers } if peers.is_empty())
        && identity::member(node.host.store())?.is_none()
    {
        // Before anybody can ask: it has nothing, and it founds nothing.
        node.entrance.open();
    }
    outgrown::recall(&node)?;
    dispatcher.connect(&node);
    tokio::spawn(outgrown::watch(node.clone()));
    tokio::spawn(outgrown::keep(node.clone()));
    tokio::spawn(take_over(node.clone(), gone));
    tokio::spawn(upkeep::run(node.clone()));
    tokio::spawn(upkeep::watch_disk(node.clone()));
    let limits = LogLimits::within(config.memory.log_memtables_bytes());
    tokio::spawn(upkeep::shorten_logs(node.clone(), limits));
    Ok(node)
}

/// Plays the node's role; returns why the node cannot go on.
async fn until_failed(node: &Arc<Node>, config: &config::Node) -> anyhow::Error {
    tokio::select! {
        result = play(node, config) => result.err().unwrap_or_else(|| anyhow::anyhow!("the node's role ended")),
        why = upkeep::failed(node) => anyhow::anyhow!(why),
    }
}

/// Plays the node's role; returns only when that fails.
async fn play(node: &Arc<Node>, config: &config::Node) -> anyhow::Result<()> {
    if node.links.outgrown().is_some() {
        return pending().await;
    }
    match &config.role {
        Role::Coordinator { peers } => coordinator::run(node.clone(), peers.clone()).await?,
        Role::Worker { coordinators, zone } => {
            let id = node.name.parse().context("the worker's id")?;
            if let Some(member) = identity::member(node.host.store())? {
                node.set_member(member.node, member.cluster)?;
            }
            node.recall_map()?;
            node.invitations.send_replace(coordinators.clone());
            if node.number().is_some() {
                let seeds = coordinators.iter().map(|addr| Peer::Addr(addr.to_string())).collect();
                outgrown::ask_others(node, seeds).await;
            }
            tokio::spawn(reconcile::run(node.clone()));
            tokio::spawn(reconcile::start(node.clone()));
            tokio::spawn(split::run(node.clone()));
            worker::run(node.clone(), worker::Introduction { id, zone: zone.clone() }).await;
        }
    }
    pending().await
}

/// Stands for election wherever a process that is gone was the leader.
async fn take_over(node: Arc<Node>, mut gone: tokio::sync::mpsc::Receiver<NodeId>) {
    while let Some(dead) = gone.recv().await {
        node.host.take_over_from(dead);
    }
}

/// Stops in order: give leaderships away while requests still come and are passed on, both ways, and
/// the front-end sends its clients elsewhere; take no more connections, and answer what comes on those that there are;
/// then stop the groups, then close the store.
async fn stop(node: &Arc<Node>, stop_http: watch::Sender<bool>, server: tokio::task::JoinHandle<()>) {
    node.stopping.store(true, Ordering::Relaxed);
    // First of all, so that no leadership is ordered back here.
    let _ = timeout(FAREWELL, worker::tell(node)).await;
    node.host.hand_over(Instant::now() + HAND_OVER).await;
    stop_http.send_replace(true);
    // It ends by itself within its bound; a panic in it must not keep the store from closing.
    let _ = timeout(http::DRAIN_TIMEOUT + DRAIN, server).await;
    // Those that have fallen to this node since.
    node.host.hand_over(Instant::now() + HAND_OVER).await;
    // Who still takes this node for a leader asks another one, as long as nothing can have happened.
    node.passed_on.refuse();
    node.passed_on.ended(Instant::now() + DRAIN * 2).await;
    node.host.shutdown().await;
    node.links.part(Instant::now() + DRAIN / 2).await;
    node.links.close();
    let (store, heard) = (node.host.store().clone(), node.links.heard());
    let closed = tokio::task::spawn_blocking(move || {
        // A store that has failed keeps nothing more.
        let _ = identity::set_heard(&store, &heard);
        store.shutdown()
    });
    if let Ok(Err(error)) = closed.await {
        tracing::error!(%error, "close the store");
    }
    tracing::info!("stopped");
}
