//! `POST /message`.

use serde_json::{Value, json};

use crate::harness::Cluster;

#[track_caller]
fn check(answer: &Value, key: &str, value: &Value, status: &str) {
    assert_eq!(answer["type"], "RESPONSE", "{answer}");
    assert_eq!(answer["key"], key, "{answer}");
    assert_eq!(answer["status"], status, "{answer}");
    assert_eq!(&answer["value"], value, "{answer}");
    assert_eq!(answer["error"].is_null(), status == "SUCCESS", "{answer}");
    assert!(!answer["timestamp"].is_null(), "{answer}");
}

#[tokio::test]
async fn messages_set_get_and_delete() {
    let cluster = Cluster::shared().await;
    for node in cluster.each() {
        let key = format!("message-{}", node.port);
        let send = async |message: Value| node.post("/message", &message).await.is(200).json();
        check(&send(json!({"type": "GET", "key": key})).await, &key, &Value::Null, "ERROR");
        let set = send(json!({"type": "SET", "key": key, "value": "hé"})).await;
        assert_eq!(set["status"], "SUCCESS", "{set}");
        check(&send(json!({"type": "GET", "key": key})).await, &key, &json!("hé"), "SUCCESS");
        node.get(format!("/kv/{key}")).await.says("hé");
        let deleted = send(json!({"type": "DELETE", "key": key})).await;
        assert_eq!(deleted["status"], "SUCCESS", "{deleted}");
        check(&send(json!({"type": "DELETE", "key": key})).await, &key, &Value::Null, "ERROR");
        node.get(format!("/kv/{key}")).await.problem(404);
    }
}

#[tokio::test]
async fn malformed_messages_are_refused() {
    let cluster = Cluster::shared().await;
    let node = cluster.any();
    for body in [
        "",
        "[]",
        "{}",
        "{\"type\": \"GET\"}",
        "{\"type\": \"JUMP\", \"key\": \"a\"}",
        "{\"type\": \"SET\", \"key\": \"a\"}",
        "{\"type\": \"SET\", \"key\": \"\", \"value\": \"x\"}",
        "{\"type\": \"GET\", \"key\": 5}",
    ] {
        node.call("POST", "/message").body(body).await.problem(400);
    }
}
