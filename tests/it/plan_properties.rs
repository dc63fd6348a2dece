//! The plan over a cluster's life: workers join, fall silent, come back, are drained and removed,
//! and after each of it the plan comes to an end, within its bounds and with everything in place.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{prelude::*, sample::Index};
use quoring::{
    command::At,
    config::{Partitioner, Settings},
    coordinator::{
        command::{Command, Reply},
        leave,
        machine::State,
        observed::{Observed, ShardSeen, WorkerSeen},
        plan::{self, FORMATION_GRACE_MS, Policy, Step},
    },
    ids::{ClusterId, GroupId, NodeId, Opening, Position, StoreId, WorkerId},
    ring::{
        map::{Coordinator, Map},
        placement::{self, Workers},
    },
};
use uuid::Uuid;

#[derive(Debug, Clone)]
enum Event {
    Join(Option<u8>),
    /// Milliseconds of silence; 0 wakes the worker.
    Silent(Index, u64),
    Drain(Index, bool),
    Remove(Index),
    /// Its disk is lost, and it comes back with an empty one.
    Replace(Index),
    /// A shard is split at a position, if that is within it.
    Split(Index, u64),
    /// A shard has grown to so many times the limit.
    Grow(Index, u64),
}

/// The size from which on shards are split.
const LIMIT_BYTES: u64 = 1 << 20;

struct Cluster {
    state: State,
    observed: Observed,
    policy: Policy,
    joined: u64,
}

impl Cluster {
    fn new(shards: u32, replication: u32, policy: Policy) -> Self {
        let settings = Settings {
            name: "test".to_owned(),
            replication,
            shards,
            partitioner: Partitioner::Xxh3,
            ping_interval_ms: 5_000,
            inactive_after_ms: 15_000,
            replace_after_ms: 60_000,
            request_timeout_ms: 5_000,
            max_value_bytes: 8 << 20,
            split_size_bytes: LIMIT_BYTES,
        };
        let coordinator = Coordinator { addr: "h:1".to_owned(), store: StoreId(Uuid::nil()) };
        let coordinators = BTreeMap::from([(NodeId(1), coordinator)]);
        let observed = Observed { first_worker_waited_ms: FORMATION_GRACE_MS, ..Observed::default() };
        let mut cluster = Self { state: State::default(), observed, policy, joined: 0 };
        let cluster_id = ClusterId(Uuid::nil());
        cluster.apply(&Command::Found { cluster: cluster_id, settings, coordinators });
        cluster
    }

    fn map(&self) -> &Map {
        self.state.map().unwrap()
    }

    fn apply(&mut self, command: &Command) -> Reply {
        let (reply, _) = self.state.apply(command, At(0));
        assert_eq!(self.map().check(), Ok(()), "after {command:?}");
        assert_eq!(State::from_records(self.state.records()).unwrap(), self.state);
        reply
    }

    fn join(&mut self, id: WorkerId, zone: Option<u8>, replace: bool) {
        self.joined += 1;
        let store = StoreId(Uuid::from_u128(self.joined.into()));
        let zone = zone.map(|zone| zone.to_string());
        let opening = Opening { id: self.joined, height: 1 };
        let join = Command::Join {
            id,
            store,
            addr: format!("h:{}", self.joined),
            zone,
            node: None,
            replace,
            opening,
        };
        if let Reply::Joined { node, .. } = self.apply(&join) {
            let seen = WorkerSeen { active: true, silent_for_ms: 0, ..WorkerSeen::default() };
            self.observed.workers.insert(node, seen);
        }
    }

    fn happen(&mut self, event: &Event) {
        let workers: Vec<(NodeId, WorkerId)> =
            self.map().workers.iter().map(|(node, worker)| (*node, worker.id.clone())).collect();
        let pick = |index: &Index| (!workers.is_empty()).then(|| workers[index.index(workers.len())].clone());
        match event {
            Event::Join(zone) => self.join(format!("w{}", self.joined).parse().unwrap(), *zone, false),
            Event::Silent(who, silent_for_ms) => {
                if let Some((node, _)) = pick(who) {
                    let active = *silent_for_ms < 15_000;
                    let seen = WorkerSeen { active, silent_for_ms: *silent_for_ms, ..WorkerSeen::default() };
                    self.observed.workers.insert(node, seen);
                }
            }
            Event::Drain(who, draining) => {
                if let Some((_, worker)) = pick(who)
                    && (!draining || leave::may_drain(self.map(), &self.observed, &worker).is_ok())
                {
                    self.apply(&Command::Drain { worker, draining: *draining });
                }
            }
            Event::Remove(who) => {
                if let Some((node, worker)) = pick(who)
                    && leave::may_remove(self.map(), &self.observed, node).is_ok()
                {
                    self.apply(&Command::Remove { worker });
                }
            }
            Event::Split(which, at) => {
                if let Some(group) = self.any_shard(which) {
                    self.split(group, Position(*at));
                }
            }
            Event::Grow(which, times) => {
                if let Some(group) = self.any_shard(which) {
                    self.report(group, times * LIMIT_BYTES);
                }
            }
            Event::Replace(who) => {
                // Only with others to copy from: what it alone had is lost, which no plan mends.
                if let Some((node, worker)) = pick(who)
                    && leave::may_remove(self.map(), &self.observed, node).is_ok()
                {
                    self.observed.workers.remove(&node);
                    self.join(worker, None, true);
                }
            }
        }
    }

    fn any_shard(&self, which: &Index) -> Option<GroupId> {
        let groups: Vec<GroupId> = self.map().shards.values().map(|shard| shard.group).collect();
        (!groups.is_empty()).then(|| groups[which.index(groups.len())])
    }

    /// Splits a shard, if it can be, and its data into halves.
    fn split(&mut self, group: GroupId, at: Position) {
        let bytes = self.observed.shards.get(&group).and_then(|seen| seen.bytes).unwrap_or(0);
        let epoch = self.map().epoch;
        if let Reply::Split { shard, .. } = self.apply(&Command::Split { epoch, group, at }) {
            let replicas = self.map().shard(group).unwrap().1.replicas.clone();
            assert_eq!(self.map().shard(shard).unwrap().1.replicas, replicas);
            self.report(group, bytes / 2);
            self.report(shard, bytes / 2);
            // The new group begins with the members that the old one has, whatever the map says.
            let voters = self.observed.shards[&group].voters.clone();
            self.observed.shards.entry(shard).or_default().voters = voters;
        }
    }

    /// What a shard's leader says about its size, which is of the arc that it has now.
    fn report(&mut self, group: GroupId, bytes: u64) {
        let (start, _) = self.map().shard(group).unwrap();
        let arc = self.map().span(start);
        let seen = self.observed.shards.entry(group).or_default();
        (seen.bytes, seen.arc) = (Some(bytes), Some(arc));
    }

    fn is_active(&self, node: &NodeId) -> bool {
        self.observed.workers.get(node).is_some_and(|seen| seen.active)
    }

    /// What Raft does: a shard with a majority alive has a leader, and a shard with a leader becomes
    /// what the map says.
    fn settle(&mut self) {
        for shard in self.map().shards.values().cloned().collect::<Vec<_>>() {
            let mut seen = self.observed.shards.remove(&shard.group).unwrap_or_default();
            if seen.voters.is_empty() {
                seen.voters.clone_from(&shard.replicas);
            }
            let alive = |nodes: &[NodeId]| nodes.iter().filter(|node| self.is_active(node)).count();
            let has_majority = |nodes: &[NodeId]| alive(nodes) > nodes.len() / 2;
            let added = |node: &&NodeId| !seen.voters.contains(node);
            let caught_up = shard.replicas.iter().filter(added).all(|node| self.is_active(node));
            if has_majority(&seen.voters) && has_majority(&shard.replicas) && caught_up {
                seen.voters.clone_from(&shard.replicas);
            }
            let keeps = |leader: &NodeId| seen.voters.contains(leader) && self.is_active(leader);
            let another = seen.voters.iter().find(|node| self.is_active(node)).copied();
            let leader = seen.leader.filter(keeps).or(another);
            seen.leader = if has_majority(&seen.voters) { leader } else { None };
            self.observed.shards.insert(shard.group, ShardSeen { term: 1, ..seen });
        }
    }

    /// Carries the plan out until there is none.
    fn run(&mut self) {
        assert!(self.run_for(2_000), "the plan does not end: {:?}", self.steps());
    }

    fn steps(&self) -> Vec<Step> {
        plan::steps(self.map(), &self.policy, &self.observed)
    }

    /// Carries the plan out for some rounds, the last of which takes no effect yet; whether it ended.
    fn run_for(&mut self, rounds: usize) -> bool {
        for _ in 0..rounds {
            self.settle();
            let steps = self.steps();
            if steps.is_empty() {
                return true;
            }
            for step in &steps {
                match step {
                    Step::Propose(command) => {
                        if let Command::Place { shards, .. } = command
                            && !self.map().shards.is_empty()
                        {
                            self.check_moves(shards);
                        }
                        let reply = self.apply(command);
                        assert!(matches!(reply, Reply::Done { .. }), "{command:?}: {reply:?}");
                    }
                    Step::Split { group } => {
                        let (start, _) = self.map().shard(*group).unwrap();
                        self.split(*group, self.map().span(start).middle());
                    }
                    Step::TransferLeader { group, to } => {
                        let seen = self.observed.shards.get_mut(group).unwrap();
                        assert!(seen.voters.contains(to) && seen.leader != Some(*to));
                        seen.leader = Some(*to);
                    }
                }
            }
        }
        false
    }

    fn check_moves(&self, shards: &[(quoring::ids::Position, quoring::ring::map::Shard)]) {
        let mut burden: BTreeMap<NodeId, usize> = BTreeMap::new();
        let mut moves = 0;
        for (start, to) in shards {
            let from = &self.map().shards[start];
            assert!(self.map().splitting(*start).is_none(), "{from:?} is just being split");
            let sets: [BTreeSet<NodeId>; 2] =
                [from, to].map(|shard| shard.replicas.iter().copied().collect());
            if sets[0] == sets[1] {
                continue;
            }
            moves += 1;
            let leader = self.observed.shards[&from.group].leader.unwrap();
            assert!(from.formed && self.is_active(&leader));
            assert!(sets[1].difference(&sets[0]).all(|added| self.is_active(added)), "{from:?} {to:?}");
            let alive = sets[1].iter().filter(|node| self.is_active(node)).count();
            assert!(alive > sets[1].len() / 2, "{from:?} {to:?}");
            let mut takes_part: BTreeSet<NodeId> = sets[0].symmetric_difference(&sets[1]).copied().collect();
            takes_part.insert(leader);
            for node in takes_part {
                *burden.entry(node).or_default() += 1;
            }
        }
        assert!(moves <= self.policy.moves_max);
        assert!(burden.values().all(|moves| *moves <= self.policy.moves_per_worker_max), "{burden:?}");
    }

    /// Where there are workers enough, nobody who is lost or draining keeps anything of a shard that
    /// can change. But for one who is silent the plan waits, and what waits may fill its bounds.
    fn check_repaired(&self) {
        let map = self.map();
        let takes = |(node, worker): &(&NodeId, &quoring::ring::map::Worker)| {
            !worker.draining && self.is_active(node)
        };
        let waits = self.observed.workers.values().any(|seen| !seen.active && seen.silent_for_ms < 60_000);
        if waits || map.workers.iter().filter(takes).count() < map.settings.replication as usize {
            return;
        }
        for shard in map.shards.values() {
            if self.observed.shards[&shard.group].leader.is_none() {
                continue;
            }
            for node in &shard.replicas {
                let is_lost =
                    self.observed.workers.get(node).is_some_and(|seen| seen.silent_for_ms >= 60_000);
                assert!(!is_lost && !map.workers[node].draining, "{shard:?}");
            }
        }
    }

    /// With nobody silent, nothing is left to be wished for.
    fn check_in_place(&self) {
        let map = self.map();
        let active: BTreeSet<NodeId> =
            map.workers.iter().filter(|(_, worker)| !worker.draining).map(|(node, _)| *node).collect();
        let everybody = map.workers.keys().all(|node| self.is_active(node));
        let led = self.observed.shards.values().all(|seen| seen.leader.is_some());
        if !everybody || !led || active.is_empty() || map.shards.is_empty() {
            return;
        }
        let copies = active.len().min(map.settings.replication as usize);
        for shard in map.shards.values() {
            assert!(shard.formed);
            assert_eq!(shard.replicas.len(), copies, "{shard:?}");
            assert!(shard.replicas.iter().all(|node| active.contains(node)), "{shard:?}");
            assert_eq!(self.observed.shards[&shard.group].leader, shard.replicas.first().copied());
        }
        assert_eq!(placement::next(map, &Workers::active(active), &self.policy.placement), *map);
    }
}

fn event() -> impl Strategy<Value = Event> {
    let silence = prop_oneof![2 => Just(0u64), 1 => Just(20_000), 2 => Just(60_000)];
    prop_oneof![
        4 => prop::option::of(0u8..3).prop_map(Event::Join),
        4 => (any::<Index>(), silence).prop_map(|(who, ms)| Event::Silent(who, ms)),
        2 => (any::<Index>(), any::<bool>()).prop_map(|(who, draining)| Event::Drain(who, draining)),
        2 => any::<Index>().prop_map(Event::Remove),
        2 => (any::<Index>(), any::<u64>()).prop_map(|(which, at)| Event::Split(which, at)),
        2 => (any::<Index>(), 0u64..8).prop_map(|(which, times)| Event::Grow(which, times)),
        1 => any::<Index>().prop_map(Event::Replace),
    ]
}

proptest! {
    #[test]
    fn every_plan_ends_in_place(
        shards in 1u32..20, replication in 1u32..4, moves_max in 1usize..6, moves_per_worker_max in 1usize..3,
        events in prop::collection::vec((event(), prop::option::of(0usize..4)), 1..20),
    ) {
        let policy = Policy { moves_max, moves_per_worker_max, ..Policy::default() };
        let mut cluster = Cluster::new(shards, replication, policy);
        for (event, rounds) in &events {
            cluster.happen(event);
            if let Some(rounds) = rounds {
                // The next thing happens in the middle of what follows from this one.
                cluster.run_for(*rounds);
                continue;
            }
            cluster.run();
            cluster.check_repaired();
            cluster.check_in_place();
        }
        // In the end everybody is back.
        for node in cluster.map().workers.keys().copied().collect::<Vec<_>>() {
            let seen = WorkerSeen { active: true, silent_for_ms: 0, ..WorkerSeen::default() };
            cluster.observed.workers.insert(node, seen);
        }
        cluster.run();
        cluster.check_in_place();
        prop_assert!(cluster.map().workers.is_empty() || cluster.map().workers.values().all(|w| w.draining)
            || !cluster.map().shards.is_empty());
    }
}
