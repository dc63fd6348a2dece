//! What to do next, from the map and from what was heard: same input, same steps.
//!
//! A plan changes only the map. The leader of a shard makes its Raft membership equal to the map's
//! replicas by itself (add a learner, wait until it has caught up, joint change), so a change of the
//! coordinators' leader in between loses nothing: what is under way is where voters and map differ.
//!
//! Never planned: a change of a shard that is not formed, that has no leader, that is just being split,
//! whose last change is still under way and will end, or whose new members could not serve it.
//!
//! [`steps`] costs O(shards · log): it is for the moments when something has changed (the map, a
//! worker's activity, a shard's leader or voters), not for every tick.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    command::Command,
    observed::{Observed, ShardSeen},
    split::MAX_SHARDS,
};
use crate::{
    ids::{GroupId, NodeId, Position, Span},
    ring::{
        map::{Map, Shard},
        placement::{self, Workers},
    },
};

/// How long the first worker waits for others before shards are made on fewer than `replication`,
/// milliseconds: one coordinator and one worker are a cluster, and of several that start together
/// none should have to be copied to afterwards.
pub const FORMATION_GRACE_MS: u64 = 3_000;

/// The bounds of what happens at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How replicas are placed.
    pub placement: placement::Policy,
    /// The most shards that change their members at the same time.
    pub moves_max: usize,
    /// The most of them that a worker takes part in, be it as leader, as old or as new member.
    pub moves_per_worker_max: usize,
    /// The most leaderships handed to their primaries by one call.
    pub transfers_max: usize,
    /// The most shards that one command changes.
    pub changes_max: usize,
    /// The most shards that are split at the same time for their size.
    pub splits_max: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            placement: placement::Policy::default(),
            moves_max: 64,
            moves_per_worker_max: 4,
            transfers_max: 4,
            changes_max: 1_024,
            splits_max: 4,
        }
    }
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Propose this to the coordinator group.
    Propose(Command),
    /// Ask the leader of a shard to hand it to its primary.
    TransferLeader {
        /// The shard.
        group: GroupId,
        /// Its primary.
        to: NodeId,
    },
    /// Split a shard that has grown too large, where its leader says that the middle is.
    Split {
        /// The shard.
        group: GroupId,
    },
}

/// The next steps; none, if all is as it should be or under way.
pub fn steps(map: &Map, policy: &Policy, observed: &Observed) -> Vec<Step> {
    if map.shards.is_empty() {
        return first_shards(map, policy, observed).map(Step::Propose).into_iter().collect();
    }
    let plan = Plan { map, policy, observed };
    let formed: Vec<GroupId> = plan.newly_formed();
    if !formed.is_empty() {
        // A placement made beside it would be for an epoch that this ends.
        return vec![Step::Propose(Command::Formed { groups: formed })];
    }
    let changes = plan.changes();
    let changed: BTreeSet<Position> = changes.iter().map(|(start, _)| *start).collect();
    let mut steps = Vec::new();
    let changes_nothing = changes.is_empty();
    if !changes_nothing {
        steps.push(Step::Propose(Command::Place { epoch: map.epoch, shards: changes }));
    }
    steps.extend(plan.transfers(&changed));
    if changes_nothing {
        steps.extend(plan.splits());
    }
    steps
}

/// The first shards, once there are workers for all copies, or the first has waited long enough.
fn first_shards(map: &Map, policy: &Policy, observed: &Observed) -> Option<Command> {
    let is_ready = |node: &&NodeId| is_active(observed, **node) && !map.workers[*node].draining;
    let workers: BTreeSet<NodeId> = map.workers.keys().filter(is_ready).copied().collect();
    let enough = workers.len() >= map.settings.replication as usize;
    if !enough && observed.first_worker_waited_ms < FORMATION_GRACE_MS {
        return None;
    }
    // Nothing has to be moved for it yet, so it may be as even as can be.
    let policy = placement::Policy { slack_percent: 0, ..policy.placement };
    let placed = placement::next(map, &Workers::active(workers), &policy);
    let shards: Vec<(Position, Shard)> = placed.shards.into_iter().collect();
    (!shards.is_empty()).then_some(Command::Place { epoch: map.epoch, shards })
}

pub(super) fn is_active(observed: &Observed, node: NodeId) -> bool {
    observed.workers.get(&node).is_some_and(|worker| worker.active)
}

/// Whether a shard's members are not yet, or not any more, those of the map.
pub fn is_moving(shard: &Shard, seen: &ShardSeen) -> bool {
    !is_same_set(&seen.voters, &shard.replicas)
}

struct Plan<'p> {
    map: &'p Map,
    policy: &'p Policy,
    observed: &'p Observed,
}

/// A change of a shard's members.
struct Move {
    /// Repair before draining before balance.
    urgency: u8,
    start: Position,
    /// Whom it burdens.
    takes_part: BTreeSet<NodeId>,
}

impl Plan<'_> {
    /// A group that has a leader was initialised.
    fn newly_formed(&self) -> Vec<GroupId> {
        let has_leader = |group| self.seen(group).is_some_and(|seen| seen.leader.is_some());
        let shards = self.map.shards.values();
        shards.filter(|shard| !shard.formed && has_leader(shard.group)).map(|shard| shard.group).collect()
    }

    fn seen(&self, group: GroupId) -> Option<&ShardSeen> {
        self.observed.shards.get(&group)
    }

    /// The leader of a shard that is formed, and alive.
    fn leader(&self, shard: &Shard) -> Option<NodeId> {
        let leader = self.seen(shard.group)?.leader?;
        (shard.formed && is_active(self.observed, leader)).then_some(leader)
    }

    /// A shard that can be changed now, and its leader: no change is under way, or one that may never
    /// end, because a member it leads to is gone or has to leave as well.
    fn changeable(&self, shard: &Shard, workers: &Workers) -> Option<NodeId> {
        let leader = self.leader(shard)?;
        let seen = self.seen(shard.group)?;
        let is_lost = |node: &NodeId| !workers.active.contains(node) && !workers.silent.contains(node);
        (!is_moving(shard, seen) || shard.replicas.iter().any(is_lost)).then_some(leader)
    }

    /// Whose replicas stay: workers that are active or may soon be so again.
    fn workers(&self) -> Workers {
        let replace_after_ms = self.map.settings.replace_after_ms;
        let mut workers = Workers::default();
        for (node, worker) in &self.map.workers {
            let seen = self.observed.workers.get(node);
            if worker.draining {
                continue;
            } else if seen.is_some_and(|seen| seen.active) {
                workers.active.insert(*node);
            } else if seen.is_none_or(|seen| seen.silent_for_ms < replace_after_ms) {
                workers.silent.insert(*node);
            }
        }
        workers
    }

    /// The map as it should become, of shards that can change now, and where it differs.
    ///
    /// What cannot change is held out of the placement: otherwise the others would be arranged around
    /// changes that do not happen, differently each time.
    fn target(&self) -> (Map, Vec<Position>) {
        let workers = self.workers();
        let is_held = |(start, shard): &(&Position, &Shard)| {
            self.changeable(shard, &workers).is_none() || self.map.splitting(**start).is_some()
        };
        let mut held: BTreeSet<Position> =
            self.map.shards.iter().filter(is_held).map(|(start, _)| *start).collect();
        loop {
            let target = placement::next_around(self.map, &workers, &held, &self.policy.placement);
            let differs = |(start, shard): &(&Position, &Shard)| target.shards[*start] != **shard;
            let different: Vec<Position> =
                self.map.shards.iter().filter(differs).map(|(start, _)| *start).collect();
            let count = held.len();
            held.extend(different.iter().filter(|start| !self.is_possible(**start, &target)));
            if held.len() == count {
                return (target, different);
            }
        }
    }

    fn is_possible(&self, start: Position, target: &Map) -> bool {
        let (from, to) = (&self.map.shards[&start].replicas, &target.shards[&start].replicas);
        is_same_set(from, to) || self.as_move(start, target).is_some()
    }

    fn changes(&self) -> Vec<(Position, Shard)> {
        let (target, different) = self.target();
        if different.is_empty() {
            return Vec::new();
        }
        let (mut burden, under_way) = self.under_way();
        let mut moves: Vec<Move> =
            different.iter().filter_map(|start| self.as_move(*start, &target)).collect();
        moves.sort_by_key(|a_move| (a_move.urgency, a_move.start));
        let mut chosen = Vec::new();
        for a_move in moves {
            let room = self.policy.moves_max.saturating_sub(under_way + chosen.len());
            if room == 0 || chosen.len() >= self.policy.changes_max {
                break;
            }
            let is_free = |node: &NodeId| {
                burden.get(node).is_none_or(|count| *count < self.policy.moves_per_worker_max)
            };
            if a_move.takes_part.iter().all(is_free) {
                for node in &a_move.takes_part {
                    *burden.entry(*node).or_default() += 1;
                }
                chosen.push(a_move.start);
            }
        }
        if chosen.is_empty() && under_way == 0 {
            // Who is the primary is settled last: it depends on where everything ends up.
            let reordered = |start: &Position| {
                is_same_set(&self.map.shards[start].replicas, &target.shards[start].replicas)
            };
            chosen = different.into_iter().filter(reordered).take(self.policy.changes_max).collect();
        }
        chosen.into_iter().map(|start| (start, target.shards[&start].clone())).collect()
    }

    /// How many changes each worker takes part in, and how many there are; without those that may
    /// never end.
    fn under_way(&self) -> (BTreeMap<NodeId, usize>, usize) {
        let mut burden: BTreeMap<NodeId, usize> = BTreeMap::new();
        let mut count = 0;
        let workers = self.workers();
        for shard in self.map.shards.values() {
            let Some(seen) = self.seen(shard.group) else { continue };
            // Without a leader for a moment, as while one hands over, it is still under way.
            let active = seen.voters.iter().filter(|node| is_active(self.observed, **node)).count();
            let can_go_on = shard.formed && (seen.leader.is_some() || active * 2 > seen.voters.len());
            if !can_go_on || !is_moving(shard, seen) || self.changeable(shard, &workers).is_some() {
                continue;
            }
            count += 1;
            let takes_part = difference(&seen.voters, &shard.replicas).into_iter().chain(seen.leader);
            for node in takes_part.collect::<BTreeSet<_>>() {
                *burden.entry(node).or_default() += 1;
            }
        }
        (burden, count)
    }

    /// The change of a changeable shard's members that the target asks for, if it can happen now.
    fn as_move(&self, start: Position, target: &Map) -> Option<Move> {
        let (from, to) = (&self.map.shards[&start], &target.shards[&start]);
        if is_same_set(&from.replicas, &to.replicas) {
            return None;
        }
        let leader = self.leader(from)?;
        let is_active = |node: &&NodeId| is_active(self.observed, **node);
        let added = || to.replicas.iter().filter(|node| !from.replicas.contains(node));
        let can_serve = to.replicas.iter().filter(is_active).count() > to.replicas.len() / 2;
        if !can_serve || !added().all(|node| is_active(&node)) {
            return None;
        }
        let is_draining = |node: &NodeId| self.map.workers.get(node).is_some_and(|worker| worker.draining);
        let lost = |node: &NodeId| !to.replicas.contains(node) && !is_active(&node) && !is_draining(node);
        let is_repair = from.replicas.iter().any(lost) || to.replicas.len() > from.replicas.len();
        let urgency = match from.replicas.iter().any(is_draining) {
            _ if is_repair => 0,
            true => 1,
            false => 2,
        };
        let takes_part = difference(&from.replicas, &to.replicas).into_iter().chain([leader]).collect();
        Some(Move { urgency, start, takes_part })
    }

    /// Shards that are too large, and settled. A report counts only if it is of the present arc: one
    /// from before a split is of both halves.
    fn splits(&self) -> Vec<Step> {
        let limit = self.map.settings.split_size_bytes;
        if limit == 0 || self.map.shards.len() >= MAX_SHARDS {
            return Vec::new();
        }
        let parents: BTreeSet<GroupId> = self.map.shards.values().filter_map(|shard| shard.parent).collect();
        let under_way = self.map.shards.values().filter(|shard| !shard.formed && shard.parent.is_some());
        let room = self.policy.splits_max.saturating_sub(under_way.count());
        let is_too_large = |(arc, shard): &(Span, &Shard)| {
            let Some(seen) = self.seen(shard.group).filter(|_| self.leader(shard).is_some()) else {
                return false;
            };
            let is_of_arc = match seen.arc {
                Some(seen) => seen == *arc,
                None => shard.parent.is_none() && !parents.contains(&shard.group),
            };
            let is_settled = !is_moving(shard, seen) && self.map.splitting(arc.start).is_none();
            is_of_arc
                && is_settled
                && arc.start != arc.last()
                && seen.bytes.is_some_and(|bytes| bytes >= limit)
        };
        let chosen = self.map.arcs().filter(is_too_large).take(room);
        chosen.map(|(_, shard)| Step::Split { group: shard.group }).collect()
    }

    /// Leaderships that are not where they should be, and can go there now.
    fn transfers(&self, changed: &BTreeSet<Position>) -> Vec<Step> {
        let mut transfers = Vec::new();
        for (start, shard) in &self.map.shards {
            if transfers.len() >= self.policy.transfers_max {
                break;
            }
            // Who leads dates the writes, and has to keep up with them.
            let leads_well = |node: &&NodeId| {
                let seen = self.observed.workers.get(node);
                seen.is_some_and(|worker| worker.clock_off_ms.is_none() && !worker.limps)
            };
            let primary = shard.replicas.first().filter(|node| is_active(self.observed, **node));
            let Some(primary) = primary.filter(leads_well) else { continue };
            let is_moving = self.seen(shard.group).is_none_or(|seen| is_moving(shard, seen));
            let elsewhere = self.leader(shard).is_some_and(|leader| leader != *primary);
            if elsewhere && !is_moving && !changed.contains(start) {
                transfers.push(Step::TransferLeader { group: shard.group, to: *primary });
            }
        }
        transfers
    }
}

/// Whether two lists without doubles have the same members.
fn is_same_set(a: &[NodeId], b: &[NodeId]) -> bool {
    a.len() == b.len() && a.iter().all(|node| b.contains(node))
}

/// Those that are in one of the two only.
fn difference(a: &[NodeId], b: &[NodeId]) -> BTreeSet<NodeId> {
    let only = |these: &[NodeId], others: &[NodeId]| -> Vec<NodeId> {
        these.iter().filter(|node| !others.contains(node)).copied().collect()
    };
    only(a, b).into_iter().chain(only(b, a)).collect()
}
