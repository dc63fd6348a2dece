//! From a request's head to its answer: bounds, route, names, body, handler, in this order, so that
//! whatever can be refused without reading the body is.

use std::sync::Arc;

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, Request,
    body::{Body as _, Incoming},
    header::{CONNECTION, HeaderValue},
};
use tokio::time::{Duration, Instant};

use tower_service::Service as _;

use super::{
    Front, ROUTES,
    app::Asked,
    body::{self, Received},
    error::{Kind, Problem},
    limits::{MAX_HEADER_BYTES, MAX_REQUESTS_IN_FLIGHT, MAX_URL_BYTES},
    names::decode_name,
    request::{Call, Client, Held},
    response::{Response, Tracked},
    route::{Found, Lane, Takes},
    upgrade,
    wire::{headers_too_large, uri_too_long},
};
use crate::command::MAX_BATCH_BYTES;

/// Answers one request. Every outcome is an answer.
pub(crate) async fn answer(
    front: Arc<Front>,
    client: Client,
    mut request: Request<Incoming>,
) -> hyper::Response<Tracked> {
    client.signals.request_began();
    if upgrade::is_wanted(&request) {
        let answer = upgrade::accept(&front, &client, &mut request);
        let answer = answer.unwrap_or_else(Problem::into_response);
        return answer.map(|body| Tracked::untracked(axum::body::Body::new(body)));
    }
    let began = Instant::now();
    let in_flight = front.observer.begin();
    request.extensions_mut().insert(Asked { front: Arc::clone(&front), client: client.clone() });
    let routed = front.app.clone().call(request.map(axum::body::Body::new)).await;
    let mut answer = match routed {
        Ok(answer) => answer,
        Err(never) => match never {},
    };
    let leaving = client.signals.is_leaving();
    if client.reserved || leaving {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if leaving {
        // What the client has sent ahead must not reset the connection under this answer.
        client.signals.body_left_unread(true);
    }
    drop(in_flight);
    let found = answer.extensions_mut().remove().unwrap_or(Found::Nothing);
    front.observer.end(found, answer.status(), began.elapsed());
    answer.map(|body| Tracked::new(body, client.signals))
}

/// What the router runs: handles a request whose operation is found.
pub(crate) async fn run(found: Found, mut request: axum::extract::Request) -> axum::response::Response {
    let asked: Option<Asked> = request.extensions_mut().remove();
    let answer = match asked {
        Some(asked) => handle(&asked.front, &asked.client, found, request).await,
        // `answer` puts it there.
        None => Err(Problem::new(Kind::Unavailable, "the front-end lost track of the request; try again")),
    };
    let mut answer = answer.unwrap_or_else(Problem::into_response);
    answer.extensions_mut().insert(found);
    answer.map(axum::body::Body::new)
}

async fn handle(
    front: &Arc<Front>,
    client: &Client,
    found: Found,
    request: axum::extract::Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    // Cleared below, once nothing of the body is left to come.
    if !body.is_end_stream() {
        client.signals.body_left_unread(true);
    }
    let target_bytes = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if target_bytes > MAX_URL_BYTES {
        return Err(uri_too_long());
    }
    if size_of_headers(&parts.headers) > MAX_HEADER_BYTES {
        return Err(headers_too_large());
    }
    let (route, operation) = match found {
        Found::Operation(route, operation) => (&ROUTES[route], &ROUTES[route].operations[operation]),
        Found::OtherMethod(route) => return Err(method_not_allowed(&parts.method, ROUTES[route].allow())),
        Found::EmptyName => {
            return Err(Problem::invalid("a name in the path is empty; it needs 1 to 1,024 bytes"));
        }
        Found::Nothing => {
            return Err(Problem::new(Kind::NotFound, "there is no such path; GET /openapi.json lists all"));
        }
    };
    let mut held = Held::default();
    if route.lane == Lane::Data {
        if client.reserved {
            return Err(Problem::new(
                Kind::Busy,
                "there are more connections than this node takes for data; use fewer, or another node",
            ));
        }
        held.in_flight =
            Some(Call::take_place(&front.requests, "requests for data", MAX_REQUESTS_IN_FLIGHT)?);
    }
    let names = route.names(parts.uri.path()).map(decode_name).collect::<Result<Vec<_>, _>>()?;
    let (timeout_ms, max_value_bytes) = front.backend.settings();
    let timeout = Duration::from_millis(timeout_ms);
    let limit_bytes = match operation.takes {
        Takes::Nothing => None,
        Takes::Value => Some(max_value_bytes),
        Takes::Json => Some(MAX_BATCH_BYTES as u64),
    };
    let mut whole = Bytes::new();
    if let Some(limit_bytes) = limit_bytes {
        body::check_head(&parts.headers, limit_bytes)?;
        let Received { bytes, memory } =
            body::receive(body, limit_bytes, timeout, &front.body_memory).await?;
        client.signals.body_left_unread(false);
        whole = bytes;
        held.memory = memory;
    }
    let call = Call {
        front: Arc::clone(front),
        parts,
        names,
        body: whole,
        // The client's time begins when its whole request is here.
        deadline: Instant::now() + timeout,
        timeout,
        max_value_bytes,
        client: client.addr,
        _held: held,
    };
    (operation.run)(call).await
}

fn method_not_allowed(method: &Method, allow: String) -> Problem {
    let detail = format!("{method} is not taken here, but {allow} are");
    Problem { allow: Some(allow), ..Problem::new(Kind::MethodNotAllowed, detail) }
}

/// The bytes of the header lines: name, colon and space, value, line end.
fn size_of_headers(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}
