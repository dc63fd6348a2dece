//! Requests that this node answers itself, for its own clients and for other nodes alike.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Consistency, Served};
use crate::{
    clock,
    command::{Answer, Query},
    consensus::{group::Group, host::Host, machine::ShardView},
    error::Error,
    ids::{Epoch, GroupId},
    shard,
};

fn here(host: &Host, group: GroupId, epoch: Epoch) -> Result<Arc<Group>, Error> {
    host.get(group).ok_or(Error::NotHere { epoch })
}

/// Puts a command into a shard's log; the reply is the machine's, still encoded.
pub async fn write(
    host: &Host,
    group: GroupId,
    epoch: Epoch,
    command: Bytes,
    deadline: Instant,
) -> Result<Bytes, Error> {
    let group = here(host, group, epoch)?;
    if !group.is_leader() {
        return Err(Error::NotLeader { leader: group.leader() });
    }
    group.propose(command, deadline).await
}

/// Answers a query from this node's replica of a shard.
pub async fn query(
    host: &Host,
    group: GroupId,
    epoch: Epoch,
    query: Query,
    consistency: Consistency,
    deadline: Instant,
) -> Result<Served, Error> {
    let group = here(host, group, epoch)?;
    let as_of = match consistency {
        Consistency::Linearizable => {
            if !group.is_leader() {
                return Err(Error::NotLeader { leader: group.leader() });
            }
            group.read_barrier(deadline).await?;
            None
        }
        // Whether a table exists is asked behind every 404, and nobody is told how old the answer is.
        Consistency::Stale if matches!(query, Query::HasTable { .. }) => None,
        // Judged before the state is looked at, which can only be newer.
        Consistency::Stale => {
            host.freshen(&group);
            group.as_of()
        }
    };
    let answer = match query {
        // A cell or a row is a few lookups, mostly in memory; handing them to another thread would
        // cost more than they do.
        Query::Cell { .. } | Query::Row { .. } => look(&group, &query)?,
        Query::HasTable { .. } | Query::Tables { .. } | Query::Scan(_) => {
            let looked = tokio::task::spawn_blocking(move || look(&group, &query)).await;
            looked.map_err(|error| Error::Unavailable(error.to_string()))??
        }
    };
    Ok(Served { answer, as_of })
}

fn look(group: &Group, query: &Query) -> Result<Answer, Error> {
    let partitioner =
        group.partitioner().ok_or_else(|| Error::Invalid("this group keeps no cells".into()))?;
    let view = ShardView::of(group.reader()).map_err(|error| Error::Unavailable(error.to_string()))?;
    shard::query::answer(&view, partitioner, query, clock::now())
        .map_err(|fatal| Error::Unavailable(fatal.to_string()))
}
