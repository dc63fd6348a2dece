//! The state of the nodes and of the shards, as far as it can be learnt, whatever is down.

use std::path::PathBuf;

use futures_util::future::{join, join_all};
use serde::Serialize;

use super::{Error, Launcher, NodeRole, Spec, start::ask};
use crate::coordinator::status::ShardStatus;

/// What `quoring status --json` shows. The field names are the contract's (docs/API.md).
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// Every node of `cluster.toml`, coordinators first.
    pub nodes: Vec<NodeStatus>,
    /// The shards, as a node that answers knows them; none where no node does.
    pub shards: Vec<ShardStatus>,
}

/// A node of `cluster.toml`.
#[derive(Debug, Clone, Serialize)]
pub struct NodeStatus {
    /// What it is.
    pub role: NodeRole,
    /// A worker's id, once it has one; a coordinator's name.
    pub id: Option<String>,
    /// `host:port`.
    pub addr: String,
    /// Its process, where `up` started it and it runs.
    pub pid: Option<u32>,
    /// Its log.
    pub log: PathBuf,
    /// How it is.
    pub health: Health,
}

/// How a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// It serves.
    Ready,
    /// It answers, and says that it cannot serve.
    Unready,
    /// Its process runs and does not answer.
    Unreachable,
    /// It does not run.
    Stopped,
}

impl Health {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Health::Ready => "ready",
            Health::Unready => "unready",
            Health::Unreachable => "unreachable",
            Health::Stopped => "stopped",
        }
    }
}

impl Launcher {
    /// Asks every node how it is, and any node for the shards.
    pub async fn status(&self) -> Result<Status, Error> {
        let specs = self.nodes();
        let nodes = join_all(specs.iter().map(node_status));
        let (nodes, cluster) = join(nodes, self.cluster()).await;
        let nodes = nodes.into_iter().collect::<Result<_, _>>()?;
        Ok(Status { nodes, shards: cluster.map(|cluster| cluster.shards).unwrap_or_default() })
    }
}

async fn node_status(spec: &Spec) -> Result<NodeStatus, Error> {
    let process = spec.process()?;
    let health = match ask(&spec.server()).ready().await {
        Ok(()) => Health::Ready,
        Err(error) if error.status().is_some() => Health::Unready,
        Err(_) if process.is_some() => Health::Unreachable,
        Err(_) => Health::Stopped,
    };
    Ok(NodeStatus {
        role: spec.role,
        id: spec.id(),
        addr: spec.address().to_string(),
        pid: process.map(|process| process.pid()),
        log: spec.log(),
        health,
    })
}
