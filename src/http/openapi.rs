//! `GET /openapi.json`: the API as OpenAPI 3.1, generated from the route table, so that it cannot
//! tell of a route that is not there.

use std::{collections::BTreeMap, sync::OnceLock};

use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    ROUTES,
    error::{Kind, Problem},
    limits::{MAX_IDEMPOTENCY_KEY_BYTES, MAX_PAGE_ROWS},
    request::Call,
    response::{self, Response},
    route::{Lane, Operation, Param, Route, Takes, Verb},
    schemas::{self, Gives},
};
use crate::command::MAX_NAME_BYTES;

/// `GET /openapi.json`.
pub(crate) async fn get(_: Call) -> Result<Response, Problem> {
    static DOCUMENT: OnceLock<Bytes> = OnceLock::new();
    let document = DOCUMENT.get_or_init(|| Bytes::from(document(ROUTES).to_string()));
    Ok(response::typed("application/json", document.clone()))
}

/// The document for these routes.
fn document(routes: &[Route]) -> Value {
    let mut paths = BTreeMap::new();
    for route in routes {
        let mut item = serde_json::Map::new();
        for operation in route.operations {
            item.insert(operation.verb.as_str().to_lowercase(), describe(route, operation));
            if operation.verb == Verb::Get {
                item.insert("head".into(), describe_head(describe(route, operation)));
            }
        }
        paths.insert(route.template, Value::Object(item));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Quoring",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "A distributed key-value store. Any node answers any request.",
        },
        "paths": paths,
        "components": { "schemas": schemas::all() },
    })
}

fn describe(route: &Route, operation: &Operation) -> Value {
    let names = route.template.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let mut parameters: Vec<_> = names
        .map(|name| {
            let (schema, description) = match name {
                "id" => (schemas::worker_id(), "The worker's id."),
                _ => (schemas::name(), "UTF-8, 1 to 1024 bytes, percent-encoded."),
            };
            json!({ "name": name, "in": "path", "required": true, "schema": schema, "description": description })
        })
        .collect();
    parameters.extend(operation.params.iter().map(|param| param.describe()));
    let mut responses = serde_json::Map::new();
    for status in statuses(route, operation) {
        responses.insert(status.to_string(), answer(route, operation, status));
    }
    let mut described = json!({
        "summary": operation.summary,
        "operationId": operation_id(route, operation),
        "parameters": parameters,
        "responses": responses,
    });
    let content = match operation.takes {
        Takes::Nothing => return described,
        Takes::Value => json!({ "*/*": {} }),
        Takes::Json => match schemas::taken(route.template) {
            Some(schema) => json_of(schema),
            None => json!({ "application/json": {} }),
        },
    };
    described["requestBody"] = json!({ "required": true, "content": content });
    described
}

/// `HEAD` is answered as `GET`, without the body.
fn describe_head(mut described: Value) -> Value {
    let summary = |key: &str| described[key].as_str().unwrap_or_default().to_owned();
    let (what, id) = (summary("summary"), summary("operationId"));
    described["summary"] = format!("{what}: the headers alone").into();
    described["operationId"] = id.replacen("get", "head", 1).into();
    for answer in described["responses"].as_object_mut().into_iter().flat_map(|all| all.values_mut()) {
        answer.as_object_mut().map(|answer| answer.remove("content"));
    }
    described
}

fn operation_id(route: &Route, operation: &Operation) -> String {
    let words = route.template.split(['/', '{', '}', '.']).filter(|word| !word.is_empty());
    std::iter::once(operation.verb.as_str().to_lowercase().as_str())
        .chain(words)
        .collect::<Vec<_>>()
        .join("_")
}

/// The statuses of an operation: its own, and those that any of its sort may have.
fn statuses(route: &Route, operation: &Operation) -> Vec<u16> {
    let mut statuses = operation.statuses.to_vec();
    statuses.extend([400, 414, 431, 503]);
    if route.lane == Lane::Data {
        statuses.push(429);
    }
    if operation.takes != Takes::Nothing {
        statuses.extend([408, 411, 413, 415, 429, 501]);
    }
    if operation.params.contains(&Param::Retry) {
        statuses.extend([409, 422]);
    }
    // Where nobody else is asked, nobody can be too late with an answer.
    if !matches!(route.template, "/" | "/metrics" | "/healthz" | "/readyz" | "/openapi.json" | "/ring") {
        statuses.push(504);
    }
    statuses.sort_unstable();
    statuses.dedup();
    statuses
}

fn json_of(schema: &str) -> Value {
    json!({ "application/json": { "schema": { "$ref": format!("#/components/schemas/{schema}") } } })
}

fn answer(route: &Route, operation: &Operation, status: u16) -> Value {
    let kind = Kind::ALL.into_iter().find(|kind| kind.row().status.as_u16() == status);
    let gives = schemas::given(route.template, operation.verb);
    let mut described = match (kind, status, gives) {
        (Some(kind), ..) => json!({
            "description": kind.row().title,
            "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
        }),
        (None, 304, _) => json!({ "description": "The version is one of If-None-Match" }),
        (None, _, gives) => json!({
            "description": if status == 202 { "Accepted; its progress is in /cluster" } else { "Done" },
            "content": match gives {
                Gives::Text | Gives::Written => json!({ "text/plain; charset=utf-8": { "schema": { "type": "string" } } }),
                Gives::Value => json!({ "*/*": {} }),
                Gives::Json(schema) => json_of(schema),
                Gives::Pages(page, line) => {
                    let mut content = json_of(page);
                    content["application/x-ndjson"] = json!({
                        "itemSchema": { "$ref": format!("#/components/schemas/{line}") },
                    });
                    content
                }
                Gives::Html => json!({ "text/html; charset=utf-8": { "schema": { "type": "string" } } }),
                Gives::Metrics => {
                    json!({ "text/plain; version=0.0.4; charset=utf-8": { "schema": { "type": "string" } } })
                }
            },
        }),
    };
    let headers = headers(operation, status, gives);
    if !headers.is_empty() {
        described["headers"] = Value::Object(headers);
    }
    described
}

/// The headers that tell a client something, beside those that every answer has.
fn headers(operation: &Operation, status: u16, gives: Gives) -> serde_json::Map<String, Value> {
    let header = |required: bool, schema: Value, description: &str| json!({ "required": required, "schema": schema, "description": description });
    let etag = |required| {
        let schema = json!({ "type": "string", "pattern": "^\"[0-9]+\"$" });
        header(required, schema, "The version of the cell, in quotes.")
    };
    let mut headers = serde_json::Map::new();
    match (status, gives) {
        (200, Gives::Written) => {
            headers.insert("ETag".into(), etag(true));
        }
        (200, Gives::Value) | (304, _) => {
            let date = json!({ "type": "string" });
            headers.insert("ETag".into(), etag(true));
            headers.insert("Last-Modified".into(), header(false, date, "When it was written."));
        }
        (412, _) => {
            headers.insert("ETag".into(), etag(false));
        }
        (429 | 503, _) => {
            let seconds = json!({ "type": "integer", "minimum": 0 });
            headers
                .insert("Retry-After".into(), header(true, seconds, "Seconds to wait before trying again."));
        }
        _ => {}
    }
    if operation.params.contains(&Param::Consistency) && matches!(status, 200 | 304 | 404 | 412) {
        let age = json!({ "type": "integer", "minimum": 0 });
        let description = "With 'consistency=stale', where known: every write acknowledged so many milliseconds ago is in the answer.";
        headers.insert("Quoring-Staleness-Ms".into(), header(false, age, description));
    }
    headers
}

impl Param {
    fn describe(self) -> Value {
        let cursor = || json!({ "type": "string", "pattern": "^[A-Za-z0-9_-]+$" });
        // Empty is as if not given.
        let bound = || json!({ "type": "string", "maxLength": MAX_NAME_BYTES });
        let tags =
            || json!({ "type": "string", "pattern": "^(\\*|(W/)?\"[!#-~]*\"( *, *(W/)?\"[!#-~]*\")*)$" });
        let (name, place, required, schema, description) = match self {
            Param::At => (
                "at",
                "query",
                false,
                json!({ "type": "string", "pattern": "^[0-9a-fA-F]{16}$" }),
                "Where the new shard begins; the middle of the arc, or of the data where rows are ordered.",
            ),
            Param::Addr => (
                "addr",
                "query",
                true,
                json!({ "type": "string", "pattern": "^([A-Za-z0-9._-]{1,253}|\\[[0-9A-Fa-f:.]+\\]):[1-9][0-9]{0,4}$" }),
                "HOST:PORT of the worker, or coordinator.",
            ),
            Param::Consistency => (
                "consistency",
                "query",
                false,
                json!({ "enum": ["linearizable", "stale"], "default": "linearizable" }),
                "'stale' may be answered by any replica, even without a majority.",
            ),
            Param::Cursor => {
                ("cursor", "query", false, cursor(), "The 'next' of the page before, unchanged.")
            }
            Param::From => ("from", "query", false, bound(), "The least name, inclusive."),
            Param::Id => ("id", "query", true, schemas::worker_id(), "The worker's id."),
            Param::IfMatch => ("If-Match", "header", false, tags(), "'*', or a list of ETags."),
            Param::IfNoneMatch => ("If-None-Match", "header", false, tags(), "'*', or a list of ETags."),
            Param::Key => ("key", "query", false, schemas::name(), "A flat key; give this or 'row'."),
            Param::Limit => (
                "limit",
                "query",
                false,
                json!({ "type": "integer", "minimum": 1, "maximum": MAX_PAGE_ROWS }),
                "The most to return in a page.",
            ),
            Param::Port => (
                "port",
                "query",
                true,
                json!({ "type": "integer", "minimum": 1, "maximum": 65_535 }),
                "The worker's port.",
            ),
            Param::Prefix => ("prefix", "query", false, bound(), "Only names that begin so."),
            Param::Retry => (
                "Idempotency-Key",
                "header",
                false,
                json!({ "type": "string", "minLength": 1, "maxLength": MAX_IDEMPOTENCY_KEY_BYTES }),
                "A repeat under the same key gives the first answer again and changes nothing.",
            ),
            Param::Row => ("row", "query", false, schemas::name(), "A row; give this or 'key'."),
            Param::To => ("to", "query", false, bound(), "The end of the names, exclusive."),
            Param::Ttl => (
                "ttl",
                "query",
                false,
                json!({ "type": "string", "pattern": schemas::TTL }),
                "How long until what is written expires.",
            ),
        };
        json!({ "name": name, "in": place, "required": required, "schema": schema, "description": description })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_and_the_routes_tell_the_same() {
        let document = document(ROUTES);
        let paths = document["paths"].as_object().unwrap();
        assert_eq!(paths.len(), ROUTES.len());
        let mut ids = std::collections::BTreeSet::new();
        for (template, item) in paths {
            let route = ROUTES.iter().find(|route| route.template == template).unwrap();
            for (method, described) in item.as_object().unwrap() {
                let get = if method == "head" { "get" } else { method };
                let serves = |op: &&crate::http::route::Operation| op.verb.as_str() == get.to_uppercase();
                let operation = route.operations.iter().find(serves).unwrap();
                assert!(described["summary"].as_str().unwrap().starts_with(operation.summary));
                assert!(ids.insert(described["operationId"].as_str().unwrap().to_owned()), "{described}");
                let named =
                    described["parameters"].as_array().unwrap().iter().filter(|p| p["in"] == "path").count();
                assert_eq!(named, template.matches('{').count());
                assert_eq!(described.get("requestBody").is_some(), operation.takes != Takes::Nothing);
                for status in operation.statuses {
                    assert!(described["responses"].get(status.to_string()).is_some(), "{template} {status}");
                }
            }
            assert_eq!(item.as_object().unwrap().len(), route.allow().split(", ").count());
        }
    }

    #[test]
    fn every_schema_that_is_meant_is_there() {
        let text = document(ROUTES).to_string();
        let schemas = schemas::all();
        let mut meant: Vec<_> = text.split("#/components/schemas/").skip(1).collect();
        meant.iter_mut().for_each(|rest| *rest = rest.split('"').next().unwrap());
        assert!(meant.iter().all(|name| schemas.get(name).is_some()), "{meant:?}");
        assert!(schemas.as_object().unwrap().keys().all(|name| meant.contains(&name.as_str())), "{meant:?}");
    }

    #[test]
    fn every_status_named_is_one_that_is_sent() {
        for route in ROUTES {
            for operation in route.operations {
                for status in statuses(route, operation) {
                    let known = Kind::ALL.iter().any(|kind| kind.row().status.as_u16() == status);
                    assert!(known || [200, 202, 304].contains(&status), "{} {status}", route.template);
                }
            }
        }
    }
}
