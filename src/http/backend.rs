//! The one door from the front-end to the router. Every call through it ends: the router keeps the
//! deadline by itself and knows best what happened; should it not, [`ANSWER_GRACE`] later this is
//! answered for it.

use std::{future::Future, sync::Arc};

use tokio::time::{Instant, timeout_at};

use super::limits::{ANSWER_GRACE, DEFAULT_MAX_VALUE_BYTES, DEFAULT_REQUEST_TIMEOUT_MS};
use crate::{
    command::{Answer, Command, Query, Reply},
    coordinator::status::{Cluster, Coordinators},
    error::Error,
    ids::{GroupId, Position, WorkerId},
    ring::map::Indexed,
    router::{ActiveWorker, Consistency, Located, Router, Served, Target, calls::Seat},
};

/// Where requests go.
#[derive(Clone)]
pub(crate) enum Backend {
    /// The cluster.
    Router(Router),
    /// A model of it in memory.
    #[cfg(test)]
    Model(Arc<super::tests::model::Model>),
}

/// Calls the same method of whatever is behind the door.
macro_rules! behind {
    ($self:ident, $backend:ident => $call:expr) => {
        match $self {
            Backend::Router($backend) => $call,
            #[cfg(test)]
            Backend::Model($backend) => $call,
        }
    };
}

impl Backend {
    /// See [`Router::write`].
    pub(crate) async fn write(&self, command: Command, deadline: Instant) -> Result<Reply, Error> {
        changed(deadline, async { behind!(self, backend => backend.write(command, deadline).await) }).await
    }

    /// See [`Router::query`].
    pub(crate) async fn query(
        &self,
        target: Target<'_>,
        query: Query,
        consistency: Consistency,
        deadline: Instant,
    ) -> Result<Served, Error> {
        asked(deadline, async {
            behind!(self, backend => backend.query(target, query, consistency, deadline).await)
        })
        .await
    }

    /// [`Backend::query`], for what is needed of it most often.
    pub(crate) async fn ask(
        &self,
        target: Target<'_>,
        query: Query,
        consistency: Consistency,
        deadline: Instant,
    ) -> Result<Answer, Error> {
        Ok(self.query(target, query, consistency, deadline).await?.answer)
    }

    /// See [`Router::table_exists`].
    pub(crate) async fn table_exists(&self, table: &str, deadline: Instant) -> Result<bool, Error> {
        asked(deadline, async { behind!(self, backend => backend.table_exists(table, deadline).await) }).await
    }

    /// See [`Router::ping`].
    pub(crate) async fn ping(&self, id: WorkerId, addr: String, deadline: Instant) -> Result<(), Error> {
        changed(deadline, async { behind!(self, backend => backend.ping(id, addr, deadline).await) }).await
    }

    /// See [`Router::workers`].
    pub(crate) async fn workers(&self, deadline: Instant) -> Result<Vec<ActiveWorker>, Error> {
        asked(deadline, async { behind!(self, backend => backend.workers(deadline).await) }).await
    }

    /// See [`Router::cluster`].
    pub(crate) async fn cluster(&self, deadline: Instant) -> Result<Cluster, Error> {
        asked(deadline, async { behind!(self, backend => backend.cluster(deadline).await) }).await
    }

    /// See [`Router::drain`].
    pub(crate) async fn drain(&self, id: WorkerId, draining: bool, deadline: Instant) -> Result<(), Error> {
        changed(deadline, async { behind!(self, backend => backend.drain(id, draining, deadline).await) })
            .await
    }

    /// See [`Router::remove`].
    pub(crate) async fn remove(&self, id: WorkerId, deadline: Instant) -> Result<(), Error> {
        changed(deadline, async { behind!(self, backend => backend.remove(id, deadline).await) }).await
    }

    /// See [`Router::coordinators`].
    pub(crate) async fn coordinators(&self, deadline: Instant) -> Result<Coordinators, Error> {
        asked(deadline, async { behind!(self, backend => backend.coordinators(deadline).await) }).await
    }

    /// See [`Router::add_coordinator`].
    pub(crate) async fn add_coordinator(&self, addr: String, deadline: Instant) -> Result<Seat, Error> {
        changed(deadline, async { behind!(self, backend => backend.add_coordinator(addr, deadline).await) })
            .await
    }

    /// See [`Router::remove_coordinator`].
    pub(crate) async fn remove_coordinator(&self, which: String, deadline: Instant) -> Result<Seat, Error> {
        changed(deadline, async {
            behind!(self, backend => backend.remove_coordinator(which, deadline).await)
        })
        .await
    }

    /// See [`Router::split`].
    pub(crate) async fn split(
        &self,
        shard: GroupId,
        at: Option<Position>,
        deadline: Instant,
    ) -> Result<(GroupId, Position), Error> {
        changed(deadline, async { behind!(self, backend => backend.split(shard, at, deadline).await) }).await
    }

    /// See [`Router::locate`].
    pub(crate) fn locate(&self, row: &str) -> Result<Located, Error> {
        behind!(self, backend => backend.locate(row)).ok_or_else(no_map)
    }

    /// See [`Router::map`].
    pub(crate) fn map(&self) -> Option<Arc<Indexed>> {
        behind!(self, backend => backend.map())
    }

    /// The map, where nothing can be done without it.
    pub(crate) fn require_map(&self) -> Result<Arc<Indexed>, Error> {
        self.map().ok_or_else(no_map)
    }

    /// The longest time a request may take, milliseconds, and the largest value, bytes.
    pub(crate) fn settings(&self) -> (u64, u64) {
        match self.map() {
            Some(map) => (map.settings.request_timeout_ms, map.settings.max_value_bytes),
            None => (DEFAULT_REQUEST_TIMEOUT_MS, DEFAULT_MAX_VALUE_BYTES),
        }
    }
}

fn no_map() -> Error {
    Error::Unavailable("the cluster has no shards yet: wait until /readyz says yes, and try again".into())
}

/// Bounds a call that changes something: without an answer, it may have.
pub(super) async fn changed<T>(
    deadline: Instant,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    timeout_at(deadline + ANSWER_GRACE, call)
        .await
        .unwrap_or_else(|_| Err(Error::Unknown("no answer came in time; it may have been applied".into())))
}

/// Bounds a call that only asks.
async fn asked<T>(deadline: Instant, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout_at(deadline + ANSWER_GRACE, call)
        .await
        .unwrap_or_else(|_| Err(Error::Unavailable("no answer came in time; try again".into())))
}
