//! Whether a worker may leave, by what was heard: the questions that the leader asks before it
//! proposes a [`super::command::Command::Drain`] or `Remove`. The machine judges once more by what
//! it knows, which is the map alone.

use super::{observed::Observed, plan::is_active};
use crate::{
    ids::{NodeId, WorkerId},
    ring::map::Map,
};

/// Whether there is a worker that could take over what is moved off this one.
pub fn may_drain(map: &Map, observed: &Observed, id: &WorkerId) -> Result<(), String> {
    let takes_over =
        |(_, worker): &(&NodeId, &crate::ring::map::Worker)| !worker.draining && worker.id != *id;
    if map.workers.iter().filter(takes_over).any(|(node, _)| is_active(observed, *node)) {
        return Ok(());
    }
    Err(format!(
        "no other worker is active: what worker {id} keeps has nowhere to go; start another worker first"
    ))
}

/// Whether every shard has a majority that is alive without this worker.
pub fn may_remove(map: &Map, observed: &Observed, node: NodeId) -> Result<(), String> {
    for shard in map.shards.values() {
        // Who votes now decides, not who should: a move may be under way.
        let members = match observed.shards.get(&shard.group) {
            Some(seen) if !seen.voters.is_empty() => &seen.voters,
            _ => &shard.replicas,
        };
        if !members.contains(&node) {
            continue;
        }
        let alive = members.iter().filter(|member| **member != node && is_active(observed, **member)).count();
        if alive * 2 <= members.len() {
            return Err(format!(
                "without worker {}, shard {} would have {alive} of {} copies alive, no majority; drain it \
                 first, or bring other workers back",
                map.workers.get(&node).map_or("?", |worker| worker.id.as_str()),
                shard.group,
                members.len()
            ));
        }
    }
    Ok(())
}
