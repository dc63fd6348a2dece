//! What must hold at every moment, whatever fails: what one replica has applied at an index, every replica
//! has that applied anything there, and it never changes, not even by a crash. So the applied prefixes
//! agree, and no committed entry is lost as long as a replica that applied it, or one that had it
//! then, is looked at again.
//!
//! That a term has one leader is none of it: votes are ordered by term and node (openraft's
//! `leader_id_adv`, as in Paxos), and whoever was elected in a term is deposed by a higher node of the
//! same one.

use std::collections::{BTreeMap, BTreeSet};

use openraft::storage::RaftLogReader as _;
use quoring::ids::{GroupId, NodeId};
use tokio::runtime::{Builder, Runtime};
use xxhash_rust::xxh3::xxh3_64;

use super::{net::Place, node::Node};

/// An applied entry: its term, and a hash of all of it.
type Seen = (u64, u64);

pub(crate) struct Watch {
    /// Who has led a group in which term.
    leaders: BTreeSet<(GroupId, u64, NodeId)>,
    /// What was applied in a group at an index, and where that was seen first.
    applied: BTreeMap<(GroupId, u64), (Seen, Place)>,
    /// Up to where each replica was compared.
    compared: BTreeMap<(Place, GroupId), u64>,
    /// Reads of logs go to threads of its own, and no node's clock knows of them.
    runtime: Runtime,
}

impl Default for Watch {
    fn default() -> Self {
        let runtime = Builder::new_current_thread().build().expect("a runtime without drivers");
        Self { leaders: BTreeSet::new(), applied: BTreeMap::new(), compared: BTreeMap::new(), runtime }
    }
}

impl Watch {
    /// Between two comparisons of what was applied, ms.
    pub(crate) const LOOK_MS: u64 = 50;

    /// A node begins a new life: all that its log still has is compared again.
    pub(crate) fn forget(&mut self, place: Place) {
        self.compared.retain(|(other, _), _| *other != place);
    }

    /// Entries that were seen to be applied.
    pub(crate) fn entries(&self) -> usize {
        self.applied.len()
    }

    /// Leaderships that were seen, over all groups.
    pub(crate) fn leaderships(&self) -> usize {
        self.leaders.len()
    }

    pub(crate) fn note_leaders(&mut self, nodes: &[Node]) {
        for bare in nodes.iter().filter_map(Node::bare) {
            for group in bare.host().all() {
                let Some(term) = group.leads_in() else { continue };
                let Some(me) = bare.links().identity().node else { continue };
                self.leaders.insert((group.id(), term, me));
            }
        }
    }

    pub(crate) fn applied(&mut self, nodes: &[Node]) -> Result<(), String> {
        for node in nodes {
            let Some(bare) = node.bare().cloned() else { continue };
            for group in bare.host().all() {
                let Some(applied) = group.reader().applied() else { continue };
                let from = self.compared.get(&(node.place, group.id())).copied().unwrap_or(0);
                if from > applied.index {
                    continue;
                }
                let mut log = bare.host().store().log(group.id().0);
                let read = log.try_get_log_entries(from..=applied.index);
                let entries = self.runtime.block_on(read).map_err(|error| error.to_string())?;
                for entry in entries {
                    let mut bytes = Vec::new();
                    raft_store::entry::encode(&entry, &mut bytes);
                    let (index, seen) = (entry.log_id.index, (entry.log_id.leader_id.term, xxh3_64(&bytes)));
                    let known = *self.applied.entry((group.id(), index)).or_insert((seen, node.place));
                    if known.0 != seen {
                        return Err(format!(
                            "entry {index} of group {} is {seen:?} on {}, and was {:?} on {}",
                            group.id(),
                            node.name,
                            known.0,
                            nodes[known.1].name
                        ));
                    }
                }
                self.compared.insert((node.place, group.id()), applied.index + 1);
            }
        }
        Ok(())
    }
}
