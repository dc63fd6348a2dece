//! The coordinator group's state machine: who belongs to the cluster, and the map.
//!
//! Total: every command has a reply, and a refused one changes nothing. Costs follow what a command
//! touches, never the number of shards, but for [`Command::Remove`] and a retiring
//! [`Command::Join`], which look at every shard once.
//!
//! Invariants:
//! - [`Map::check`] holds after every command;
//! - a node number is given out once, to one (worker id, store), and never again;
//! - a worker joins only with the opening of its store that joined last, or with a higher one;
//! - who says a number when it joins is the worker that has it, or was removed and never joins again:
//!   numbers are remembered by not being given out twice, so nobody needs to be remembered;
//! - the replicas of a shard change only after its group is known to be formed: until then the map's
//!   replicas are the membership that some of them may already have initialised it with.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    command::{Command, Reply},
    records::{Changed, Record},
};
use crate::{
    command::At,
    config::Settings,
    ids::{ClusterId, Epoch, GroupId, NodeId, Opening, Position, WorkerId},
    ring::map::{Coordinator, Map, Shard, Worker},
};

/// The most ids that only ping.
pub const MAX_PINGED: usize = 10_000;

/// The most workers that have joined: what placement is proven for, with room.
pub const MAX_WORKERS: usize = 10_000;

/// The most names of removed workers that are kept; they are for people only.
pub const MAX_REMOVED: usize = 1_000;

/// An id that pings and has not joined.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Pinged {
    /// `host:port`.
    pub addr: String,
    /// When it was registered, or last changed its address.
    pub since: At,
}

/// All that the coordinator group has agreed on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The map; `None` before the founding.
    pub(super) map: Option<Map>,
    /// The ids that only ping.
    pub(super) pinged: BTreeMap<WorkerId, Pinged>,
    /// The last workers that were taken out, for people: until its shards have let go of one, it
    /// stands in moves.
    pub(super) removed: BTreeMap<NodeId, WorkerId>,
    /// With which opening of its store each worker joined last.
    pub(super) openings: BTreeMap<NodeId, Opening>,
    /// The next node number to give out.
    pub(super) next_node: u64,
    /// The next group number to give out.
    pub(super) next_group: u64,
    /// `map.workers` by id.
    pub(super) by_id: BTreeMap<WorkerId, NodeId>,
    /// `map.shards` by group.
    pub(super) by_group: BTreeMap<GroupId, Position>,
}

/// Why a command changes nothing.
pub(super) enum Refusal {
    Refused(String),
    Unknown(String),
    /// See [`Reply::Outgrown`].
    Outgrown(u64),
}

pub(super) fn refuse<T>(sentence: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Refused(sentence.into()))
}

impl State {
    /// The map; `None` before the founding.
    pub fn map(&self) -> Option<&Map> {
        self.map.as_ref()
    }

    /// The ids that ping and have not joined.
    pub fn pinged(&self) -> &BTreeMap<WorkerId, Pinged> {
        &self.pinged
    }

    /// Whether a number was given out and is no worker's any more. It never will be again, so a state
    /// that is behind is right about it, too.
    pub fn expelled(&self, node: NodeId) -> bool {
        self.map.as_ref().is_some_and(|map| node.0 < self.next_node && !map.workers.contains_key(&node))
    }

    /// A joined worker by its name.
    pub fn worker(&self, id: &WorkerId) -> Option<(NodeId, &Worker)> {
        let node = *self.by_id.get(id)?;
        Some((node, self.map.as_ref()?.workers.get(&node)?))
    }

    /// A shard by its group.
    pub fn shard(&self, group: GroupId) -> Option<(Position, &Shard)> {
        let start = *self.by_group.get(&group)?;
        Some((start, self.map.as_ref()?.shards.get(&start)?))
    }

    /// Applies a command; `Changed` lists the records to be written anew ([`State::write`]).
    pub fn apply(&mut self, command: &Command, at: At) -> (Reply, Changed) {
        let mut changed = Changed::default();
        let outcome = match command {
            Command::Found { cluster, settings, coordinators } => {
                self.found(*cluster, settings, coordinators, &mut changed)
            }
            Command::Join { id, store, addr, zone, node, replace, opening } => {
                let worker = Worker {
                    id: id.clone(),
                    addr: addr.clone(),
                    store: *store,
                    zone: zone.clone(),
                    draining: false,
                };
                self.join(worker, *opening, *node, *replace, &mut changed)
            }
            Command::Ping { id, addr } => self.ping(id, addr, at, &mut changed),
            Command::Place { epoch, shards } => self.place(*epoch, shards, &mut changed),
            Command::Formed { groups } => self.formed(groups, &mut changed),
            Command::Drain { worker, draining } => self.drain(worker, *draining, &mut changed),
            Command::Remove { worker } => self.remove(worker, &mut changed),
            Command::AddCoordinator { addr, store, among } => {
                self.add_coordinator(addr, *store, among, &mut changed)
            }
            Command::RemoveCoordinator { node, among } => self.remove_coordinator(*node, among, &mut changed),
            Command::Split { epoch, group, at } => self.split(*epoch, *group, *at, &mut changed),
        };
        match outcome {
            Ok(reply) => (reply, changed),
            Err(refusal) => {
                debug_assert!(changed.is_empty(), "a refused command changes nothing: {command:?}");
                let reply = match refusal {
                    Refusal::Refused(sentence) => Reply::Refused(sentence),
                    Refusal::Unknown(sentence) => Reply::Unknown(sentence),
                    Refusal::Outgrown(height) => Reply::Outgrown { height },
                };
                (reply, Changed::default())
            }
        }
    }

    fn found(
        &mut self,
        cluster: ClusterId,
        settings: &Settings,
        coordinators: &BTreeMap<NodeId, Coordinator>,
        changed: &mut Changed,
    ) -> Result<Reply, Refusal> {
        if let Some(map) = &self.map {
            let same =
                map.cluster == cluster && map.settings == *settings && map.coordinators == *coordinators;
            return if same {
                Ok(Reply::Done { epoch: map.epoch })
            } else {
                refuse(format!(
                    "these coordinators already keep the cluster {} ({})",
                    map.settings.name, map.cluster
                ))
            };
        }
        if !(1..=Settings::MAX_REPLICATION).contains(&settings.replication) {
            return refuse(format!("replication must be 1 to {}", Settings::MAX_REPLICATION));
        }
        if !(1..=Settings::MAX_SHARDS).contains(&settings.shards) {
            return refuse(format!("shards must be 1 to {}", Settings::MAX_SHARDS));
        }
        let Some(last) = coordinators.keys().next_back() else {
            return refuse("a cluster needs a coordinator");
        };
        let Some(next_node) = last.0.checked_add(1) else {
            return refuse("the coordinators' node numbers leave none for workers");
        };
        self.next_node = next_node;
        self.next_group = GroupId::COORDINATOR.0 + 1;
        let map = Map::founded(cluster, settings.clone(), coordinators.clone());
        let epoch = map.epoch;
        self.map = Some(map);
        changed.add(Record::Header);
        Ok(Reply::Done { epoch })
    }

    fn ping(&mut self, id: &WorkerId, addr: &str, at: At, changed: &mut Changed) -> Result<Reply, Refusal> {
        let joined = self.worker(id).map(|(_, worker)| worker.addr.clone());
        let epoch = founded(&mut self.map)?.epoch;
        if let Some(joined_addr) = joined {
            // A ping carries no proof of who sent it: it must not lead requests for a worker astray.
            return if joined_addr == addr {
                Ok(Reply::Done { epoch })
            } else {
                refuse(format!(
                    "worker {id} has joined from {joined_addr}, and only its own process can move it; \
                     ping with another id"
                ))
            };
        }
        let known = self.pinged.get(id);
        if known.is_none() && self.pinged.len() >= MAX_PINGED {
            return refuse(format!(
                "{MAX_PINGED} ids are registered that never joined; remove some with DELETE /cluster/workers/ID"
            ));
        }
        if known.is_none_or(|known| known.addr != addr) {
            self.pinged.insert(id.clone(), Pinged { addr: addr.to_owned(), since: at });
            changed.add(Record::Pinged(id.clone()));
        }
        Ok(Reply::Done { epoch })
    }

    fn place(
        &mut self,
        epoch: Epoch,
        shards: &[(Position, Shard)],
        changed: &mut Changed,
    ) -> Result<Reply, Refusal> {
        let map = founded(&mut self.map)?;
        if map.epoch != epoch {
            return refuse(format!("the plan is for epoch {epoch}, the map is at {}: plan again", map.epoch));
        }
        let first = map.shards.is_empty();
        let mut placed = BTreeMap::new();
        let mut next_group = self.next_group;
        for (start, shard) in shards {
            let mut shard = shard.clone();
            match map.shards.get(start) {
                Some(present)
                    if (present.group, present.formed, present.parent)
                        != (shard.group, shard.formed, shard.parent) =>
                {
                    return refuse(format!("the plan takes the shard at {start} for another one"));
                }
                Some(present) if !present.formed && present.replicas != shard.replicas => {
                    return refuse(format!("shard {} is not formed yet, it cannot be moved", shard.group));
                }
                Some(_) => {}
                None if first
                    && shard.group == Shard::UNNUMBERED
                    && !shard.formed
                    && shard.parent.is_none() =>
                {
                    shard.group = GroupId(next_group);
                    next_group = match next_group.checked_add(1) {
                        Some(next) => next,
                        None => return refuse("all group numbers have been given out"),
                    };
                }
                None => return refuse(format!("no shard begins at {start}, and a plan makes none")),
            }
            map.check_shard(*start, &shard).or_else(refuse)?;
            if placed.insert(*start, shard).is_some() {
                return refuse(format!("the plan names the shard at {start} twice"));
            }
        }
        if first && placed.keys().next().is_some_and(|start| *start != Position(0)) {
            return refuse("the plan leaves the beginning of the ring to no shard");
        }
        placed.retain(|start, shard| map.shards.get(start) != Some(shard));
        if !placed.is_empty() {
            advance(map, changed);
            self.next_group = next_group;
        }
        for (start, shard) in placed {
            self.by_group.insert(shard.group, start);
            map.shards.insert(start, shard);
            changed.add(Record::Shard(start));
        }
        Ok(Reply::Done { epoch: map.epoch })
    }

    fn formed(&mut self, groups: &[GroupId], changed: &mut Changed) -> Result<Reply, Refusal> {
        let map = founded(&mut self.map)?;
        let mut starts = BTreeSet::new();
        for group in groups {
            match self.by_group.get(group) {
                Some(start) => starts.insert(*start),
                None => return refuse(format!("there is no shard {group}")),
            };
        }
        for start in starts {
            if let Some(shard) = map.shards.get_mut(&start)
                && !shard.formed
            {
                shard.formed = true;
                changed.add(Record::Shard(start));
            }
        }
        if !changed.is_empty() {
            advance(map, changed);
        }
        Ok(Reply::Done { epoch: map.epoch })
    }

    fn drain(&mut self, id: &WorkerId, draining: bool, changed: &mut Changed) -> Result<Reply, Refusal> {
        let node = self.by_id.get(id).copied();
        let map = founded(&mut self.map)?;
        let elsewhere = map.workers.iter().any(|(other, worker)| Some(*other) != node && !worker.draining);
        let Some((node, worker)) = node.and_then(|node| Some((node, map.workers.get_mut(&node)?))) else {
            return unknown(id);
        };
        if draining && !worker.draining && !elsewhere {
            return refuse(format!(
                "worker {id} is the last one that is not being drained: its data has nowhere to go; \
                 start another worker first"
            ));
        }
        if worker.draining != draining {
            worker.draining = draining;
            advance(map, changed);
            changed.add(Record::Worker(node));
        }
        Ok(Reply::Done { epoch: map.epoch })
    }

    fn remove(&mut self, id: &WorkerId, changed: &mut Changed) -> Result<Reply, Refusal> {
        let node = self.by_id.get(id).copied();
        let map = founded(&mut self.map)?;
        let Some(node) = node else {
            if self.pinged.remove(id).is_none() {
                return unknown(id);
            }
            changed.add(Record::Pinged(id.clone()));
            return Ok(Reply::Done { epoch: map.epoch });
        };
        for (_, shard) in map.shards_of(node) {
            let left = shard.replicas.len() - 1;
            if !shard.formed {
                return refuse(format!(
                    "shard {} is just being made with worker {id}; try again when it has a leader",
                    shard.group
                ));
            }
            if left <= shard.replicas.len() / 2 {
                return refuse(format!(
                    "worker {id} holds the last majority of shard {}, {left} of {} copies would remain; \
                     drain it first, or start more workers",
                    shard.group,
                    shard.replicas.len()
                ));
            }
        }
        take_out(map, node, None, changed);
        advance(map, changed);
        let epoch = map.epoch;
        if let Some(worker) = map.workers.remove(&node) {
            remember(&mut self.removed, node, worker.id, changed);
        }
        self.by_id.remove(id);
        self.openings.remove(&node);
        changed.add(Record::Worker(node));
        changed.add(Record::Opening(node));
        Ok(Reply::Done { epoch })
    }
}

pub(super) fn founded(map: &mut Option<Map>) -> Result<&mut Map, Refusal> {
    map.as_mut().ok_or_else(|| {
        Refusal::Refused("the cluster is not founded yet; wait until its coordinators are up".to_owned())
    })
}

fn unknown<T>(id: &WorkerId) -> Result<T, Refusal> {
    Err(Refusal::Unknown(format!("there is no worker {id}; GET /cluster lists them")))
}

pub(super) fn advance(map: &mut Map, changed: &mut Changed) {
    map.epoch = Epoch(map.epoch.0 + 1);
    changed.add(Record::Header);
}

/// Notes the name of a worker that was taken out, and forgets the oldest where there are too many.
pub(super) fn remember(
    removed: &mut BTreeMap<NodeId, WorkerId>,
    node: NodeId,
    id: WorkerId,
    changed: &mut Changed,
) {
    changed.add(Record::Removed(node));
    removed.insert(node, id);
    if removed.len() > MAX_REMOVED
        && let Some((oldest, _)) = removed.pop_first()
    {
        changed.add(Record::Removed(oldest));
    }
}

/// Takes a node out of every shard's replicas. A shard that it alone kept goes to `heir`: its data
/// is lost, and the map must still say who is asked for it.
pub(super) fn take_out(map: &mut Map, node: NodeId, heir: Option<NodeId>, changed: &mut Changed) {
    for (start, shard) in &mut map.shards {
        let Some(index) = shard.replicas.iter().position(|replica| *replica == node) else { continue };
        match heir {
            Some(heir) if shard.replicas.len() == 1 => shard.replicas[index] = heir,
            _ => {
                shard.replicas.remove(index);
            }
        }
        changed.add(Record::Shard(*start));
    }
}
