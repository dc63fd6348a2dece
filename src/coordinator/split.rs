//! The split of a shard in the map: a new shard on the same workers takes the upper part of the arc.
//! What becomes of the data is for the shard's leader (`node::split`).

use super::{
    command::Reply,
    machine::{Refusal, State, advance, founded, refuse},
    records::{Changed, Record},
};
use crate::{
    ids::{Epoch, GroupId, Position},
    ring::map::Shard,
};

/// The most shards that a cluster may be split into: what placement is planned for.
pub const MAX_SHARDS: usize = 100_000;

impl State {
    /// Costs what a look at two shards costs.
    pub(super) fn split(
        &mut self,
        epoch: Epoch,
        group: GroupId,
        at: Position,
        changed: &mut Changed,
    ) -> Result<Reply, Refusal> {
        let start = self.by_group.get(&group).copied();
        let map = founded(&mut self.map)?;
        let Some((start, shard)) = start.and_then(|start| Some((start, map.shards.get(&start)?))) else {
            return Err(Refusal::Unknown(format!("there is no shard {group}; GET /cluster lists them")));
        };
        if map.epoch != epoch {
            return refuse(format!("the split is for epoch {epoch}, the map is at {}: try again", map.epoch));
        }
        let arc = map.span(start);
        if !shard.formed {
            return refuse(format!("shard {group} is just being made; try again when it has a leader"));
        }
        if let Some(child) = map.splitting(start) {
            return refuse(format!(
                "shard {} is just being split off shard {group}; try again when that is done",
                child.group
            ));
        }
        if at == start || !arc.contains(at) {
            return refuse(format!(
                "a shard is split behind the start of its arc and before its end: {at} is not, as shard {group} \
                 keeps {start} to {}",
                arc.last()
            ));
        }
        if map.shards.len() >= MAX_SHARDS {
            return refuse(format!("the cluster has its most shards, {MAX_SHARDS}"));
        }
        let Some(next_group) = self.next_group.checked_add(1) else {
            return refuse("all group numbers have been given out");
        };
        let child = GroupId(self.next_group);
        let shard =
            Shard { group: child, replicas: shard.replicas.clone(), formed: false, parent: Some(group) };
        map.shards.insert(at, shard);
        advance(map, changed);
        self.next_group = next_group;
        self.by_group.insert(child, at);
        changed.add(Record::Shard(at));
        Ok(Reply::Split { shard: child, epoch: map.epoch })
    }
}
