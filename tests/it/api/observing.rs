//! What a person, or a monitor, looks at: `/`, `/cluster`, `/ring`, `/metrics`, `/healthz`,
//! `/readyz`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::{Cluster, HEAL, eventually};

fn is_position(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.len() == 16 && u64::from_str_radix(text, 16).is_ok())
}

#[tokio::test]
async fn every_node_lives_and_is_ready() {
    let cluster = Cluster::shared().await;
    for node in cluster.each() {
        node.get("/healthz").await.is(200);
        node.get("/readyz").await.is(200);
        node.head("/readyz").await.is(200);
    }
}

#[tokio::test]
async fn the_cluster_is_shown_alike_by_every_node() {
    let cluster = Cluster::shared().await;
    let ids: BTreeSet<_> = cluster.workers().map(|worker| worker.id()).collect();
    for node in cluster.each() {
        let status = node.get("/cluster").await.is(200).json();
        assert!(status["epoch"].is_u64(), "{status}");
        let coordinators = &status["coordinators"];
        assert!(!coordinators["leader"].is_null() && coordinators["term"].is_u64(), "{coordinators}");
        assert_eq!(
            coordinators["members"].as_object().map_or(0, |members| members.len()),
            3,
            "{coordinators}"
        );

        let workers = status["workers"].as_array().unwrap();
        let joined: Vec<_> = workers.iter().filter(|worker| worker["joined"] == true).collect();
        assert_eq!(joined.iter().map(|w| w["id"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>(), ids);
        for worker in &joined {
            for field in ["id", "addr", "zone", "active", "joined", "last_ping", "leads", "holds", "ranges"] {
                assert!(worker.get(field).is_some(), "no {field}: {worker}");
            }
            assert_eq!(worker["holds"], cluster.spec.shards, "three workers hold three copies");
            for range in worker["ranges"].as_array().unwrap() {
                assert!(is_position(&range["start"]) && is_position(&range["end"]), "{range}");
            }
        }

        let shards = status["shards"].as_array().unwrap();
        assert_eq!(shards.len(), cluster.spec.shards as usize);
        // The arcs follow one another round the whole ring.
        for (shard, next) in shards.iter().zip(shards.iter().cycle().skip(1)) {
            assert!(is_position(&shard["start"]), "{shard}");
            assert_eq!(shard["end"], next["start"]);
            let replicas: BTreeSet<_> = shard["replicas"]
                .as_array()
                .unwrap()
                .iter()
                .map(|id| id.as_str().unwrap().to_owned())
                .collect();
            assert_eq!(replicas, ids);
            for field in ["id", "leader", "term", "commit", "applied", "bytes"] {
                assert!(shard.get(field).is_some(), "no {field}: {shard}");
            }
        }
        assert_eq!(status["moves"], Value::Array(Vec::new()));
    }
}

#[tokio::test]
async fn the_ring_tells_where_a_row_lives() {
    let cluster = Cluster::shared().await;
    let status = cluster.status().await.unwrap();
    for node in cluster.each() {
        for row in ["a", "ring%2Frow", "%D0%BA", "x%2By"] {
            let ring = node.get(format!("/ring?row={row}")).await.is(200).json();
            assert!(is_position(&ring["position"]), "{ring}");
            assert_eq!(
                ring["position"],
                cluster.any().get(format!("/ring?key={row}")).await.is(200).json()["position"]
            );
            let shards = status["shards"].as_array().unwrap();
            let position = ring["position"].as_str().unwrap();
            // Sixteen hex digits compare like the numbers.
            let shard = shards.iter().rfind(|shard| shard["start"].as_str().unwrap() <= position);
            let shard = shard.unwrap_or_else(|| shards.last().unwrap());
            assert_eq!(ring["shard"], shard["id"]);
            assert_eq!(ring["replicas"], shard["replicas"]);
        }
        for query in ["", "?key=", "?row=", "?key=a&row=b", "?key=%ff"] {
            node.get(format!("/ring{query}")).await.problem(400);
        }
    }
}

#[tokio::test]
async fn metrics_count_requests_by_route_and_status() {
    let cluster = Cluster::shared().await;
    for node in cluster.each() {
        for _ in 0..3 {
            node.get("/kv/metrics-none").await.problem(404);
        }
        let text = eventually("metrics are counted", HEAL, async || {
            let answer = node.get("/metrics").await.is(200);
            assert!(answer.header("content-type").unwrap().starts_with("text/plain"));
            let text = answer.text();
            let counted = text.lines().any(|line| {
                line.starts_with("quoring_")
                    && line.contains("/kv/{key}")
                    && line.contains("404")
                    && !line.ends_with(" 0")
            });
            if counted { Ok(text) } else { Err(text) }
        })
        .await;
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            assert!(line.starts_with("quoring_"), "{line}");
            let value = line.rsplit(' ').next().unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            // No label's values grow with the data.
            assert!(!line.contains("metrics-none"), "{line}");
        }
        for word in ["_bucket", "raft", "store"] {
            assert!(text.contains(word), "nothing about {word} at {}:\n{text}", node.port);
        }
    }
}

#[tokio::test]
async fn the_page_has_its_table_in_the_html() {
    let cluster = Cluster::shared().await;
    for node in cluster.each() {
        let page = node.get("/").await.is(200);
        assert!(page.header("content-type").unwrap().starts_with("text/html"));
        let html = page.text();
        assert!(html.contains("<table") && html.contains("<svg"), "{html}");
        for worker in cluster.workers() {
            assert!(html.contains(&worker.id()), "{} is not shown", worker.id());
            // Absolute links.
            assert!(html.contains(&format!("href=\"http://127.0.0.1:{}", worker.port)), "{html}");
        }
    }
}
