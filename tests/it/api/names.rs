//! Names: UTF-8, 1 to 1,024 bytes, percent-encoded, decoded once.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::{
    prelude::{Strategy, any},
    strategy::ValueTree,
    test_runner::TestRunner,
};

use crate::harness::{Cluster, Raw, names};

/// Names that clumsy decoding, path cleaning or escaping would spoil.
const ODD: [&str; 14] =
    ["a/b", "..", ".", "%2F", "%", "a+b", "a b", "\0", "ключ", "😀", "?q=1&x", "#frag", "\\", "a\u{ff}b"];

#[tokio::test]
async fn any_text_is_a_name() {
    let cluster = Cluster::shared().await;
    let nodes: Vec<_> = cluster.each().collect();
    for (index, name) in ODD.iter().enumerate() {
        let writer = nodes[index % nodes.len()];
        let reader = nodes[(index + 1) % nodes.len()];
        let path = names("/data", [&format!("names-{name}"), name, name]);
        writer.put(&path, *name).await.is(200);
        reader.get(&path).await.says(name);
        let row = reader.get(names("/data", [&format!("names-{name}"), name])).await.is(200).json();
        assert_eq!(row["row"], *name);
        assert_eq!(row["columns"][*name]["value"], *name);
        let key = names("/kv", [&format!("names-{name}")]);
        writer.put(&key, *name).await.is(200);
        reader.get(&key).await.says(name);
    }
    // All of them are there, each by itself.
    let tables = cluster.any().get("/data").await.is(200).json();
    for name in ODD {
        assert!(tables["tables"].as_array().unwrap().contains(&format!("names-{name}").into()), "{name}");
    }
}

/// Names made for a run of the property.
const NAMES: usize = 150;

/// Any text that may be a name, and the raw segment that stands for it: each character plain, where
/// the grammar of a path has it (RFC 3986, `pchar`), or in hex, upper or lower case.
fn name_and_segment() -> impl Strategy<Value = (String, String)> {
    let character = proptest::prop_oneof![
        any::<char>(),
        proptest::char::range('\0', '\x7f'),
        proptest::sample::select(vec!['/', '.', '%', '+', '\0', '?', '#', '\\', ' ', 'é', '\u{10ffff}']),
    ];
    let coded = (character, 0..3).prop_map(|(character, how)| {
        let plain = character.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@".contains(character);
        let text = character.to_string();
        let hex = || text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
        let segment = match how {
            0 if plain => text.clone(),
            1 => hex().to_lowercase(),
            _ => hex(),
        };
        (text, segment)
    });
    proptest::collection::vec(coded, 1..40).prop_map(|characters| characters.into_iter().unzip())
}

/// Through the nodes' own HTTP parser: what is written under one spelling of a name is read under
/// another, and is listed by its name.
#[tokio::test]
async fn arbitrary_unicode_names_are_decoded_once() {
    let cluster = Cluster::shared().await;
    let ports: Vec<_> = cluster.ports();
    let mut runner = TestRunner::default();
    for number in 0..NAMES {
        let (name, segment) = name_and_segment().new_tree(&mut runner).unwrap().current();
        let context = format!("{name:?} as {segment:?}");
        let mut raw = Raw::connect(ports[number % ports.len()]).await;
        let put = format!(
            "PUT /data/names-any/{segment}/{segment} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{number}",
            number.to_string().len()
        );
        let (status, answer) = raw.send(put).await.answer().await.unwrap();
        assert_eq!(status, 200, "{context}: {answer}");
        // Its canonical spelling means the same cell, at another node.
        let reader = cluster.each().nth((number + 1) % ports.len()).unwrap();
        reader.get(names("/data/names-any", [&name, &name])).await.says(&number.to_string());
        let prefix = utf8_percent_encode(&name, NON_ALPHANUMERIC);
        let page = reader.get(format!("/data/names-any?prefix={prefix}")).await.is(200).json();
        let row = page["rows"].as_array().unwrap().iter().find(|row| row["row"] == *name);
        let row = row.unwrap_or_else(|| panic!("{context} is not listed: {page}"));
        assert_eq!(row["columns"][&name]["value"], number.to_string(), "{context}");
        // What two decodings would make of it is another name.
        let twice = segment.replace('%', "%25");
        if twice != segment {
            reader.get(format!("/data/names-any/{twice}/{twice}")).await.problem(404);
        }
    }
}

#[tokio::test]
async fn dots_and_pluses_are_taken_as_they_are() {
    let cluster = Cluster::shared().await;
    let node = cluster.any();
    node.put("/kv/%2E%2E", "two dots").await.is(200);
    // Written plainly, no client may clean the path.
    let mut raw = Raw::connect(node.port).await;
    let (status, text) = raw.send("GET /kv/.. HTTP/1.1\r\nhost: x\r\n\r\n").await.answer().await.unwrap();
    assert!(status == 200 && text.ends_with("two dots"), "{text}");
    node.put("/kv/names+plus", "plus").await.is(200);
    node.get("/kv/names%2Bplus").await.says("plus");
    node.get("/kv/names%20plus").await.problem(404);
}

#[tokio::test]
async fn what_is_no_name_is_refused() {
    let cluster = Cluster::shared().await;
    let long = "n".repeat(1025);
    let encoded = "%C3%A9".repeat(513);
    for node in cluster.each() {
        for name in ["", "%", "%2", "%zz", "%ff", "%C3%28", "%ed%a0%80", &long, &encoded] {
            for path in [
                format!("/kv/{name}"),
                format!("/data/{name}/r/c"),
                format!("/data/t/{name}/c"),
                format!("/data/t/r/{name}"),
            ] {
                node.put(&path, "x").await.problem(400);
            }
            node.get(format!("/data/t/{name}")).await.problem(400);
        }
    }
}

#[tokio::test]
async fn the_longest_name() {
    let cluster = Cluster::shared().await;
    let name = format!("{}é", "n".repeat(1022));
    assert_eq!(name.len(), 1024);
    for node in cluster.each() {
        let path = names("/data", [&name, &name, &name]);
        node.put(&path, "x").await.is(200);
        node.get(&path).await.says("x");
    }
    cluster.any().delete(names("/data", [&name, &name])).await.is(200);
}
