//! What a route is, and how a path finds its own. The table itself is in [`super`].

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

    /// Whether a request's method is this one.
    fn serves(self, method: &str) -> bool {
        method == self.as_str() || (self == Verb::Get && method == "HEAD")
    }
}

impl Route {
    /// Whether a raw path has this route's form; its names are then [`Route::names`].
    fn matches(&self, path: &str) -> bool {
        let mut segments = path.split('/');
        let mut expected = self.template.split('/');
        loop {
            match (expected.next(), segments.next()) {
                (None, None) => return true,
                (Some(pattern), Some(segment)) if pattern == segment || is_name(pattern) => {}
                _ => return false,
            }
        }
    }

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
    /// No route has this path.
    Nothing,
}

/// Finds the operation for a method and a raw path.
pub(crate) fn find(routes: &[Route], method: &str, path: &str) -> Found {
    let Some(route) = routes.iter().position(|route| route.matches(path)) else { return Found::Nothing };
    match routes[route].operations.iter().position(|operation| operation.verb.serves(method)) {
        Some(operation) => Found::Operation(route, operation),
        None => Found::OtherMethod(route),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::http::ROUTES;

    fn template(method: &str, path: &str) -> Result<&'static str, &'static str> {
        match find(ROUTES, method, path) {
            Found::Operation(route, _) => Ok(ROUTES[route].template),
            Found::OtherMethod(_) => Err("method"),
            Found::Nothing => Err("path"),
        }
    }

    #[test]
    fn paths_find_their_routes() {
        for (method, path, found) in [
            ("GET", "/", Ok("/")),
            ("HEAD", "/", Ok("/")),
            ("PUT", "/kv/a", Ok("/kv/{key}")),
            ("PUT", "/kv/", Ok("/kv/{key}")),
            ("PUT", "/kv", Err("method")),
            ("GET", "/kv/a%2Fb", Ok("/kv/{key}")),
            ("GET", "/kv/a/b", Err("path")),
            ("GET", "/kv/..", Ok("/kv/{key}")),
            ("GET", "/data/..//%00", Ok("/data/{table}/{row}/{column}")),
            ("GET", "/data//", Ok("/data/{table}/{row}")),
            ("GET", "/data/a/b/c/", Err("path")),
            ("POST", "/kv/a", Err("method")),
            ("BREW", "/kv/a", Err("method")),
            ("get", "/kv/a", Err("method")),
            ("HEAD", "/batch", Err("method")),
            ("POST", "/cluster/workers/x/drain", Ok("/cluster/workers/{id}/drain")),
            ("DELETE", "/cluster/workers/drain", Ok("/cluster/workers/{id}")),
            ("GET", "/cluster/", Err("path")),
            ("GET", "", Err("path")),
            ("GET", "*", Err("path")),
            ("GET", "//", Err("path")),
        ] {
            assert_eq!(template(method, path), found, "{method} {path}");
        }
    }

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
    fn no_path_has_two_routes_and_no_route_a_method_twice() {
        for (index, route) in ROUTES.iter().enumerate() {
            let path = route.template.replace('{', "").replace('}', "");
            assert_eq!(ROUTES.iter().filter(|other| other.matches(&path)).count(), 1, "{path} {index}");
            let verbs: BTreeSet<_> =
                route.operations.iter().map(|operation| operation.verb.as_str()).collect();
            assert_eq!(verbs.len(), route.operations.len());
        }
    }
}
