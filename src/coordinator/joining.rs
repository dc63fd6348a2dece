//! Workers that become members, and come back as such.

use super::{
    command::Reply,
    machine::{MAX_WORKERS, Refusal, State, advance, founded, refuse, remember, take_out},
    records::{Changed, Record},
};
use crate::{
    ids::{NodeId, Opening, WorkerId},
    ring::map::{Map, Worker},
};

impl State {
    pub(super) fn join(
        &mut self,
        worker: Worker,
        opening: Opening,
        number: Option<NodeId>,
        replace: bool,
        changed: &mut Changed,
    ) -> Result<Reply, Refusal> {
        let present = self.by_id.get(&worker.id).copied();
        let map = founded(&mut self.map)?;
        let cluster = map.cluster;
        if let Some(number) = number {
            may_be(map, number, &worker)?;
        }
        if let Some(node) = present
            && let Some(known) = map.workers.get_mut(&node)
        {
            if known.store == worker.store {
                if let Some(last) = self.openings.get(&node)
                    && opening.goes_back_behind(last)
                {
                    return Err(Refusal::Outgrown(last.height));
                }
                if self.openings.insert(node, opening) != Some(opening) {
                    changed.add(Record::Opening(node));
                }
                if (&known.addr, &known.zone) != (&worker.addr, &worker.zone) {
                    (known.addr, known.zone) = (worker.addr, worker.zone);
                    advance(map, changed);
                    changed.add(Record::Worker(node));
                }
                return Ok(Reply::Joined { node, cluster, epoch: map.epoch });
            }
            if !replace {
                return refuse(format!(
                    "a worker with the id {} is already active at {} with another directory; stop that one, \
                     or start this one on an empty directory",
                    worker.id, known.addr
                ));
            }
        }
        let retired = present.filter(|node| map.workers.contains_key(node));
        if retired.is_none() && map.workers.len() >= MAX_WORKERS {
            return refuse(format!("the cluster has its most workers, {MAX_WORKERS}; remove one first"));
        }
        let node = NodeId(self.next_node);
        let Some(next_node) = self.next_node.checked_add(1) else {
            return refuse("all node numbers have been given out");
        };
        if let Some(retired) = retired {
            may_retire(map, retired, &worker.id)?;
        }
        map.workers.insert(node, worker.clone());
        if let Some(retired) = retired {
            take_out(map, retired, Some(node), changed);
            if let Some(old) = map.workers.remove(&retired) {
                remember(&mut self.removed, retired, old.id, changed);
            }
            self.openings.remove(&retired);
            changed.add(Record::Worker(retired));
            changed.add(Record::Opening(retired));
        }
        advance(map, changed);
        let epoch = map.epoch;
        self.next_node = next_node;
        self.by_id.insert(worker.id.clone(), node);
        self.openings.insert(node, opening);
        changed.add(Record::Worker(node));
        changed.add(Record::Opening(node));
        if self.pinged.remove(&worker.id).is_some() {
            changed.add(Record::Pinged(worker.id));
        }
        Ok(Reply::Joined { node, cluster, epoch })
    }
}

/// Whether a worker that says this number is the one that got it.
fn may_be(map: &Map, number: NodeId, worker: &Worker) -> Result<(), Refusal> {
    match map.workers.get(&number) {
        Some(known) if known.id == worker.id && known.store == worker.store => Ok(()),
        Some(known) => refuse(format!(
            "node {number} is worker {} with another id or directory; start this one on an empty directory",
            known.id
        )),
        None => refuse(format!(
            "worker {} was removed from this cluster; to join again, start it on an empty directory, as a new \
             worker",
            worker.id
        )),
    }
}

/// A worker whose disk is gone may have initialised a shard together with others that still are
/// there; only they can tell. Where it was alone, nobody else can have.
fn may_retire(map: &Map, node: NodeId, id: &WorkerId) -> Result<(), Refusal> {
    match map.shards_of(node).find(|(_, shard)| !shard.formed && shard.replicas.len() > 1) {
        Some((_, shard)) => refuse(format!(
            "shard {} is just being made with the directory that worker {id} had before; try again when \
             it has a leader",
            shard.group
        )),
        None => Ok(()),
    }
}
