//! The replicas on their way from one map to the next: which are kept, filled up, spread over zones,
//! and evened out. Workers and shards are indices here.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
};

use super::{
    Policy,
    shares::{self, Share},
    tokens::{Open, Tokens},
};
use crate::{
    ids::{NodeId, Position},
    ring::map::Map,
};

/// A shard.
pub(super) struct Slot {
    start: Position,
    /// The eligible workers that keep it, the primary first.
    pub(super) replicas: Vec<usize>,
    /// Workers that keep it and do not count any more, because they are draining.
    pub(super) draining: Vec<NodeId>,
    /// The same, because they are gone.
    pub(super) gone: Vec<NodeId>,
    /// Nothing may change.
    pub(super) fixed: bool,
}

/// All shards, and the load of the eligible workers.
pub(super) struct Work {
    pub(super) slots: Vec<Slot>,
    pub(super) nodes: Vec<NodeId>,
    /// The zone of each worker, an index; a worker without one has its own.
    zones: Vec<usize>,
    zone_count: usize,
    tokens: Tokens,
    /// Whether a worker may be given more.
    takes: Vec<bool>,
    /// The replicas that every shard should have.
    pub(super) copies: usize,
    /// The replicas that each worker keeps, and its bounds.
    load: Vec<usize>,
    lower: Vec<usize>,
    fair: Vec<usize>,
    upper: Vec<usize>,
}

/// How far a choice of a worker goes.
#[derive(Clone, Copy)]
enum Zone {
    /// It must add a zone.
    New,
    /// Any will do.
    Any,
}

impl Work {
    pub(super) fn new(
        map: &Map,
        nodes: &[NodeId],
        active: &BTreeSet<NodeId>,
        held: &BTreeSet<Position>,
        policy: &Policy,
    ) -> Self {
        let index: BTreeMap<NodeId, usize> = nodes.iter().enumerate().map(|(i, node)| (*node, i)).collect();
        let (zones, sizes) = zones(map, nodes);
        let copies = nodes.len().min(map.settings.replication as usize);
        let mut load = vec![0; nodes.len()];
        let mut slots = Vec::with_capacity(map.shards.len());
        for (start, shard) in &map.shards {
            let replicas: Vec<usize> =
                shard.replicas.iter().filter_map(|node| index.get(node).copied()).collect();
            for worker in &replicas {
                load[*worker] += 1;
            }
            let is_draining = |node: &NodeId| map.workers.get(node).is_some_and(|worker| worker.draining);
            let (draining, gone) = shard
                .replicas
                .iter()
                .filter(|node| !index.contains_key(node))
                .partition(|node| is_draining(node));
            let fixed = held.contains(start) || (!shard.formed && !shard.replicas.is_empty());
            slots.push(Slot { start: *start, replicas, draining, gone, fixed });
        }
        let shares = shares::shares(&sizes, slots.len() as u64, copies as u64);
        let bound = |of: &dyn Fn(Share) -> u64| -> Vec<usize> {
            let whole = |zone: &usize| usize::try_from(of(shares[*zone])).unwrap_or(usize::MAX);
            zones.iter().map(whole).collect()
        };
        Self {
            lower: bound(&|share| share.lower(policy.slack_percent)),
            fair: bound(&Share::fair),
            upper: bound(&|share| share.upper(policy.slack_percent)),
            tokens: Tokens::new(nodes, policy.tokens.max(1)),
            zone_count: sizes.len(),
            takes: nodes.iter().map(|node| active.contains(node)).collect(),
            nodes: nodes.to_vec(),
            slots,
            zones,
            copies,
            load,
        }
    }

    /// Gives every shard its number of replicas: first to workers below their bounds, but a new zone
    /// before an even load.
    pub(super) fn fill(&mut self) {
        let Work { slots, tokens, load, lower, upper, zones, copies, takes, .. } = self;
        let mut below = Open::new(tokens, |worker| takes[worker] && load[worker] < lower[worker]);
        let mut room = Open::new(tokens, |worker| takes[worker] && load[worker] < upper[worker]);
        let mut all = Open::new(tokens, |worker| takes[worker]);
        for slot in slots.iter_mut().filter(|slot| !slot.fixed) {
            while slot.replicas.len() < *copies {
                let mut pick = |zone: Zone| {
                    let suits = |worker: usize| match zone {
                        Zone::New => slot.replicas.iter().all(|other| zones[*other] != zones[worker]),
                        Zone::Any => !slot.replicas.contains(&worker),
                    };
                    below
                        .pick(slot.start, suits)
                        .or_else(|| room.pick(slot.start, suits))
                        .or_else(|| all.pick(slot.start, suits))
                };
                let Some(worker) = pick(Zone::New).or_else(|| pick(Zone::Any)) else { break };
                slot.replicas.push(worker);
                load[worker] += 1;
                if load[worker] >= lower[worker] {
                    below.close(worker);
                }
                if load[worker] >= upper[worker] {
                    room.close(worker);
                }
            }
        }
    }

    /// Replaces replicas that share a zone while there are zones without one.
    pub(super) fn spread(&mut self) {
        let crowded: Vec<usize> = (0..self.slots.len()).filter(|slot| self.is_crowded(*slot)).collect();
        if crowded.is_empty() {
            return;
        }
        let Work { tokens, load, upper, zones, takes, .. } = &*self;
        let mut room = Open::new(tokens, |worker| takes[worker] && load[worker] < upper[worker]);
        let mut all = Open::new(tokens, |worker| takes[worker]);
        let mut moves = Vec::new();
        // The load as the moves make it: what leaves a worker makes room again only afterwards.
        let mut load = load.clone();
        for index in crowded {
            let slot = &self.slots[index];
            let mut replicas = slot.replicas.clone();
            while let Some(place) = most_loaded_double(&replicas, zones, &load) {
                let suits = |worker: usize| replicas.iter().all(|other| zones[*other] != zones[worker]);
                let picked = room.pick(slot.start, suits).or_else(|| all.pick(slot.start, suits));
                let Some(worker) = picked else { break };
                load[replicas[place]] -= 1;
                load[worker] += 1;
                if load[worker] >= upper[worker] {
                    room.close(worker);
                }
                moves.push((index, place, worker));
                replicas[place] = worker;
            }
        }
        for (slot, place, worker) in moves {
            self.put(slot, place, worker);
        }
    }

    fn is_crowded(&self, slot: usize) -> bool {
        let slot = &self.slots[slot];
        let zones: BTreeSet<usize> = slot.replicas.iter().map(|worker| self.zones[*worker]).collect();
        !slot.fixed && zones.len() < slot.replicas.len().min(self.zone_count)
    }

    /// Moves replicas until every worker is within its bounds, or as far as zones allow.
    ///
    /// Every move lowers the sum of what is above and below the bounds, so this ends. One from a
    /// worker above its bound to one below its own serves both, so those come first: without zones,
    /// the number of moves is then the least possible.
    pub(super) fn even_out(&mut self) {
        loop {
            let mut moved = self.relieve(|work, worker| work.load[worker] < work.lower[worker]);
            for worker in 0..self.nodes.len() {
                if self.takes[worker] && self.load[worker] < self.lower[worker] {
                    moved |= self.attract(worker, |work, donor| work.load[donor] > work.fair[donor]);
                    moved |= self.attract(worker, |work, donor| work.load[donor] > work.lower[donor]);
                }
            }
            moved |= self.relieve(|work, worker| work.load[worker] < work.upper[worker]);
            if !moved {
                return;
            }
        }
    }

    /// Moves replicas off the workers above their bound, to such that have room, whose load
    /// only grows here.
    fn relieve(&mut self, has_room: impl Fn(&Self, usize) -> bool) -> bool {
        let above: Vec<bool> = (0..self.nodes.len()).map(|w| self.load[w] > self.upper[w]).collect();
        if !above.contains(&true) {
            return false;
        }
        let tokens = std::mem::replace(&mut self.tokens, Tokens::new(&[], 1));
        let mut takers = Open::new(&tokens, |worker| self.takes[worker] && has_room(self, worker));
        let mut moved = false;
        for index in 0..self.slots.len() {
            for place in 0..self.slots[index].replicas.len() {
                let slot = &self.slots[index];
                let donor = slot.replicas[place];
                if slot.fixed || !above[donor] || self.load[donor] <= self.upper[donor] {
                    continue;
                }
                let suits = |worker: usize| self.may_replace(index, place, worker);
                let Some(worker) = takers.pick(slot.start, suits) else { continue };
                self.put(index, place, worker);
                moved = true;
                if !has_room(self, worker) {
                    takers.close(worker);
                }
            }
        }
        self.tokens = tokens;
        moved
    }

    /// Moves replicas to a worker below its bound, from donors that can spare them, those shards
    /// first that are nearest before one of its tokens.
    fn attract(&mut self, taker: usize, spares: impl Fn(&Self, usize) -> bool) -> bool {
        let tokens: Vec<u64> = self.tokens.of(taker).collect();
        let before = |token: u64| self.slots.partition_point(|slot| slot.start.0 <= token);
        // A lane leads backwards from each token up to the one before it: what is further away is
        // nearer to that one. The first token's lane goes around the ring's end.
        let mut lanes = BinaryHeap::new();
        let count = self.slots.len();
        for (index, token) in tokens.iter().enumerate() {
            let end = before(*token);
            let begin = match index.checked_sub(1) {
                Some(previous) => before(tokens[previous]),
                None => 0,
            };
            push_lane(&mut lanes, &self.slots, *token, begin, end);
            if index == 0 {
                let last = tokens.last().copied().unwrap_or_default();
                push_lane(&mut lanes, &self.slots, *token, before(last), count);
            }
        }
        let mut moved = false;
        while let Some(Reverse((_, token, begin, end))) = lanes.pop() {
            if self.load[taker] >= self.lower[taker] {
                break;
            }
            let index = end - 1;
            let slot = &self.slots[index];
            if !slot.fixed {
                let place = (0..slot.replicas.len())
                    .filter(|place| spares(self, slot.replicas[*place]))
                    .filter(|place| self.may_replace(index, *place, taker))
                    .max_by_key(|place| (self.load[slot.replicas[*place]], *place));
                if let Some(place) = place {
                    self.put(index, place, taker);
                    moved = true;
                }
            }
            push_lane(&mut lanes, &self.slots, token, begin, end - 1);
        }
        moved
    }

    /// Whether `worker` may take that place without a zone being lost.
    fn may_replace(&self, slot: usize, place: usize, worker: usize) -> bool {
        let replicas = &self.slots[slot].replicas;
        let zone = |worker: usize| self.zones[worker];
        let others = || replicas.iter().enumerate().filter(|(other, _)| *other != place).map(|(_, w)| *w);
        !replicas.contains(&worker)
            && (zone(worker) == zone(replicas[place])
                || others().all(|other| zone(other) != zone(worker))
                || others().any(|other| zone(other) == zone(replicas[place])))
    }

    fn put(&mut self, slot: usize, place: usize, worker: usize) {
        let replica = &mut self.slots[slot].replicas[place];
        self.load[*replica] -= 1;
        self.load[worker] += 1;
        *replica = worker;
    }
}

/// The slots `[begin, end)` before a token, ordered by the distance of the last of them.
fn push_lane(
    lanes: &mut BinaryHeap<Reverse<(u64, u64, usize, usize)>>,
    slots: &[Slot],
    token: u64,
    begin: usize,
    end: usize,
) {
    if begin < end {
        let distance = token.wrapping_sub(slots[end - 1].start.0);
        lanes.push(Reverse((distance, token, begin, end)));
    }
}

/// Of the replicas that share a zone with another, the place of the most loaded one; the primary
/// only where all are alike.
fn most_loaded_double(replicas: &[usize], zones: &[usize], load: &[usize]) -> Option<usize> {
    let is_double = |place: &usize| {
        let zone = zones[replicas[*place]];
        replicas.iter().filter(|other| zones[**other] == zone).count() > 1
    };
    (0..replicas.len()).filter(is_double).max_by_key(|place| (load[replicas[*place]], *place))
}

/// Each worker's zone as an index, and the number of workers of each.
fn zones(map: &Map, nodes: &[NodeId]) -> (Vec<usize>, Vec<u64>) {
    let mut named: BTreeMap<&str, usize> = BTreeMap::new();
    let mut sizes = Vec::new();
    let mut zones = Vec::with_capacity(nodes.len());
    for node in nodes {
        let name = map.workers.get(node).and_then(|worker| worker.zone.as_deref());
        let zone = match name {
            Some(name) => *named.entry(name).or_insert(sizes.len()),
            None => sizes.len(),
        };
        if zone == sizes.len() {
            sizes.push(0);
        }
        sizes[zone] += 1;
        zones.push(zone);
    }
    (zones, sizes)
}
