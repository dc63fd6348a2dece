//! Counts requests. The handles of all metrics are made once, at the first use of each, so that
//! counting a request allocates nothing.

use std::{sync::OnceLock, time::Duration};

use hyper::StatusCode;
use metrics::{Counter, Gauge, Histogram};

use super::{
    error::Kind,
    route::{Found, Route},
};
use crate::metrics::{HTTP_REQUEST_SECONDS, HTTP_REQUESTS_IN_FLIGHT, HTTP_REQUESTS_TOTAL};

/// The statuses sent with no [`Kind`] behind them.
const SUCCESSES: [u16; 4] = [200, 304, 202, 101];

/// The handles for all routes.
pub(crate) struct Observer {
    in_flight: Gauge,
    /// As [`Found::Operation`] has its indexes.
    operations: Vec<Vec<Observed>>,
    /// Requests for which there is no operation: their paths and methods are the client's choice,
    /// and no label may have such values.
    others: Observed,
}

/// The handles for one operation.
struct Observed {
    method: &'static str,
    route: &'static str,
    latency: OnceLock<Histogram>,
    statuses: [OnceLock<Counter>; SUCCESSES.len() + Kind::ALL.len()],
}

/// A request being worked on; counted out when dropped, also when its client went away.
pub(crate) struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

impl Observer {
    pub(crate) fn new(routes: &[Route]) -> Self {
        let operations = routes.iter().map(|route| {
            route
                .operations
                .iter()
                .map(|operation| Observed::new(operation.verb.as_str(), route.template))
                .collect()
        });
        Self {
            in_flight: metrics::gauge!(HTTP_REQUESTS_IN_FLIGHT),
            operations: operations.collect(),
            others: Observed::new("other", "other"),
        }
    }

    /// Counts a request in.
    pub(crate) fn begin(&self) -> InFlight {
        self.in_flight.increment(1.0);
        InFlight(self.in_flight.clone())
    }

    /// Counts its answer. `HEAD` counts as `GET`.
    pub(crate) fn end(&self, found: Found, status: StatusCode, took: Duration) {
        let observed = match found {
            Found::Operation(route, operation) => &self.operations[route][operation],
            Found::OtherMethod(_) | Found::EmptyName | Found::Nothing => &self.others,
        };
        observed.latency().record(took);
        if let Some(counter) = observed.counter(status) {
            counter.increment(1);
        }
    }
}

impl Observed {
    fn new(method: &'static str, route: &'static str) -> Self {
        Self { method, route, latency: OnceLock::new(), statuses: std::array::from_fn(|_| OnceLock::new()) }
    }

    /// Made at the first request: the routes that a node is never asked for are not in its metrics.
    fn latency(&self) -> &Histogram {
        self.latency.get_or_init(
            || metrics::histogram!(HTTP_REQUEST_SECONDS, "method" => self.method, "route" => self.route),
        )
    }

    fn counter(&self, status: StatusCode) -> Option<&Counter> {
        let code = status.as_u16();
        let index = SUCCESSES.iter().position(|success| *success == code).or_else(|| {
            let kind = Kind::ALL.iter().position(|kind| kind.row().status == status)?;
            Some(SUCCESSES.len() + kind)
        })?;
        Some(self.statuses[index].get_or_init(|| {
            let labels = [
                ("method", self.method.to_owned()),
                ("route", self.route.to_owned()),
                ("status", code.to_string()),
            ];
            metrics::counter!(HTTP_REQUESTS_TOTAL, &labels)
        }))
    }
}
