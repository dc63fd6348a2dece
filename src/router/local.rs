//! Requests that this node answers itself, for its own clients and for other nodes alike.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Consistency, Served, calls};
use crate::{
    clock,
    command::{Answer, Query},
    consensus::{group::Group, host::Host, machine::ShardView},
    error::Error,
    ids::{Epoch, GroupId, Span},
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
    let reply = group.propose(command, deadline).await?;
    if calls::is_not_here(&reply) { Err(Error::NotHere { epoch }) } else { Ok(reply) }
}

/// Answers a query from this node's replica of a shard.
pub async fn query(
    host: &Host,
    group: GroupId,
    epoch: Epoch,
    arc: Span,
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
        Query::Cell { .. } | Query::Row { .. } => look(&group, arc, &query)?,
        Query::HasTable { .. } | Query::Tables { .. } | Query::Scan(_) => {
            let looked = tokio::task::spawn_blocking(move || look(&group, arc, &query)).await;
            looked.map_err(|error| Error::Unavailable(error.to_string()))??
        }
    };
    Ok(Served { answer: answer.ok_or(Error::NotHere { epoch })?, as_of })
}

/// `None` where the shard has not all that is asked for.
fn look(group: &Group, arc: Span, query: &Query) -> Result<Option<Answer>, Error> {
    let shard = group.shard().ok_or_else(|| Error::Invalid("this group keeps no cells".into()))?;
    let view = ShardView::of(group.reader()).map_err(|error| Error::Unavailable(error.to_string()))?;
    shard::query::answer(&view, shard, arc, query, clock::now())
        .map_err(|fatal| Error::Unavailable(fatal.to_string()))
}
