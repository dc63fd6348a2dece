//! What was typed after `quoring bench`, and what it comes to mean. Every default and bound of a load is
//! here.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{
    link::MAX_KEYS,
    workload::{Distribution, Mix, Name, Workload},
};
use crate::{
    cli::{exit::Failure, local::DEFAULT_CONFIG},
    client::Server,
    command::{MAX_BATCH_BYTES, MAX_BATCH_OPS},
    units,
};

/// The most connections, and the most operations in flight.
const MAX_LANES: usize = 16_384;

/// The most threads of the load.
const MAX_THREADS: usize = 256;

/// The highest rate of an open loop, operations a second.
const MAX_RATE: f64 = 1e6;

/// The longest that any part of a run may take.
const MAX_PART: Duration = Duration::from_secs(24 * 3600);

/// The longest that one operation may take: within what latencies are told apart.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

/// Where an etcd listens unless it is told otherwise.
const ETCD_SERVER: &str = "http://127.0.0.1:2379";
/// Where the first node of the sample cluster.toml listens.
const QUORING_SERVER: &str = "http://127.0.0.1:7001";

/// Whom the load is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Target {
    /// HTTP/1.1, as docs/API.md has it
    Quoring,
    /// gRPC, etcd's API v3
    Etcd,
}

/// Put a load on a running cluster, and measure what it does: YCSB's A to F, put, get, batch, or a mix
/// of your own
///
/// Every connection is to one of the servers, in turn, and knows nothing of leaders. Without --rate
/// each of them sends its next operation as soon as the last is answered (closed loop). With --rate,
/// operations are due at that rate whether the servers keep up or not, and a latency counts from when
/// the operation was due (open loop). Failed operations are counted by what they mean, and have no
/// latency. The keys are those of /kv, k000000000000 and on; the workloads expect that --load has
/// written them, now or earlier.
#[derive(Debug, Args)]
#[command(after_help = "\
E scans `GET /data/kv?from=KEY&limit=ROWS`. That is in the order of names with the ordered partitioner;\n\
with the others it is in ring order, and rows before KEY are read over.\n\n\
Examples:\n  \
quoring bench put --load --connections 64\n  \
quoring bench a --duration 30s --server http://127.0.0.1:8001,http://127.0.0.1:8002 --json a.json\n  \
quoring bench --read 80 --update 15 --insert 5 --distribution zipfian\n  \
quoring bench put --rate 5000 --connections 256\n  \
quoring bench get --target etcd --server http://127.0.0.1:2379 --connections 16 --multiplex 16")]
pub(in crate::cli) struct Bench {
    /// The workload; none with --read and so on, or to --load alone
    #[arg(value_enum, ignore_case = true)]
    workload: Option<Name>,
    /// Share of reads in a mix of your own
    #[arg(long, value_name = "SHARE", conflicts_with = "workload")]
    read: Option<u32>,
    /// Share of writes over existing keys
    #[arg(long, value_name = "SHARE", conflicts_with = "workload")]
    update: Option<u32>,
    /// Share of writes of new keys
    #[arg(long, value_name = "SHARE", conflicts_with = "workload")]
    insert: Option<u32>,
    /// Share of scans, of 1 to 100 rows
    #[arg(long, value_name = "SHARE", conflicts_with = "workload")]
    scan: Option<u32>,
    /// Share of reads followed by a write of the same key, as one operation
    #[arg(long, value_name = "SHARE", conflicts_with = "workload")]
    rmw: Option<u32>,
    /// Which keys are wanted [default: the workload's; uniform for a mix]
    #[arg(long, value_enum)]
    distribution: Option<Distribution>,
    /// Whose API to speak
    #[arg(long, value_enum, default_value = "quoring")]
    target: Target,
    /// The servers; connections are spread over all of them [default: $QUORING_SERVER, then
    /// http://127.0.0.1:7001; of etcd: http://127.0.0.1:2379]
    #[arg(long, value_name = "URL,…", value_delimiter = ',')]
    server: Vec<String>,
    /// Connections, all over
    #[arg(long, value_name = "COUNT", default_value_t = 64)]
    connections: usize,
    /// Operations in flight on each connection; more than 1 only for etcd
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    multiplex: usize,
    /// Threads of the load itself [default: one for every four CPUs, at least one]
    #[arg(long, value_name = "COUNT")]
    threads: Option<usize>,
    /// Operations a second, in an open loop
    #[arg(long, value_name = "OPS_PER_S")]
    rate: Option<f64>,
    /// How many keys there are
    #[arg(long, value_name = "COUNT", default_value_t = 100_000)]
    keys: u64,
    /// The length of values, bytes
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    value_bytes: usize,
    /// Writes in each operation of batch
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    batch_ops: usize,
    /// Write all keys first
    #[arg(long)]
    load: bool,
    /// How long to measure
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// How long to run before that
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    warmup: Duration,
    /// Measure no more than so many operations
    #[arg(long, value_name = "COUNT")]
    ops: Option<u64>,
    /// How long to wait for an answer
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// Where the random choices begin: the same seed, the same operations
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the result to this file, too
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// The processes of the servers, whose CPU time is measured [default: all nodes of --config, if
    /// the servers are among them]
    #[arg(long, value_name = "PID,…", value_delimiter = ',')]
    pub(super) pids: Vec<u32>,
    /// The cluster.toml of the cluster, if it runs on this machine
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub(super) config: PathBuf,
}

fn duration(text: &str) -> Result<Duration, units::InvalidUnit> {
    units::parse_duration_ms(text).map(Duration::from_millis)
}

/// A load, with everything decided.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    /// For people.
    pub(super) name: String,
    pub(super) workload: Workload,
    /// Whether there is more to do than the load.
    pub(super) run: bool,
    pub(super) target: Target,
    pub(super) servers: Vec<Server>,
    pub(super) connections: usize,
    /// Operations in flight on each connection.
    pub(super) multiplex: usize,
    /// At most as many as there are connections.
    pub(super) threads: usize,
    /// Operations a second; `None` in a closed loop.
    pub(super) rate: Option<f64>,
    pub(super) keys: u64,
    pub(super) value_bytes: usize,
    pub(super) batch_ops: usize,
    pub(super) load: bool,
    pub(super) duration: Duration,
    pub(super) warmup: Duration,
    pub(super) ops: Option<u64>,
    pub(super) timeout: Duration,
    pub(super) seed: u64,
}

impl Bench {
    /// Decides what is meant on a machine with so many CPUs, where `$QUORING_SERVER` is `server`.
    pub(super) fn plan(&self, cpus: usize, server: Option<String>) -> Result<Plan, Failure> {
        let (name, workload) = self.workload()?;
        let run = workload.mix.total() > 0;
        if !run && !self.load {
            let how = "name a workload (a to f, put, get or batch), or a mix such as --read 50 --update 50, or --load";
            return Err(Failure::Usage(format!("there is nothing to do: {how}")));
        }
        within("--connections", self.connections, 1, MAX_LANES)?;
        within("--multiplex", self.multiplex, 1, MAX_LANES)?;
        within("--connections times --multiplex", self.connections * self.multiplex, 1, MAX_LANES)?;
        within("--keys", self.keys, 1, MAX_KEYS)?;
        within("--value-bytes", self.value_bytes, 0, MAX_BATCH_BYTES)?;
        within("--batch-ops", self.batch_ops, 1, MAX_BATCH_OPS)?;
        let threads = self.threads.unwrap_or((cpus / 4).max(1));
        within("--threads", threads, 1, MAX_THREADS)?;
        within("--ops", self.ops.unwrap_or(1), 1, u64::MAX - 1)?;
        if let Some(rate) = self.rate
            && !(rate > 0.0 && rate <= MAX_RATE)
        {
            return Err(Failure::Usage(format!("--rate is more than 0 and at most {MAX_RATE}")));
        }
        let shortest = Duration::from_millis(1);
        let parts = [
            ("--duration", self.duration, shortest, MAX_PART),
            ("--warmup", self.warmup, Duration::ZERO, MAX_PART),
            ("--timeout", self.timeout, shortest, MAX_TIMEOUT),
        ];
        for (flag, length, least, most) in parts {
            if length < least || length > most {
                return Err(Failure::Usage(format!("{flag} is {least:?} to {most:?}")));
            }
        }
        if workload.mix.batch > 0 && self.batch_ops * self.value_bytes > MAX_BATCH_BYTES / 2 {
            let most = MAX_BATCH_BYTES / 2;
            return Err(Failure::Usage(format!("--batch-ops times --value-bytes is at most {most} bytes")));
        }
        if self.multiplex > 1 && self.target != Target::Etcd {
            let why = "HTTP/1.1 has one request in flight on each connection";
            return Err(Failure::Usage(format!("--multiplex is for --target etcd alone: {why}")));
        }
        Ok(Plan {
            name,
            workload,
            run,
            target: self.target,
            servers: self.servers(server)?,
            connections: self.connections,
            multiplex: self.multiplex,
            threads: threads.min(self.connections),
            rate: self.rate,
            keys: self.keys,
            value_bytes: self.value_bytes,
            batch_ops: self.batch_ops,
            load: self.load,
            duration: self.duration,
            warmup: self.warmup,
            ops: self.ops,
            timeout: self.timeout,
            seed: self.seed,
        })
    }

    fn workload(&self) -> Result<(String, Workload), Failure> {
        let (name, mut workload) = match self.workload {
            Some(name) => {
                let value = name.to_possible_value();
                let name = value.map(|value| value.get_name().to_owned()).unwrap_or_default();
                let given = self.workload.map(Workload::from);
                (name, given.unwrap_or(Workload { mix: Mix::default(), distribution: Distribution::Uniform }))
            }
            None => {
                let share = |share: Option<u32>| share.unwrap_or(0);
                let mix = Mix {
                    read: share(self.read),
                    update: share(self.update),
                    insert: share(self.insert),
                    scan: share(self.scan),
                    read_modify_write: share(self.rmw),
                    batch: 0,
                };
                let given = [self.read, self.update, self.insert, self.scan, self.rmw];
                if given.iter().any(Option::is_some) && mix.total() == 0 {
                    return Err(Failure::Usage("the shares of the mix add up to nothing".to_owned()));
                }
                let name = if mix.total() == 0 { "load" } else { "mix" };
                (name.to_owned(), Workload { mix, distribution: Distribution::Uniform })
            }
        };
        workload.distribution = self.distribution.unwrap_or(workload.distribution);
        Ok((name, workload))
    }

    fn servers(&self, environment: Option<String>) -> Result<Vec<Server>, Failure> {
        let given = match self.target {
            _ if !self.server.is_empty() => self.server.clone(),
            Target::Etcd => vec![ETCD_SERVER.to_owned()],
            Target::Quoring => {
                let servers = environment.unwrap_or_else(|| QUORING_SERVER.to_owned());
                servers.split(',').map(str::to_owned).collect()
            }
        };
        Ok(given.iter().map(|server| server.parse()).collect::<Result<Vec<Server>, _>>()?)
    }
}

fn within<T: PartialOrd + std::fmt::Display>(flag: &str, value: T, least: T, most: T) -> Result<(), Failure> {
    if value < least || value > most {
        return Err(Failure::Usage(format!("{flag} is {least} to {most}, not {value}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Words {
        #[command(flatten)]
        bench: Bench,
    }

    fn plan(line: &str) -> Result<Plan, String> {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        let words = Words::try_parse_from(words).map_err(|error| error.to_string())?;
        words.bench.plan(8, Some("h:1,h:2".to_owned())).map_err(|failure| {
            assert_eq!(failure.code(), 2);
            failure.to_string()
        })
    }

    #[test]
    fn defaults_are_those_of_the_help() {
        let plan = plan("A").unwrap();
        assert_eq!((&*plan.name, plan.workload), ("a", Workload::from(Name::A)));
        assert_eq!((plan.connections, plan.multiplex, plan.threads, plan.rate), (64, 1, 2, None));
        assert_eq!((plan.keys, plan.value_bytes, plan.load, plan.run), (100_000, 256, false, true));
        assert_eq!((plan.warmup, plan.duration), (Duration::from_secs(2), Duration::from_secs(10)));
        let servers: Vec<_> = plan.servers.iter().map(Server::host_port).collect();
        assert_eq!(servers, ["h:1", "h:2"]);
    }

    #[test]
    fn a_mix_a_load_and_an_etcd_can_be_asked_for() {
        let mix = plan("--read 3 --rmw 1 --distribution zipfian --connections 1").unwrap();
        assert_eq!((mix.workload.mix.read, mix.workload.mix.read_modify_write), (3, 1));
        assert_eq!((mix.workload.distribution, mix.threads), (Distribution::Zipfian, 1));
        let load = plan("--load").unwrap();
        assert_eq!((&*load.name, load.load, load.run), ("load", true, false));
        let etcd = plan("put --target etcd --multiplex 16 --connections 16").unwrap();
        assert_eq!(etcd.servers[0].host_port(), "127.0.0.1:2379");
    }

    #[test]
    fn what_cannot_be_is_one_sentence() {
        for (line, part) in [
            ("", "there is nothing to do"),
            ("--read 0 --update 0", "add up to nothing"),
            ("put --connections 0", "--connections is 1 to 16384, not 0"),
            ("put --target etcd --connections 1000 --multiplex 1000", "times --multiplex is 1 to 16384"),
            ("put --keys 0", "--keys is 1 to"),
            ("put --value-bytes 33554433", "--value-bytes is 0 to 33554432"),
            ("batch --batch-ops 10001", "--batch-ops is 1 to 10000"),
            ("batch --batch-ops 10000 --value-bytes 10000", "--batch-ops times --value-bytes"),
            ("put --rate 0", "--rate is more than 0"),
            ("put --rate NaN", "--rate is more than 0"),
            ("put --duration 0s", "--duration is"),
            ("put --timeout 2h", "--timeout is"),
            ("put --ops 0", "--ops is 1 to"),
            ("put --multiplex 2", "--multiplex is for --target etcd alone"),
            ("put --server nowhere", "'nowhere' is no server"),
            ("put --read 1", "cannot be used with"),
            ("g", "invalid value 'g'"),
        ] {
            let error = plan(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
