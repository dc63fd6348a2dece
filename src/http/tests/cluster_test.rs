//! Requests about the cluster, the page, health and metrics.

use serde_json::json;

use super::*;

#[tokio::test]
async fn a_ping_registers_the_caller() {
    let server = Server::start().await;
    for method in ["GET", "POST"] {
        assert_eq!(server.send(method, "/ping?id=abcde&port=8001", &[], b"").await.ok().text(), "OK");
    }
    server.get("/ping?id=B-1._&port=65535").await.ok();
    assert_eq!(server.get("/workers").await.ok().text(), "2\nB-1._,127.0.0.1:65535\nabcde,127.0.0.1:8001\n");
    let long = format!("/ping?id={}&port=1", "x".repeat(65));
    for bad in [
        "/ping",
        "/ping?id=a",
        "/ping?port=1",
        "/ping?id=&port=1",
        "/ping?id=a&port=",
        "/ping?id=a&port=0",
        "/ping?id=a&port=65536",
        "/ping?id=a&port=x",
        "/ping?id=a%20b&port=1",
        "/ping?id=%C3%A9&port=1",
        &long,
    ] {
        server.get(bad).await.problem(400);
    }
    server.model.fail_coordinators(Error::Unavailable("the coordinators have no majority".into()));
    server.get("/ping?id=a&port=1").await.problem(503);
    server.get("/workers").await.problem(503);
    server.get("/cluster").await.problem(503);
}

#[tokio::test]
async fn the_ring_tells_where_a_row_lives() {
    let server = Server::start().await;
    let place = server.get("/ring?key=a%2Fb").await.ok().json();
    let located = server.model.locate("a/b").unwrap();
    assert_eq!(
        place,
        json!({
            "position": format!("{:016x}", located.position.0), "shard": located.group.0,
            "leader": "worker4", "replicas": ["worker4", "worker5", "worker6"],
        })
    );
    assert_eq!(server.get("/ring?row=a/b").await.ok().json(), place);
    for bad in ["/ring", "/ring?key=a&row=a", "/ring?key=", "/ring?key=%ff"] {
        server.get(bad).await.problem(400);
    }
    server.model.forget_map();
    server.get("/ring?key=a").await.problem(503);
}

#[tokio::test]
async fn shards_are_split() {
    let server = Server::start().await;
    let split = async |path: &str| server.send("POST", &format!("/cluster/shards/{path}"), &[], b"").await;
    let answer = split("1/split").await;
    assert_eq!((answer.status, answer.json()["into"].as_u64()), (202, Some(9)));
    let at = split("1/split?at=00000000000000ff").await;
    assert_eq!((at.status, at.json()["at"].as_str()), (202, Some("00000000000000ff")));
    split("1/split?at=0000000000000000").await.problem(409);
    split("1/split?at=ff").await.problem(400);
    split("2/split").await.problem(404);
    split("0/split").await.problem(400);
    split("x/split").await.problem(400);
}

#[tokio::test]
async fn workers_are_drained_and_removed() {
    let server = Server::start().await;
    let drain = async |method: &str, id: &str| {
        server.send(method, &format!("/cluster/workers/{id}/drain"), &[], b"").await
    };
    server.delete("/cluster/workers/worker4").await.problem(409);
    assert_eq!(drain("POST", "worker4").await.status, 202);
    assert_eq!(drain("POST", "worker5").await.status, 202);
    drain("POST", "worker6").await.problem(409);
    assert_eq!(drain("DELETE", "worker5").await.status, 202);
    assert_eq!(server.delete("/cluster/workers/worker4").await.ok().text(), "OK");
    drain("POST", "nobody").await.problem(404);
    drain("POST", "a%20b").await.problem(400);
    let wrong = server.get("/cluster/workers/worker4/drain").await;
    wrong.problem(405);
    assert_eq!(wrong.header("allow"), Some("POST, DELETE"));
}

#[tokio::test]
async fn a_worker_is_asked_to_join() {
    let server = Server::start().await;
    server.post("/cluster/join?addr=127.0.0.1:8004", "").await.ok();
    server.post("/cluster/join?addr=127.0.0.1:9", "").await.problem(409);
    for bad in
        ["/cluster/join", "/cluster/join?addr=", "/cluster/join?addr=127.0.0.1", "/cluster/join?addr=%3A1"]
    {
        server.post(bad, "").await.problem(400);
    }
}

#[tokio::test]
async fn coordinators_are_added_and_removed() {
    let server = Server::start().await;
    let group = server.get("/cluster/coordinators").await.ok().json();
    assert_eq!(group["members"], json!({ "1": "127.0.0.1:7001" }));
    let added = server.post("/cluster/coordinators?addr=127.0.0.1:7009", "").await.ok().json();
    assert_eq!(added, json!({ "node": 9, "addr": "127.0.0.1:7009", "replaces": null, "done": true }));
    server.post("/cluster/coordinators?addr=127.0.0.1:7001", "").await.problem(409);
    server.delete("/cluster/coordinators/1").await.problem(409);
    server.delete("/cluster/coordinators/5").await.problem(404);
    for path in ["127.0.0.1:7009", "127.0.0.1%3A7009"] {
        let removed = server.delete(&format!("/cluster/coordinators/{path}")).await.ok().json();
        assert_eq!(removed["node"], 9);
    }
    for bad in ["", "?addr=", "?addr=127.0.0.1", "?addr=:1"] {
        server.post(&format!("/cluster/coordinators{bad}"), "").await.problem(400);
    }
    server.model.fail_coordinators(Error::Unavailable("the coordinators have no majority".into()));
    server.get("/cluster/coordinators").await.problem(503);
}

#[tokio::test]
async fn health_and_readiness_differ() {
    let server = Server::start().await;
    server.get("/healthz").await.ok();
    server.get("/readyz").await.ok();
    let model = Model::new(Partitioner::Xxh3, &QUARTERS);
    let unready = Server::with(model, Err("it waits to be joined".into()), (10, 0)).await;
    unready.get("/healthz").await.ok();
    let problem = unready.get("/readyz").await;
    assert_eq!(problem.problem(503)["detail"], "it waits to be joined");
    assert_eq!(problem.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn the_page_stands_with_and_without_coordinators() {
    let server = Server::start().await;
    let page = server.get("/").await.ok();
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
    assert!(page.text().contains("<!DOCTYPE html>") && !page.text().contains("could not be asked"));
    server.model.fail_coordinators(Error::Unavailable("no leader".into()));
    let page = server.get("/").await.ok();
    assert!(page.text().contains("could not be asked (no leader)") && page.text().contains("worker5"));
    server.model.forget_map();
    assert!(server.get("/").await.ok().text().contains("knows of no cluster"));
}

#[tokio::test]
async fn the_page_does_not_wait_for_silent_coordinators() {
    let server = Server::start().await;
    server.model.fall_silent();
    assert!(server.get("/").await.ok().text().contains("no answer came within a second"));
}

#[tokio::test]
async fn every_described_route_is_served() {
    let server = Server::start().await;
    let document = server.get("/openapi.json").await.ok().json();
    assert_eq!(document["openapi"], "3.1.0");
    for (template, item) in document["paths"].as_object().unwrap() {
        let path = template.replace("{id}", "worker4").replace(['{', '}'], "");
        for method in item.as_object().unwrap().keys() {
            let answer = server.send(&method.to_uppercase(), &path, &[], b"").await;
            let described = item[method]["responses"].get(answer.status.to_string()).is_some();
            assert!(described, "{method} {template}: {} is not described", answer.status);
        }
        let wrong = server.send("BREW", &path, &[], b"").await;
        wrong.problem(405);
        let allow: Vec<_> = wrong.header("allow").unwrap().split(", ").map(str::to_lowercase).collect();
        assert!(item.as_object().unwrap().keys().all(|method| allow.contains(method)), "{template}");
        assert_eq!(allow.contains(&"head".to_owned()), item.get("get").is_some());
    }
    server.get("/nothing").await.problem(404);
}

#[tokio::test]
async fn requests_are_counted_by_template() {
    let server = Server::start().await;
    for i in 0..5 {
        server.put(&format!("/data/counted/{i}/c"), b"v").await.ok();
        server.get(&format!("/unknown/{i}")).await.problem(404);
    }
    server.send("BREW", "/kv/k", &[], b"").await.problem(405);
    let metrics = server.get("/metrics").await.ok();
    assert!(metrics.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let text = metrics.text();
    let line = |labels: &str| {
        let start = format!("quoring_http_requests_total{{{labels}}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&start));
        value.unwrap_or_else(|| panic!("{labels}\n{text}")).parse::<u64>().unwrap()
    };
    assert!(line(r#"method="PUT",route="/data/{table}/{row}/{column}",status="200""#) >= 5);
    assert!(line(r#"method="other",route="other",status="404""#) >= 5);
    assert!(line(r#"method="other",route="other",status="405""#) >= 1);
    assert!(text.contains("quoring_http_request_seconds_bucket{"));
    assert!(text.contains("quoring_http_requests_in_flight "));
    assert!(!text.contains("counted") && !text.contains("unknown/"), "no label grows with the data");
}
