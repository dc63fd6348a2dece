//! All Raft groups of a node: starting and stopping them, handing them their messages, taking over
//! from leaders that died, and keeping their logs short.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use openraft::{ServerState, SnapshotPolicy, storage::RaftLogStorage as _};
use parking_lot::RwLock;
use raft_store::Store;
use tokio::{sync::Notify, time::Instant};

use super::{
    alarms::{Alarms, Timer},
    freshness::ASK_TIMEOUT,
    group::{Common, Group},
    log_limits::{Log, LogLimits, SharedIndex},
    machine::Machine,
    pulse::{self, Pulse},
    reads::{self, Reads},
    receive,
    snapshots::{Arrivals, Turns},
    take_over,
    transport::{GoneHint, Transport},
    types::{LogId, Raft},
    wire::{self, Answer, method},
};
use crate::{
    error::Error,
    ids::{GroupId, NodeId},
    peer::{Conn, Lane, Links, Peer, Reply},
    shard::Shard,
};

/// The time that openraft gives a vote request, and a new leader to flush its log, milliseconds.
const VOTE_TIMEOUT_MS: u64 = 600;

/// The time for the answer to a leader's sign to a replica that does not follow it yet, milliseconds.
const SIGN_TIMEOUT_MS: u64 = 200;

/// openraft's lease: as good as for ever. It would else refuse the writes of a leader that has sent
/// nothing for so long, idle though it may be; who may stand against whom is for [`super::liveness`].
const LEASE_MS: u64 = 365 * 24 * 3600 * 1000;

/// The time openraft gives a snapshot to be sent and installed.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(600);

/// See [`Host::log_end`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEnd {
    purged: Option<LogId>,
    last: Option<LogId>,
}

/// What groups can only run with.
#[derive(Clone)]
struct Connected {
    links: Arc<Links>,
    reads: Arc<Reads>,
    alarms: Arc<Alarms>,
}

/// The groups of a node.
pub struct Host {
    store: Store,
    pulse: Pulse,
    connected: OnceLock<Connected>,
    groups: RwLock<BTreeMap<GroupId, Arc<Group>>>,
    /// Held while a group starts, and while one is wiped: what is being removed must not start again.
    lifecycle: tokio::sync::Mutex<()>,
    arrivals: Arrivals,
    turns: Arc<Turns>,
    forked: Arc<Notify>,
    /// No group starts any more.
    closed: AtomicBool,
}

impl Host {
    /// No groups yet.
    pub fn new(store: Store) -> Arc<Self> {
        let arrivals = Arrivals::new(store.clone());
        Arc::new(Self {
            store,
            pulse: Pulse::default(),
            connected: OnceLock::new(),
            groups: RwLock::default(),
            lifecycle: tokio::sync::Mutex::default(),
            arrivals,
            turns: Arc::default(),
            forked: Arc::default(),
            closed: AtomicBool::new(false),
        })
    }

    /// The connections over which the groups talk, and their clock; to be set once, before the first
    /// group starts.
    pub fn connect(self: &Arc<Self>, links: Arc<Links>, timer: Timer) {
        // The handler of the links needs the host, and the host the links.
        let reads = Reads::new(self.store.clone(), links.clone());
        let alarms = Arc::new(Alarms::start(timer));
        let connected = Connected { links: links.clone(), reads, alarms };
        assert!(self.connected.set(connected).is_ok(), "connected once");
        tokio::spawn(pulse::run(Arc::downgrade(self), links, self.pulse.clone()));
    }

    fn links(&self) -> Option<&Arc<Links>> {
        self.connected.get().map(|connected| &connected.links)
    }

    /// The store of the groups.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// A group that runs here.
    pub fn get(&self, id: GroupId) -> Option<Arc<Group>> {
        self.groups.read().get(&id).cloned()
    }

    /// Every group that runs here.
    pub fn all(&self) -> Vec<Arc<Group>> {
        self.groups.read().values().cloned().collect()
    }

    /// The machine of a shard, for [`Host::start`].
    pub fn shard(&self, shard: Shard) -> Machine {
        Machine::shard(shard, self.forked.clone())
    }

    /// Returns when a shard here was split since the last time.
    pub async fn forked(&self) {
        self.forked.notified().await;
    }

    /// Starts a group, or returns it where it runs already.
    pub async fn start(&self, id: GroupId, me: NodeId, machine: Machine) -> Result<Arc<Group>, Error> {
        let _turn = self.lifecycle.lock().await;
        if let Some(group) = self.get(id) {
            return Ok(group);
        }
        let failed = |error: &dyn std::fmt::Display| Error::Unavailable(format!("start group {id}: {error}"));
        let connected = self.connected.get().ok_or_else(|| failed(&"the node is not connected yet"))?;
        let Connected { links, reads, alarms } = connected.clone();
        let (gone, shared) = (GoneHint::default(), SharedIndex::default());
        let turns = self.turns.clone();
        let transport = Transport { group: id, links, turns, gone: gone.clone(), shared: shared.clone() };
        let shard = match &machine {
            Machine::Shard { shard, .. } => Some(*shard),
            Machine::Coordinator(_) => None,
        };
        let machine = self.store.machine(id.0, machine).map_err(|error| failed(&error))?;
        let config = Arc::new(config(id).validate().map_err(|error| failed(&error))?);
        let raft = Raft::new(me.0, config, transport, self.store.log(id.0), machine)
            .await
            .map_err(|error| failed(&error))?;
        self.pulse.table.lock().set_me(me);
        let common = Common { store: self.store.clone(), reads, pulse: self.pulse.clone(), alarms };
        let group = Arc::new(Group::new(id, me, raft, shard, common, gone, shared));
        {
            // Looked at under the lock under which they are taken out to be stopped.
            let mut groups = self.groups.write();
            if !self.closed.load(Ordering::Relaxed) {
                groups.insert(id, group.clone());
                return Ok(group);
            }
        }
        group.stop().await;
        Err(failed(&"all groups here are stopped"))
    }

    /// Stops a group; what it has stays on disk.
    pub async fn stop(&self, id: GroupId) {
        let group = self.groups.write().remove(&id);
        if let Some(group) = group {
            group.stop().await;
        }
    }

    /// Where a replica's log ends: the same end later says that nobody has sent it anything meanwhile.
    pub async fn log_end(&self, id: GroupId) -> Result<LogEnd, Error> {
        let state = self.store.log(id.0).get_log_state().await;
        let state = state.map_err(|error| Error::Unavailable(error.to_string()))?;
        Ok(LogEnd { purged: state.last_purged_log_id, last: state.last_log_id })
    }

    /// Stops a group and removes all that it has, except its vote: a replica that comes back here
    /// later must not vote twice in one term. Tells whether it did: where the log no longer ends at
    /// `end`, somebody counts on this replica again, and it stays.
    pub async fn wipe(&self, id: GroupId, end: &LogEnd) -> Result<bool, Error> {
        let _turn = self.lifecycle.lock().await;
        // From here on nothing more is taken, so that nothing is acknowledged behind the look.
        self.stop(id).await;
        if self.log_end(id).await? != *end {
            return Ok(false);
        }
        let store = self.store.clone();
        let wiped = tokio::task::spawn_blocking(move || store.drop_group(id.0)).await;
        wiped
            .map_err(|error| Error::Unavailable(error.to_string()))?
            .map_err(|error| Error::Unavailable(error.to_string()))?;
        Ok(true)
    }

    /// Whether a peer's call is for a group.
    pub fn takes(what: u8) -> bool {
        what <= method::LAST
    }

    /// Takes a peer's call for a group; calls arrive in order and this does not block.
    pub fn dispatch(&self, from: &Arc<Conn>, what: u8, mut body: Bytes, reply: Reply) {
        let refuse = |reply: Reply, why: String| reply.send(wire::answer::<()>(&Err(why)));
        if what == method::STANDS {
            if let Ok(answer) = reads::answer(&self.store, body) {
                reply.send(answer);
            }
            return;
        }
        if what == method::BEAT {
            if let Ok(answer) = pulse::hear(self, &self.pulse, from, &body) {
                reply.send(answer);
            }
            return;
        }
        let group = match wire::group(&mut body) {
            Ok(id) => self.get(id).ok_or(id),
            Err(malformed) => return refuse(reply, malformed.to_string()),
        };
        match (group, self.links()) {
            (Ok(group), Some(_)) if (method::SNAPSHOT_BEGIN..=method::SNAPSHOT_END).contains(&what) => {
                self.arrivals.receive(&group, from, what, body, reply);
            }
            (Ok(group), Some(links)) => receive::receive(&group, links, from, what, body, reply),
            (Ok(_), None) => refuse(reply, "this node is starting".into()),
            (Err(id), _) => refuse(reply, format!("group {id} is not on this node")),
        }
    }

    /// Has a replica find out how fresh its state is, behind a stale read and without waiting for it.
    pub fn freshen(&self, group: &Arc<Group>) {
        let (Some(leader), Some(links)) = (group.leader(), self.links()) else { return };
        let asked = Instant::now();
        if group.freshness.begin(asked) {
            tokio::spawn(ask_read_index(group.clone(), links.clone(), leader, asked));
        }
    }

    /// Stands for election, at once, in every group that a dead process led. It is only told of
    /// processes that are gone (D15); a silent network is left to `consensus::liveness`.
    pub fn take_over_from(&self, gone: NodeId) {
        for group in self.all() {
            let status = group.status();
            if status.leader == Some(gone) && status.voters.contains(&group.me) {
                let links = self.links().expect("groups start after the links are set").clone();
                tokio::spawn(take_over::run(group, links, gone));
            }
        }
    }

    /// Stands for election in a group that has come into being by a split, until it has a leader.
    pub fn stand(&self, group: Arc<Group>) {
        let links = self.links().expect("groups start after the links are set").clone();
        tokio::spawn(take_over::stand_until_led(group, links));
    }

    /// Shortens logs by what is not needed any more. Two calls do it: the first makes the applied state
    /// durable and notes a snapshot there, the next one drops the entries behind it; true if there
    /// should be a next one soon.
    pub async fn compact(&self, limits: &LogLimits) -> Result<bool, Error> {
        let mut logs: Vec<_> = self.all().into_iter().map(|group| (self.look(&group), group)).collect();
        let count = logs.len() as u64;
        for (log, group) in &mut logs {
            if group.is_leader() && log.is_news(group.shared.get(), limits, count) {
                group.shared.set(log.shared.unwrap_or(0));
                // Where no append follows, this tells it.
                let _ = group.raft.trigger().heartbeat().await;
            }
            let upto = log.purge_to(limits, count);
            if upto > log.purged {
                // Fails only when the group has stopped.
                let _ = group.raft.trigger().purge_log(upto).await;
                log.purge(upto);
            }
        }
        let spare: u64 = logs.iter().map(|(log, _)| log.spare_bytes(limits, count)).sum();
        let is_due = |log: &Log| {
            let own = log.spare_bytes(limits, count);
            // Not for those that hold next to nothing of it.
            let has_share = spare >= limits.spare_bytes && own * count * 2 >= spare;
            has_share && own > 0 && log.snapshot < log.applied
        };
        let due: Vec<_> = logs.iter().filter(|(log, _)| is_due(log)).map(|(_, group)| group).collect();
        if due.is_empty() {
            return Ok(false);
        }
        // One flush serves them all.
        let store = self.store.clone();
        let flushed = tokio::task::spawn_blocking(move || store.flush()).await;
        flushed
            .map_err(|error| Error::Unavailable(error.to_string()))?
            .map_err(|error| Error::Unavailable(format!("flush: {error}")))?;
        for group in due {
            let _ = group.raft.trigger().snapshot().await;
        }
        Ok(true)
    }

    /// A group's log, as far as shortening it is concerned.
    fn look(&self, group: &Group) -> Log {
        let (size, durable) = (self.store.log_size(group.id.0), self.store.durable_index(group.id.0));
        group.metrics(|metrics| {
            let index = |id: &Option<LogId>| id.map_or(0, |id| id.index);
            let members = metrics.replication.iter().flatten();
            let shared =
                members.filter(|(id, _)| **id != group.me.0).map(|(_, matched)| index(matched)).min();
            let leads = metrics.state == ServerState::Leader;
            Log {
                purged: index(&metrics.purged),
                snapshot: index(&metrics.snapshot).min(durable),
                applied: index(&metrics.last_applied),
                shared: if leads { shared } else { Some(group.shared.get()) },
                entries: size.entries,
                bytes: size.bytes,
            }
        })
    }

    /// Gives every leadership away, waiting at most until the deadline.
    pub async fn hand_over(&self, deadline: Instant) {
        let lives = |node| self.links().is_some_and(|links| !links.is_gone(node));
        join_all(self.all().iter().map(|group| group.hand_over(lives, deadline))).await;
    }

    /// Stops every group, and starts none any more.
    pub async fn shutdown(&self) {
        let groups: Vec<_> = {
            let mut groups = self.groups.write();
            self.closed.store(true, Ordering::Relaxed);
            std::mem::take(&mut *groups).into_values().collect()
        };
        join_all(groups.iter().map(|group| group.stop())).await;
    }
}

fn config(id: GroupId) -> openraft::Config {
    openraft::Config {
        cluster_name: format!("group-{id}"),
        // Who lives and who stands is found out per pair of nodes and not per group (`super::pulse`).
        enable_tick: false,
        enable_heartbeat: false,
        enable_elect: false,
        enable_pre_vote: Some(false),
        heartbeat_interval: SIGN_TIMEOUT_MS,
        election_timeout_min: VOTE_TIMEOUT_MS,
        election_timeout_max: LEASE_MS,
        max_payload_entries: 256,
        // Logs are shortened by `Host::compact`, which flushes once for all groups.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        install_snapshot_timeout: u64::try_from(SNAPSHOT_TIMEOUT.as_millis()).unwrap_or(u64::MAX),
        // A restarted replica has applied an older state than it may have served before.
        enable_leader_restore: Some(false),
        backoff: "50ms 100ms 200ms ...1s".into(),
        ..openraft::Config::default()
    }
}

/// Asks a group's leader up to where this replica has to be to show what was acknowledged by `asked`.
async fn ask_read_index(group: Arc<Group>, links: Arc<Links>, leader: NodeId, asked: Instant) {
    let deadline = asked + ASK_TIMEOUT;
    let index = if leader == group.me {
        group.read_index(deadline).await.ok()
    } else {
        let (leader, body) = (Peer::Node(leader), wire::message(group.id, &()));
        let answer = links.call(&leader, Lane::Main, method::READ_INDEX, body, deadline).await;
        let answer = answer.ok().and_then(|answer| wire::read::<Answer<u64>>(&answer).ok());
        answer.and_then(Result::ok)
    };
    group.freshness.told(asked, index);
}
