//! Placement: map + workers → next map. Consistent hashing with bounded loads (Karger et al. 1997;
//! Mirrokni, Thorup, Zadimoghaddam 2016, arXiv:1608.01350): walking clockwise from a shard's start
//! over the workers' tokens gives its replicas, on distinct workers, in distinct zones first, and
//! passing over those that have their share.
//!
//! What is sought, in this order:
//! 1. every shard has min(replication, eligible workers) replicas on eligible workers;
//! 2. its replicas are in as many zones as there are, up to its number of replicas;
//! 3. no worker keeps more than ceil((1 + slack) · share), or fewer than floor((1 − slack) · share);
//!    a share is the average, as far as unequal zones allow it ([`shares`]);
//! 4. no worker is the primary of more than ceil((1 + slack) · average), or of fewer than
//!    floor((1 − slack) · average).
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
    ids::NodeId,
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

/// The map as it should become, with the same epoch. Workers that are not `eligible` lose their
/// replicas to others; where there is no other, one that is merely gone keeps its place, since it
/// may come back, and one that is draining loses it.
///
/// A shard that is not formed is left alone. If there are no shards yet, `settings.shards` equal
/// arcs are drawn, each [`Shard::UNNUMBERED`]. Without eligible workers nothing changes.
pub fn next(map: &Map, eligible: &BTreeSet<NodeId>, policy: &Policy) -> Map {
    let mut next = map.clone();
    let workers: Vec<NodeId> =
        eligible.iter().filter(|node| map.workers.contains_key(node)).copied().collect();
    if workers.is_empty() {
        return next;
    }
    if next.shards.is_empty() {
        let empty = Shard { group: Shard::UNNUMBERED, replicas: Vec::new(), formed: false };
        next.shards = equal_arcs(map.settings.shards).map(|start| (start, empty.clone())).collect();
    }
    let mut work = Work::new(&next, &workers, policy);
    work.fill();
    work.spread();
    work.even_out();
    choose_primaries(&mut work, policy);
    for (shard, slot) in next.shards.values_mut().zip(&work.slots) {
        if !slot.fixed {
            shard.replicas = slot
                .replicas
                .iter()
                .map(|worker| work.nodes[*worker])
                .chain(slot.gone.iter().copied())
                .collect();
        }
    }
    next
}

fn choose_primaries(work: &mut Work, policy: &Policy) {
    let workers = work.nodes.len();
    let share = Share { replicas: work.slots.len() as u64, divisor: workers as u64 };
    let whole = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let bounds = Bounds {
        lower: whole(share.lower(policy.slack_percent)),
        fair: whole(share.fair()),
        upper: whole(share.upper(policy.slack_percent)),
    };
    let mut choices: Vec<Choice<'_>> = work
        .slots
        .iter_mut()
        .map(|slot| Choice { fixed: slot.fixed, eligible: slot.replicas.len(), replicas: &mut slot.replicas })
        .collect();
    primaries::balance(&mut choices, workers, bounds);
}
