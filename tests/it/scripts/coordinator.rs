//! The scripts of the coordinators' state machine and of the plan.
//!
//! ```text
//! found [replication=N] [shards=N] [split_size=BYTES] [coordinators=N] [cluster=N]
//! join ID [store=N] [addr=ADDR] [zone=ZONE] [node=N] [replace=yes] [opening=N] [height=N]
//! ping ID ADDR, drain ID, undrain ID, remove ID, formed GROUP…
//! split GROUP POSITION [epoch=N]           in hex
//! place [epoch=N] START:NODE,NODE… …      START is the shard's number, 1 the first; new ones: START:new:NODE,…
//! seat ADDR [store=N] [among=N,…]          a coordinator is added
//! unseat NODE [among=N,…]                  and removed; among: those that the map has, unless told
//! group VOTERS [learners=N,…] [unsettled=yes] [alive=N,…]    what the coordinators' leader sees; alive: the voters
//! changes                                  coordinators on their way in or out
//! may seat ADDR [store=N], may unseat NODE, may drain ID, may remove ID
//! map, status                              the map; what GET /cluster makes of it
//!
//! active NODE…, silent MS NODE…            what was heard of workers
//! heard ID…                                of ids that only ping
//! clock NODE MS, limp NODE                 by how much a worker's clock is off (0: right); its disk limps
//! waited MS                                how long the first worker has waited
//! lead NODE GROUP…                         who leads; voters and learners stay
//! voters GROUP NODE,…, learners GROUP NODE,…, leaderless GROUP…
//! size GROUP BYTES [old]                   of its arc in the map, or of the one before the last split
//! plan [moves=N] [per_worker=N] [transfers=N]     the next steps
//! act …                                    the same, and applies what they propose
//! settle                                   shards without a report get their primary as leader, members
//!                                          become what the map says, transfers happen
//! run …                                    plan, apply and settle until there is nothing to do
//! ```
//! After every command the state is read back from its records, and the records that it said were
//! changed are enough to keep a copy current.

mod joining;
mod seating;

use std::{collections::BTreeMap, fmt::Write as _};

use quoring::{
    command::At,
    config::{Partitioner, Settings},
    coordinator::{
        command::{Command, Reply},
        leave,
        machine::State,
        observed::{Heartbeat, Observed, ShardSeen, WorkerSeen},
        plan::{self, Step},
        records::Changed,
        seats, status,
    },
    ids::{ClusterId, Epoch, GroupId, NodeId, Position, StoreId},
    ring::map::{Coordinator, Map, Shard},
};
use uuid::Uuid;

use super::Words;

#[derive(Default)]
struct Coordinators {
    state: State,
    /// The records as they would be on disk.
    disk: BTreeMap<Vec<u8>, Vec<u8>>,
    observed: Observed,
    at: u64,
}

#[test]
fn coordinator() {
    super::run("coordinator", Coordinators::default, Coordinators::command);
}

#[test]
fn plan() {
    super::run("plan", Coordinators::default, Coordinators::command);
}

impl Coordinators {
    fn command(&mut self, line: &str) -> String {
        self.at += 1_000;
        let mut words = Words::new(line);
        match words.next() {
            "found" => self.found(&mut words),
            "join" => self.join(&mut words),
            "ping" => {
                let (id, addr) = (words.next().parse().unwrap(), words.next().to_owned());
                self.apply(&Command::Ping { id, addr })
            }
            "place" => self.place(&mut words),
            "split" => {
                let (group, at) = (GroupId(words.number()), position(words.next()));
                let epoch = words.named_number("epoch").map_or_else(|| self.map().epoch, Epoch);
                self.apply(&Command::Split { epoch, group, at })
            }
            "formed" => {
                let groups = words.rest().iter().map(|group| GroupId(group.parse().unwrap())).collect();
                self.apply(&Command::Formed { groups })
            }
            "drain" => self.apply(&Command::Drain { worker: words.next().parse().unwrap(), draining: true }),
            "undrain" => {
                self.apply(&Command::Drain { worker: words.next().parse().unwrap(), draining: false })
            }
            "remove" => self.apply(&Command::Remove { worker: words.next().parse().unwrap() }),
            "seat" | "unseat" => self.seat(line, &mut words),
            "group" => self.group(&mut words),
            "changes" => self.changes(),
            "map" => self.show_map(),
            "status" => self.show_status(),
            "may" => self.may(&mut words),
            "plan" => show_steps(&self.steps(&mut words)),
            "act" => {
                let steps = self.steps(&mut words);
                show_steps(&steps) + &self.act(&steps)
            }
            "run" => self.run_plan(&mut words),
            "settle" => {
                self.settle();
                String::new()
            }
            verb => {
                self.observe(verb, &mut words);
                String::new()
            }
        }
    }

    fn apply(&mut self, command: &Command) -> String {
        let before = self.state.clone();
        let (reply, changed) = self.state.apply(command, At(self.at));
        for record in changed.iter() {
            match self.state.write(record) {
                (key, Some(value)) => self.disk.insert(key, value),
                (key, None) => self.disk.remove(&key),
            };
        }
        assert_eq!(self.state.records().collect::<BTreeMap<_, _>>(), self.disk, "after {command:?}");
        assert_eq!(State::from_records(&self.disk).unwrap(), self.state, "after {command:?}");
        if let Some(map) = self.state.map() {
            assert_eq!(map.check(), Ok(()), "after {command:?}");
            let epoch = |state: &State| state.map().map(|map| map.epoch);
            assert_eq!(epoch(&before) != epoch(&self.state), before.map() != self.state.map());
            assert_eq!(changed.map_changed(), before.map() != self.state.map());
        }
        let shown = match reply {
            Reply::Done { epoch } => format!("done, epoch {epoch}"),
            Reply::Joined { node, epoch, .. } => format!("joined as node {node}, epoch {epoch}"),
            Reply::Refused(sentence) => format!("refused: {sentence}"),
            Reply::Unknown(sentence) => format!("unknown: {sentence}"),
            Reply::Outgrown { height } => format!("outgrown: the store was at {height}"),
            Reply::Split { shard, epoch } => format!("split off shard {shard}, epoch {epoch}"),
        };
        format!("{shown}\n{}", show_changed(&changed))
    }

    fn found(&mut self, words: &mut Words<'_>) -> String {
        let settings = Settings {
            name: "demo".to_owned(),
            replication: words.named_number("replication").unwrap_or(3) as u32,
            shards: words.named_number("shards").unwrap_or(4) as u32,
            partitioner: Partitioner::Xxh3,
            ping_interval_ms: 5_000,
            inactive_after_ms: 15_000,
            replace_after_ms: 60_000,
            request_timeout_ms: 5_000,
            max_value_bytes: 8 << 20,
            split_size_bytes: words.named_number("split_size").unwrap_or(0),
        };
        let coordinators = (1..=words.named_number("coordinators").unwrap_or(3))
            .map(|node| {
                let store = StoreId(Uuid::from_u128(node.into()));
                (NodeId(node), Coordinator { addr: format!("h:700{node}"), store })
            })
            .collect();
        let cluster = ClusterId(Uuid::from_u128(words.named_number("cluster").unwrap_or(1).into()));
        self.apply(&Command::Found { cluster, settings, coordinators })
    }

    fn map(&self) -> &Map {
        self.state.map().unwrap()
    }

    fn place(&mut self, words: &mut Words<'_>) -> String {
        let map = self.map();
        let epoch = words.named_number("epoch").map_or(map.epoch, Epoch);
        let shards = words
            .rest()
            .iter()
            .map(|word| {
                let (number, replicas) = word.split_once(':').unwrap();
                let number: usize = number.parse().unwrap();
                let (is_new, replicas) = match replicas.strip_prefix("new:") {
                    Some(replicas) => (true, replicas),
                    None => (false, replicas),
                };
                let replicas = nodes(replicas);
                if is_new {
                    let start = Position((number as u64 - 1) << 62);
                    (start, Shard { group: Shard::UNNUMBERED, replicas, formed: false, parent: None })
                } else {
                    let (start, shard) = map.shards.iter().nth(number - 1).unwrap();
                    (*start, Shard { replicas, ..shard.clone() })
                }
            })
            .collect();
        self.apply(&Command::Place { epoch, shards })
    }

    fn observe(&mut self, verb: &str, words: &mut Words<'_>) {
        let groups = |words: &mut Words<'_>| -> Vec<GroupId> {
            words.rest().iter().map(|group| GroupId(group.parse().unwrap())).collect()
        };
        match verb {
            "waited" => self.observed.first_worker_waited_ms = words.number(),
            "active" | "silent" => {
                let silent_for_ms = if verb == "silent" { words.number() } else { 0 };
                let active = silent_for_ms < 15_000;
                let last_ping = Some(At(self.at.saturating_sub(silent_for_ms)));
                for node in words.rest() {
                    let seen = WorkerSeen { active, silent_for_ms, last_ping, ..Default::default() };
                    self.observed.workers.insert(NodeId(node.parse().unwrap()), seen);
                }
            }
            "clock" => {
                let node = NodeId(words.number());
                let off_ms = words.next().parse().unwrap();
                let seen = self.observed.workers.entry(node).or_default();
                seen.clock_off_ms = Some(off_ms).filter(|off| *off != 0);
            }
            "limp" => self.observed.workers.entry(NodeId(words.number())).or_default().limps = true,
            "heard" => {
                for id in words.rest() {
                    let heartbeat = Heartbeat { active: true, last_ping: Some(At(self.at)) };
                    self.observed.pinged.insert(id.parse().unwrap(), heartbeat);
                }
            }
            "lead" => {
                let leader = NodeId(words.number());
                for group in groups(words) {
                    self.seen(group).leader = Some(leader);
                }
            }
            "size" => {
                let (group, bytes) = (GroupId(words.number()), words.number());
                let (start, shard) = self.state.shard(group).unwrap();
                let (arc, is_child) = (self.map().span(start), shard.parent.is_some());
                let has_split =
                    is_child || self.map().shards.values().any(|shard| shard.parent == Some(group));
                let seen = self.seen(group);
                seen.bytes = Some(bytes);
                seen.arc = has_split.then_some(arc);
                if words.rest() == ["old"] {
                    seen.arc = None;
                }
            }
            "leaderless" => {
                for group in groups(words) {
                    self.seen(group).leader = None;
                }
            }
            "voters" | "learners" => {
                let (group, nodes) = (GroupId(words.number()), nodes(words.next()));
                let seen = self.seen(group);
                *if verb == "voters" { &mut seen.voters } else { &mut seen.learners } = nodes;
            }
            _ => panic!("no such command: {verb}"),
        }
    }

    /// What was heard of a shard; at first, that its members are the map's.
    fn seen(&mut self, group: GroupId) -> &mut ShardSeen {
        let voters = self.state.shard(group).unwrap().1.replicas.clone();
        self.observed.shards.entry(group).or_insert(ShardSeen { term: 1, voters, ..ShardSeen::default() })
    }

    fn steps(&self, words: &mut Words<'_>) -> Vec<Step> {
        let mut policy = plan::Policy::default();
        let mut bound = |name, bound: &mut usize| {
            if let Some(value) = words.named_number(name) {
                *bound = value as usize;
            }
        };
        bound("moves", &mut policy.moves_max);
        bound("per_worker", &mut policy.moves_per_worker_max);
        bound("transfers", &mut policy.transfers_max);
        let steps = plan::steps(self.map(), &policy, &self.observed);
        assert_eq!(steps, plan::steps(self.map(), &policy, &self.observed), "same input, same steps");
        steps
    }

    fn act(&mut self, steps: &[Step]) -> String {
        let mut shown = String::new();
        for step in steps {
            if let Step::Propose(command) = step {
                let reply = self.apply(command);
                writeln!(shown, "-> {}", reply.lines().next().unwrap()).unwrap();
            }
        }
        shown
    }

    /// What the shards' leaders do: members become what the map says. A leader that is not among
    /// them any more is followed by the primary.
    fn settle(&mut self) {
        for shard in self.map().shards.values().cloned().collect::<Vec<_>>() {
            let seen = self.seen(shard.group);
            seen.voters.clone_from(&shard.replicas);
            seen.learners.clear();
            if seen.leader.is_none_or(|leader| !shard.replicas.contains(&leader)) {
                seen.leader = shard.replicas.first().copied();
            }
        }
    }

    fn run_plan(&mut self, words: &mut Words<'_>) -> String {
        let (mut rounds, mut moves, mut transfers) = (0, 0, 0);
        let bounds = words.line.to_owned();
        words.named.clear();
        loop {
            let steps = self.steps(&mut Words::new(&bounds.replacen("run", "", 1)));
            if steps.is_empty() {
                return format!("{rounds} rounds, {moves} changes of members, {transfers} transfers");
            }
            assert!(rounds < 1_000, "the plan does not end: {steps:?}");
            rounds += 1;
            for step in &steps {
                match step {
                    Step::Propose(Command::Place { shards, .. }) => {
                        let sorted = |shard: &Shard| {
                            let mut replicas = shard.replicas.clone();
                            replicas.sort();
                            replicas
                        };
                        let map = self.map();
                        moves += shards
                            .iter()
                            .filter(|(start, shard)| {
                                map.shards.get(start).is_some_and(|old| sorted(old) != sorted(shard))
                            })
                            .count();
                    }
                    Step::Propose(_) | Step::Split { .. } => {}
                    Step::TransferLeader { group, to } => {
                        transfers += 1;
                        self.seen(*group).leader = Some(*to);
                    }
                }
            }
            let acted = self.act(&steps);
            assert!(!acted.contains("refused"), "{acted}");
            self.settle();
        }
    }

    fn may(&mut self, words: &mut Words<'_>) -> String {
        let verb = words.next();
        let map = self.map();
        let judged = match verb {
            "seat" => return self.may_seat(words),
            "unseat" => seats::may_remove(map, &self.observed.seats, NodeId(words.number())),
            _ => {
                let id = words.next().parse().unwrap();
                self.may_leave(verb, &id)
            }
        };
        judged.map_or_else(|sentence| format!("no: {sentence}"), |()| "yes".to_owned())
    }

    fn may_leave(&self, verb: &str, id: &quoring::ids::WorkerId) -> Result<(), String> {
        let map = self.map();
        match verb {
            "drain" => leave::may_drain(map, &self.observed, id),
            "remove" => leave::may_remove(map, &self.observed, map.worker(id).unwrap().0),
            _ => panic!("no such question: {verb}"),
        }
    }

    fn show_map(&self) -> String {
        let Some(map) = self.state.map() else { return "no map".to_owned() };
        let mut shown = format!("epoch {}\n", map.epoch);
        // Shown where they are no longer the founders.
        if map.coordinators.iter().any(|(node, seat)| seat.addr != format!("h:700{node}")) {
            for (node, seat) in &map.coordinators {
                writeln!(shown, "coordinator {node} at {}", seat.addr).unwrap();
            }
        }
        for (node, worker) in &map.workers {
            let zone = worker.zone.as_deref().map_or(String::new(), |zone| format!(" in {zone}"));
            let draining = if worker.draining { ", draining" } else { "" };
            writeln!(shown, "node {node}: {} at {}{zone}{draining}", worker.id, worker.addr).unwrap();
        }
        for (start, shard) in &map.shards {
            let formed = if shard.formed { "" } else { ", not formed" };
            let parent = shard.parent.map_or(String::new(), |parent| format!(", from shard {parent}"));
            writeln!(
                shown,
                "shard {} at {start}: {}{parent}{formed}",
                shard.group,
                show_nodes(&shard.replicas)
            )
            .unwrap();
        }
        for (id, pinged) in self.state.pinged() {
            writeln!(shown, "pinged: {id} at {}", pinged.addr).unwrap();
        }
        shown
    }

    fn show_status(&self) -> String {
        let Some(cluster) = status::cluster(&self.state, &self.observed) else {
            return "no cluster".to_owned();
        };
        let mut shown = String::new();
        for worker in &cluster.workers {
            let ranges: Vec<String> =
                worker.ranges.iter().map(|range| format!("{}-{}", range.start, range.end)).collect();
            writeln!(
                shown,
                "{}{}{}, last ping {}, leads {} of {}, ranges {}",
                worker.id,
                if worker.joined { "" } else { " (only pinged)" },
                if worker.active { " active" } else { " not active" },
                worker.last_ping.as_deref().unwrap_or("never"),
                worker.leads,
                worker.holds,
                ranges.join(" ")
            )
            .unwrap();
        }
        let names = |ids: &[quoring::ids::WorkerId]| {
            ids.iter().map(|id| id.to_string()).collect::<Vec<_>>().join(",")
        };
        for shard in &cluster.shards {
            let leader = shard.leader.as_ref().map_or("nobody", |leader| leader.as_str());
            writeln!(
                shown,
                "shard {} {}-{} on {}, led by {leader}",
                shard.id,
                shard.start,
                shard.end,
                names(&shard.replicas)
            )
            .unwrap();
        }
        for a_move in &cluster.moves {
            if let Some(into) = a_move.into {
                writeln!(shown, "splitting shard {} into {into}, too", a_move.shard).unwrap();
                continue;
            }
            let (adding, removing) = (names(&a_move.adding), names(&a_move.removing));
            writeln!(shown, "moving shard {}: adding {adding}; removing {removing}", a_move.shard).unwrap();
        }
        shown
    }
}

fn position(hex: &str) -> Position {
    Position(u64::from_str_radix(hex, 16).unwrap())
}

fn nodes(list: &str) -> Vec<NodeId> {
    list.split(',').filter(|node| !node.is_empty()).map(|node| NodeId(node.parse().unwrap())).collect()
}

fn show_nodes(nodes: &[NodeId]) -> String {
    nodes.iter().map(|node| node.to_string()).collect::<Vec<_>>().join(",")
}

fn show_changed(changed: &Changed) -> String {
    let records: Vec<String> = changed.iter().map(|record| format!("{record:?}")).collect();
    if records.is_empty() { String::new() } else { format!("  wrote {}\n", records.join(", ")) }
}

fn show_steps(steps: &[Step]) -> String {
    let mut shown = String::new();
    for step in steps {
        match step {
            Step::Propose(Command::Place { epoch, shards }) => {
                writeln!(shown, "place at epoch {epoch}:").unwrap();
                for (start, shard) in shards {
                    writeln!(shown, "  shard {} at {start}: {}", shard.group, show_nodes(&shard.replicas))
                        .unwrap();
                }
            }
            Step::Propose(command) => writeln!(shown, "{command:?}").unwrap(),
            Step::TransferLeader { group, to } => {
                writeln!(shown, "transfer shard {group} to node {to}").unwrap()
            }
            Step::Split { group } => writeln!(shown, "split shard {group}").unwrap(),
        }
    }
    if shown.is_empty() { "nothing to do\n".to_owned() } else { shown }
}
