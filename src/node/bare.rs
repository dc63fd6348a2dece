//! A node without a front-end, over a store and a network of the caller's: what the simulation runs
//! (tests/sim). All else is as in [`super::run`].

use std::{future::ready, sync::Arc};

use raft_store::Store;
use tokio::sync::watch;

use super::{Node, build, stop, until_failed};
use crate::{
    config,
    consensus::host::Host,
    peer::{Links, Network},
    router::Router,
};

/// See the module.
pub struct Bare {
    node: Arc<Node>,
    config: config::Node,
}

impl Bare {
    /// Makes the node and starts what does not depend on its role. `name` is a worker's id.
    pub fn new(
        config: config::Node,
        store: Store,
        name: String,
        network: Arc<dyn Network>,
    ) -> anyhow::Result<Self> {
        Ok(Self { node: build(&config, store, name, Some(network))?, config })
    }

    /// Plays the node's role; returns why the node cannot go on.
    pub async fn until_failed(&self) -> anyhow::Error {
        until_failed(&self.node, &self.config).await
    }

    /// Stops it as a node is stopped that is asked to.
    pub async fn stop(&self) {
        let nobody = tokio::spawn(ready(()));
        stop(&self.node, watch::Sender::new(false), nobody).await;
    }

    /// Whether it can serve, or why not.
    pub fn ready(&self) -> Result<(), String> {
        self.node.ready()
    }

    /// Its way to the other nodes, for whom it takes connections.
    pub fn links(&self) -> &Arc<Links> {
        &self.node.links
    }

    /// Its groups.
    pub fn host(&self) -> &Arc<Host> {
        &self.node.host
    }

    /// What takes requests.
    pub fn router(&self) -> &Router {
        &self.node.router
    }
}
