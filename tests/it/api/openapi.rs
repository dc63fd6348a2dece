//! `GET /openapi.json`, walked against the running routes.

use serde_json::{Value, json};

use crate::harness::{Answer, Cluster, Http};

const METHODS: [&str; 6] = ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"];

/// A call of a documented operation. What would change the cluster is called with what does not
/// exist.
async fn call(node: Http, method: &'static str, template: &str) -> Answer {
    let mut path = template.to_owned();
    for name in ["table", "row", "column", "key"] {
        path = path.replace(&format!("{{{name}}}"), "openapi");
    }
    path = path.replace("{id}", "openapi-none");
    let body = match (method, template) {
        ("PUT", _) => "x".to_owned(),
        ("PATCH", _) => json!({"openapi": "x"}).to_string(),
        ("POST", "/batch") => json!([{"op": "get", "key": "openapi"}]).to_string(),
        ("POST", "/message") => json!({"type": "GET", "key": "openapi"}).to_string(),
        _ => String::new(),
    };
    let query = match template {
        "/ping" => "?id=openapi&port=9",
        "/ring" => "?row=openapi",
        _ => "",
    };
    node.call(method, format!("{path}{query}")).body(body).await
}

#[tokio::test]
async fn the_document_is_what_runs() {
    let cluster = Cluster::shared().await;
    let document = cluster.any().get("/openapi.json").await.is(200).json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let paths = document["paths"].as_object().unwrap();
    for node in cluster.each() {
        assert_eq!(node.get("/openapi.json").await.is(200).json()["paths"], document["paths"]);
    }
    for (template, item) in paths {
        let node = cluster.any();
        let documented = |method: &str| item.get(method.to_lowercase()).is_some();
        for method in METHODS {
            let answer = call(node, method, template).await;
            if documented(method) || (method == "HEAD" && documented("GET")) {
                let responses =
                    &item[if documented(method) { method } else { "GET" }.to_lowercase()]["responses"];
                let status = answer.status.to_string();
                let told = responses.get(&status).or_else(|| responses.get("default"));
                assert!(told.is_some(), "{method} {template} answers {status}, which is not documented");
                assert!(answer.status != 405 && answer.status < 500, "{method} {template}: {answer:?}");
            } else {
                check_not_allowed(&answer, method, template, item);
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
