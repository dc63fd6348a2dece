//! From a request's head to its answer: bounds, route, names, body, handler, in this order, so that
//! whatever can be refused without reading the body is.

use std::sync::Arc;

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, Request,
    body::Body,
    header::{CONNECTION, HeaderValue},
};
use tokio::time::{Duration, Instant};

use super::{
    Front, ROUTES,
    body::{self, Received},
    error::{Kind, Problem},
    limits::{MAX_CONNECTIONS, MAX_HEADER_BYTES, MAX_REQUESTS_IN_FLIGHT, MAX_URL_BYTES},
    names::decode_name,
    request::{Call, Client, Held},
    response::Response,
    route::{Found, Lane, Takes, find},
    upgrade,
    wire::{headers_too_large, uri_too_long},
};
use crate::command::MAX_BATCH_BYTES;

/// Answers one request. Every outcome is an answer.
pub(crate) async fn answer<B>(front: Arc<Front>, client: Client, mut request: Request<B>) -> Response
where
    B: Body<Data = Bytes> + Unpin,
{
    client.signals.request_began();
    if upgrade::is_wanted(&request) {
        return upgrade::accept(&front, &client, &mut request).unwrap_or_else(Problem::into_response);
    }
    let began = Instant::now();
    let in_flight = front.observer.begin();
    let found = find(ROUTES, request.method().as_str(), request.uri().path());
    let mut answer = handle(&front, &client, found, request).await.unwrap_or_else(Problem::into_response);
    if client.reserved {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    drop(in_flight);
    front.observer.end(found, answer.status(), began.elapsed());
    answer.body_mut().notify(client.signals);
    answer
}

async fn handle<B>(
    front: &Arc<Front>,
    client: &Client,
    found: Found,
    request: Request<B>,
) -> Result<Response, Problem>
where
    B: Body<Data = Bytes> + Unpin,
{
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
        Found::Nothing => {
            return Err(Problem::new(Kind::NotFound, "there is no such path; GET /openapi.json lists all"));
        }
    };
    let mut held = Held::default();
    if route.lane == Lane::Data {
        if client.reserved {
            return Err(Problem::new(
                Kind::Busy,
                format!("{MAX_CONNECTIONS} connections at once are the most this node takes for data"),
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
