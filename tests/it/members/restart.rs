//! A rolling restart of everything.

use crate::harness::{Cluster, HEAL, Load, Spec};

#[tokio::test]
async fn one_node_after_the_other_and_no_request_fails() {
    let cluster = Cluster::start("rolling", Spec { shards: 8, ..Spec::default() }).await;
    let load = Load::start("rolling", 5, &cluster.ports());
    load.until_more(50).await;
    for node in &cluster.nodes {
        load.avoid(node.port).await;
        assert!(node.stop(HEAL).await.success(), "{}", node.log_tail());
        load.until_more(30).await;
        node.start();
        cluster.until_whole().await;
        load.avoid(0).await;
        assert_eq!(load.refusals(), Default::default(), "requests failed around {}", node.port);
    }
    load.prove(&cluster).await;
}
