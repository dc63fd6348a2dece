//! What a cluster is to be: its `cluster.toml`.

use std::fmt::Write;

/// The members and settings of a cluster.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) coordinators: usize,
    pub(crate) workers: usize,
    pub(crate) shards: u32,
    pub(crate) replication: usize,
    pub(crate) partitioner: &'static str,
    /// Further lines of `[cluster]`.
    pub(crate) settings: &'static str,
    /// Further arguments of every node.
    pub(crate) args: &'static [&'static str],
}

impl Default for Spec {
    /// Three and three, and few shards: many clusters share a small machine. Workers tell often what
    /// they lead, so that `/cluster` is soon right and tests are short.
    fn default() -> Self {
        let settings = "ping_interval = \"500ms\"";
        Self {
            coordinators: 3,
            workers: 3,
            shards: 4,
            replication: 3,
            partitioner: "xxh3",
            settings,
            args: &[],
        }
    }
}

impl Spec {
    /// The smallest cluster there is.
    pub(crate) fn one() -> Self {
        Self { coordinators: 1, workers: 1, ..Self::default() }
    }

    /// Replicas of every shard.
    pub(crate) fn copies(&self) -> usize {
        self.replication.min(self.workers)
    }

    pub(crate) fn toml(&self, coordinators: &[u16], workers: &[u16]) -> String {
        let Spec { shards, replication, partitioner, settings, .. } = self;
        let mut text = format!(
            "[cluster]\nname = \"test\"\nreplication = {replication}\nshards = {shards}\n\
             partitioner = \"{partitioner}\"\ndata_dir = \"data\"\n{settings}\n"
        );
        for port in coordinators {
            writeln!(text, "[[coordinator]]\nport = {port}").unwrap();
        }
        for port in workers {
            writeln!(text, "[[worker]]\nport = {port}").unwrap();
        }
        text
    }
}
