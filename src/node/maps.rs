//! By which map a node goes, and where the others are by it: both change together, and only to what is newer.
//! Maps come on several ways at once (answers to a join and to heartbeats, orders of the coordinators), so an
//! older one may come later. If it told where the others are, the node would not find those it does not name.

use std::collections::BTreeMap;

use super::{Node, identity, seats};
use crate::{
    consensus::group::Group,
    ids::{NodeId, StoreId},
    ring::map::{Coordinator, Map},
};

/// Held while a map is taken.
#[derive(Default)]
pub(super) struct Turn(tokio::sync::Mutex<()>);

impl Node {
    /// Goes by the map of this node's earlier life; to be called before others can tell of theirs.
    pub(super) fn recall_map(&self) -> anyhow::Result<()> {
        if let Some(map) = identity::map(self.host.store())? {
            self.go_by(map);
        }
        Ok(())
    }

    /// Goes by a map that others tell of, if it is newer, and keeps it on disk: after a restart a worker serves
    /// before it has found a coordinator.
    pub(super) async fn take_map(&self, map: Map) {
        let _turn = self.maps.0.lock().await;
        if !self.go_by(map.clone()) {
            return;
        }
        let store = self.host.store().clone();
        let saved = tokio::task::spawn_blocking(move || identity::set_map(&store, &map)).await;
        if let Ok(Err(error)) = saved {
            tracing::error!(%error, "keep the map");
        }
    }

    /// Goes by a map that this node has itself, if it is newer.
    pub(super) async fn follow_map(&self, map: Map) {
        let _turn = self.maps.0.lock().await;
        self.go_by(map);
    }

    /// Tells whether it was newer. Where the others are comes first: who acts by a map needs it.
    fn go_by(&self, map: Map) -> bool {
        if self.router.map().is_some_and(|known| map.epoch <= known.epoch) {
            return false;
        }
        let workers = map.workers.iter().map(|(id, worker)| (*id, (worker.addr.clone(), worker.store)));
        let coordinators = map.coordinators.iter().map(|(id, c)| (*id, (c.addr.clone(), c.store)));
        // A coordinator that is off the map may still have a vote in the change that takes it out.
        let members = seats::group(self).map(|group| group.members()).unwrap_or_default();
        let members = members.into_iter().map(|(id, node)| (id, (node.addr, StoreId(node.store))));
        // Of two entries the later one stays.
        self.links.set_directory(members.chain(workers).chain(coordinators).collect());
        self.router.set_map(map)
    }

    pub(super) fn add_coordinators(&self, coordinators: &BTreeMap<NodeId, Coordinator>) {
        let coordinators = coordinators.iter().map(|(id, c)| (*id, (c.addr.clone(), c.store)));
        self.links.add_to_directory(&coordinators.collect());
    }

    /// Where the coordinators are, by their group's membership, as long as no map says.
    pub(super) fn add_members(&self, group: &Group) {
        let members = group.members().into_iter().map(|(id, node)| (id, (node.addr, StoreId(node.store))));
        self.links.add_to_directory(&members.collect());
    }
}
