//! Every mistake in a `cluster.toml` and on a node's command line has its exact line here.

use std::path::{Path, PathBuf};

use super::*;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(Path::new("some/cluster.toml"), text).map_err(|error| error.to_string())
}

const COORDINATOR: &str = "[[coordinator]]\nport = 7001\n";

#[test]
fn a_small_file_gets_every_default() {
    let config = parse(COORDINATOR).unwrap();
    assert_eq!(config.settings, Settings::default());
    assert_eq!(config.data_dir, PathBuf::from("some/data"));
    assert_eq!(config.memory, Memory::default());
    assert_eq!((config.coordinators, config.workers), (vec![7001], vec![]));
}

#[test]
fn every_key_is_taken() {
    let config = parse(
        "[cluster]\nname = \"x\"\nreplication = 1\nshards = 4096\npartitioner = \"ordered\"\ndata_dir = \"/d\"\n\
         ping_interval = \"100ms\"\ninactive_after = \"1s\"\nreplace_after = \"1h\"\nrequest_timeout = \"10m\"\n\
         max_value = \"32MiB\"\nsplit_size = \"1GiB\"\ncache = \"1GiB\"\nmemtables = \"12MiB\"\nqueues = \"1GiB\"\n[[coordinator]]\nport = 1\n[[worker]]\nport = 65535\nzone = \"a\"\n[[worker]]\nport = 2\n",
    )
    .unwrap();
    let settings = Settings {
        name: "x".into(),
        replication: 1,
        shards: 4096,
        partitioner: Partitioner::Ordered,
        ping_interval_ms: 100,
        inactive_after_ms: 1_000,
        replace_after_ms: 3_600_000,
        request_timeout_ms: 600_000,
        max_value_bytes: 32 << 20,
        split_size_bytes: 1 << 30,
    };
    assert_eq!(config.settings, settings);
    assert_eq!(config.data_dir, PathBuf::from("/d"));
    let memory = Memory { cache_bytes: 1 << 30, memtables_bytes: 12 << 20, queues_bytes: 1 << 30 };
    assert_eq!(config.memory, memory);
    assert_eq!(config.node_dir("worker", 2), PathBuf::from("/d/worker-2"));
    let workers = vec![Worker { port: 65535, zone: Some("a".into()) }, Worker { port: 2, zone: None }];
    assert_eq!((config.coordinators, config.workers), (vec![1], workers));
}

#[test]
fn the_sample_file_is_the_demo_of_the_contract() {
    let sample = include_str!("../../cluster.toml");
    let config = Config::parse(Path::new("cluster.toml"), sample).unwrap();
    assert_eq!(config.settings, Settings { name: "demo".into(), ..Settings::default() });
    assert_eq!(config.data_dir, PathBuf::from("data"));
    assert_eq!(config.memory, Memory::default());
    assert_eq!(config.coordinators, [7001, 7002, 7003]);
    let zones: Vec<_> = config.workers.iter().map(|worker| (worker.port, worker.zone.as_deref())).collect();
    assert_eq!(zones, [(8001, Some("a")), (8002, Some("b")), (8003, Some("c"))]);
}

#[test]
fn each_mistake_is_one_line_that_names_key_and_line() {
    // Each snippet stands on lines 3 and up, below a good coordinator.
    let cases = [
        ("[cluster]\nreplication = 0", "4: cluster.replication: must be 1 to 7, is 0"),
        ("[cluster]\nreplication = 8", "4: cluster.replication: must be 1 to 7, is 8"),
        ("[cluster]\nreplication = -1", "4: cluster.replication: must be 1 to 7, is -1"),
        ("[cluster]\nreplication = \"3\"", "4: cluster.replication: must be an integer, is a string"),
        ("[cluster]\nreplication = 3.0", "4: cluster.replication: must be an integer, is a float"),
        (
            "[cluster]\nreplication = 99999999999999999999",
            "4: cluster.replication: 99999999999999999999 is out of range",
        ),
        ("[cluster]\n\nshards = 0", "5: cluster.shards: must be 1 to 4096, is 0"),
        ("[cluster]\nshards = 4097", "4: cluster.shards: must be 1 to 4096, is 4097"),
        ("cluster.shards = 0", "3: coordinator.cluster: unknown key; [[coordinator]] knows port"),
        (
            "[cluster]\npartitioner = \"sha1\"",
            "4: cluster.partitioner: must be xxh3, md5, crc32 or ordered, is \"sha1\"",
        ),
        ("[cluster]\npartitioner = 5", "4: cluster.partitioner: must be a text in quotes, is an integer"),
        (
            "[cluster]\nping_interval = \"5\"",
            "4: cluster.ping_interval: '5' is no duration: write an integer and ms, s, m or h, such as 30s",
        ),
        ("[cluster]\nping_interval = 5", "4: cluster.ping_interval: must be a text in quotes, is an integer"),
        ("[cluster]\nping_interval = \"0s\"", "4: cluster.ping_interval: must be 10ms to 24h, is 0s"),
        (
            "[cluster]\nping_interval = \"15s\"",
            "4: cluster.ping_interval: must be shorter than inactive_after (15s), is 15s",
        ),
        (
            "[cluster]\nping_interval = \"1s\"\ninactive_after = \"500ms\"",
            "5: cluster.inactive_after: must be longer than ping_interval (1s), is 500ms",
        ),
        (
            "[cluster]\nreplace_after = \"10s\"",
            "4: cluster.replace_after: must be longer than inactive_after (15s), is 10s",
        ),
        ("[cluster]\nrequest_timeout = \"11m\"", "4: cluster.request_timeout: must be 10ms to 10m, is 11m"),
        (
            "[cluster]\nmax_value = \"8MB\"",
            "4: cluster.max_value: '8MB' is no size: write an integer and B, KiB, MiB or GiB, such as 8MiB",
        ),
        ("[cluster]\nmax_value = \"0B\"", "4: cluster.max_value: must be 1B to 32MiB, is 0B"),
        (
            "[cluster]\nsplit_size = \"1KiB\"",
            "4: cluster.split_size: must be 1MiB to 1024GiB, or 0B for never, is 1KiB",
        ),
        ("[cluster]\nmax_value = \"1GiB\"", "4: cluster.max_value: must be 1B to 32MiB, is 1GiB"),
        ("[cluster]\ncache = \"1023KiB\"", "4: cluster.cache: must be 1MiB to 1024GiB, is 1023KiB"),
        ("[cluster]\nmemtables = \"11MiB\"", "4: cluster.memtables: must be 12MiB to 64GiB, is 11MiB"),
        ("[cluster]\nmemtables = 64", "4: cluster.memtables: must be a text in quotes, is an integer"),
        ("[cluster]\nqueues = \"3GiB\"", "4: cluster.queues: must be 2MiB to 1GiB, is 3GiB"),
        (
            "[cluster]\nqueues = \"64MB\"",
            "4: cluster.queues: '64MB' is no size: write an integer and B, KiB, MiB or GiB, such as 8MiB",
        ),
        ("[cluster]\nname = \"\"", "4: cluster.name: must be 1 to 64 printable characters"),
        ("[cluster]\nname = \"a\\nb\"", "4: cluster.name: must be 1 to 64 printable characters"),
        ("[cluster]\ndata_dir = \"\"", "4: cluster.data_dir: must name a directory, is empty"),
        (
            "[cluster]\nname = \"x\"\nreplicas = 3",
            "5: cluster.replicas: unknown key; [cluster] knows name, replication, shards, partitioner, \
             data_dir, ping_interval, inactive_after, replace_after, request_timeout, max_value, split_size, cache, \
             memtables and queues",
        ),
        (
            "[workers]\n",
            "3: workers: unknown key; the sections are [cluster], [[coordinator]] and [[worker]]",
        ),
        ("[worker]\nport = 8001", "3: worker: must be a section in double brackets: [[worker]]"),
        ("[[cluster]]\n", "3: cluster: must be a section [cluster]"),
        ("[[worker]]\nzone = \"a\"", "3: worker.port: is missing"),
        ("[[worker]]\nport = 7001", "4: worker.port: 7001 is used twice, first on line 2"),
        ("[[worker]]\nport = 0", "4: worker.port: must be 1 to 65535, is 0"),
        ("[[worker]]\nport = 65536", "4: worker.port: must be 1 to 65535, is 65536"),
        ("[[worker]]\nport = \"8001\"", "4: worker.port: must be an integer, is a string"),
        ("[[worker]]\nport = 8001\nzone = \"\"", "5: worker.zone: must be 1 to 64 printable characters"),
        ("[[worker]]\nport = 8001\nid = \"x\"", "5: worker.id: unknown key; [[worker]] knows port and zone"),
        (
            "[[coordinator]]\nport = 1\nzone = \"a\"",
            "5: coordinator.zone: unknown key; [[coordinator]] knows port",
        ),
    ];
    for (snippet, line) in cases {
        let error = parse(&format!("{COORDINATOR}{snippet}\n")).expect_err(snippet);
        assert_eq!(error, format!("some/cluster.toml:{line}"), "{snippet}");
    }
}

#[test]
fn what_is_missing_or_no_toml_is_one_line_too() {
    for (text, line) in [
        ("", "1: coordinator: a cluster needs at least one [[coordinator]]"),
        ("[[worker]]\nport = 1\n", "1: coordinator: a cluster needs at least one [[coordinator]]"),
    ] {
        assert_eq!(parse(text), Err(format!("some/cluster.toml:{line}")));
    }
    for text in ["[cluster", "a = ", "[cluster]\nname = \"x\"\nname = \"y\"", "\u{0}"] {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with("some/cluster.toml:"), "{error}");
        assert!(error.contains(": not valid TOML: "), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
    assert!(parse("[cluster]\nname = \"x\"\nname = \"y\"").unwrap_err().starts_with("some/cluster.toml:3: "));
}

fn args(port: u16, listen: Option<&str>, advertise: Option<&str>) -> NodeArgs {
    NodeArgs {
        port,
        listen: listen.map(|ip| ip.parse().unwrap()),
        advertise: advertise.map(|addr| addr.parse().unwrap()),
        cache_bytes: None,
        memtables_bytes: None,
        queues_bytes: None,
    }
}

fn addresses(texts: &[&str]) -> Vec<Address> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn a_coordinator_finds_itself_among_its_peers() {
    let found = |port, listen, advertise, peers: &[&str]| {
        let founders = if peers.is_empty() { Founders::Default } else { Founders::Peers(addresses(peers)) };
        Node::coordinator(&args(port, listen, advertise), None, founders, None)
            .map(|node| node.advertise.to_string())
    };
    assert_eq!(found(7001, None, None, &[]), Ok("127.0.0.1:7001".into()));
    assert_eq!(found(7001, None, None, &["127.0.0.1:7001", "127.0.0.1:7002"]), Ok("127.0.0.1:7001".into()));
    assert_eq!(found(7002, None, None, &["localhost:7001", "localhost:7002"]), Ok("localhost:7002".into()));
    assert_eq!(found(1, Some("0.0.0.0"), Some("b:1"), &["a:1", "b:1"]), Ok("b:1".into()));
    assert_eq!(found(1, Some("10.0.0.2"), None, &["10.0.0.1:1", "10.0.0.2:1"]), Ok("10.0.0.2:1".into()));
    assert_eq!(found(1, Some("::1"), None, &[]), Ok("[::1]:1".into()));
    for (result, part) in [
        (found(7001, None, None, &["127.0.0.1:7002"]), "none of them has port 7001"),
        (found(1, Some("0.0.0.0"), None, &["a:1", "b:1"]), "say with --advertise HOST:PORT which of them"),
        (found(1, Some("0.0.0.0"), None, &[]), "--advertise HOST:PORT where other nodes reach it"),
        (found(1, None, Some("c:1"), &["a:1", "b:1"]), "this one (c:1) too"),
        (found(1, None, Some("a:1"), &["a:1", "a:1"]), "names a:1 twice"),
    ] {
        let error = result.unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_coordinator_of_the_file_needs_no_more_than_its_port() {
    let config =
        parse("[cluster]\nreplication = 1\n[[coordinator]]\nport = 1\n[[coordinator]]\nport = 2\n").unwrap();
    let listed = Node::coordinator(&args(2, None, None), None, Founders::Default, Some(&config)).unwrap();
    let peers = addresses(&["127.0.0.1:1", "127.0.0.1:2"]);
    assert_eq!(listed.role, Role::Coordinator { peers });
    assert_eq!(listed.dir, Some("some/data/coordinator-2".into()));
    assert_eq!(listed.settings.replication, 1);
    let other =
        Node::coordinator(&args(3, None, None), Some("d".into()), Founders::Default, Some(&config)).unwrap();
    assert_eq!(other.role, Role::Coordinator { peers: addresses(&["127.0.0.1:3"]) });
    assert_eq!(other.dir, Some("d".into()));
    // One that joins founds nothing, even if the file has it.
    let joins = Node::coordinator(&args(2, None, None), None, Founders::None, Some(&config)).unwrap();
    assert_eq!(joins.role, Role::Coordinator { peers: vec![] });
    assert_eq!(joins.advertise.as_str(), "127.0.0.1:2");
    let everywhere = Node::coordinator(&args(2, Some("::"), None), None, Founders::None, None);
    assert!(everywhere.unwrap_err().contains("--advertise"));
}

#[test]
fn a_worker_that_listens_everywhere_says_where_it_is() {
    let worker = |listen, advertise| Node::worker(&args(8001, listen, advertise), None, vec![], None);
    assert_eq!(worker(None, None).unwrap().advertise.as_str(), "127.0.0.1:8001");
    assert_eq!(worker(Some("0.0.0.0"), Some("w1:80")).unwrap().advertise.as_str(), "w1:80");
    assert!(worker(Some("::"), None).unwrap_err().contains("--advertise"));
    let error = Node::worker(&args(1, None, None), None, vec![], Some(String::new())).unwrap_err();
    assert_eq!(error, "--zone must be 1 to 64 printable characters");
}

#[test]
fn addresses_are_host_and_port() {
    for text in ["127.0.0.1:7001", "localhost:1", "[::1]:65535", "a-b.c_d:80"] {
        assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
    }
    let bad = [
        "",
        "7001",
        ":7001",
        "host",
        "host:",
        "host:0",
        "host:65536",
        "host:+80",
        "::1:80",
        "[::1]",
        "http://h:80",
        "h h:1",
    ];
    for text in bad {
        assert_eq!(text.parse::<Address>(), Err(InvalidAddress), "{text}");
    }
}
