//! Cells and flat keys, from socket to model and back.

use super::*;
use crate::command::KV_TABLE;

#[tokio::test]
async fn a_value_comes_back_as_it_was_stored() {
    let server = Server::start().await;
    let body = b"\x00\xff any bytes";
    let put = server.send("PUT", "/data/t/r/c", &[("content-type", "image/x")], body).await.ok();
    assert_eq!((put.text(), put.header("etag")), ("OK", Some("\"1\"")));
    let get = server.get("/data/t/r/c").await.ok();
    assert_eq!(get.body, body);
    for (name, value) in [
        ("etag", "\"1\""),
        ("content-type", "image/x"),
        ("x-content-type-options", "nosniff"),
        ("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT"),
        ("cache-control", "no-cache"),
    ] {
        assert_eq!(get.header(name), Some(value), "{name}");
    }
    assert_eq!(get.header("quoring-staleness-ms"), None);

    let head = server.send("HEAD", "/data/t/r/c", &[], b"").await.ok();
    assert!(head.body.is_empty());
    assert_eq!(head.header("content-length"), Some("12"));
    assert_eq!(head.header("etag"), Some("\"1\""));

    server.put("/data/t/r/c", b"").await.ok();
    let empty = server.get("/data/t/r/c").await.ok();
    assert!(empty.body.is_empty());
    assert_eq!(empty.header("content-type"), Some("application/octet-stream"));

    assert_eq!(server.delete("/data/t/r/c").await.ok().text(), "OK");
    server.get("/data/t/r/c").await.problem(404);
    let again = server.put("/data/t/r/c", b"again").await.ok();
    assert_eq!(again.header("etag"), Some("\"4\""), "versions go on over a delete");
}

#[tokio::test]
async fn a_flat_key_is_a_cell() {
    let server = Server::start().await;
    server.put("/kv/a%2Fb", b"one").await.ok();
    assert_eq!(server.get(&format!("/data/{KV_TABLE}/a%2Fb/value")).await.ok().text(), "one");
    server.put("/data/kv/k/value", b"two").await.ok();
    assert_eq!(server.get("/kv/k").await.ok().text(), "two");
    server.delete("/kv/k").await.ok();
    server.delete("/kv/k").await.problem(404);
}

#[tokio::test]
async fn names_are_taken_raw() {
    let server = Server::start().await;
    for (index, name) in
        ["..", "%2E%2E%2F..", ".", "%00", "a+b", "%20", "€", "%e2%82%ac%25"].iter().enumerate()
    {
        let value = index.to_string();
        server.put(&format!("/data/{name}/{name}/{name}"), value.as_bytes()).await.ok();
        assert_eq!(server.get(&format!("/data/{name}/{name}/{name}")).await.ok().text(), value);
    }
    assert_eq!(server.get("/data/%2e%2e%2f%2E%2E/%2e%2e%2f../..%2f..").await.ok().text(), "1");
    assert_eq!(server.get("/data").await.ok().json()["tables"].as_array().unwrap().len(), 8);
    for bad in [
        "/kv/",
        "/kv/%",
        "/kv/%zz",
        "/kv/%ff",
        "/data/t//c",
        "/data//r/c",
        "/data/t/r/",
        "/data/",
        "/data/t/",
    ] {
        server.get(bad).await.problem(400);
    }
    server.put(&format!("/kv/{}", "x".repeat(1_025)), b"").await.problem(400);
    server.put(&format!("/kv/{}", "x".repeat(1_024)), b"").await.ok();
    server.put("/data/a/b/c/d", b"").await.problem(404);
}

#[tokio::test]
async fn what_is_missing_is_told() {
    let server = Server::start().await;
    server.put("/data/t/r/c", b"v").await.ok();
    // Rows of every shard: a table that has none in one of them is not missing.
    for (target, missing) in (0..16)
        .map(|index| (format!("/data/t/other{index}/c"), "row"))
        .chain([
            ("/data/t/r/d".into(), "column"),
            ("/data/u/r/c".into(), "table"),
            ("/data/t/s".into(), "row"),
        ])
        .chain([("/data/u/r".into(), "table"), ("/data/u".into(), "table")])
    {
        assert_eq!(server.get(&target).await.problem(404)["missing"], missing, "{target}");
        if target != "/data/u" {
            assert_eq!(server.delete(&target).await.problem(404)["missing"], missing, "{target}");
        }
    }
    let group = |row: &str| server.model.locate(row).unwrap().group;
    let elsewhere = (0..).map(|index| format!("row{index}")).find(|row| group(row) != group("r")).unwrap();
    server.model.fail(group("r").0, Error::Unavailable("no majority".into()));
    assert_eq!(server.get(&format!("/data/u/{elsewhere}/c")).await.problem(404)["missing"], "row");
}

#[tokio::test]
async fn writes_keep_their_conditions() {
    let server = Server::start().await;
    let put = async |name: &str, value: &str| server.send("PUT", "/kv/k", &[(name, value)], b"v").await;
    let failed = put("If-Match", "*").await;
    failed.problem(412);
    assert_eq!(failed.header("etag"), None, "an absent cell has no tag");
    put("If-None-Match", "*").await.ok();
    let failed = put("If-None-Match", "*").await;
    failed.problem(412);
    assert_eq!(failed.header("etag"), Some("\"1\""));
    put("If-Match", "\"1\"").await.ok();
    assert_eq!(put("If-Match", "\"1\"").await.header("etag"), Some("\"2\""));
    put("If-Match", "W/\"2\"").await.problem(412);
    put("If-Match", "\"9\", \"2\"").await.ok();
    put("If-None-Match", "\"3\"").await.problem(412);
    put("If-None-Match", "W/\"3\"").await.problem(412);
    put("If-None-Match", "\"2\"").await.ok();
    put("If-Match", "4").await.problem(400);
    put("If-Unmodified-Since", "Thu, 01 Jan 2026 00:00:00 GMT").await.problem(400);

    let both = async |version: &str| {
        server.send("PUT", "/kv/k", &[("if-match", "*"), ("if-none-match", version)], b"w").await
    };
    both("\"4\"").await.problem(412);
    both("\"3\"").await.ok();

    let delete = async |version: &str| server.send("DELETE", "/kv/k", &[("if-match", version)], b"").await;
    delete("\"4\"").await.problem(412);
    delete("\"5\"").await.ok();
    delete("\"5\"").await.problem(412);
    assert_eq!(server.send("DELETE", "/kv/k", &[("if-match", "*")], b"").await.header("etag"), None);
}

#[tokio::test]
async fn reads_keep_their_conditions() {
    let server = Server::start().await;
    server.put("/kv/k", b"v").await.ok();
    for method in ["GET", "HEAD"] {
        let read = async |name: &str, value: &str| server.send(method, "/kv/k", &[(name, value)], b"").await;
        let unchanged = read("If-None-Match", "W/\"1\", \"7\"").await;
        assert_eq!((unchanged.status, unchanged.header("etag")), (304, Some("\"1\"")));
        assert!(unchanged.body.is_empty());
        assert_eq!(read("If-None-Match", "*").await.status, 304);
        assert_eq!(read("If-None-Match", "\"2\"").await.status, 200);
        assert_eq!(read("If-Match", "\"1\"").await.status, 200);
        let failed = read("If-Match", "\"2\"").await;
        assert_eq!((failed.status, failed.header("etag")), (412, Some("\"1\"")));
        assert_eq!(read("If-Modified-Since", "Fri, 01 Jan 2100 00:00:00 GMT").await.status, 200);
    }
    let absent = server.send("GET", "/kv/other", &[("if-none-match", "*")], b"").await;
    absent.problem(404);
}

#[tokio::test]
async fn an_expired_cell_is_absent() {
    let server = Server::start().await;
    server.put("/kv/k?ttl=500ms", b"v").await.ok();
    server.model.advance_ms(499);
    server.get("/kv/k").await.ok();
    server.model.advance_ms(1);
    assert_eq!(server.get("/kv/k").await.problem(404)["missing"], "table");
    server.send("PUT", "/kv/k", &[("if-none-match", "*")], b"v").await.ok();
    for bad in ["0s", "5", "-1s", "x", "", "1w"] {
        server.put(&format!("/kv/k?ttl={bad}"), b"v").await.problem(400);
    }
}

#[tokio::test]
async fn a_repeat_gives_the_first_answer() {
    let server = Server::start().await;
    let put = async |target: &str, key: &str, body: &str| {
        server.send("PUT", target, &[("Idempotency-Key", key)], body.as_bytes()).await
    };
    put("/kv/k", "one", "a").await.ok();
    server.put("/kv/k", b"b").await.ok();
    assert_eq!(put("/kv/k", "one", "a").await.ok().header("etag"), Some("\"1\""));
    assert_eq!(put("/kv/%6b", "one", "a").await.ok().header("etag"), Some("\"1\""), "the same path");
    assert_eq!(server.get("/kv/k").await.ok().text(), "b");
    put("/kv/k", "one", "c").await.problem(422);
    put("/kv/k?ttl=5s", "one", "a").await.problem(422);
    put("/kv/k", "two", "c").await.ok();

    let delete = async || server.send("DELETE", "/kv/k", &[("Idempotency-Key", "one")], b"").await;
    delete().await.ok();
    server.put("/kv/k", b"d").await.ok();
    delete().await.ok();
    assert_eq!(server.get("/kv/k").await.ok().text(), "d");
    let failing =
        async || server.send("PUT", "/kv/k", &[("Idempotency-Key", "x"), ("if-match", "\"1\"")], b"").await;
    let first = failing().await;
    first.problem(412);
    server.delete("/kv/k").await.ok();
    assert_eq!(failing().await.header("etag"), first.header("etag"));
    put("/kv/k", "", "a").await.problem(400);
}

#[tokio::test]
async fn stale_reads_tell_their_age() {
    let server = Server::start().await;
    server.put("/kv/k", b"v").await.ok();
    let stale = server.get("/kv/k?consistency=stale").await.ok();
    stale.tells_its_age();
    let absent = server.get("/kv/none?consistency=stale").await;
    absent.problem(404);
    absent.tells_its_age();
    let known = server.send("GET", "/kv/k?consistency=stale", &[("if-none-match", "*")], b"").await;
    assert_eq!(known.status, 304);
    known.tells_its_age();
    server.get("/kv/k?consistency=eventual").await.problem(400);
}

#[tokio::test]
async fn errors_of_the_cluster_have_their_statuses() {
    let server = Server::start().await;
    let group = server.model.locate("k").unwrap().group.0;
    for (error, status, retry) in [
        (Error::Unavailable("no majority".into()), 503, Some("1")),
        (Error::NotLeader { leader: None }, 503, Some("1")),
        (Error::Busy("the queue is full".into()), 429, Some("1")),
        (Error::Unknown("no answer".into()), 504, None),
        (Error::Refused("the first is under way".into()), 409, None),
    ] {
        server.model.fail(group, error);
        for answer in
            [server.put("/kv/k", b"v").await, server.get("/kv/k").await, server.delete("/kv/k").await]
        {
            answer.problem(status);
            assert_eq!(answer.header("retry-after"), retry);
        }
    }
    server.model.heal();
    server.get("/kv/k").await.problem(404);
    server.model.forget_map();
    server.put("/kv/k", b"v").await.problem(503);
}

#[tokio::test]
async fn a_silent_cluster_is_answered_for() {
    let server = Server::start().await;
    server.model.set(|settings| settings.request_timeout_ms = 10);
    server.model.fall_silent();
    server.put("/kv/k", b"v").await.problem(504);
    server.get("/kv/k").await.problem(503);
    server.get("/ping?id=a&port=1").await.problem(504);
}
