//! `If-Match` and `If-None-Match` (RFC 9110, section 13).

use crate::harness::{Cluster, names};

#[tokio::test]
async fn update_needs_what_exists() {
    let cluster = Cluster::shared().await;
    for node in cluster.each() {
        let path = names("/kv", [&format!("conditions-update-{}", node.port)]);
        let refused = node.put(&path, "1").header("if-match", "*").await;
        refused.problem(412);
        assert_eq!(refused.header("etag"), None, "an absent cell has no version");
        node.get(&path).await.problem(404);
        node.put(&path, "1").await.is(200);
        node.put(&path, "2").header("if-match", "*").await.says("OK");
        node.get(&path).await.says("2");
    }
}

#[tokio::test]
async fn insert_needs_what_does_not_exist() {
    let cluster = Cluster::shared().await;
    for node in cluster.each() {
        let path = names("/kv", [&format!("conditions-insert-{}", node.port)]);
        let version = node.put(&path, "1").header("if-none-match", "*").await.says("OK").version();
        for other in cluster.each() {
            let refused = other.put(&path, "2").header("if-none-match", "*").await;
            refused.problem(412);
            assert_eq!(refused.version(), version);
        }
        node.get(&path).await.says("1");
        node.delete(&path).await.is(200);
        node.put(&path, "3").header("if-none-match", "*").await.is(200);
    }
}

#[tokio::test]
async fn a_write_over_one_version_only() {
    let cluster = Cluster::shared().await;
    for node in cluster.each() {
        let path = names("/kv", [&format!("conditions-version-{}", node.port)]);
        let first = node.put(&path, "1").await.is(200).version();
        let second = node.put(&path, "2").header("if-match", format!("\"{first}\"")).await.is(200).version();
        let refused = node.put(&path, "3").header("if-match", format!("\"{first}\"")).await;
        refused.problem(412);
        assert_eq!(refused.version(), second);
        let listed = format!("\"{first}\", \"{second}\"");
        let third = node.put(&path, "3").header("if-match", listed).await.is(200).version();
        let refused = node.delete(&path).header("if-match", format!("\"{second}\"")).await;
        refused.problem(412);
        assert_eq!(refused.version(), third);
        // A weak tag never matches a write (RFC 9110, section 13.1.1).
        node.put(&path, "4").header("if-match", format!("W/\"{third}\"")).await.problem(412);
        node.get(&path).await.says("3");
        node.delete(&path).header("if-match", format!("\"{third}\"")).await.is(200);
        let refused = node.put(&path, "4").header("if-match", format!("\"{third}\"")).await;
        refused.problem(412);
        assert_eq!(refused.header("etag"), None);
    }
}

#[tokio::test]
async fn a_read_of_what_is_known_already() {
    let cluster = Cluster::shared().await;
    for node in cluster.each() {
        let version = node.put("/kv/conditions-read", "1").await.is(200).version();
        for tags in [format!("\"{version}\""), format!("\"1\", W/\"{version}\""), "*".into()] {
            let answer = node.get("/kv/conditions-read").header("if-none-match", tags).await.is(304);
            assert!(answer.body.is_empty());
            assert_eq!(answer.version(), version);
        }
        let other = format!("\"{}\"", version + 1);
        node.get("/kv/conditions-read").header("if-none-match", &other).await.says("1");
        node.get("/kv/conditions-read").header("if-match", &other).await.problem(412);
        node.get("/kv/conditions-read").header("if-match", format!("\"{version}\"")).await.says("1");
        node.get("/kv/conditions-none").header("if-none-match", "*").await.problem(404);
    }
}

#[tokio::test]
async fn of_many_inserts_one_wins() {
    let cluster = Cluster::shared().await;
    let calls = cluster.each().cycle().take(24).enumerate();
    let calls = calls.map(|(number, node)| {
        let put = node.put("/kv/conditions-race", number.to_string()).header("if-none-match", "*");
        async move { (number, put.await.status) }
    });
    let answers = futures_util::future::join_all(calls).await;
    let winners: Vec<_> = answers.iter().filter(|(_, status)| *status == 200).collect();
    assert_eq!(winners.len(), 1, "{answers:?}");
    assert!(answers.iter().all(|(_, status)| matches!(status, 200 | 412)), "{answers:?}");
    cluster.any().get("/kv/conditions-race").await.says(&winners[0].0.to_string());
}

#[tokio::test]
async fn counters_by_conditions_lose_nothing() {
    const CLIENTS: usize = 6;
    const EACH: u64 = 10;
    let cluster = Cluster::shared().await;
    cluster.any().put("/kv/conditions-counter", "0").await.is(200);
    let client = |node: crate::harness::Http| async move {
        let mut done = 0;
        while done < EACH {
            let now = node.get("/kv/conditions-counter").await.is(200);
            let next = now.text().parse::<u64>().unwrap() + 1;
            let tag = format!("\"{}\"", now.version());
            let put = node.put("/kv/conditions-counter", next.to_string()).header("if-match", tag).await;
            match put.status {
                200 => done += 1,
                _ => {
                    put.problem(412);
                }
            }
        }
    };
    futures_util::future::join_all(cluster.each().take(CLIENTS).map(client)).await;
    cluster.any().get("/kv/conditions-counter").await.says(&(CLIENTS as u64 * EACH).to_string());
}

#[tokio::test]
async fn malformed_conditions_are_refused() {
    let cluster = Cluster::shared().await;
    let node = cluster.any();
    for tag in ["17", "\"17", "*, \"1\"", ""] {
        node.put("/kv/conditions-bad", "x").header("if-match", tag).await.problem(400);
    }
    node.get("/kv/conditions-bad").await.problem(404);
    // Rows take none.
    for call in [
        node.patch("/data/conditions/row", &serde_json::json!({"c": "x"})),
        node.delete("/data/conditions/row"),
    ] {
        call.header("if-match", "*").await.problem(400);
    }
}
