//! The HTTP/1.1 front-end of every node: docs/API.md, and every route of it on one screen below.
//!
//! A connection's way: [`serve`] accepts it, `wire` carries its bytes, hyper parses its heads,
//! `service` finds the route, reads the body within its bounds and calls a handler, which asks the
//! router. Not here: how a request finds its shard ([`crate::router`]), what it means there
//! ([`crate::shard`]), and the streams between nodes, which only begin here (`Upgrade`).
//!
//! Invariants: an answer other than success is a problem (`error`); names are decoded once, from
//! the raw path; nothing of a request is done before its body is here whole.

mod app;
mod backend;
mod batch;
mod batch_ops;
mod body;
mod cells;
mod cluster;
mod conditions;
mod coordinators;
mod cursor;
mod error;
mod limits;
mod lists;
mod message;
mod missing;
mod names;
mod observe;
mod openapi;
mod page;
mod params;
mod request;
mod response;
mod retry;
mod ring_picture;
mod route;
mod rows;
mod scan;
mod schemas;
mod server;
mod service;
#[cfg(test)]
mod tests;
mod upgrade;
mod values;
mod wire;

use std::{future::Future, pin::Pin, sync::Arc};

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

use self::{
    backend::Backend,
    body::BodyMemory,
    limits::{MAX_REQUESTS_IN_FLIGHT, MAX_STREAMS},
    observe::Observer,
    route::{
        Param::{
            self, Addr, At, Consistency, Cursor, From, Id, IfMatch, IfNoneMatch, Key, Limit, Port, Prefix,
            Retry, Row, To, Ttl,
        },
        Route,
        Takes::{Json, Nothing, Value},
        Verb::{Delete, Get, Patch, Post, Put},
        control, data, op, run,
    },
};
pub use self::{
    limits::DRAIN_TIMEOUT,
    server::serve,
    upgrade::{PEER_PROTOCOL, PeerStream},
};
use crate::{error::Error, router::Router};

const READ: &[Param] = &[Consistency, IfMatch, IfNoneMatch];
const WRITE: &[Param] = &[Ttl, IfMatch, IfNoneMatch, Retry];
const REMOVE: &[Param] = &[IfMatch, IfNoneMatch, Retry];
const LIST: &[Param] = &[Prefix, From, To, Limit, Cursor, Consistency];

/// Every route. `HEAD` is taken wherever `GET` is.
#[rustfmt::skip] // A table: one operation a line.
static ROUTES: &[Route] = &[
    data("/kv/{key}", &[
        op(Get, Nothing, run!(cells::get), "Read a key", READ, &[200, 304, 404, 412]),
        op(Put, Value, run!(cells::put), "Write a key", WRITE, &[200, 412]),
        op(Delete, Nothing, run!(cells::delete), "Remove a key", REMOVE, &[200, 404, 412]),
    ]),
    data("/data/{table}/{row}/{column}", &[
        op(Get, Nothing, run!(cells::get), "Read a cell", READ, &[200, 304, 404, 412]),
        op(Put, Value, run!(cells::put), "Write a cell", WRITE, &[200, 412]),
        op(Delete, Nothing, run!(cells::delete), "Remove a cell", REMOVE, &[200, 404, 412]),
    ]),
    data("/data/{table}/{row}", &[
        op(Get, Nothing, run!(rows::get), "Read a row", &[Consistency], &[200, 404]),
        op(Patch, Json, run!(rows::patch), "Change columns of a row in one atomic write", &[Ttl, Retry], &[200]),
        op(Delete, Nothing, run!(rows::delete), "Remove a row in one atomic write", &[Retry], &[200, 404]),
    ]),
    data("/batch", &[op(Post, Json, run!(batch::post), "Do many operations", &[Retry], &[200])]),
    data("/message", &[op(Post, Json, run!(message::post), "Read or write a key by message", &[], &[200])]),
    data("/data/{table}", &[op(Get, Nothing, run!(lists::rows), "List the rows of a table", LIST, &[200, 404])]),
    data("/data", &[op(Get, Nothing, run!(lists::tables), "List the tables", &[Limit, Cursor, Consistency], &[200])]),
    data("/kv", &[op(Get, Nothing, run!(lists::keys), "List the keys", LIST, &[200])]),
    control("/ping", &[
        op(Get, Nothing, run!(cluster::ping), "Register a worker at the caller's address", &[Id, Port], &[200]),
        op(Post, Nothing, run!(cluster::ping), "Register a worker at the caller's address", &[Id, Port], &[200]),
    ]),
    control("/workers", &[op(Get, Nothing, run!(cluster::workers), "List the active workers", &[], &[200])]),
    control("/cluster", &[op(Get, Nothing, run!(cluster::status), "Show the cluster's state", &[], &[200])]),
    control("/ring", &[op(Get, Nothing, run!(cluster::ring), "Find where a row lives", &[Key, Row], &[200])]),
    control("/cluster/join", &[
        op(Post, Nothing, run!(cluster::join), "Bring an unjoined worker in", &[Addr], &[200, 409]),
    ]),
    control("/cluster/coordinators", &[
        op(Get, Nothing, run!(coordinators::list), "Show the coordinator group", &[], &[200]),
        op(Post, Nothing, run!(coordinators::add), "Bring an empty coordinator in", &[Addr], &[200, 202, 409]),
    ]),
    control("/cluster/coordinators/{id}", &[
        op(Delete, Nothing, run!(coordinators::remove), "Take a coordinator out for good", &[], &[200, 202, 404, 409]),
    ]),
    control("/cluster/workers/{id}", &[
        op(Delete, Nothing, run!(cluster::remove), "Take a worker out for good", &[], &[200, 404, 409]),
    ]),
    control("/cluster/workers/{id}/drain", &[
        op(Post, Nothing, run!(cluster::drain), "Move everything off a worker", &[], &[202, 404, 409]),
        op(Delete, Nothing, run!(cluster::undrain), "Let a worker keep data again", &[], &[202, 404, 409]),
    ]),
    control("/cluster/shards/{id}/split", &[
        op(Post, Nothing, run!(cluster::split), "Make two shards of one", &[At], &[202, 404, 409]),
    ]),
    control("/", &[op(Get, Nothing, run!(page::get), "Show the cluster to a person", &[], &[200])]),
    control("/metrics", &[op(Get, Nothing, run!(cluster::metrics), "Show metrics, for Prometheus", &[], &[200])]),
    control("/healthz", &[op(Get, Nothing, run!(cluster::healthz), "Tell whether the process lives", &[], &[200])]),
    control("/readyz", &[op(Get, Nothing, run!(cluster::readyz), "Tell whether the node can serve", &[], &[200])]),
    control("/openapi.json", &[op(Get, Nothing, run!(openapi::get), "Describe this API", &[], &[200])]),
];

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A member of the coordinator group.
    Coordinator,
    /// A keeper of data.
    Worker,
}

/// Who a node is, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// What it is.
    pub role: Role,
    /// A worker's id; for a coordinator, its node number or what else names it.
    pub id: String,
    /// `host:port`, as it tells others.
    pub addr: String,
    /// The program's version.
    pub version: &'static str,
}

/// The answer to [`NodeInfo::join`], when it comes.
pub type Joining<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>>;

/// What the front-end needs of the node it stands before, beside the router.
pub trait NodeInfo: Send + Sync + 'static {
    /// Whether the node can serve; a sentence that says why not.
    fn ready(&self) -> Result<(), String>;

    /// Who the node is.
    fn identity(&self) -> Identity;

    /// Brings the metrics that are not counted as things happen up to date.
    fn measure(&self);

    /// Takes over a connection that another node opened (`Upgrade: quoring-peer/1`). Returns at
    /// once: the work is done in tasks of the node's own.
    fn upgrade(&self, stream: PeerStream);

    /// Asks the running, unjoined worker at `addr` (`host:port`) to join this node's cluster.
    fn join(&self, addr: String, deadline: Instant) -> Joining<'_>;
}

/// All that the front-end works with; cheap to clone.
#[derive(Clone)]
pub struct Context(Arc<Front>);

/// See [`Context`].
pub(crate) struct Front {
    backend: Backend,
    node: Arc<dyn NodeInfo>,
    prometheus: PrometheusHandle,
    requests: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    body_memory: BodyMemory,
    observer: Observer,
    app: axum::Router,
    /// The node is about to stop.
    leaving: watch::Sender<bool>,
}

impl Context {
    /// A front-end before `node`. The metrics recorder must be installed already
    /// ([`crate::metrics::install`]), else nothing is counted.
    pub fn new(router: Router, node: Arc<dyn NodeInfo>, prometheus: PrometheusHandle) -> Self {
        Self::with_backend(Backend::Router(router), node, prometheus)
    }

    fn with_backend(backend: Backend, node: Arc<dyn NodeInfo>, prometheus: PrometheusHandle) -> Self {
        Self(Arc::new(Front {
            backend,
            node,
            prometheus,
            requests: Arc::new(Semaphore::new(MAX_REQUESTS_IN_FLIGHT)),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            body_memory: BodyMemory::new(metrics::gauge!(crate::metrics::HTTP_BODY_MEMORY_BYTES)),
            observer: Observer::new(ROUTES),
            app: app::app(ROUTES),
            leaving: watch::Sender::new(false),
        }))
    }

    /// Sends clients elsewhere: from now on every answer is the last one of its connection, and says
    /// so, and connections over which nothing comes are closed.
    pub fn leave(&self) {
        self.0.leaving.send_replace(true);
    }
}
