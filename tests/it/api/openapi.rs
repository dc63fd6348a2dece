//! `GET /openapi.json`, walked against the running routes.

use serde_json::{Value, json};

use super::schema::differs;
use crate::harness::{Answer, Call, Cluster, Http};

const METHODS: [&str; 6] = ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"];

/// Parameters of every sort, each with a value that whoever knows it refuses.
const REFUSED: [(&str, &str, &str); 14] = [
    ("query", "consistency", "sometimes"),
    ("query", "limit", "0"),
    ("query", "cursor", "-"),
    ("query", "ttl", "1d"),
    ("query", "prefix", "TOO-LONG"),
    ("query", "from", "TOO-LONG"),
    ("query", "to", "TOO-LONG"),
    ("query", "id", "a%20b"),
    ("query", "port", "0"),
    ("query", "addr", "nowhere"),
    ("query", "at", "middle"),
    ("header", "If-Match", "17"),
    ("header", "If-None-Match", "17"),
    ("header", "Idempotency-Key", "TOO-LONG"),
];

/// A call of a documented operation. What would change the cluster is called with what does not
/// exist.
fn call(node: Http, method: &'static str, template: &str) -> Call {
    let mut path = template.to_owned();
    for name in ["table", "row", "column", "key"] {
        path = path.replace(&format!("{{{name}}}"), "openapi");
    }
    path = path.replace("/shards/{id}", "/shards/999999").replace("{id}", "openapi-none");
    let body = match (method, template) {
        ("PUT", _) => "x".to_owned(),
        ("PATCH", _) => json!({"openapi": "x"}).to_string(),
        ("POST", "/batch") => {
            let put = json!({"op": "put", "key": "openapi", "value": "x"});
            json!([put, {"op": "get", "key": "openapi"}, {"op": "get", "key": "openapi-none"}]).to_string()
        }
        ("POST", "/message") => json!({"type": "GET", "key": "openapi"}).to_string(),
        _ => String::new(),
    };
    let call = node.call(method, path).body(body);
    match template {
        "/ping" => call.query("id=openapi&port=9"),
        "/ring" => call.query("row=openapi"),
        // A member already.
        "/cluster/join" => call.query(&format!("addr=127.0.0.1:{}", node.port)),
        "/cluster/coordinators" if method == "POST" => call.query(&format!("addr=127.0.0.1:{}", node.port)),
        _ => call,
    }
}

/// Asserts that an answer is as the document says of its operation.
#[track_caller]
fn check_answer(document: &Value, method: &str, template: &str, answer: &Answer) {
    let operation = &document["paths"][template][method.to_lowercase()];
    let context = format!("{method} {template} answers {}", answer.status);
    let told = operation["responses"].get(answer.status.to_string());
    let told = told.unwrap_or_else(|| panic!("{context}, which is not documented"));
    for (name, header) in told["headers"].as_object().into_iter().flatten() {
        match answer.header(name) {
            Some(value) if header["schema"]["type"] == "integer" => {
                assert!(value.parse::<u64>().is_ok(), "{context} with {name}: {value}");
            }
            Some(_) => {}
            None => assert_ne!(header["required"], true, "{context} without {name}"),
        }
    }
    for name in ["etag", "last-modified", "retry-after", "allow", "quoring-staleness-ms"] {
        let known = told["headers"]
            .as_object()
            .into_iter()
            .flatten()
            .any(|(known, _)| known.eq_ignore_ascii_case(name));
        assert!(known || answer.header(name).is_none(), "{context} with {name}, which is not documented");
    }
    if method == "HEAD" {
        assert!(answer.body.is_empty() && told.get("content").is_none(), "{context}");
        return;
    }
    let Some(content) = told["content"].as_object() else {
        assert!(answer.body.is_empty(), "{context} with a body");
        return;
    };
    let given = answer.header("content-type").unwrap_or_else(|| panic!("{context} without a type"));
    let media = content.get(given).or_else(|| content.get("*/*"));
    let media = media.unwrap_or_else(|| panic!("{context} with {given}, which is not documented"));
    if given.ends_with("json") && given != "application/x-ndjson" && media.get("schema").is_some() {
        let difference = differs(document, &media["schema"], &answer.json());
        assert_eq!(difference, None, "{context}");
    }
    if let Some(line) = media.get("itemSchema") {
        for text in answer.text().lines() {
            let difference = differs(document, line, &serde_json::from_str(text).unwrap());
            assert_eq!(difference, None, "{context}");
        }
    }
}

async fn document(cluster: &Cluster) -> Value {
    let document = cluster.any().get("/openapi.json").await.is(200).json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    document
}

#[tokio::test]
async fn the_document_is_what_runs() {
    let cluster = Cluster::shared().await;
    let document = document(cluster).await;
    let paths = document["paths"].as_object().unwrap();
    for node in cluster.each() {
        assert_eq!(node.get("/openapi.json").await.is(200).json()["paths"], document["paths"]);
    }
    for (template, item) in paths {
        let node = cluster.any();
        for path in ["/data/openapi/openapi/openapi", "/kv/openapi"] {
            node.put(path, "x").await.is(200);
        }
        for method in METHODS {
            let answer = call(node, method, template).await;
            if item.get(method.to_lowercase()).is_none() {
                check_not_allowed(&answer, method, template, item);
                continue;
            }
            check_answer(&document, method, template, &answer);
            assert!(answer.status < 500, "{method} {template}: {answer:?}");
            let content = &item[method.to_lowercase()]["responses"]["200"]["content"];
            if content.get("application/x-ndjson").is_some() {
                let lines =
                    call(node, method, template).header("accept", "application/x-ndjson").await.is(200);
                assert_eq!(lines.header("content-type"), Some("application/x-ndjson"));
                check_answer(&document, method, template, &lines);
            }
            let params = item[method.to_lowercase()]["parameters"].as_array().unwrap();
            if params.iter().any(|param| param["name"] == "consistency") {
                let stale = call(node, method, template).query("consistency=stale").await;
                check_answer(&document, method, template, &stale);
            }
            if params.iter().any(|param| param["name"] == "If-None-Match") && matches!(method, "GET" | "HEAD")
            {
                let known = call(node, method, template).header("if-none-match", "*").await.is(304);
                check_answer(&document, method, template, &known);
                let other = call(node, method, template).header("if-match", "\"999999999\"").await.is(412);
                check_answer(&document, method, template, &other);
            }
        }
    }
    for path in [
        "/data/{table}/{row}/{column}",
        "/data/{table}/{row}",
        "/data/{table}",
        "/data",
        "/kv/{key}",
        "/kv",
        "/batch",
        "/message",
        "/ping",
        "/workers",
        "/",
        "/cluster",
        "/ring",
        "/cluster/workers/{id}/drain",
        "/cluster/workers/{id}",
        "/cluster/shards/{id}/split",
        "/cluster/join",
        "/cluster/coordinators",
        "/cluster/coordinators/{id}",
        "/metrics",
        "/healthz",
        "/readyz",
        "/openapi.json",
    ] {
        assert!(paths.contains_key(path), "{path} is not documented");
    }
}

#[track_caller]
fn check_not_allowed(answer: &Answer, method: &str, template: &str, item: &Value) {
    assert_eq!(answer.status, 405, "{method} {template}");
    if method != "HEAD" {
        answer.problem(405);
    }
    let allow = answer.header("allow").unwrap_or_else(|| panic!("{method} {template}: no Allow"));
    let allowed: Vec<_> = allow.split(", ").collect();
    for other in METHODS.iter().filter(|other| item.get(other.to_lowercase()).is_some()) {
        assert!(allowed.contains(other), "{template} allows {allow}, but takes {other}");
    }
    assert!(!allowed.contains(&method), "{method} {template}: Allow: {allow}");
}

/// Whoever knows a parameter refuses what it cannot be; whoever does not ignores it. So the document
/// names every parameter of an operation, and no other.
#[tokio::test]
async fn every_parameter_is_documented_and_known() {
    let cluster = Cluster::shared().await;
    let document = document(cluster).await;
    let too_long = "x".repeat(1_025);
    for (template, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let method = METHODS.into_iter().find(|known| known.eq_ignore_ascii_case(method)).unwrap();
            let documented = operation["parameters"].as_array().unwrap();
            for (place, name, value) in REFUSED {
                let value = if value == "TOO-LONG" { &too_long } else { value };
                // Required ones stand in the call already, and twice is refused everywhere.
                let required =
                    documented.iter().any(|param| param["name"] == name && param["required"] == true);
                let given = call(cluster.any(), method, template);
                let answer = match place {
                    "header" => given.header(name, value).await,
                    _ if required => given.without_query().query(&format!("{name}={value}")).await,
                    _ => given.query(&format!("{name}={value}")).await,
                };
                let known = documented.iter().any(|param| param["name"] == name && param["in"] == place);
                // A row has no version, so that a condition on it is refused and no parameter.
                let row_condition = template == "/data/{table}/{row}" && name.starts_with("If-");
                assert_eq!(
                    answer.status == 400,
                    known || row_condition,
                    "{method} {template} with {name}={value:.9}: {answer:?}"
                );
            }
        }
    }
    let ring = async |query: &str| cluster.any().get(format!("/ring{query}")).await.status;
    assert_eq!([ring("?key=a").await, ring("?row=a").await], [200, 200]);
    assert_eq!([ring("").await, ring("?key=").await, ring("?key=a&row=a").await], [400, 400, 400]);
}

#[tokio::test]
async fn unknown_paths_and_methods() {
    let cluster = Cluster::shared().await;
    for node in cluster.each() {
        for path in ["/none", "/data/a/b/c/d", "/kv/a/b", "/cluster/", "//"] {
            node.get(path).await.problem(404);
        }
        let refused = node.call("BREW", "/kv/a").await;
        assert!(matches!(refused.status, 405 | 501), "{refused:?}");
        refused.problem(refused.status);
    }
}
