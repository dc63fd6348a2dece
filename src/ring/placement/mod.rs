//! Placement: map + workers → next map. Consistent hashing with bounded loads (Karger et al. 1997;
//! Mirrokni, Thorup, Zadimoghaddam 2016, arXiv:1608.01350): walking clockwise from a shard's start
//! over the workers' tokens gives its replicas, on distinct workers, in distinct zones first, and
//! passing over those that have their share.
//!
//! What is sought, in this order:
//! 1. every shard has min(replication, eligible workers) replicas on eligible workers;
//! 2. its replicas are in as many zones as there are, up to its number of replicas;
//! 3. no worker keeps more than ceil((1 + slack) · share), or fewer than floor((1 − slack) · share);
//!    a share is the average, as far as unequal zones allow it (`shares.rs`);
//! 4. no worker is the primary of more than ceil((1 + slack) · average), or of fewer than
//!    floor((1 − slack) · average), and as far as its replicas allow it these are rounded the other
//!    way: with one shard for each worker, each leads one.
//!
//! Only what one of these asks for moves. The lower bounds are what gives a new worker its part:
//! about K/N of the data, and not more. [`next`] of its own result changes nothing.
//!
//! Not here: whether a change is safe now and how many may happen at once (`coordinator::plan`).

mod primaries;
mod shares;
mod tokens;
mod work;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use self::{
    primaries::{Bounds, Choice},
    shares::Share,
    work::Work,
};
use crate::{
    ids::{NodeId, Position},
    ring::map::{Map, Shard, equal_arcs},
};

/// How evenly, and how finely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How far a worker's load may be from its share, percent: less is more even, and moves more.
    pub slack_percent: u32,
    /// Tokens of each worker on the ring.
    pub tokens: u32,
}

impl Default for Policy {
    /// At 64 tokens, the arcs of workers differ by about 1/√64 before the bounds even them out.
    fn default() -> Self {
        Self { slack_percent: 10, tokens: 64 }
    }
}

/// The workers that count. All others lose what they have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Workers {
    /// Those that keep what they have, and may be given more.
    pub active: BTreeSet<NodeId>,
    /// Those that keep what they have, and are given nothing: silent ones that may soon be back.
    pub silent: BTreeSet<NodeId>,
}

impl Workers {
    /// All of them active.
    pub fn active(active: BTreeSet<NodeId>) -> Self {
        Self { active, silent: BTreeSet::new() }
    }
}

/// The map as it should become, with the same epoch. Workers that do not count lose their replicas
/// to others. Where there is no other, one that is merely gone keeps its place, since it may come
/// back; one that is draining loses it if min(replication, workers that count) copies remain.
///
/// A shard that is not formed is left alone. If there are no shards yet, `settings.shards` equal
/// arcs are drawn, each [`Shard::UNNUMBERED`]. Without active workers nothing changes.
pub fn next(map: &Map, workers: &Workers, policy: &Policy) -> Map {
    next_around(map, workers, &BTreeSet::new(), policy)
}

/// The same, but the shards that begin at `held` cannot change now and are left alone like those
/// that are not formed. What they keep counts, so that the others even it out, and a caller who
/// takes only what it can change comes to an end.
pub fn next_around(map: &Map, workers: &Workers, held: &BTreeSet<Position>, policy: &Policy) -> Map {
    let mut next = map.clone();
    let is_known = |node: &NodeId| map.workers.contains_key(node);
    if !workers.active.iter().any(is_known) {
        return next;
    }
    if next.shards.is_empty() {
        let empty = Shard { group: Shard::UNNUMBERED, replicas: Vec::new(), formed: false, parent: None };
        next.shards = equal_arcs(map.settings.shards).map(|start| (start, empty.clone())).collect();
    }
    let eligible: Vec<NodeId> = workers.active.union(&workers.silent).copied().filter(is_known).collect();
    let mut work = Work::new(&next, &eligible, &workers.active, held, policy);
    work.fill();
    work.spread();
    work.even_out();
    choose_primaries(&mut work, policy);
    let full = map.settings.replication as usize;
    for (shard, slot) in next.shards.values_mut().zip(&work.slots).filter(|(_, slot)| !slot.fixed) {
        let mut replicas: Vec<NodeId> = slot.replicas.iter().map(|worker| work.nodes[*worker]).collect();
        let draining = work.copies.saturating_sub(replicas.len());
        replicas.extend(slot.draining.iter().take(draining));
        let gone = full.saturating_sub(replicas.len());
        replicas.extend(slot.gone.iter().take(gone));
        shard.replicas = replicas;
    }
    next
}

fn choose_primaries(work: &mut Work, policy: &Policy) {
    let workers = work.nodes.len();
    let share = Share { replicas: work.slots.len() as u64, divisor: workers as u64 };
    let whole = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let bounds =
        |(lower, upper)| Bounds { lower: whole(lower), fair: whole(share.fair()), upper: whole(upper) };
    let slack = policy.slack_percent;
    let mut choices: Vec<Choice<'_>> = work
        .slots
        .iter_mut()
        .map(|slot| Choice { fixed: slot.fixed, eligible: slot.replicas.len(), replicas: &mut slot.replicas })
        .collect();
    primaries::balance(&mut choices, workers, bounds((share.lower(slack), share.upper(slack))));
    primaries::balance(&mut choices, workers, bounds(share.inner(slack)));
}
