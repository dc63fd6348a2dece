//! Directories that were put back to an earlier state, by a copy or by a disk that lost what it had
//! promised to keep. A node keeps what it has heard of others (`peer::heights`) over its own restarts,
//! asks them about itself before its groups take part, and where it learns that its own directory
//! went back, it stops its groups for good. It removes nothing: that is for the operator.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::{Node, identity};
use crate::{
    http,
    ids::{NodeId, Opening},
    peer::Peer,
    ring::map::Map,
};

/// How often what was heard is kept, where it has changed: as much of it may be forgotten by a crash.
const KEEP_INTERVAL: Duration = Duration::from_secs(60);

/// The time for asking the others before the groups start.
const GREET_TIMEOUT: Duration = Duration::from_secs(1);

/// The opening of a store that was opened just now.
pub(super) fn opening(store: &raft_store::Store) -> Opening {
    Opening { id: rand::random(), height: store.opened_at() }
}

/// Takes up what an earlier life of this node knew; before anybody can speak to it.
pub(super) fn recall(node: &Node) -> anyhow::Result<()> {
    let store = node.host.store();
    node.links.recall(identity::heard(store)?);
    if let Some(height) = identity::outgrown(store)? {
        node.links.take_part_no_more(height);
    }
    Ok(())
}

/// Keeps what was heard, now and then, as long as the node runs.
pub(super) async fn keep(node: Arc<Node>) {
    let mut kept = node.links.heard();
    while !node.is_stopping() {
        sleep(KEEP_INTERVAL).await;
        let heard = node.links.heard();
        if heard != kept {
            let (store, now) = (node.host.store().clone(), heard.clone());
            let saved = tokio::task::spawn_blocking(move || identity::set_heard(&store, &now)).await;
            if let Ok(Err(error)) = saved {
                tracing::error!(%error, "keep what was heard of others");
            }
            kept = heard;
        }
    }
}

/// Greets all that this node has promised something, and `seeds`, before its groups promise more.
pub(super) async fn ask_others(node: &Arc<Node>, seeds: Vec<Peer>) {
    let others = match (node.number(), node.router.map()) {
        (Some(me), Some(map)) => companions(&map, me),
        _ => BTreeSet::new(),
    };
    // Those that are known by their numbers are not greeted twice.
    let directory = node.links.directory();
    let is_known =
        |peer: &Peer| matches!(peer, Peer::Addr(addr) if directory.values().any(|(known, _)| known == addr));
    let seeds = seeds.into_iter().filter(|peer| !is_known(peer));
    let peers: Vec<Peer> = others.into_iter().map(Peer::Node).chain(seeds).collect();
    node.links.greet_all(peers, Instant::now() + GREET_TIMEOUT).await;
}

/// Coordinators, and who has a shard in common with this node.
fn companions(map: &Map, me: NodeId) -> BTreeSet<NodeId> {
    let replicas = map.shards_of(me).flat_map(|(_, shard)| &shard.replicas);
    let mut all: BTreeSet<_> = map.coordinators.keys().chain(replicas).copied().collect();
    all.remove(&me);
    all
}

/// Waits until this node is told that its directory went back, and takes it out of everything.
pub(super) async fn watch(node: Arc<Node>) {
    let mut told = node.links.watch_outgrown();
    let height = match told.wait_for(Option::is_some).await.map(|height| *height) {
        Ok(Some(height)) => height,
        // The sender lives as long as the links.
        _ => return,
    };
    tracing::error!("{}", sentence(&node, height));
    node.expel().await;
    let store = node.host.store().clone();
    let noted = tokio::task::spawn_blocking(move || {
        // Should it be told only once: the next start must not ask for it again.
        match identity::outgrown(&store)? {
            Some(_) => Ok(()),
            None => identity::set_outgrown(&store, height),
        }
    });
    if let Ok(Err(error)) = noted.await {
        tracing::error!(%error, "note down that the directory is an older copy");
    }
}

/// What has happened, and what to do.
pub(super) fn sentence(node: &Node, height: u64) -> String {
    let next = match node.role {
        http::Role::Worker => "start it with an empty one, as a new worker".to_owned(),
        http::Role::Coordinator => format!(
            "start it with an empty one, and give it a new seat with POST /cluster/coordinators?addr={}",
            node.advertise
        ),
    };
    format!(
        "the directory of this node is an older copy of itself: it was opened at height {}, and others have \
         heard it at {height} before. It was put back to an earlier state, or its disk has lost what was \
         written, and votes and entries are forgotten with it; so this node takes part in nothing any more. \
         Stop it, remove the directory, and {next}",
        node.host.store().opened_at()
    )
}
