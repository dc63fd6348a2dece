//! Who belongs to the coordinator group: the two commands that change the map's list, and the
//! questions that the leader asks before it proposes one, by what it sees of the group.
//!
//! The group's Raft members follow the map's list (`node::seats`), so a change is under way where
//! the two differ; nothing else remembers it, and a new leader goes on from there.
//!
//! Invariants:
//! - a coordinator's number is given out once, to one store, and its store never changes;
//! - the list is never empty;
//! - a change is judged by the list that it is made for: [`Command::AddCoordinator`] and
//!   [`Command::RemoveCoordinator`] name the members that the leader saw, and change nothing where
//!   these are no longer the members.
//!
//! [`Command::AddCoordinator`]: super::command::Command::AddCoordinator
//! [`Command::RemoveCoordinator`]: super::command::Command::RemoveCoordinator

use std::collections::{BTreeMap, BTreeSet};

use super::{
    command::Reply,
    machine::{Refusal, State, advance, founded, refuse},
    records::Changed,
};
use crate::{
    ids::{NodeId, StoreId},
    ring::map::{Coordinator, Map},
};

/// The most members of the coordinator group: more would only slow its writes down.
pub const MAX_COORDINATORS: usize = 9;

/// What the group's leader sees of its members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seats {
    /// The members that vote, of both halves of a joint configuration.
    pub voters: BTreeSet<NodeId>,
    /// The members that only follow.
    pub learners: BTreeSet<NodeId>,
    /// Whether the membership is a joint one, or not committed yet.
    pub unsettled: bool,
    /// The coordinators that answer, the leader among them.
    pub alive: BTreeSet<NodeId>,
}

/// What becomes of a coordinator whose seat is not yet, or not any more, what the map says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is to vote and does not yet.
    Adding,
    /// It still votes or follows, and is to leave.
    Removing,
}

impl Seats {
    /// The members that are on their way in or out.
    pub fn changes(&self, map: &Map) -> BTreeMap<NodeId, Change> {
        let adding = map.coordinators.keys().filter(|node| !self.voters.contains(node));
        let present = self.voters.iter().chain(&self.learners);
        let removing = present.filter(|node| !map.coordinators.contains_key(node));
        let adding = adding.map(|node| (*node, Change::Adding));
        adding.chain(removing.map(|node| (*node, Change::Removing))).collect()
    }

    /// The change that has to end before another one begins.
    fn settled(&self, map: &Map) -> Result<(), String> {
        let told = match self.changes(map).into_iter().next() {
            Some((node, Change::Adding)) => format!("coordinator {node} is being added"),
            Some((node, Change::Removing)) => format!("coordinator {node} is being removed"),
            None if self.unsettled => "the members of the coordinator group are changing".to_owned(),
            None => return Ok(()),
        };
        Err(format!(
            "{told}; one change at a time: wait until GET /cluster/coordinators shows no changes, or remove \
             a coordinator that is being added and does not come up"
        ))
    }
}

/// Whether the coordinator that answers at `addr` with this store may become a member; where it
/// takes the place of one that lost its directory, which one.
pub fn may_add(map: &Map, seats: &Seats, addr: &str, store: StoreId) -> Result<Option<NodeId>, String> {
    seats.settled(map)?;
    let replaced = replaced(&map.coordinators, addr, store)?;
    if let Some(worker) = map.workers.values().find(|worker| worker.addr == addr || worker.store == store) {
        return Err(format!("{addr} is the address of worker {}, not of a coordinator", worker.id));
    }
    // With the newcomer, which answers. It takes part in the change's majority right away.
    let others = map.coordinators.keys().filter(|node| Some(**node) != replaced);
    majority(others.copied(), seats, 1)
        .map_err(|alive| format!("{alive} coordinators would answer, no majority; start the others first"))?;
    Ok(replaced)
}

/// Whether the group goes on without a member: the others are to have a majority that answers.
pub fn may_remove(map: &Map, seats: &Seats, node: NodeId) -> Result<(), String> {
    if !map.coordinators.contains_key(&node) {
        return Ok(());
    }
    // Who does not vote yet may be given up at any time: else one that died would be in the way for ever.
    let gives_up = !seats.voters.contains(&node) && !seats.unsettled;
    if !gives_up {
        seats.settled(map)?;
    }
    let others = map.coordinators.keys().filter(|other| **other != node);
    majority(others.copied(), seats, 0).map_err(|alive| {
        format!(
            "without coordinator {node}, {alive} would answer, no majority; start the others, or add another \
             coordinator first"
        )
    })
}

/// Whether those of `members` that answer are a majority of them, `more` others that answer counted
/// in; if not, how many answer.
fn majority(members: impl Iterator<Item = NodeId>, seats: &Seats, more: usize) -> Result<(), String> {
    let (mut count, mut alive) = (more, more);
    for member in members {
        count += 1;
        alive += usize::from(seats.alive.contains(&member));
    }
    // The last one has nobody to leave the group to; the machine says so.
    if count == 0 || alive * 2 > count { Ok(()) } else { Err(format!("{alive} of {count}")) }
}

/// The member whose address another store answers at: its directory was lost.
fn replaced(
    coordinators: &BTreeMap<NodeId, Coordinator>,
    addr: &str,
    store: StoreId,
) -> Result<Option<NodeId>, String> {
    match coordinators.iter().find(|(_, known)| known.store == store || known.addr == addr) {
        Some((node, known)) if known.store == store => {
            Err(format!("{} is a member already, coordinator {node}", known.addr))
        }
        found => Ok(found.map(|(node, _)| *node)),
    }
}

impl State {
    /// A coordinator by its number, or by its `host:port`.
    pub fn coordinator(&self, which: &str) -> Option<NodeId> {
        let coordinators = &self.map.as_ref()?.coordinators;
        let number = which.parse().ok().map(NodeId).filter(|node| coordinators.contains_key(node));
        number.or_else(|| {
            coordinators.iter().find(|(_, coordinator)| coordinator.addr == which).map(|(node, _)| *node)
        })
    }

    /// Whether a number was given out and is no coordinator's any more. It never will be again, so a
    /// state that is behind is right about it, too.
    pub fn unseated(&self, node: NodeId) -> bool {
        self.map.as_ref().is_some_and(|map| node.0 < self.next_node && !map.coordinators.contains_key(&node))
    }

    pub(super) fn add_coordinator(
        &mut self,
        addr: &str,
        store: StoreId,
        among: &BTreeSet<NodeId>,
        changed: &mut Changed,
    ) -> Result<Reply, Refusal> {
        let map = founded(&mut self.map)?;
        let cluster = map.cluster;
        if let Some((node, _)) =
            map.coordinators.iter().find(|(_, known)| known.store == store && known.addr == addr)
        {
            // The same command again, whose first answer was lost.
            return Ok(Reply::Joined { node: *node, cluster, epoch: map.epoch });
        }
        check_members(map, among)?;
        if let Some(worker) = map.workers.values().find(|worker| worker.addr == addr || worker.store == store)
        {
            return refuse(format!("{addr} is the address of worker {}, not of a coordinator", worker.id));
        }
        let replaced = replaced(&map.coordinators, addr, store).or_else(refuse)?;
        if replaced.is_none() && map.coordinators.len() >= MAX_COORDINATORS {
            return refuse(format!(
                "the cluster has its most coordinators, {MAX_COORDINATORS}; remove one first"
            ));
        }
        let node = NodeId(self.next_node);
        let Some(next_node) = self.next_node.checked_add(1) else {
            return refuse("all node numbers have been given out");
        };
        if let Some(replaced) = replaced {
            map.coordinators.remove(&replaced);
        }
        map.coordinators.insert(node, Coordinator { addr: addr.to_owned(), store });
        self.next_node = next_node;
        advance(map, changed);
        Ok(Reply::Joined { node, cluster, epoch: map.epoch })
    }

    pub(super) fn remove_coordinator(
        &mut self,
        node: NodeId,
        among: &BTreeSet<NodeId>,
        changed: &mut Changed,
    ) -> Result<Reply, Refusal> {
        let map = founded(&mut self.map)?;
        if !map.coordinators.contains_key(&node) {
            return Err(Refusal::Unknown(format!(
                "there is no coordinator {node}; GET /cluster/coordinators lists them"
            )));
        }
        if map.coordinators.len() == 1 {
            return refuse(format!(
                "coordinator {node} is the last one: without it there is no cluster; add another one first"
            ));
        }
        check_members(map, among)?;
        map.coordinators.remove(&node);
        advance(map, changed);
        Ok(Reply::Done { epoch: map.epoch })
    }
}

fn check_members(map: &Map, among: &BTreeSet<NodeId>) -> Result<(), Refusal> {
    if map.coordinators.keys().eq(among) {
        return Ok(());
    }
    refuse("the coordinators have changed meanwhile; look at GET /cluster/coordinators and try again")
}
