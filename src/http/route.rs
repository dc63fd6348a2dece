//! What a route is. The table itself is in [`super`], and [`super::app`] finds a path's own.

use super::request::{Answering, Call};

/// A path template and what may be done there.
pub(crate) struct Route {
    pub(crate) template: &'static str,
    pub(crate) lane: Lane,
    pub(crate) operations: &'static [Operation],
}

/// Which bounds a route's requests count against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Requests for data: bounded in number.
    Data,
    /// Requests about the cluster: taken also when those for data are too many, so that an
    /// overloaded node can still be looked at.
    Control,
}

/// A method on a route.
pub(crate) struct Operation {
    pub(crate) verb: Verb,
    pub(crate) takes: Takes,
    pub(crate) run: fn(Call) -> Answering,
    /// Verb and object.
    pub(crate) summary: &'static str,
    pub(crate) params: &'static [Param],
    /// The statuses that are this operation's own; those that any may have are not listed.
    pub(crate) statuses: &'static [u16],
}

/// A method. `HEAD` is served as `Get`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    Put,
    Post,
    Patch,
    Delete,
}

/// The body that an operation needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// None; one that is sent is not read.
    Nothing,
    /// A value, up to the cluster's `max_value`.
    Value,
    /// JSON, up to [`crate::command::MAX_BATCH_BYTES`], whatever its `Content-Type`.
    Json,
}

/// A parameter in the URL or in a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Param {
    Addr,
    At,
    Consistency,
    Cursor,
    From,
    Id,
    IfMatch,
    IfNoneMatch,
    Key,
    Limit,
    Port,
    Prefix,
    Retry,
    Row,
    To,
    Ttl,
}

/// A handler as an [`Operation`] holds it.
macro_rules! run {
    ($handler:path) => {
        |call| Box::pin($handler(call))
    };
}
pub(crate) use run;

/// A route for data.
pub(crate) const fn data(template: &'static str, operations: &'static [Operation]) -> Route {
    Route { template, lane: Lane::Data, operations }
}

/// A route about the cluster.
pub(crate) const fn control(template: &'static str, operations: &'static [Operation]) -> Route {
    Route { template, lane: Lane::Control, operations }
}

/// An operation of a route.
pub(crate) const fn op(
    verb: Verb,
    takes: Takes,
    run: fn(Call) -> Answering,
    summary: &'static str,
    params: &'static [Param],
    statuses: &'static [u16],
) -> Operation {
    Operation { verb, takes, run, summary, params, statuses }
}

impl Verb {
    /// The method's name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Verb::Get => "GET",
            Verb::Put => "PUT",
            Verb::Post => "POST",
            Verb::Patch => "PATCH",
            Verb::Delete => "DELETE",
        }
    }
}

impl Route {
    /// The raw segments of a matching path that stand for names, in order.
    pub(crate) fn names<'a>(&self, path: &'a str) -> impl Iterator<Item = &'a str> + use<'a> {
        self.template
            .split('/')
            .zip(path.split('/'))
            .filter(|(pattern, _)| is_name(pattern))
            .map(|(_, name)| name)
    }

    /// The methods taken here, for `Allow`.
    pub(crate) fn allow(&self) -> String {
        let mut methods: Vec<_> = self.operations.iter().map(|operation| operation.verb.as_str()).collect();
        if methods.contains(&"GET") {
            methods.push("HEAD");
        }
        methods.join(", ")
    }
}

fn is_name(pattern: &str) -> bool {
    pattern.starts_with('{')
}

/// Where a request belongs.
#[derive(Clone, Copy)]
pub(crate) enum Found {
    /// The index of the route, and of the operation there.
    Operation(usize, usize),
    /// The route knows no such method.
    OtherMethod(usize),
    /// The path would have a route if its names were not empty.
    EmptyName,
    /// No route has this path.
    Nothing,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::http::ROUTES;

    #[test]
    fn names_come_in_order_and_raw() {
        let route = ROUTES.iter().find(|route| route.template == "/data/{table}/{row}/{column}").unwrap();
        assert_eq!(route.names("/data/a%2F//c").collect::<Vec<_>>(), ["a%2F", "", "c"]);
    }

    #[test]
    fn allow_names_every_method_taken() {
        let route = ROUTES.iter().find(|route| route.template == "/kv/{key}").unwrap();
        assert_eq!(route.allow(), "GET, PUT, DELETE, HEAD");
    }

    #[test]
    fn no_route_has_a_method_twice() {
        for route in ROUTES {
            let verbs: BTreeSet<_> =
                route.operations.iter().map(|operation| operation.verb.as_str()).collect();
            assert_eq!(verbs.len(), route.operations.len(), "{}", route.template);
        }
    }
}
