//! Which replica of each shard is the primary: as many shards for each worker, as few changes as
//! possible.
//!
//! A shard has its primary among its replicas, so this is a matching with capacities. A worker with
//! too many hands one on to another replica of that shard, that one perhaps hands on another, and so
//! forth, until somebody has room: a shortest augmenting path, found breadth first.

use std::collections::VecDeque;

/// How many shards a worker should be the primary of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) lower: usize,
    pub(super) fair: usize,
    pub(super) upper: usize,
}

/// A shard as this file sees it.
pub(super) struct Choice<'a> {
    /// The workers it may choose from are the first `eligible` ones; the first is the primary.
    pub(super) replicas: &'a mut Vec<usize>,
    /// See `replicas`.
    pub(super) eligible: usize,
    /// The primary stays.
    pub(super) fixed: bool,
}

/// Reorders replicas until every one of the `workers` is within the bounds, or as far as it goes.
pub(super) fn balance(shards: &mut [Choice<'_>], workers: usize, bounds: Bounds) {
    let mut primaries = Primaries::new(shards, workers);
    let Bounds { lower, fair, upper } = bounds;
    // Those with too many to those with too few first: one change then serves two.
    primaries.shift(|count| count > upper, |count| count < lower);
    primaries.shift(|count| count > fair, |count| count < lower);
    primaries.shift(|count| count > lower, |count| count < lower);
    primaries.shift(|count| count > upper, |count| count < upper);
}

struct Primaries<'s, 'a> {
    shards: &'s mut [Choice<'a>],
    /// The shards that each worker is the primary of, and may hand on.
    led: Vec<Vec<usize>>,
    /// How many it leads in all.
    count: Vec<usize>,
}

impl<'s, 'a> Primaries<'s, 'a> {
    fn new(shards: &'s mut [Choice<'a>], workers: usize) -> Self {
        let (mut led, mut count) = (vec![Vec::new(); workers], vec![0; workers]);
        for (index, shard) in shards.iter().enumerate() {
            if shard.eligible == 0 {
                continue;
            }
            let Some(primary) = shard.replicas.first() else { continue };
            count[*primary] += 1;
            if !shard.fixed {
                led[*primary].push(index);
            }
        }
        Self { shards, led, count }
    }

    /// Hands on from workers that are `over` to such that are `under`, while there is a path.
    fn shift(&mut self, over: impl Fn(usize) -> bool, under: impl Fn(usize) -> bool) {
        for worker in 0..self.count.len() {
            while over(self.count[worker]) && self.count.iter().any(|count| under(*count)) {
                let Some(path) = self.path(worker, &under) else { break };
                for (shard, to) in path {
                    self.hand_on(shard, to);
                }
            }
        }
    }

    /// Which shards go to whom on the shortest way from `source` to a worker that is `under`.
    fn path(&self, source: usize, under: &impl Fn(usize) -> bool) -> Option<Vec<(usize, usize)>> {
        // By which shard, and from whom, a worker was reached.
        let mut reached: Vec<Option<(usize, usize)>> = vec![None; self.count.len()];
        let mut queue = VecDeque::from([source]);
        while let Some(from) = queue.pop_front() {
            for index in &self.led[from] {
                let shard = &self.shards[*index];
                for to in &shard.replicas[1..shard.eligible] {
                    if *to == source || reached[*to].is_some() {
                        continue;
                    }
                    reached[*to] = Some((*index, from));
                    if under(self.count[*to]) {
                        return Some(trace(&reached, source, *to));
                    }
                    queue.push_back(*to);
                }
            }
        }
        None
    }

    fn hand_on(&mut self, index: usize, to: usize) {
        let shard = &mut self.shards[index];
        let Some(place) = shard.replicas.iter().position(|replica| *replica == to) else { return };
        let from = shard.replicas[0];
        shard.replicas.swap(0, place);
        self.led[from].retain(|led| *led != index);
        self.led[to].push(index);
        self.count[from] -= 1;
        self.count[to] += 1;
    }
}

fn trace(reached: &[Option<(usize, usize)>], source: usize, end: usize) -> Vec<(usize, usize)> {
    let mut path = Vec::new();
    let mut to = end;
    while to != source {
        let Some((shard, from)) = reached[to] else { break };
        path.push((shard, to));
        to = from;
    }
    path
}
