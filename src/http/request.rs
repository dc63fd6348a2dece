//! A request on its way: from head and body to what a handler is given.

use std::{future::Future, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::http::request::Parts;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::{
    Front,
    backend::Backend,
    body::Reserved,
    error::{Kind, Problem},
    params::Params,
    response::Response,
    wire::Signals,
};
use crate::command::{KV_COLUMN, KV_TABLE};

/// What is known of the connection a request came over.
#[derive(Clone)]
pub(crate) struct Client {
    /// The other end.
    pub(crate) addr: SocketAddr,
    /// Taken beyond the bound of connections: for other nodes and probes only.
    pub(crate) reserved: bool,
    /// The stream under the connection.
    pub(crate) signals: Arc<Signals>,
}

/// Everything a handler is given.
pub(crate) struct Call {
    pub(crate) front: Arc<Front>,
    pub(crate) parts: Parts,
    /// The names in the path, decoded and checked, in order.
    pub(crate) names: Vec<String>,
    /// The whole body, where the route takes one.
    pub(crate) body: Bytes,
    /// When the client is to have its answer.
    pub(crate) deadline: Instant,
    /// The most time a part of the work may take, for work that begins later (a stream's pages).
    pub(crate) timeout: Duration,
    /// The largest value, bytes.
    pub(crate) max_value_bytes: u64,
    pub(crate) client: SocketAddr,
    /// Bounds that the request counts against until it is answered.
    pub(crate) _held: Held,
}

/// See [`Call`].
#[derive(Default)]
pub(crate) struct Held {
    pub(crate) in_flight: Option<OwnedSemaphorePermit>,
    pub(crate) memory: Option<Reserved>,
}

/// What a handler makes of a request.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Result<Response, Problem>> + Send>>;

/// The names of a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CellName {
    pub(crate) table: String,
    pub(crate) row: String,
    pub(crate) column: String,
}

impl CellName {
    /// The cell of a flat key.
    pub(crate) fn of_key(key: String) -> Self {
        Self { table: KV_TABLE.into(), row: key, column: KV_COLUMN.into() }
    }
}

impl Call {
    pub(crate) fn backend(&self) -> &Backend {
        &self.front.backend
    }

    /// The parameters in the URL.
    pub(crate) fn params(&self) -> Result<Params<'_>, Problem> {
        Params::parse(self.parts.uri.query())
    }

    /// The names that the route has, which says how many.
    pub(crate) fn take_names<const N: usize>(&mut self) -> Result<[String; N], Problem> {
        std::mem::take(&mut self.names)
            .try_into()
            .map_err(|_| Problem::new(Kind::NotImplemented, "this path has another number of names"))
    }

    /// The cell that the path names: `/kv/{key}` or `/data/{table}/{row}/{column}`.
    pub(crate) fn take_cell(&mut self) -> Result<CellName, Problem> {
        if self.names.len() == 1 {
            let [key] = self.take_names()?;
            return Ok(CellName::of_key(key));
        }
        let [table, row, column] = self.take_names()?;
        Ok(CellName { table, row, column })
    }

    /// A place under a bound shared by all requests, held until the permit is dropped.
    pub(crate) fn take_place(
        places: &Arc<Semaphore>,
        what: &'static str,
        most: usize,
    ) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(places).try_acquire_owned().map_err(|_| {
            Problem::new(Kind::Busy, format!("{most} {what} at once are the most this node takes"))
        })
    }
}
