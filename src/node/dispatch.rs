//! What other nodes ask of this one: Raft's messages go to their groups, everything else is answered
//! here.

use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, timeout_at};

use super::{Node, coordinate, coordinator, split, worker};
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

/// The way from the connections to the node. The connections are made first and the node needs
/// them, so it is set later; calls before that are told that they had no effect.
#[derive(Default)]
pub(super) struct Dispatcher {
    host: OnceLock<Arc<Host>>,
    node: OnceLock<Weak<Node>>,
}

impl Dispatcher {
    pub(super) fn connect(&self, node: &Arc<Node>) {
        // Set once, right after the node is made.
        let _ = self.host.set(node.host.clone());
        let _ = self.node.set(Arc::downgrade(node));
    }

    fn node(&self) -> Option<Arc<Node>> {
        self.node.get().and_then(Weak::upgrade)
    }
}

impl Handler for Dispatcher {
    fn dispatch(&self, from: &Arc<Conn>, what: u8, body: Bytes, reply: Reply) {
        if Host::takes(what) {
            match self.host.get() {
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
            let (group, deadline, command) = calls::read_write(body)?;
            local::write(&node.host, group, node.epoch(), command, deadline).await
        }
        method::QUERY => {
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
            worker::take_map(node, *map).await;
            Ok(ClusterAnswer::Done)
        }
        ClusterCall::Transfer { group, to } => {
            coordinate::transfer(node, group, to).await?;
            Ok(ClusterAnswer::Done)
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
