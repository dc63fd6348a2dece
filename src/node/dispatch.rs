//! What other nodes ask of this one: Raft's messages go to their groups, everything else is answered
//! here.

use std::{
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Node, coordinate, coordinator, seats, split};
use crate::{
    consensus::host::Host,
    error::Error,
    peer::{Conn, Handler, Reply},
    router::{
        Coordination,
        calls::{self, ClusterAnswer, ClusterCall, method},
        local,
    },
};

/// Between two looks whether requests have ended.
const ENDED_POLL: Duration = Duration::from_millis(2);

/// The way from the connections to the node. The connections are made first and the node needs
/// them, so it is set later; calls before that are told that they had no effect. It keeps neither alive: they have
/// the connections, and those have this.
#[derive(Default)]
pub(super) struct Dispatcher {
    host: OnceLock<Weak<Host>>,
    node: OnceLock<Weak<Node>>,
}

impl Dispatcher {
    pub(super) fn connect(&self, node: &Arc<Node>) {
        // Set once, right after the node is made.
        let _ = self.host.set(Arc::downgrade(&node.host));
        let _ = self.node.set(Arc::downgrade(node));
    }

    fn node(&self) -> Option<Arc<Node>> {
        self.node.get().and_then(Weak::upgrade)
    }
}

/// Requests of clients that other nodes have passed on and that are not answered yet.
#[derive(Debug, Default)]
pub(super) struct PassedOn {
    count: AtomicUsize,
    refused: AtomicBool,
}

/// One of them, while it lasts.
struct Passed<'n>(&'n PassedOn);

impl PassedOn {
    /// Takes one, unless no more are taken.
    fn begin(&self) -> Result<Passed<'_>, Error> {
        // Counted first, so that whoever refuses and then looks misses none.
        self.count.fetch_add(1, Ordering::SeqCst);
        let passed = Passed(self);
        if self.refused.load(Ordering::SeqCst) {
            return Err(Error::Unavailable("the node is stopping".into()));
        }
        Ok(passed)
    }

    /// From now on none is taken.
    pub(super) fn refuse(&self) {
        self.refused.store(true, Ordering::SeqCst);
    }

    /// Waits until all have ended, at most until the deadline.
    pub(super) async fn ended(&self, deadline: Instant) {
        while self.count.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
            sleep(ENDED_POLL).await;
        }
    }
}

impl Drop for Passed<'_> {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Handler for Dispatcher {
    fn dispatch(&self, from: &Arc<Conn>, what: u8, body: Bytes, reply: Reply) {
        if Host::takes(what) {
            match self.host.get().and_then(Weak::upgrade) {
                Some(host) => host.dispatch(from, what, body, reply),
                None => reply.busy(),
            }
            return;
        }
        let Some(node) = self.node() else { return reply.busy() };
        tokio::spawn(async move { reply.send(calls::seal(answer(&node, what, body).await)) });
    }
}

async fn answer(node: &Arc<Node>, what: u8, body: Bytes) -> Result<Bytes, Error> {
    match what {
        method::WRITE => {
            let _passed = node.passed_on.begin()?;
            let (group, deadline, command) = calls::read_write(body)?;
            local::write(&node.host, group, node.epoch(), command, deadline).await
        }
        method::QUERY => {
            let _passed = node.passed_on.begin()?;
            let (group, deadline, consistency, arc, query) = calls::read_query(body)?;
            let epoch = node.epoch();
            let served = local::query(&node.host, group, epoch, arc, query, consistency, deadline).await?;
            Ok(calls::encode_served(&served))
        }
        method::CLUSTER => {
            let (deadline, call) = calls::read_cluster(body)?;
            let answer = match timeout_at(deadline, cluster(node, call, deadline)).await {
                Ok(answer) => answer?,
                Err(_) => return Err(Error::Unknown("the coordinator did not finish in time".into())),
            };
            Ok(calls::encode(&answer))
        }
        _ => Err(Error::Invalid("no such call: are all nodes of one version?".into())),
    }
}

/// Calls that are for this node, whatever its role, and then those for coordinators.
async fn cluster(node: &Arc<Node>, call: ClusterCall, deadline: Instant) -> Result<ClusterAnswer, Error> {
    match call {
        ClusterCall::TakeMap(map) => {
            let mine = node.member().and_then(|member| member.cluster);
            if mine.is_some_and(|mine| mine != map.cluster) {
                return Err(Error::Refused("this node belongs to another cluster".into()));
            }
            node.take_map(*map).await;
            Ok(ClusterAnswer::Done)
        }
        ClusterCall::Transfer { group, to } => {
            coordinate::transfer(node, group, to).await?;
            Ok(ClusterAnswer::Done)
        }
        ClusterCall::TakeSeat { node: number, map } => {
            if node.coordinator.is_none() {
                return Err(Error::Refused("this node is a worker, not a coordinator".into()));
            }
            seats::take(node, number, *map).await?;
            Ok(ClusterAnswer::Done)
        }
        ClusterCall::CountsOn { group, node: whom } => {
            let not_here = Error::NotHere { epoch: node.epoch() };
            let group = node.host.get(group).ok_or(not_here)?;
            Ok(ClusterAnswer::CountsOn(group.counts_on(whom, deadline).await?))
        }
        ClusterCall::Map => {
            let map = node.router.map().map(|map| Box::new((**map).clone()));
            Ok(ClusterAnswer::Map(map))
        }
        ClusterCall::Middle { group, arc } => {
            Ok(ClusterAnswer::Middle(split::middle(node, group, arc).await?))
        }
        ClusterCall::Invite { coordinators } => {
            node.invite(&coordinators)?;
            Ok(ClusterAnswer::Done)
        }
        call => coordinator::answer(node, call, deadline).await,
    }
}

impl Coordination for Dispatcher {
    fn answer(&self, call: ClusterCall, deadline: Instant) -> BoxFuture<'_, Result<ClusterAnswer, Error>> {
        Box::pin(async move {
            match self.node() {
                Some(node) => coordinator::answer(&node, call, deadline).await,
                None => Err(Error::NotLeader { leader: None }),
            }
        })
    }
}
