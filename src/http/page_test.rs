//! Tests of [`super`]: what a person sees, with and without the coordinator group.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::*;
use crate::{
    config::{Partitioner, Settings},
    ids::{ClusterId, Epoch, GroupId, NodeId, StoreId},
    ring::map::{Coordinator, Shard, Worker},
};

fn map(shards: u64) -> Map {
    let settings = Settings {
        name: "demo <b>".into(),
        replication: 2,
        shards: shards as u32,
        partitioner: Partitioner::Xxh3,
        ping_interval_ms: 5_000,
        inactive_after_ms: 15_000,
        replace_after_ms: 60_000,
        request_timeout_ms: 5_000,
        max_value_bytes: 8 << 20,
        split_size_bytes: 0,
    };
    let worker = |id: &str, addr: &str| Worker {
        id: id.parse().unwrap(),
        addr: addr.into(),
        store: StoreId(Uuid::nil()),
        zone: None,
        draining: false,
    };
    Map {
        epoch: Epoch(7),
        cluster: ClusterId(Uuid::nil()),
        settings,
        coordinators: BTreeMap::from([(
            NodeId(1),
            Coordinator { addr: "127.0.0.1:7001".into(), store: StoreId(Uuid::nil()) },
        )]),
        workers: BTreeMap::from([
            (NodeId(4), worker("abcde", "127.0.0.1:8001")),
            (NodeId(5), worker("fghij", "[::1]:8002")),
        ]),
        shards: (0..shards)
            .map(|index| {
                let start = Position(index * (u64::MAX / shards));
                let replicas = vec![NodeId(4 + index % 2), NodeId(5 - index % 2)];
                (start, Shard { group: GroupId(index + 1), replicas, formed: true, parent: None })
            })
            .collect(),
    }
}

fn view(cluster: Option<Cluster>) -> View {
    let identity =
        Identity { role: Role::Worker, id: "abcde".into(), addr: "127.0.0.1:8001".into(), version: "0.1.0" };
    View { identity, ready: Ok(()), cluster, not_asked: None }
}

#[test]
fn active_workers_are_in_a_table_with_absolute_links() {
    let mut cluster = from_map(&map(4));
    cluster.workers[1].active = false;
    cluster.workers[1].last_ping = Some("2026-01-01T00:00:00Z".into());
    cluster.shards[0].leader = Some("abcde".parse().unwrap());
    cluster.coordinators.leader = Some(NodeId(1));
    let page = render(&view(Some(cluster))).into_string();
    let (active, rest) = page.split_once("Not active").unwrap();
    assert!(active.contains(r#"<a href="http://127.0.0.1:8001/">open</a>"#), "{active}");
    assert!(active.contains("</span>abcde</td><td>127.0.0.1</td><td>8001</td>"), "{active}");
    assert!(!active.contains("fghij"), "{active}");
    assert!(rest.contains(r#"<td>::1</td><td>8002</td><td><a href="http://[::1]:8002/">"#), "{rest}");
    assert!(rest.contains("last heard of 2026-01-01T00:00:00Z"));
    assert!(page.contains("1 of 2 workers active") && page.contains("1 of 4 shards have a leader"));
    assert!(page.contains("leader, term"));
}

#[test]
fn names_are_escaped_and_nothing_is_fetched_from_elsewhere() {
    let page = render(&view(Some(from_map(&map(1))))).into_string();
    assert!(page.contains("demo &lt;b&gt;") && !page.contains("demo <b>"));
    for asset in ["src=", "@import", "url(", "href=\"https:"] {
        assert!(!page.contains(asset), "{asset}");
    }
}

#[test]
fn without_coordinators_the_page_says_so_and_shows_the_map() {
    let mut view = view(Some(from_map(&map(4))));
    view.not_asked = Some("no leader".into());
    view.ready = Err("the disk stalls".into());
    let page = render(&view).into_string();
    assert!(page.contains("could not be asked (no leader)"));
    assert!(page.contains("not ready: the disk stalls"));
    assert!(page.contains("abcde") && page.contains("fghij, abcde"));
    assert!(!page.contains("workers active"));
}

#[test]
fn a_node_without_a_cluster_says_what_it_waits_for() {
    let page = render(&view(None)).into_string();
    assert!(page.contains("waits to be joined"));
}

#[test]
fn a_long_list_of_shards_is_cut() {
    let page = render(&view(Some(from_map(&map(600))))).into_string();
    assert!(page.contains("88 more are in"));
    assert_eq!(page.matches("<td class=\"position\">").count(), MAX_SHARDS_SHOWN);
}

#[test]
fn the_map_alone_tells_ranges_and_holdings() {
    let cluster = from_map(&map(4));
    assert_eq!(cluster.workers[0].ranges.len(), 2);
    assert_eq!(cluster.workers[0].holds, 4);
    assert_eq!(cluster.shards[3].end, Position(0));
    assert_eq!(cluster.shards[0].end, cluster.shards[1].start);
}
