//! Lists, from socket to model and back.

use std::collections::BTreeSet;

use serde_json::json;

use super::*;

async fn fill(server: &Server, rows: usize) {
    let put = |i: usize| json!({ "op": "put", "table": "t", "row": format!("row{i:04}"), "column": "c", "value": "v" });
    let ops: Vec<_> = (0..rows).map(put).collect();
    server.post("/batch", &Value::from(ops).to_string()).await.ok();
}

/// All rows of a list, page by page, and how many pages there were.
async fn pages(server: &Server, target: &str, member: &str, name: &str) -> (Vec<String>, usize) {
    let mut names = Vec::new();
    let mut cursor = None;
    for count in 1.. {
        let page = match &cursor {
            None => server.get(target).await,
            Some(cursor) => {
                server.get(&format!("{}&cursor={cursor}", target.split("&cursor").next().unwrap())).await
            }
        };
        let page = page.ok().json();
        names.extend(
            page[member].as_array().unwrap().iter().map(|row| row[name].as_str().unwrap().to_owned()),
        );
        match page["next"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => return (names, count),
        }
    }
    unreachable!()
}

#[tokio::test]
async fn pages_have_every_row_once_in_ring_order() {
    let server = Server::start().await;
    fill(&server, 200).await;
    for limit in [1, 7, 49, 50, 199, 200, 201, 10_000] {
        let (names, count) = pages(&server, &format!("/data/t?limit={limit}"), "rows", "row").await;
        assert_eq!(names.len(), 200, "limit {limit}");
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), 200);
        let positions: Vec<_> =
            names.iter().map(|name| server.model.locate(name).unwrap().position).collect();
        assert!(positions.is_sorted());
        assert!(
            count >= 200_usize.div_ceil(limit) && count <= 200 / limit + 1,
            "limit {limit}: {count} pages"
        );
    }
    let row = &server.get("/data/t?limit=1").await.ok().json()["rows"][0];
    let name = row["row"].as_str().unwrap();
    assert_eq!(*row, server.get(&format!("/data/t/{name}")).await.ok().json());
}

#[tokio::test]
async fn selections_go_by_name() {
    for partitioner in [Partitioner::Xxh3, Partitioner::Ordered] {
        let starts: Vec<u64> = (0..256).map(|byte: u64| byte << 56).collect();
        let server = Server::over(Model::new(partitioner, &starts)).await;
        let rows = ["a", "ab", "abc", "abcdefghijk", "abcdefghz", "b", "ba", "é", "\u{10ffff}", "z"];
        for row in rows {
            server.put(&format!("/data/t/{row}/c"), b"v").await.ok();
        }
        for (query, from, to, prefix) in [
            ("", "", "", ""),
            ("prefix=ab", "", "", "ab"),
            ("from=ab&to=b", "ab", "b", ""),
            ("from=abcdefghz", "abcdefghz", "", ""),
            ("to=abcdefghz", "", "abcdefghz", ""),
            ("prefix=abcdefgh&from=abcdefghj", "abcdefghj", "", "abcdefgh"),
            ("prefix=%F4%8F%BF%BF", "", "", "\u{10ffff}"),
            ("from=z&to=a", "z", "a", ""),
            ("prefix=q", "", "", "q"),
        ] {
            let (mut names, _) = pages(&server, &format!("/data/t?limit=2&{query}"), "rows", "row").await;
            let wanted = |row: &&str| *row >= from && (to.is_empty() || *row < to) && row.starts_with(prefix);
            let mut expected: Vec<_> = rows.into_iter().filter(wanted).collect();
            expected.sort_unstable();
            if partitioner == Partitioner::Xxh3 {
                names.sort_unstable();
            }
            assert_eq!(names, expected, "{partitioner:?} {query}");
        }
    }
}

#[tokio::test]
async fn keys_are_listed_with_their_versions() {
    let server = Server::start().await;
    assert_eq!(server.get("/kv").await.ok().json(), json!({ "keys": [], "next": null }));
    server.put("/kv/a", b"1").await.ok();
    server.put("/data/kv/b/other", b"no key").await.ok();
    assert_eq!(
        server.get("/kv").await.ok().json(),
        json!({ "keys": [{ "key": "a", "version": 1 }], "next": null })
    );
    for i in 0..30 {
        server.put(&format!("/kv/k{i}"), b"v").await.ok();
    }
    assert_eq!(pages(&server, "/kv?limit=4&prefix=k", "keys", "key").await.0.len(), 30);
}

#[tokio::test]
async fn tables_are_listed_in_order() {
    let server = Server::start().await;
    assert_eq!(server.get("/data").await.ok().json(), json!({ "tables": [] }));
    for table in ["c", "a", "b"] {
        for row in 0..9 {
            server.put(&format!("/data/{table}/{row}/c"), b"v").await.ok();
        }
    }
    assert_eq!(server.get("/data").await.ok().json(), json!({ "tables": ["a", "b", "c"] }));
    let first = server.get("/data?limit=2").await.ok().json();
    assert_eq!(first["tables"], json!(["a", "b"]));
    let next = first["next"].as_str().unwrap();
    assert_eq!(server.get(&format!("/data?cursor={next}")).await.ok().json(), json!({ "tables": ["c"] }));
}

#[tokio::test]
async fn lists_refuse_what_is_wrong() {
    let server = Server::start().await;
    fill(&server, 3).await;
    assert_eq!(server.get("/data/other").await.problem(404)["missing"], "table");
    assert_eq!(server.get("/data/t?prefix=zzz").await.ok().json(), json!({ "rows": [], "next": null }));
    for query in [
        "limit=0",
        "limit=10001",
        "limit=x",
        "cursor=",
        "cursor=AAAA",
        "cursor=%25",
        "prefix=%ff",
        "consistency=no",
    ] {
        for list in ["/data/t", "/kv", "/data"] {
            if list != "/data" || !query.starts_with("prefix") {
                server.get(&format!("{list}?{query}")).await.problem(400);
            }
        }
    }
    let next = server.get("/data/t?limit=1").await.ok().json()["next"].as_str().unwrap().to_owned();
    server.get(&format!("/data/u?cursor={next}")).await.problem(400);
    server.get(&format!("/kv?cursor={next}")).await.problem(400);
    server.get(&format!("/data/t?cursor={next}x")).await.problem(400);
}

#[tokio::test]
async fn pages_are_bounded_in_bytes() {
    let server = Server::start().await;
    let value = vec![b'x'; 64 << 10];
    for i in 0..150 {
        server.put(&format!("/data/t/r{i}/c"), &value).await.ok();
    }
    let page = server.get("/data/t").await.ok().json();
    assert!(page["rows"].as_array().unwrap().len() <= 64 && page["next"].is_string());
    let (names, count) = pages(&server, "/data/t?limit=10000", "rows", "row").await;
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), 150);
    assert!(names.len() == 150 && count >= 3, "{count}");
}

#[tokio::test]
async fn a_list_follows_a_shard_that_was_split() {
    let server = Server::start().await;
    fill(&server, 100).await;
    let first = server.get("/data/t?limit=10").await.ok().json();
    for at in [1 << 61, 3 << 61, 5 << 61] {
        server.model.part(at);
    }
    let next = first["next"].as_str().unwrap();
    let (rest, _) = pages(&server, &format!("/data/t?limit=9&cursor={next}"), "rows", "row").await;
    assert_eq!(rest.len(), 90);
}

#[tokio::test]
async fn a_stream_has_every_row_on_a_line() {
    let server = Server::start().await;
    fill(&server, 3_500).await;
    let lines = async |target: &str| {
        let answer = server.send("GET", target, &[("accept", "application/x-ndjson")], b"").await.ok();
        assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
        let parse = |line: &str| serde_json::from_str::<Value>(line).unwrap();
        answer.text().lines().map(parse).collect::<Vec<_>>()
    };
    let rows = lines("/data/t").await;
    let names: BTreeSet<_> = rows.iter().map(|row| row["row"].as_str().unwrap()).collect();
    assert_eq!((rows.len(), names.len()), (3_500, 3_500));
    assert_eq!(rows[0]["columns"]["c"]["value"], "v");
    assert_eq!(lines("/data/t?limit=1500").await.len(), 1_500);
    assert_eq!(lines("/data").await, [json!("t")]);
    assert!(lines("/kv").await.is_empty());
    let streamed =
        |target: &'static str| server.send("GET", target, &[("accept", "application/x-ndjson")], b"");
    assert_eq!(streamed("/data/u").await.problem(404)["missing"], "table");
}

#[tokio::test]
async fn an_error_in_mid_stream_is_its_last_line() {
    let server = Server::start().await;
    fill(&server, 5_000).await;
    // Rows of the last quarter of the ring come last.
    server.model.fail(4, Error::Unavailable("no majority".into()));
    let answer = server.send("GET", "/data/t", &[("accept", "application/x-ndjson")], b"").await.ok();
    let lines: Vec<Value> = answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let error = &lines.last().unwrap()["error"];
    assert_eq!((&error["status"], &error["outcome"]), (&json!(503), &json!("none")));
    assert!(lines.len() > 1_000 && lines[..lines.len() - 1].iter().all(|line| line["row"].is_string()));
}

#[tokio::test]
async fn stale_lists_tell_their_age() {
    let server = Server::start().await;
    fill(&server, 10).await;
    for list in ["/data/t", "/kv", "/data"] {
        server.get(&format!("{list}?consistency=stale")).await.ok().tells_its_age();
        // Also an empty page.
        let none = server.get(&format!("{list}?consistency=stale&from=b&to=a")).await.ok();
        assert!(none.header("quoring-staleness-ms").is_some(), "{list}");
        assert_eq!(server.get(list).await.ok().header("quoring-staleness-ms"), None);
    }
}
