//! What the front-end asks of the node it stands before.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Node, gauges};
use crate::{
    error::Error,
    http::{Identity, Joining, NodeInfo, PeerStream},
    router::calls::ClusterCall,
};

/// A node, for its front-end.
pub(super) struct Info(pub(super) Arc<Node>);

impl NodeInfo for Info {
    fn ready(&self) -> Result<(), String> {
        self.0.ready()
    }

    fn identity(&self) -> Identity {
        Identity {
            role: self.0.role,
            id: self.0.name.clone(),
            addr: self.0.advertise.to_string(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    fn measure(&self) {
        gauges::read(&self.0);
    }

    fn upgrade(&self, stream: PeerStream) {
        let links = self.0.links.clone();
        tokio::spawn(async move { links.accept(stream.socket).await });
    }

    fn join(&self, addr: String, deadline: Instant) -> Joining<'_> {
        Box::pin(async move {
            let map = self.0.router.map();
            let map = map.ok_or_else(|| Error::Unavailable("this node has no cluster to join yet".into()))?;
            let coordinators = map.coordinators.values().map(|c| c.addr.clone()).collect();
            let call = ClusterCall::Invite { coordinators };
            self.0.router.ask_newcomer(addr, &call, deadline).await?.done()
        })
    }
}
