//! The routing: an axum router made from the table of routes. Which operation a path and a method
//! mean is axum's to find; everything else about a request is in [`super::service`].

use std::sync::Arc;

use axum::{
    Router,
    extract::Request,
    routing::{MethodFilter, MethodRouter},
};

use super::{
    Front,
    request::Client,
    route::{Found, Route, Verb},
    service,
};

/// What a request carries beside HTTP, as an extension of it.
#[derive(Clone)]
pub(crate) struct Asked {
    pub(crate) front: Arc<Front>,
    pub(crate) client: Client,
}

/// The router of a table.
pub(crate) fn app(routes: &'static [Route]) -> Router {
    let mut app = Router::new();
    for (index, route) in routes.iter().enumerate() {
        let mut methods = MethodRouter::new();
        for (place, operation) in route.operations.iter().enumerate() {
            let found = Found::Operation(index, place);
            let run = move |request: Request| service::run(found, request);
            methods = methods.on(filter(operation.verb), run);
        }
        let other = move |request: Request| service::run(Found::OtherMethod(index), request);
        app = app.route(route.template, methods.fallback(other));
    }
    app.fallback(|request: Request| {
        let found = unrouted(request.uri().path());
        service::run(found, request)
    })
}

fn filter(verb: Verb) -> MethodFilter {
    match verb {
        Verb::Get => MethodFilter::GET,
        Verb::Put => MethodFilter::PUT,
        Verb::Post => MethodFilter::POST,
        Verb::Patch => MethodFilter::PATCH,
        Verb::Delete => MethodFilter::DELETE,
    }
}

/// What a path without a route lacks. axum gives no route to a name of no bytes, which is no unknown
/// path but a name that is not allowed.
fn unrouted(path: &str) -> Found {
    let names = path.strip_prefix("/data/").map(|names| (names, 3));
    let names = names.or_else(|| path.strip_prefix("/kv/").map(|names| (names, 1)));
    match names {
        Some((names, most)) => {
            let mut segments = names.split('/');
            let empty = segments.clone().any(str::is_empty);
            if empty && segments.by_ref().count() <= most { Found::EmptyName } else { Found::Nothing }
        }
        None => Found::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_name_is_told_from_an_unknown_path() {
        for path in ["/kv/", "/data/", "/data//", "/data/a/", "/data//b", "/data/..//%00", "/data/a//c"] {
            assert!(matches!(unrouted(path), Found::EmptyName), "{path}");
        }
        for path in ["", "*", "//", "/cluster/", "/kv/a/b", "/kv/a/", "/data/a/b/c/", "/data/a/b/c/d", "/kva"]
        {
            assert!(matches!(unrouted(path), Found::Nothing), "{path}");
        }
    }
}
