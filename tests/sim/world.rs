//! The simulated cluster: its nodes, their network, and the one clock. Each ms everything that is due
//! arrives, every node runs until it has nothing more to do in that ms, and its disk works.
//!
//! All of it is on one thread. What ends a run is a [`Failure`], which says what was seen to be wrong.

use std::{collections::VecDeque, fmt, fs, ops::AddAssign, path::PathBuf, sync::Arc};

use quoring::{
    command::{Answer, At, Query, Scan},
    config::{self, Address, Role, Settings},
    consensus::{group::Group, machine::ShardView},
    ids::{GroupId, Span},
    ring::map::Map,
    shard::query,
};
use raft_store::Stats;
use rand::{RngExt, rngs::StdRng, seq::SliceRandom};
use tempfile::TempDir;

use super::{
    clients::TABLE,
    disk::{Crash, Disk},
    net::{Net, Place},
    node::{Ended, Node},
    panics, rng,
    stuck::Watchdog,
    watch::Watch,
};

/// Events that a failure shows.
const EVENTS_SHOWN: usize = 60;

/// A memory file system, where there is one: thousands of syncs would else wait for a real disk.
const MEMORY: &str = "/dev/shm";

/// What is simulated.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) coordinators: usize,
    /// Workers that are there from the start.
    pub(crate) workers: usize,
    /// Workers that may be started later.
    pub(crate) spares: usize,
    pub(crate) shards: u32,
    pub(crate) replication: u32,
    /// How long disks say "synced" before it is true, ms: 0 for honest ones.
    pub(crate) lies_ms: u64,
}

impl Default for Spec {
    fn default() -> Self {
        Self { coordinators: 3, workers: 4, spares: 1, shards: 3, replication: 3, lies_ms: 0 }
    }
}

impl Spec {
    /// A cluster of some shape.
    pub(crate) fn drawn(seed: u64) -> Self {
        let mut rng = rng(seed, "spec", 0);
        let workers = rng.random_range(3..=5);
        Self {
            coordinators: if rng.random_bool(0.2) { 1 } else { 3 },
            workers,
            shards: rng.random_range(1..=4),
            replication: if workers == 5 && rng.random_bool(0.5) { 5 } else { 3 },
            ..Self::default()
        }
    }
}

/// What happened in a run, as far as a run in which it does not is worth less.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) crashes: u64,
    pub(crate) stops: u64,
    pub(crate) snapshots: u64,
    pub(crate) splits: u64,
}

impl Tally {
    fn note(&mut self, store: &Stats) {
        self.snapshots += store.installs_total;
        self.splits += store.forks_total;
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.crashes += other.crashes;
        self.stops += other.stops;
        self.snapshots += other.snapshots;
        self.splits += other.splits;
    }
}

/// What was seen to be wrong.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// No register would have given these answers.
    NotLinearizable(String),
    /// What must hold at every moment did not.
    Broken(String),
    /// A node ended by itself, or could not start.
    Node(String),
    /// Something that must come to pass did not in time.
    TooLate(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NotLinearizable(what) => write!(f, "not linearizable:\n{what}"),
            Failure::Broken(what) => write!(f, "an invariant is broken: {what}"),
            Failure::Node(what) => write!(f, "a node ended: {what}"),
            Failure::TooLate(what) => write!(f, "not in time: {what}"),
        }
    }
}

pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) spec: Spec,
    pub(crate) net: Arc<Net>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) watch: Watch,
    watchdog: Watchdog,
    order: StdRng,
    events: VecDeque<String>,
    /// When nodes that are down start again.
    restarts: Vec<(u64, Place)>,
    /// Stops under way, and when a node is started again that was stopped.
    stopping: Vec<(Place, u64)>,
    /// Of the lives that have ended.
    tally: Tally,
    _dir: TempDir,
}

fn address(name: &str) -> Address {
    format!("{name}:7000").parse().expect("a name and a port")
}

fn settings(spec: &Spec) -> Settings {
    Settings {
        shards: spec.shards,
        replication: spec.replication,
        ping_interval_ms: 500,
        inactive_after_ms: 1_500,
        replace_after_ms: 4_000,
        request_timeout_ms: 3_000,
        ..Settings::default()
    }
}

impl World {
    /// Starts every node but the spares.
    pub(crate) fn new(seed: u64, spec: Spec) -> Result<World, Failure> {
        panics::watch();
        let base = if fs::metadata(MEMORY).is_ok() { PathBuf::from(MEMORY) } else { std::env::temp_dir() };
        let dir = tempfile::Builder::new().prefix("quoring-sim-").tempdir_in(base);
        let dir = dir.map_err(|error| Failure::Node(error.to_string()))?;
        let coordinators: Vec<String> = (1..=spec.coordinators).map(|n| format!("c{n}")).collect();
        let workers: Vec<String> = (1..=spec.workers + spec.spares).map(|n| format!("w{n}")).collect();
        let names = [&coordinators[..], &workers[..]].concat();
        let addrs: Vec<String> = names.iter().map(|name| address(name).to_string()).collect();
        let net = Net::new(seed, &addrs);
        let peers: Vec<Address> = coordinators.iter().map(|name| address(name)).collect();
        let node = |(place, name): (usize, &String)| {
            let role = match place < spec.coordinators {
                true => Role::Coordinator { peers: peers.clone() },
                false => Role::Worker { coordinators: peers.clone(), zone: None },
            };
            let config = config::Node {
                role,
                listen: config::NodeArgs::DEFAULT_LISTEN,
                port: 7000,
                advertise: address(name),
                dir: None,
                memory: config::Memory::default(),
                settings: settings(&spec),
            };
            let disk = Disk::new(dir.path().join(name), rng(seed, "disk", place as u64), spec.lies_ms);
            Node::new(place, name.clone(), config, disk, net.clone())
        };
        let nodes: Vec<Node> = names.iter().enumerate().map(node).collect();
        let mut world = World {
            now: 0,
            net,
            nodes,
            watch: Watch::default(),
            watchdog: Watchdog::start(seed),
            order: rng(seed, "order", 0),
            events: VecDeque::new(),
            restarts: Vec::new(),
            stopping: Vec::new(),
            tally: Tally::default(),
            _dir: dir,
            spec,
        };
        for place in 0..world.spec.coordinators + world.spec.workers {
            world.start(place)?;
        }
        Ok(world)
    }

    pub(crate) fn is_worker(&self, place: Place) -> bool {
        place >= self.spec.coordinators
    }

    /// Notes something for whoever reads of a failure.
    pub(crate) fn note(&mut self, event: impl Into<String>) {
        if self.events.len() == EVENTS_SHOWN {
            self.events.pop_front();
        }
        let event = format!("{:>7} ms  {}", self.now, event.into());
        tracing::info!(target: "sim", "{event}");
        self.events.push_back(event);
    }

    /// The last events.
    pub(crate) fn events(&self) -> String {
        self.events.iter().map(|event| format!("  {event}\n")).collect()
    }

    pub(crate) fn start(&mut self, place: Place) -> Result<(), Failure> {
        self.restarts.retain(|(_, waiting)| *waiting != place);
        if self.nodes[place].is_up() {
            return Ok(());
        }
        let name = self.nodes[place].name.clone();
        self.note(format!("start {name}"));
        self.watch.forget(place);
        self.nodes[place].start(self.now).map_err(|why| Failure::Node(format!("{name}: {why}")))
    }

    /// A node crashes, and starts again later.
    pub(crate) fn crash(&mut self, place: Place, crash: Crash, down_ms: u64) -> Result<(), Failure> {
        if !self.nodes[place].is_up() {
            return Ok(());
        }
        self.look()?;
        self.note(format!("{} is {crash:?}", self.nodes[place].name));
        self.stopping.retain(|(stopping, _)| *stopping != place);
        if let Some(stats) = self.nodes[place].stats() {
            self.tally.note(&stats);
        }
        self.tally.crashes += 1;
        self.nodes[place].crash(self.now, crash).map_err(Failure::Node)?;
        self.restarts.push((self.now + down_ms, place));
        Ok(())
    }

    /// A node is asked to stop, and starts again some time after it has.
    pub(crate) fn stop(&mut self, place: Place, down_ms: u64) {
        let idle = self.nodes[place].is_up() && self.stopping.iter().all(|(other, _)| *other != place);
        if idle {
            self.note(format!("{} is asked to stop", self.nodes[place].name));
            self.nodes[place].ask_to_stop();
            self.stopping.push((place, down_ms));
        }
    }

    pub(crate) fn pause(&mut self, place: Place, ms: u64) {
        self.note(format!("{} is paused for {ms} ms", self.nodes[place].name));
        self.nodes[place].paused_until = self.now + ms;
    }

    /// Ends every fault: the network and the disks are well, and every node runs.
    pub(crate) fn heal(&mut self) -> Result<(), Failure> {
        self.note("all faults end");
        self.net.heal();
        for (_, place) in std::mem::take(&mut self.restarts) {
            self.start(place)?;
        }
        for (_, down_ms) in &mut self.stopping {
            *down_ms = 0;
        }
        for node in &mut self.nodes {
            (node.paused_until, node.disk.slower_ms) = (0, 0);
        }
        Ok(())
    }

    /// One ms.
    pub(crate) fn tick(&mut self) -> Result<(), Failure> {
        self.now += 1;
        let now = self.now;
        for (_, place) in self.restarts.extract_if(.., |(at, _)| *at <= now).collect::<Vec<_>>() {
            self.start(place)?;
        }
        self.net.advance_to(self.now);
        let mut places: Vec<Place> = (0..self.nodes.len()).collect();
        places.shuffle(&mut self.order);
        for place in places {
            self.watchdog.runs(&self.nodes[place].name, self.now);
            match self.nodes[place].run_to(self.now) {
                None => {}
                Some(Ended::Stopped) => {
                    let at = self.stopping.iter().position(|(stopping, _)| *stopping == place);
                    let down_ms = at.map_or(0, |at| self.stopping.remove(at).1);
                    self.tally.stops += 1;
                    self.crash(place, Crash::Killed, down_ms)?;
                }
                Some(Ended::Failed(why)) => {
                    return Err(Failure::Node(format!("{}: {why}", self.nodes[place].name)));
                }
            }
        }
        self.watch.note_leaders(&self.nodes);
        if self.now.is_multiple_of(Watch::LOOK_MS) {
            self.look()?;
        }
        Ok(())
    }

    /// So many ms.
    pub(crate) fn ticks(&mut self, ms: u64) -> Result<(), Failure> {
        (0..ms).try_for_each(|_| self.tick())
    }

    /// Compares what the replicas have applied.
    pub(crate) fn look(&mut self) -> Result<(), Failure> {
        self.watch.applied(&self.nodes).map_err(Failure::Broken)
    }

    /// What has happened so far.
    pub(crate) fn tally(&self) -> Tally {
        let mut tally = self.tally;
        self.nodes.iter().filter_map(Node::stats).for_each(|stats| tally.note(&stats));
        // A stop ends a life as a crash does.
        tally.crashes -= tally.stops;
        tally
    }

    /// The newest map that any node has.
    pub(crate) fn map(&self) -> Option<Map> {
        let maps = self.nodes.iter().filter_map(|node| node.bare()?.router().map());
        maps.max_by_key(|map| map.epoch).map(|map| (**map).clone())
    }

    /// Why the cluster is not as it should be: every node up and ready, every shard led, its members
    /// those of the map.
    pub(crate) fn is_whole(&self) -> Result<(), String> {
        let map = self.map().ok_or("no node has a map")?;
        if map.shards.is_empty() {
            return Err("there are no shards".into());
        }
        for node in self.nodes.iter().filter(|node| !node.is_spare()) {
            let bare = node.bare().ok_or_else(|| format!("{} is down", node.name))?;
            bare.ready().map_err(|why| format!("{} is not ready: {why}", node.name))?;
            let epoch = *bare.router().epochs().borrow();
            if epoch != map.epoch {
                return Err(format!("{} is at epoch {epoch}, not {}", node.name, map.epoch));
            }
        }
        for shard in map.shards.values() {
            let (_, leader) =
                self.leader(shard.group).ok_or(format!("shard {} has no leader", shard.group))?;
            let status = leader.status();
            let wanted = shard.replicas.iter().copied().collect();
            if !shard.formed || status.voters != wanted || !status.learners.is_empty() || status.joint {
                return Err(format!("shard {}: {shard:?}, but {status:?}", shard.group));
            }
        }
        Ok(())
    }

    /// Who leads a group, by its own word, with a majority behind it.
    pub(crate) fn leader(&self, group: GroupId) -> Option<(Place, Arc<Group>)> {
        let replica = |node: &Node| Some((node.place, node.bare()?.host().get(group)?));
        let replicas = self.nodes.iter().filter_map(replica);
        replicas.filter(|(_, group)| group.status().settled).max_by_key(|(_, group)| group.status().term)
    }

    /// Why the replicas of some shard do not show the same rows, versions and times, or are not where
    /// they should be alone.
    pub(crate) fn replicas_agree(&self) -> Result<(), String> {
        let map = self.map().ok_or("no node has a map")?;
        for (arc, shard) in map.arcs() {
            let mut first = None;
            for node in &self.nodes {
                let Some(bare) = node.bare() else { continue };
                let Some(group) = bare.host().get(shard.group) else { continue };
                if !bare.links().identity().node.is_some_and(|me| shard.replicas.contains(&me)) {
                    return Err(format!("{} still has shard {}", node.name, shard.group));
                }
                let shown = rows(&group, arc)?;
                let (known, by) = first.get_or_insert_with(|| (shown.clone(), node.name.clone()));
                if *known != shown {
                    return Err(format!(
                        "shard {}: {by} shows {known:?}, {} {shown:?}",
                        shard.group, node.name
                    ));
                }
            }
        }
        Ok(())
    }

    /// Ticks until something holds; at the deadline, its last reason is the failure.
    pub(crate) fn until(
        &mut self,
        what: &str,
        within_ms: u64,
        mut step: impl FnMut(&mut World) -> Result<(), Failure>,
        mut holds: impl FnMut(&World) -> Result<(), String>,
    ) -> Result<(), Failure> {
        let deadline = self.now + within_ms;
        loop {
            self.tick()?;
            step(self)?;
            if !self.now.is_multiple_of(20) {
                continue;
            }
            match holds(self) {
                Ok(()) => return Ok(()),
                Err(why) if self.now >= deadline => {
                    return Err(Failure::TooLate(format!("{what}: {why}")));
                }
                Err(_) => {}
            }
        }
    }

    /// A node that is up, at random.
    pub(crate) fn any_up(&self, rng: &mut StdRng) -> Option<Place> {
        let up: Vec<Place> = self.nodes.iter().filter(|node| node.is_up()).map(|node| node.place).collect();
        (!up.is_empty()).then(|| up[rng.random_range(0..up.len())])
    }
}

/// What a replica shows: up to which index it has applied, and all its rows.
fn rows(group: &Group, arc: Span) -> Result<(u64, Option<Answer>), String> {
    let scan = Scan {
        table: TABLE.into(),
        prefix: String::new(),
        from: None,
        to: None,
        after: None,
        column: None,
        values: true,
        limit: 10_000,
        max_bytes: 1 << 20,
    };
    let applied = group.reader().applied().map_or(0, |id| id.index);
    let view = ShardView::of(group.reader()).map_err(|error| error.to_string())?;
    let shard = group.shard().ok_or("it keeps no rows")?;
    let answer = query::answer(&view, shard, arc, &Query::Scan(scan), At(0));
    Ok((applied, answer.map_err(|fatal| fatal.to_string())?))
}

impl Drop for World {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // The directory goes, too: whether a copy of it could be made does not matter.
            let _ = node.crash(self.now, Crash::Killed);
        }
    }
}
