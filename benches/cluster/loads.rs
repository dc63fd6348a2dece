//! The loads that are compared, as words for `quoring bench`. Keys and values are its defaults:
//! 100,000 keys and 256 bytes.

/// One line of the comparison.
pub(crate) struct Load {
    pub(crate) name: &'static str,
    words: &'static [&'static str],
    /// At a rate: half of etcd's highest.
    pub(crate) open: bool,
    /// A load for etcd alone: which line has the other side of the ratio.
    pub(crate) against: Option<&'static str>,
}

impl Load {
    pub(crate) fn words(&self, system: &str) -> Option<&'static [&'static str]> {
        (system == "etcd" || self.against.is_none()).then_some(self.words)
    }
}

const fn both(name: &'static str, words: &'static [&'static str]) -> Load {
    Load { name, words, open: false, against: None }
}

/// Those of etcd's results of which the highest decides the open loop's rate.
pub(crate) const PUT_RATES: [&str; 4] = ["put, 1", "put, 16", "put, 64", "put, 256"];

/// In the order in which they run.
pub(crate) const LOADS: [Load; 13] = [
    both("put, 1", &["put", "--connections", "1"]),
    both("put, 16", &["put", "--connections", "16"]),
    both("put, 64", &["put", "--connections", "64"]),
    both("put, 256", &["put", "--connections", "256"]),
    both("get, 1", &["get", "--connections", "1"]),
    both("get, 64", &["get", "--connections", "64"]),
    both("get, 256", &["get", "--connections", "256"]),
    both("mixed 50/50, zipfian, 64", &["a", "--connections", "64"]),
    both("mixed 95/5, zipfian, 64", &["b", "--connections", "64"]),
    Load { open: true, ..both("put, open loop, 256", &["put", "--connections", "256"]) },
    // Of etcd, transactions of 100 puts.
    both("batch of 100 puts, 16", &["batch", "--batch-ops", "100", "--connections", "16"]),
    Load {
        against: Some("put, 256"),
        ..both("put, 256 in flight on 16", &["put", "--connections", "16", "--multiplex", "16"])
    },
    Load {
        against: Some("get, 256"),
        ..both("get, 256 in flight on 16", &["get", "--connections", "16", "--multiplex", "16"])
    },
];
