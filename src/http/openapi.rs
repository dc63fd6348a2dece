//! `GET /openapi.json`: the API as OpenAPI 3.1, generated from the route table, so that it cannot
//! tell of a route that is not there.

use std::{collections::BTreeMap, sync::OnceLock};

use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    ROUTES,
    error::{Kind, Problem},
    request::Call,
    response::{self, Response},
    route::{Lane, Operation, Param, Route, Takes},
};

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
        }
        paths.insert(route.template, Value::Object(item));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Quoring",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "A distributed key-value store. Any node answers any request. HEAD is taken wherever GET is.",
        },
        "paths": paths,
        "components": { "schemas": { "Problem": problem_schema() } },
    })
}

fn describe(route: &Route, operation: &Operation) -> Value {
    let names = route.template.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let mut parameters: Vec<_> = names
        .map(|name| {
            json!({
                "name": name, "in": "path", "required": true,
                "description": "UTF-8, 1 to 1024 bytes, percent-encoded.",
                "schema": { "type": "string", "minLength": 1 },
            })
        })
        .collect();
    parameters.extend(operation.params.iter().map(|param| param.describe()));
    let mut responses = serde_json::Map::new();
    for status in statuses(route, operation) {
        responses.insert(status.to_string(), answer(status));
    }
    let mut described = json!({
        "summary": operation.summary,
        "operationId": operation_id(route, operation),
        "parameters": parameters,
        "responses": responses,
    });
    let media_type = match operation.takes {
        Takes::Nothing => return described,
        Takes::Value => "*/*",
        Takes::Json => "application/json",
    };
    described["requestBody"] = json!({ "required": true, "content": { media_type: {} } });
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
        statuses.extend([408, 411, 413, 415, 429]);
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

fn answer(status: u16) -> Value {
    let kind = Kind::ALL.into_iter().find(|kind| kind.row().status.as_u16() == status);
    match kind {
        Some(kind) => json!({
            "description": kind.row().title,
            "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
        }),
        None => json!({
            "description": match status {
                202 => "Accepted; its progress is in /cluster",
                304 => "The version is one of If-None-Match",
                _ => "Done",
            },
        }),
    }
}

fn problem_schema() -> Value {
    json!({
        "type": "object",
        "description": "RFC 9457. 'outcome' tells whether a failed write may have been applied.",
        "required": ["type", "title", "status", "detail", "outcome"],
        "properties": {
            "type": { "type": "string", "format": "uri" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string" },
            "outcome": { "enum": ["none", "unknown"] },
            "missing": { "enum": ["table", "row", "column"] },
        },
    })
}

impl Param {
    fn describe(self) -> Value {
        let text = || json!({ "type": "string" });
        let (name, place, required, schema, description) = match self {
            Param::At => (
                "at",
                "query",
                false,
                json!({ "type": "string", "pattern": "^[0-9a-fA-F]{16}$" }),
                "Where the new shard begins; the middle of the arc, or of the data where rows are ordered.",
            ),
            Param::Addr => ("addr", "query", true, text(), "HOST:PORT of the worker."),
            Param::Consistency => (
                "consistency",
                "query",
                false,
                json!({ "enum": ["linearizable", "stale"], "default": "linearizable" }),
                "'stale' may be answered by any replica, even without a majority.",
            ),
            Param::Cursor => ("cursor", "query", false, text(), "The 'next' of the page before, unchanged."),
            Param::From => ("from", "query", false, text(), "The least name, inclusive."),
            Param::Id => (
                "id",
                "query",
                true,
                json!({ "type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$" }),
                "The worker's id.",
            ),
            Param::IfMatch => ("If-Match", "header", false, text(), "'*', or a list of ETags."),
            Param::IfNoneMatch => ("If-None-Match", "header", false, text(), "'*', or a list of ETags."),
            Param::Key => ("key", "query", false, text(), "A flat key; or give 'row'."),
            Param::Limit => (
                "limit",
                "query",
                false,
                json!({ "type": "integer", "minimum": 1, "maximum": 10_000 }),
                "The most to return in a page.",
            ),
            Param::Port => (
                "port",
                "query",
                true,
                json!({ "type": "integer", "minimum": 1, "maximum": 65_535 }),
                "The worker's port.",
            ),
            Param::Prefix => ("prefix", "query", false, text(), "Only names that begin so."),
            Param::Retry => (
                "Idempotency-Key",
                "header",
                false,
                text(),
                "A repeat under the same key gives the first answer again and changes nothing.",
            ),
            Param::Row => ("row", "query", false, text(), "A row; or give 'key'."),
            Param::To => ("to", "query", false, text(), "The end of the names, exclusive."),
            Param::Ttl => (
                "ttl",
                "query",
                false,
                json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h)$" }),
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
                let serves = |op: &&crate::http::route::Operation| op.verb.as_str() == method.to_uppercase();
                let operation = route.operations.iter().find(serves).unwrap();
                assert_eq!(described["summary"], operation.summary);
                assert!(ids.insert(described["operationId"].as_str().unwrap().to_owned()), "{described}");
                let named =
                    described["parameters"].as_array().unwrap().iter().filter(|p| p["in"] == "path").count();
                assert_eq!(named, template.matches('{').count());
                assert_eq!(described.get("requestBody").is_some(), operation.takes != Takes::Nothing);
                for status in operation.statuses {
                    assert!(described["responses"].get(status.to_string()).is_some(), "{template} {status}");
                }
            }
            let operations: usize =
                ROUTES.iter().filter(|r| r.template == template).map(|r| r.operations.len()).sum();
            assert_eq!(item.as_object().unwrap().len(), operations);
        }
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
