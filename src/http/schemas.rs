//! What bodies look like: which operation takes and gives which, and each as JSON Schema (2020-12, as OpenAPI 3.1 has it): the `components` that
//! `openapi` refers to by name.

use serde_json::{Value, json};

use super::route::Verb;
use crate::command::{MAX_BATCH_OPS, MAX_NAME_BYTES};

/// What an operation answers when all is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gives {
    /// Text, most often `OK`.
    Text,
    /// `OK`, and the version that was written as the `ETag`.
    Written,
    /// A value with its validators.
    Value,
    /// JSON of a schema.
    Json(&'static str),
    /// A page as JSON of the first schema, or all as lines of the second.
    Pages(&'static str, &'static str),
    /// For a person.
    Html,
    /// For Prometheus.
    Metrics,
}

/// What an operation gives; that of a route which is not named here is text.
pub(crate) fn given(template: &str, verb: Verb) -> Gives {
    match (template, verb) {
        ("/kv/{key}" | "/data/{table}/{row}/{column}", Verb::Get) => Gives::Value,
        ("/kv/{key}" | "/data/{table}/{row}/{column}", Verb::Put) => Gives::Written,
        ("/data/{table}/{row}", Verb::Get) => Gives::Json("Row"),
        ("/data/{table}/{row}", Verb::Patch) => Gives::Json("Version"),
        ("/data/{table}", _) => Gives::Pages("Rows", "Row"),
        ("/kv", _) => Gives::Pages("Keys", "Key"),
        ("/data", _) => Gives::Pages("Tables", "Table"),
        ("/batch", _) => Gives::Json("Results"),
        ("/message", _) => Gives::Json("Answer"),
        ("/cluster", _) => Gives::Json("Cluster"),
        ("/ring", _) => Gives::Json("Located"),
        ("/cluster/coordinators", Verb::Get) => Gives::Json("Coordinators"),
        ("/cluster/coordinators" | "/cluster/coordinators/{id}", _) => Gives::Json("Seated"),
        ("/cluster/workers/{id}/drain", _) => Gives::Json("Draining"),
        ("/openapi.json", _) => Gives::Json("Document"),
        ("/", _) => Gives::Html,
        ("/metrics", _) => Gives::Metrics,
        _ => Gives::Text,
    }
}

/// The schema of the JSON that an operation takes.
pub(crate) fn taken(template: &str) -> Option<&'static str> {
    match template {
        "/data/{table}/{row}" => Some("Changes"),
        "/batch" => Some("Operations"),
        "/message" => Some("Message"),
        _ => None,
    }
}

/// How long something lives: the forms that `units` reads, up to about 100 years.
pub(crate) const TTL: &str = "^0*([1-9][0-9]{0,11}ms|[1-9][0-9]{0,8}s|[1-9][0-9]{0,6}m|[1-9][0-9]{0,4}h)$";

/// The name of a table, row or column. JSON Schema counts characters, the API bytes.
pub(crate) fn name() -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": MAX_NAME_BYTES })
}

/// Something of this type, or `null` where it is not known.
fn or_null(kind: &str) -> Value {
    json!({ "type": [kind, "null"] })
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn number() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

fn flag() -> Value {
    json!({ "type": "boolean" })
}

fn position() -> Value {
    json!({ "type": "string", "pattern": "^[0-9a-f]{16}$" })
}

/// A worker's id.
pub(crate) fn worker_id() -> Value {
    json!({ "type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$" })
}

fn array(items: Value) -> Value {
    json!({ "type": "array", "items": items })
}

/// An object with exactly these members, of which `optional` ones may be missing.
fn object(members: &[(&str, Value)], optional: &[&str]) -> Value {
    let required: Vec<_> =
        members.iter().map(|(name, _)| *name).filter(|name| !optional.contains(name)).collect();
    let members: serde_json::Map<_, _> =
        members.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    json!({ "type": "object", "properties": members, "required": required, "additionalProperties": false })
}

/// Every schema by its name.
pub(crate) fn all() -> Value {
    let bytes = || json!({ "type": "string", "contentEncoding": "base64" });
    let moment = || json!({ "type": "string", "format": "date-time" });
    let cursor = || json!({ "type": ["string", "null"], "description": "Where to go on; null at the end." });
    let cell = [
        ("value", text()),
        ("base64", bytes()),
        ("version", number()),
        ("content_type", text()),
        ("expires_at", moment()),
    ];
    let cell_optional = ["value", "base64", "content_type", "expires_at"];
    let result_members: Vec<_> =
        [("status", json!({ "const": 200 }))].into_iter().chain(cell.clone()).collect();
    json!({
        "Problem": problem(),
        "Cell": object(&cell, &cell_optional),
        "Row": object(
            &[("row", name()), ("columns", json!({ "type": "object", "additionalProperties": reference("Cell") }))],
            &[],
        ),
        "Rows": object(&[("rows", array(reference("Row"))), ("next", cursor())], &[]),
        "Key": object(&[("key", name()), ("version", number())], &[]),
        "Keys": object(&[("keys", array(reference("Key"))), ("next", cursor())], &[]),
        "Table": name(),
        "Tables": object(&[("tables", array(name())), ("next", cursor())], &["next"]),
        "Version": object(&[("version", number())], &[]),
        "Changes": changes(),
        "Operations": operations(),
        "Results": array(json!({ "anyOf": [object(&result_members, &cell_optional), reference("Problem")] })),
        "Message": message(),
        "Answer": object(
            &[
                ("type", json!({ "const": "RESPONSE" })),
                ("key", name()),
                ("value", or_null("string")),
                ("timestamp", moment()),
                ("status", json!({ "enum": ["SUCCESS", "ERROR"] })),
                ("error", or_null("string")),
            ],
            &[],
        ),
        "Located": object(
            &[
                ("position", position()),
                ("shard", number()),
                ("leader", or_null("string")),
                ("replicas", array(worker_id())),
            ],
            &[],
        ),
        "Draining": object(&[("id", worker_id()), ("draining", flag())], &[]),
        "Cluster": cluster(),
        "Coordinators": coordinators(),
        "Seated": object(
            &[
                ("node", number()),
                ("addr", json!({ "type": "string" })),
                ("replaces", or_null("integer")),
                ("done", flag()),
            ],
            &[],
        ),
        "Document": { "type": "object", "required": ["openapi", "info", "paths"] },
    })
}

/// The coordinator group.
fn coordinators() -> Value {
    let group = [
        ("leader", or_null("integer")),
        ("term", number()),
        ("members", json!({ "type": "object" })),
        ("learners", array(number())),
        ("silent", array(number())),
        ("changes", array(json!({ "type": "object" }))),
        ("settled", flag()),
    ];
    json!({
        "type": "object",
        "required": group.each_ref().map(|(name, _)| *name),
        "properties": group.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
    })
}

/// `GET /cluster`.
fn cluster() -> Value {
    let open = |members: &[(&str, Value)], required: &[&str]| {
        let mut open = object(members, &[]);
        open["required"] = json!(required);
        open["additionalProperties"] = json!(true);
        open
    };
    let worker = [
        ("id", worker_id()),
        ("node", or_null("integer")),
        ("addr", text()),
        ("zone", or_null("string")),
        ("active", flag()),
        ("joined", flag()),
        ("draining", flag()),
        ("last_ping", or_null("string")),
        ("leads", number()),
        ("holds", number()),
        ("ranges", array(object(&[("start", position()), ("end", position())], &[]))),
    ];
    let shard = [
        ("id", number()),
        ("start", position()),
        ("end", position()),
        ("replicas", array(worker_id())),
        ("leader", or_null("string")),
        ("term", or_null("integer")),
        ("commit", or_null("integer")),
        ("applied", or_null("integer")),
        ("bytes", or_null("integer")),
    ];
    let moving = [
        ("shard", number()),
        ("adding", array(worker_id())),
        ("removing", array(worker_id())),
        ("behind", or_null("integer")),
    ];
    let names = |members: &[(&'static str, Value)]| members.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    let all = [
        ("epoch", number()),
        ("cluster", text()),
        ("name", text()),
        ("coordinators", coordinators()),
        ("workers", array(open(&worker, &names(&worker)))),
        ("shards", array(open(&shard, &names(&shard)))),
        ("moves", array(open(&moving, &names(&moving)))),
    ];
    open(&all, &names(&all))
}

fn problem() -> Value {
    json!({
        "type": "object",
        "description": "RFC 9457. 'outcome' tells whether a failed write may have been applied.",
        "required": ["type", "title", "status", "detail", "outcome"],
        "properties": {
            "type": { "type": "string", "format": "uri" },
            "title": { "type": "string" },
            "status": { "type": "integer", "minimum": 400, "maximum": 599 },
            "detail": { "type": "string" },
            "outcome": { "enum": ["none", "unknown"] },
            "missing": { "enum": ["table", "row", "column"] },
            "version": { "type": "integer", "description": "Of the cell, for a 412 in a batch." },
        },
    })
}

/// The body of a `PATCH`.
fn changes() -> Value {
    let content_type = || json!({ "type": "string", "pattern": "^[ -~]{0,1024}$" });
    let text = [("value", json!({ "type": "string" })), ("content_type", content_type())];
    let bytes = [("base64", base64()), ("content_type", content_type())];
    json!({
        "type": "object",
        "minProperties": 1,
        "maxProperties": MAX_BATCH_OPS,
        "propertyNames": name(),
        "additionalProperties": {
            "anyOf": [
                { "type": ["string", "null"] },
                object(&text, &["content_type"]),
                object(&bytes, &["content_type"]),
            ],
        },
    })
}

/// Padded standard base64.
fn base64() -> Value {
    json!({
        "type": "string",
        "contentEncoding": "base64",
        "pattern": "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=|[A-Za-z0-9+/][AQgw]==)?$",
    })
}

/// The body of a batch.
fn operations() -> Value {
    let mut kinds = Vec::new();
    for named in [vec![("key", name())], vec![("table", name()), ("row", name()), ("column", name())]] {
        let version =
            ("if_version", json!({ "type": ["integer", "null"], "minimum": 0, "maximum": i64::MAX }));
        for value in [("value", json!({ "type": "string" })), ("base64", base64())] {
            let mut put = vec![("op", json!({ "const": "put" })), value, version.clone()];
            put.push(("content_type", json!({ "type": ["string", "null"], "pattern": "^[ -~]{0,1024}$" })));
            put.push(("ttl", json!({ "type": ["string", "null"], "pattern": TTL })));
            put.extend(named.clone());
            kinds.push(object(&put, &["if_version", "content_type", "ttl"]));
        }
        let mut other = vec![("op", json!({ "enum": ["get", "delete"] })), version];
        other.extend(named);
        kinds.push(object(&other, &["if_version"]));
    }
    json!({ "type": "array", "maxItems": MAX_BATCH_OPS, "items": { "anyOf": kinds } })
}

/// The body of a message; members that it does not know are ignored.
fn message() -> Value {
    let kind = |kinds: &[&str]| json!({ "enum": kinds });
    json!({
        "type": "object",
        "properties": { "key": name(), "value": { "type": ["string", "null"] } },
        "required": ["type", "key"],
        "anyOf": [
            { "properties": { "type": kind(&["GET", "DELETE"]) } },
            { "properties": { "type": kind(&["SET"]), "value": text() }, "required": ["value"] },
        ],
    })
}
