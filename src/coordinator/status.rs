//! What `GET /cluster` shows, put together from the map and from what the coordinator's leader
//! has heard. Field names are the contract's (docs/API.md).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{machine::State, observed::Observed, plan::is_moving, seats::Change};
use crate::{
    command::At,
    ids::{ClusterId, Epoch, GroupId, NodeId, Position, WorkerId},
    ring::map::Map,
};

/// The whole cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// The epoch of the map.
    pub epoch: Epoch,
    /// The cluster's identity.
    pub cluster: ClusterId,
    /// Its name.
    pub name: String,
    /// The coordinator group.
    pub coordinators: Coordinators,
    /// All workers: joined, and those that have only pinged.
    pub workers: Vec<WorkerStatus>,
    /// The shards in ring order.
    pub shards: Vec<ShardStatus>,
    /// Moves under way.
    pub moves: Vec<Move>,
}

/// The coordinator group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coordinators {
    /// The node that leads it.
    pub leader: Option<NodeId>,
    /// Its term.
    pub term: u64,
    /// `host:port` of each member, by the map.
    pub members: BTreeMap<NodeId, String>,
    /// Members that receive the log and do not vote yet.
    pub learners: BTreeSet<NodeId>,
    /// Members that do not answer the leader.
    pub silent: BTreeSet<NodeId>,
    /// Members on their way in or out.
    pub changes: Vec<SeatChange>,
    /// Whether the group is as the map says, and that is committed: else no other change is taken.
    pub settled: bool,
}

/// A coordinator on its way in or out of the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeatChange {
    /// Its number.
    pub node: NodeId,
    /// `host:port`, of one that comes.
    pub addr: Option<String>,
    /// Whether it comes or goes.
    pub change: Seat,
    /// Log entries that it is behind, where known.
    pub behind: Option<u64>,
}

/// What happens with a coordinator's seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seat {
    /// It is to vote and does not yet.
    Adding,
    /// It is to leave the group and has not yet.
    Removing,
}

/// A worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its name.
    pub id: WorkerId,
    /// Its node number, once it has joined.
    pub node: Option<NodeId>,
    /// `host:port`.
    pub addr: String,
    /// Its zone.
    pub zone: Option<String>,
    /// Whether it was heard of within `inactive_after`.
    pub active: bool,
    /// Whether it is a real node, not only pinged for.
    pub joined: bool,
    /// Whether everything is being moved off it.
    pub draining: bool,
    /// When it was last heard of, RFC 3339, by the coordinator leader's clock.
    pub last_ping: Option<String>,
    /// By how much its clock is off, where that is too much, milliseconds.
    pub clock_off_ms: Option<i64>,
    /// How many shards it leads.
    pub leads: u32,
    /// How many shards it keeps a replica of.
    pub holds: u32,
    /// The arcs whose primary it is.
    pub ranges: Vec<Range>,
}

/// An arc `[start, end)`; an end of zero is the ring's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Where it begins.
    pub start: Position,
    /// The first position behind it.
    pub end: Position,
}

/// A shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardStatus {
    /// Its Raft group.
    pub id: GroupId,
    /// Where its arc begins.
    pub start: Position,
    /// The first position behind it; zero is the ring's end.
    pub end: Position,
    /// The workers that should keep it, the primary first.
    pub replicas: Vec<WorkerId>,
    /// Whether these stand in distinct zones. They do where there are enough; a worker without a zone
    /// shares none.
    pub spread: bool,
    /// Who leads it, as far as known.
    pub leader: Option<WorkerId>,
    /// The leader's term.
    pub term: Option<u64>,
    /// The last committed index.
    pub commit: Option<u64>,
    /// The last index applied at the leader.
    pub applied: Option<u64>,
    /// The size of its data at the leader, bytes, estimated.
    pub bytes: Option<u64>,
}

/// A replica on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The shard.
    pub shard: GroupId,
    /// Workers that are to keep it and do not yet vote.
    pub adding: Vec<WorkerId>,
    /// Workers that still vote and are to leave it.
    pub removing: Vec<WorkerId>,
    /// Log entries that the slowest added replica is behind, where known.
    pub behind: Option<u64>,
    /// For a split: the new shard, which does not serve yet.
    pub into: Option<GroupId>,
}

/// The state of the whole cluster; `None` before the founding.
pub fn cluster(state: &State, observed: &Observed) -> Option<Cluster> {
    let map = state.map()?;
    let mut workers = joined(map, observed);
    workers.extend(pinged(state, observed));
    workers.sort_by(|a, b| a.id.cmp(&b.id));
    Some(Cluster {
        epoch: map.epoch,
        cluster: map.cluster,
        name: map.settings.name.clone(),
        coordinators: coordinators(map, observed),
        workers,
        shards: shards(map, observed),
        moves: moves(state, map, observed),
    })
}

/// The coordinator group as its leader sees it.
pub fn coordinators(map: &Map, observed: &Observed) -> Coordinators {
    let Observed { seats, seats_behind, .. } = observed;
    let members = map.coordinators.iter().map(|(node, coordinator)| (*node, coordinator.addr.clone()));
    let change = |(node, change): (NodeId, Change)| SeatChange {
        node,
        addr: map.coordinators.get(&node).map(|coordinator| coordinator.addr.clone()),
        change: match change {
            Change::Adding => Seat::Adding,
            Change::Removing => Seat::Removing,
        },
        behind: seats_behind.filter(|_| seats.learners.contains(&node)),
    };
    let changes: Vec<_> = seats.changes(map).into_iter().map(change).collect();
    Coordinators {
        leader: observed.coordinator_leader,
        term: observed.coordinator_term,
        members: members.collect(),
        learners: seats.learners.clone(),
        silent: map.coordinators.keys().filter(|node| !seats.alive.contains(node)).copied().collect(),
        settled: changes.is_empty() && !seats.unsettled,
        changes,
    }
}

fn joined(map: &Map, observed: &Observed) -> Vec<WorkerStatus> {
    let held = map.held();
    let mut ranges = map.ranges();
    let mut leads: BTreeMap<NodeId, u32> = BTreeMap::new();
    for shard in map.shards.values() {
        if let Some(leader) = observed.shards.get(&shard.group).and_then(|seen| seen.leader) {
            *leads.entry(leader).or_default() += 1;
        }
    }
    let status = |(node, worker): (&NodeId, &crate::ring::map::Worker)| {
        let seen = observed.workers.get(node).copied().unwrap_or_default();
        let arcs = ranges.remove(node).unwrap_or_default();
        WorkerStatus {
            id: worker.id.clone(),
            node: Some(*node),
            addr: worker.addr.clone(),
            zone: worker.zone.clone(),
            active: seen.active,
            joined: true,
            draining: worker.draining,
            last_ping: seen.last_ping.map(rfc3339),
            clock_off_ms: seen.clock_off_ms,
            leads: leads.get(node).copied().unwrap_or_default(),
            holds: held.get(node).copied().unwrap_or_default(),
            ranges: arcs.into_iter().map(|(start, end)| Range { start, end }).collect(),
        }
    };
    map.workers.iter().map(status).collect()
}

fn pinged<'a>(state: &'a State, observed: &'a Observed) -> impl Iterator<Item = WorkerStatus> + 'a {
    state.pinged().iter().map(|(id, pinged)| {
        let seen = observed.pinged.get(id).copied().unwrap_or_default();
        WorkerStatus {
            id: id.clone(),
            node: None,
            addr: pinged.addr.clone(),
            zone: None,
            active: seen.active,
            joined: false,
            draining: false,
            last_ping: seen.last_ping.map(rfc3339),
            clock_off_ms: None,
            leads: 0,
            holds: 0,
            ranges: Vec::new(),
        }
    })
}

fn shards(map: &Map, observed: &Observed) -> Vec<ShardStatus> {
    let name = |node: &NodeId| map.workers.get(node).map(|worker| worker.id.clone());
    let ends = map.shards.keys().skip(1).copied().chain([Position(0)]);
    map.shards
        .iter()
        .zip(ends)
        .map(|((start, shard), end)| {
            let seen = observed.shards.get(&shard.group);
            let led = seen.filter(|seen| seen.leader.is_some());
            ShardStatus {
                id: shard.group,
                start: *start,
                end,
                replicas: shard.replicas.iter().filter_map(name).collect(),
                spread: map.is_spread(shard),
                leader: led.and_then(|seen| seen.leader.as_ref()).and_then(name),
                term: seen.map(|seen| seen.term),
                commit: seen.and_then(|seen| seen.commit),
                applied: seen.and_then(|seen| seen.applied),
                bytes: seen.and_then(|seen| seen.bytes),
            }
        })
        .collect()
}

fn moves(state: &State, map: &Map, observed: &Observed) -> Vec<Move> {
    let name = |node: &NodeId| {
        let present = map.workers.get(node).map(|worker| &worker.id);
        // A member on its way out may be no worker any more.
        present.or_else(|| state.removed.get(node)).cloned()
    };
    let mut moves = Vec::new();
    for shard in map.shards.values().filter(|shard| shard.formed) {
        let Some(seen) = observed.shards.get(&shard.group) else { continue };
        if seen.leader.is_none() || !is_moving(shard, seen) {
            continue;
        }
        let only = |these: &[NodeId], others: &[NodeId]| {
            these.iter().filter(|node| !others.contains(node)).filter_map(name).collect()
        };
        moves.push(Move {
            shard: shard.group,
            adding: only(&shard.replicas, &seen.voters),
            removing: only(&seen.voters, &shard.replicas),
            behind: seen.behind,
            into: None,
        });
    }
    for shard in map.shards.values().filter(|shard| !shard.formed) {
        let Some(parent) = shard.parent else { continue };
        moves.push(Move {
            shard: parent,
            adding: Vec::new(),
            removing: Vec::new(),
            behind: None,
            into: Some(shard.group),
        });
    }
    moves
}

/// A time as RFC 3339 writes it, in UTC, with milliseconds. Times behind the year 9999, which it
/// cannot write, are shown as its last moment.
pub fn rfc3339(at: At) -> String {
    const DAY_MS: u64 = 86_400_000;
    const LAST_MS: u64 = 253_402_300_799_999;
    let ms = at.0.min(LAST_MS);
    let (days, ms) = (ms / DAY_MS, ms % DAY_MS);
    // Days to a date of the Gregorian calendar, with years that begin in March, so that the leap day
    // comes last (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days).
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) =
        if month < 10 { (era * 400 + year, month + 3) } else { (era * 400 + year + 1, month - 9) };
    let (hour, minute, second, ms) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60, ms % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected texts are those of GNU `date -u --rfc-3339=seconds -d @SECONDS`.
    #[test]
    fn times_as_rfc_3339() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_799_999, "2000-02-29T23:59:59.999Z"),
            (1_709_251_199_001, "2024-02-29T23:59:59.001Z"),
            (1_735_689_599_000, "2024-12-31T23:59:59.000Z"),
            (1_735_689_600_000, "2025-01-01T00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (u64::MAX, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(rfc3339(At(ms)), text);
        }
    }
}
