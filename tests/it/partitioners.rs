//! All four partitioners, on the smallest clusters, against published test vectors.

use crate::harness::{Cluster, Spec, names};

/// Asserts the positions of rows, each a vector of the partitioner's own publication, and that the
/// rows are kept and found there.
async fn check(partitioner: &'static str, vectors: &[(&str, u64)]) -> Cluster {
    let cluster = Cluster::start(partitioner, Spec { partitioner, shards: 7, ..Spec::one() }).await;
    for (index, (row, position)) in vectors.iter().enumerate() {
        for node in cluster.each() {
            let query = names("/ring?row=", [row]).replace("=/", "=");
            let ring = node.get(query).await.is(200).json();
            assert_eq!(ring["position"], format!("{position:016x}"), "{row}");
            assert_eq!(ring["replicas"].as_array().unwrap().len(), 1, "one worker has one copy");
            node.put(names("/data/vectors", [row, "c"]), index.to_string()).await.is(200);
            node.get(names("/data/vectors", [row, "c"])).await.says(&index.to_string());
        }
    }
    let page = cluster.any().get("/data/vectors").await.is(200).json();
    let rows: Vec<_> =
        page["rows"].as_array().unwrap().iter().map(|row| row["row"].as_str().unwrap()).collect();
    let mut sorted = vectors.to_vec();
    sorted.sort_by_key(|(row, position)| (*position, *row));
    assert_eq!(rows, sorted.iter().map(|(row, _)| *row).collect::<Vec<_>>(), "ring order");
    cluster
}

#[tokio::test]
async fn xxh3() {
    // XXH3_64bits with seed 0: the first is the reference implementation's sanity vector for one
    // byte, the others are what its `xxhsum -H3` prints.
    check(
        "xxh3",
        &[("\0", 0xc44b_dff4_074e_ecdb), ("a", 0xe6c6_32b6_1e96_4e1f), ("abc", 0x78af_5f94_892f_3950)],
    )
    .await;
}

#[tokio::test]
async fn md5() {
    // RFC 1321, appendix A.5.
    check(
        "md5",
        &[("a", 0x0cc175b9c0f1b6a8), ("abc", 0x900150983cd24fb0), ("message digest", 0xf96b697d7cb7938d)],
    )
    .await;
}

#[tokio::test]
async fn crc32() {
    // The check value of CRC-32/ISO-HDLC in the catalogue of parametrised CRC algorithms.
    check("crc32", &[("123456789", 0xcbf4_3926_0000_0000), ("a", 0xe8b7_be43_0000_0000)]).await;
}

#[tokio::test]
async fn ordered_keeps_the_rows_in_their_order() {
    let cluster = check("ordered", &[("a", 0x61 << 56), ("abcdefgh", 0x6162_6364_6566_6768)]).await;
    let node = cluster.any();
    let mut names = Vec::new();
    for row in 0..40 {
        // Beyond the first eight bytes too, and of unlike lengths.
        let name = if row % 2 == 0 { format!("same-prefix-{row:03}") } else { format!("{row}") };
        node.put(format!("/data/ordered/{name}/c"), "x").await.is(200);
        names.push(name);
    }
    names.sort();
    let mut listed = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = node.get(format!("/data/ordered?limit=7{cursor}")).await.is(200).json();
        listed.extend(
            page["rows"].as_array().unwrap().iter().map(|row| row["row"].as_str().unwrap().to_owned()),
        );
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(listed, names);
    let page = node.get("/data/ordered?from=same-prefix-010&to=same-prefix-020").await.is(200).json();
    let rows: Vec<_> =
        page["rows"].as_array().unwrap().iter().map(|row| row["row"].as_str().unwrap()).collect();
    assert_eq!(
        rows,
        ["same-prefix-010", "same-prefix-012", "same-prefix-014", "same-prefix-016", "same-prefix-018"]
    );
}
