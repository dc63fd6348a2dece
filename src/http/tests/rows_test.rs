//! Rows and messages, from socket to model and back.

use serde_json::json;

use super::*;

#[tokio::test]
async fn a_row_is_changed_at_once() {
    let server = Server::start().await;
    let patch = async |target: &str, body: &str| server.send("PATCH", target, &[], body.as_bytes()).await;
    let changed = patch("/data/t/r", r#"{"a": "text", "b": {"base64": "/wA="}, "c": null}"#).await.ok();
    assert_eq!(changed.json(), json!({ "version": 1 }));
    server.send("PUT", "/data/t/r/d", &[("content-type", "text/x")], b"1").await.ok();
    patch("/data/t/r?ttl=1m", r#"{"e": "soon gone", "a": null}"#).await.ok();
    assert_eq!(
        server.get("/data/t/r").await.ok().json(),
        json!({ "row": "r", "columns": {
            "b": { "base64": "/wA=", "version": 1 },
            "d": { "value": "1", "version": 2, "content_type": "text/x" },
            "e": { "value": "soon gone", "version": 3, "expires_at": "2026-01-01T00:01:00.000Z" },
        }})
    );
    assert_eq!(server.get("/data/t/r/b").await.ok().body, b"\xff\x00");
    assert_eq!(server.delete("/data/t/r").await.ok().text(), "OK");
    assert_eq!(server.get("/data/t/r").await.problem(404)["missing"], "table");
    server.delete("/data/t/r").await.problem(404);
}

#[tokio::test]
async fn malformed_changes_change_nothing() {
    let server = Server::start().await;
    for body in [
        "",
        "{}",
        "[]",
        "{\"a\":1}",
        "{\"a\":\"x\",\"a\":\"y\"}",
        "{\"\":\"x\"}",
        "{\"a\":{\"base64\":\"?\"}}",
    ] {
        server.send("PATCH", "/data/t/r", &[], body.as_bytes()).await.problem(400);
    }
    let large = json!({ "a": "x".repeat(65_537) }).to_string();
    server.send("PATCH", "/data/t/r", &[], large.as_bytes()).await.problem(413);
    assert_eq!(server.model.proposals(), 0);
}

#[tokio::test]
async fn rows_take_no_conditions() {
    let server = Server::start().await;
    server.put("/data/t/r/c", b"v").await.ok();
    for (method, body) in [("GET", ""), ("PATCH", "{\"a\":\"x\"}"), ("DELETE", "")] {
        for name in ["if-match", "if-none-match"] {
            server.send(method, "/data/t/r", &[(name, "*")], body.as_bytes()).await.problem(400);
        }
    }
}

#[tokio::test]
async fn a_repeated_change_gives_the_first_answer() {
    let server = Server::start().await;
    let patch = async |body: &str| {
        server.send("PATCH", "/data/t/r", &[("idempotency-key", "k")], body.as_bytes()).await
    };
    assert_eq!(patch("{\"a\":\"x\"}").await.ok().json(), json!({ "version": 1 }));
    server.delete("/data/t/r").await.ok();
    assert_eq!(patch("{\"a\":\"x\"}").await.ok().json(), json!({ "version": 1 }));
    server.get("/data/t/r").await.problem(404);
    patch("{\"a\":\"y\"}").await.problem(422);
}

#[tokio::test]
async fn stale_rows_tell_their_age() {
    let server = Server::start().await;
    server.put("/data/t/r/c", b"v").await.ok();
    let row = server.get("/data/t/r?consistency=stale").await.ok();
    row.tells_its_age();
    let absent = server.get("/data/t/none?consistency=stale").await;
    absent.problem(404);
    absent.tells_its_age();
}

#[tokio::test]
async fn messages_are_answered_by_messages() {
    let server = Server::start().await;
    let message = async |text: &str| {
        let mut answer = server.post("/message", text).await.ok().json();
        let time = answer.as_object_mut().unwrap().remove("timestamp").unwrap();
        assert!(time.as_str().unwrap().ends_with('Z'), "{time}");
        answer
    };
    let answered = |value: Value, status: &str, error: Value| json!({ "type": "RESPONSE", "key": "k", "value": value, "status": status, "error": error });
    let absent = answered(Value::Null, "ERROR", "the key does not exist".into());
    assert_eq!(message(r#"{"type":"GET","key":"k"}"#).await, absent);
    assert_eq!(message(r#"{"type":"DELETE","key":"k"}"#).await, absent);
    let success = answered("v".into(), "SUCCESS", Value::Null);
    assert_eq!(message(r#"{"type":"SET","key":"k","value":"v"}"#).await, success);
    assert_eq!(message(r#"{"type":"GET","key":"k","timestamp":"now"}"#).await, success);
    assert_eq!(server.get("/kv/k").await.ok().text(), "v");
    assert_eq!(
        message(r#"{"type":"DELETE","key":"k"}"#).await,
        answered(Value::Null, "SUCCESS", Value::Null)
    );
    server.put("/kv/k", b"\xff").await.ok();
    assert_eq!(message(r#"{"type":"GET","key":"k"}"#).await["status"], "ERROR");
    for bad in [
        "",
        "{}",
        r#"{"type":"PUT","key":"k"}"#,
        r#"{"type":"GET"}"#,
        r#"{"type":"SET","key":"k"}"#,
        r#"{"type":"SET","key":"k","value":1}"#,
        r#"{"type":"GET","key":""}"#,
        "[]",
    ] {
        server.post("/message", bad).await.problem(400);
    }
}
