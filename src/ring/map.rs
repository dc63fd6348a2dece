//! The map: which worker keeps which arc of the ring. Committed by the coordinator group, cached by
//! every node, and judged on its own by [`Map::check`].

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::{Bound, Deref},
};

use serde::{Deserialize, Serialize};

use crate::{
    config::Settings,
    ids::{ClusterId, Epoch, GroupId, NodeId, Position, Span, StoreId, WorkerId},
};

/// The committed metadata of a cluster.
///
/// Invariants ([`Map::check`]):
/// - the shards' arcs cover the ring without gap or overlap, the first starting at 0 (or there are
///   no shards yet);
/// - a shard has at least one replica, each on a different, existing worker;
/// - a shard has no more than `settings.replication` replicas;
/// - a shard's group is its own, and not the coordinators';
/// - no two workers have the same id, and no node number is a worker's and a coordinator's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Map {
    /// Grows with every change.
    pub epoch: Epoch,
    /// The cluster this map belongs to.
    pub cluster: ClusterId,
    /// What the cluster was founded with.
    pub settings: Settings,
    /// The coordinators: those that should be the members of their group.
    pub coordinators: BTreeMap<NodeId, Coordinator>,
    /// The workers that have joined and were not removed.
    pub workers: BTreeMap<NodeId, Worker>,
    /// The shards, by the start of their arcs.
    pub shards: BTreeMap<Position, Shard>,
}

/// A member of the coordinator group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coordinator {
    /// `host:port`.
    pub addr: String,
    /// Its store: a coordinator that lost its disk is another one.
    pub store: StoreId,
}

/// A worker that has joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Its name.
    pub id: WorkerId,
    /// `host:port`, as it told.
    pub addr: String,
    /// Its store.
    pub store: StoreId,
    /// Where it stands; replicas of a shard prefer distinct zones. Workers without one share none.
    pub zone: Option<String>,
    /// Everything is to be moved off it.
    pub draining: bool,
}

/// An arc `[start, end)` of the ring and the workers that keep it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Its Raft group, for ever.
    pub group: GroupId,
    /// The workers that should keep it, the primary first.
    pub replicas: Vec<NodeId>,
    /// Whether its Raft group was initialised: that happens once, and never again.
    pub formed: bool,
    /// The shard that it was split from, for ever.
    pub parent: Option<GroupId>,
}

impl Shard {
    /// The group of a shard that placement has drawn and that the coordinators have not yet given a
    /// number; no committed map holds it.
    pub const UNNUMBERED: GroupId = GroupId::COORDINATOR;
}

impl Map {
    /// A map without shards and workers, as it is right after the founding.
    pub fn founded(
        cluster: ClusterId,
        settings: Settings,
        coordinators: BTreeMap<NodeId, Coordinator>,
    ) -> Self {
        let (workers, shards) = (BTreeMap::new(), BTreeMap::new());
        Self { epoch: Epoch(1), cluster, settings, coordinators, workers, shards }
    }

    /// Judges a map by itself; the sentence names the first fault. Costs O(shards).
    pub fn check(&self) -> Result<(), String> {
        let mut ids = BTreeSet::new();
        for (node, worker) in &self.workers {
            if !ids.insert(&worker.id) {
                return Err(format!("two workers have the id {}", worker.id));
            }
            if self.coordinators.contains_key(node) {
                return Err(format!("node {node} is a worker and a coordinator"));
            }
        }
        if let Some(first) = self.shards.keys().next()
            && *first != Position(0)
        {
            return Err(format!("no shard keeps the ring from its start to {first}"));
        }
        let mut groups = BTreeSet::new();
        for (start, shard) in &self.shards {
            self.check_shard(*start, shard)?;
            if !groups.insert(shard.group) {
                return Err(format!("two shards have the group {}", shard.group));
            }
        }
        Ok(())
    }

    /// Judges one shard, but for its group being its own.
    pub fn check_shard(&self, start: Position, shard: &Shard) -> Result<(), String> {
        if shard.group == Shard::UNNUMBERED {
            return Err(format!("the shard at {start} has no group"));
        }
        if shard.replicas.is_empty() {
            return Err(format!("shard {} has no replicas", shard.group));
        }
        if shard.replicas.len() > self.settings.replication as usize {
            return Err(format!(
                "shard {} has {} replicas, more than the replication of {}",
                shard.group,
                shard.replicas.len(),
                self.settings.replication
            ));
        }
        for (index, replica) in shard.replicas.iter().enumerate() {
            if !self.workers.contains_key(replica) {
                return Err(format!(
                    "shard {} has a replica on node {replica}, which is no worker",
                    shard.group
                ));
            }
            if shard.replicas[..index].contains(replica) {
                return Err(format!("shard {} has two replicas on node {replica}", shard.group));
            }
        }
        Ok(())
    }

    /// Whether no two replicas of a shard stand in one zone.
    pub fn is_spread(&self, shard: &Shard) -> bool {
        let mut zones = BTreeSet::new();
        let of = |node| self.workers.get(node).and_then(|worker| worker.zone.as_ref());
        shard.replicas.iter().filter_map(of).all(|zone| zones.insert(zone))
    }

    /// The shard whose arc holds a position; `None` before there are shards.
    pub fn shard_at(&self, position: Position) -> Option<(Position, &Shard)> {
        self.shards.range(..=position).next_back().map(|(start, shard)| (*start, shard))
    }

    /// The first position behind the arc that begins at `start`; 0 is the ring's end.
    pub fn end_of(&self, start: Position) -> Position {
        let behind = (Bound::Excluded(start), Bound::Unbounded);
        self.shards.range(behind).next().map_or(Position(0), |(next, _)| *next)
    }

    /// The arc that begins at `start`.
    pub fn span(&self, start: Position) -> Span {
        Span { start, end: self.end_of(start) }
    }

    /// All arcs and their shards, in ring order.
    pub fn arcs(&self) -> impl Iterator<Item = (Span, &Shard)> {
        let ends = self.shards.keys().skip(1).copied().chain([Position(0)]);
        self.shards.iter().zip(ends).map(|((start, shard), end)| (Span { start: *start, end }, shard))
    }

    /// The shard that is just being split off the one at `start`: until it is formed, its arc is the
    /// one behind.
    pub fn splitting(&self, start: Position) -> Option<&Shard> {
        let parent = self.shards.get(&start)?.group;
        let behind = (Bound::Excluded(start), Bound::Unbounded);
        let (_, next) = self.shards.range(behind).next()?;
        (!next.formed && next.parent == Some(parent)).then_some(next)
    }

    /// A shard by its group. Costs O(shards): on a hot path, hold an [`Indexed`] map.
    pub fn shard(&self, group: GroupId) -> Option<(Position, &Shard)> {
        self.shards.iter().find(|(_, shard)| shard.group == group).map(|(start, shard)| (*start, shard))
    }

    /// A worker by its name. Costs O(workers).
    pub fn worker(&self, id: &WorkerId) -> Option<(NodeId, &Worker)> {
        self.workers.iter().find(|(_, worker)| worker.id == *id).map(|(node, worker)| (*node, worker))
    }

    /// The shards that a worker should keep, in ring order.
    pub fn shards_of(&self, node: NodeId) -> impl Iterator<Item = (Position, &Shard)> {
        let held = move |(_, shard): &(&Position, &Shard)| shard.replicas.contains(&node);
        self.shards.iter().filter(held).map(|(start, shard)| (*start, shard))
    }

    /// How many shards each worker should keep; every worker is there.
    pub fn held(&self) -> BTreeMap<NodeId, u32> {
        let mut held: BTreeMap<_, _> = self.workers.keys().map(|node| (*node, 0)).collect();
        for replica in self.shards.values().flat_map(|shard| &shard.replicas) {
            *held.entry(*replica).or_default() += 1;
        }
        held
    }

    /// Each worker's range: the arcs `[start, end)` whose primary it is, neighbours joined, in ring
    /// order; an end of 0 is the ring's. A worker that is no primary is not there.
    pub fn ranges(&self) -> BTreeMap<NodeId, Vec<(Position, Position)>> {
        let mut ranges: BTreeMap<NodeId, Vec<(Position, Position)>> = BTreeMap::new();
        let ends = self.shards.keys().skip(1).copied().chain([Position(0)]);
        for ((start, shard), end) in self.shards.iter().zip(ends) {
            let Some(primary) = shard.replicas.first() else { continue };
            let arcs = ranges.entry(*primary).or_default();
            match arcs.last_mut() {
                Some(last) if last.1 == *start => last.1 = end,
                _ => arcs.push((*start, end)),
            }
        }
        ranges
    }
}

/// The starts of `count` arcs of equal length, give or take one position, that cover the ring.
pub fn equal_arcs(count: u32) -> impl Iterator<Item = Position> {
    (0..u128::from(count)).map(move |index| {
        let start = (index << 64) / u128::from(count);
        Position(u64::try_from(start).expect("index < count, so the quotient is below 2^64"))
    })
}

/// A map that no longer changes, with an index by group for those who look shards up per request.
#[derive(Debug, Clone)]
pub struct Indexed {
    map: Map,
    starts: HashMap<GroupId, Position>,
}

impl Indexed {
    /// Indexes a map.
    pub fn new(map: Map) -> Self {
        let starts = map.shards.iter().map(|(start, shard)| (shard.group, *start)).collect();
        Self { map, starts }
    }

    /// A shard by its group.
    pub fn shard(&self, group: GroupId) -> Option<(Position, &Shard)> {
        let start = self.starts.get(&group)?;
        self.map.shards.get(start).map(|shard| (*start, shard))
    }

    /// The map itself.
    pub fn into_map(self) -> Map {
        self.map
    }
}

impl Deref for Indexed {
    type Target = Map;

    fn deref(&self) -> &Map {
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::config::Partitioner;

    fn map(replicas: &[(u64, &[u64])]) -> Map {
        let settings = Settings {
            name: "test".to_owned(),
            replication: 3,
            shards: 16,
            partitioner: Partitioner::Xxh3,
            ping_interval_ms: 5_000,
            inactive_after_ms: 15_000,
            replace_after_ms: 60_000,
            request_timeout_ms: 5_000,
            max_value_bytes: 8 << 20,
            split_size_bytes: 0,
        };
        let mut map = Map::founded(ClusterId(Uuid::nil()), settings, BTreeMap::new());
        for node in 1..=4 {
            let id = WorkerId::try_from(format!("w{node}")).unwrap();
            let store = StoreId(Uuid::from_u128(node.into()));
            map.workers
                .insert(NodeId(node), Worker { id, addr: String::new(), store, zone: None, draining: false });
        }
        for (index, (start, replicas)) in replicas.iter().enumerate() {
            let replicas = replicas.iter().map(|node| NodeId(*node)).collect();
            let group = GroupId(index as u64 + 1);
            map.shards.insert(Position(*start), Shard { group, replicas, formed: true, parent: None });
        }
        map
    }

    #[test]
    fn check_names_the_fault() {
        let judge = |replicas: &[(u64, &[u64])]| map(replicas).check();
        assert_eq!(judge(&[]), Ok(()));
        assert_eq!(judge(&[(0, &[1, 2, 3]), (9, &[4])]), Ok(()));
        assert_eq!(
            judge(&[(1, &[1])]).unwrap_err(),
            "no shard keeps the ring from its start to 0000000000000001"
        );
        assert_eq!(judge(&[(0, &[])]).unwrap_err(), "shard 1 has no replicas");
        assert_eq!(judge(&[(0, &[1, 1])]).unwrap_err(), "shard 1 has two replicas on node 1");
        assert_eq!(
            judge(&[(0, &[1, 2, 3, 4])]).unwrap_err(),
            "shard 1 has 4 replicas, more than the replication of 3"
        );
        assert_eq!(judge(&[(0, &[7])]).unwrap_err(), "shard 1 has a replica on node 7, which is no worker");
        let mut twice = map(&[(0, &[1]), (5, &[2])]);
        twice.shards.get_mut(&Position(5)).unwrap().group = GroupId(1);
        assert_eq!(twice.check().unwrap_err(), "two shards have the group 1");
        let mut unnumbered = map(&[(0, &[1])]);
        unnumbered.shards.get_mut(&Position(0)).unwrap().group = Shard::UNNUMBERED;
        assert_eq!(unnumbered.check().unwrap_err(), "the shard at 0000000000000000 has no group");
        let mut same_id = map(&[]);
        same_id.workers.get_mut(&NodeId(2)).unwrap().id = "w1".parse().unwrap();
        assert_eq!(same_id.check().unwrap_err(), "two workers have the id w1");
        let mut both = map(&[]);
        both.coordinators.insert(NodeId(3), Coordinator { addr: String::new(), store: StoreId(Uuid::nil()) });
        assert_eq!(both.check().unwrap_err(), "node 3 is a worker and a coordinator");
    }

    #[test]
    fn arcs_cover_the_ring() {
        for count in [1, 2, 3, 16, 1000, 4096] {
            let starts: Vec<u64> = equal_arcs(count).map(|start| start.0).collect();
            assert_eq!((starts.len() as u32, starts[0]), (count, 0));
            let mut lengths: Vec<u128> =
                starts.windows(2).map(|pair| u128::from(pair[1]) - u128::from(pair[0])).collect();
            lengths.push((1 << 64) - u128::from(*starts.last().unwrap()));
            assert!(lengths.iter().max().unwrap() - lengths.iter().min().unwrap() <= 1, "{count}");
        }
    }

    #[test]
    fn lookups() {
        let map = map(&[(0, &[1, 2]), (10, &[1, 3]), (20, &[2]), (30, &[1])]);
        let at = |position| map.shard_at(Position(position)).unwrap().1.group.0;
        assert_eq!([at(0), at(9), at(10), at(29), at(u64::MAX)], [1, 1, 2, 3, 4]);
        assert_eq!(map.end_of(Position(10)), Position(20));
        assert_eq!(map.end_of(Position(30)), Position(0));
        assert_eq!(map.held().into_values().collect::<Vec<_>>(), [3, 2, 1, 0]);
        let ranges = map.ranges();
        assert_eq!(
            ranges[&NodeId(1)],
            [(Position(0), Position(20)), (Position(30), Position(0))],
            "neighbours are joined"
        );
        assert_eq!(ranges[&NodeId(2)], [(Position(20), Position(30))]);
        assert_eq!(map.worker(&"w3".parse().unwrap()).unwrap().0, NodeId(3));
        assert_eq!(map.shards_of(NodeId(2)).map(|(start, _)| start.0).collect::<Vec<_>>(), [0, 20]);
        let indexed = Indexed::new(map.clone());
        for group in 0..6 {
            assert_eq!(indexed.shard(GroupId(group)), map.shard(GroupId(group)));
        }
    }
}
