//! The child: a node without a network that does to its groups what Raft would do, for ever.

use openraft::storage::{RaftLogReader, RaftLogStorage, RaftStateMachine};
use raft_store::types::{Entry, LogId};
use raft_store::{GroupLog, Options, SnapshotData, StateMachine, Store};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::common::{
    Do, Kv, Model, append_later, apply, apply_from_log, cells, command, entry, log_id, open, small,
    step_model, vote,
};
use crate::say;

pub(crate) const GROUPS: u64 = 10;

/// What the entry of a group at `index`, proposed in `term`, does.
pub(crate) fn content(group: u64, term: u64, index: u64) -> Vec<Do> {
    const PRIMES: [u64; 3] = [0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f, 0x1656_67b1_9e37_79f9];
    let seed = group.wrapping_mul(PRIMES[0]) ^ term.wrapping_mul(PRIMES[1]) ^ index.wrapping_mul(PRIMES[2]);
    let mut rng = SmallRng::seed_from_u64(seed);
    let key = |rng: &mut SmallRng| vec![b'k', rng.random_range(0..40)];
    let step = |rng: &mut SmallRng| match rng.random_range(0..100) {
        0..50 => Do::Add(key(rng), rng.random()),
        50..80 => Do::Put(key(rng), vec![rng.random(); rng.random_range(0..400)]),
        80..95 => Do::Delete(key(rng)),
        _ => Do::DeleteRange(key(rng), Some(key(rng))),
    };
    (0..rng.random_range(1..4)).map(|_| step(&mut rng)).collect()
}

pub(crate) fn entry_at(group: u64, term: u64, index: u64) -> Entry {
    entry(term, index, command(&content(group, term, index)))
}

/// Brings a model from its log id to the next.
pub(crate) fn advance(model: &mut Model, group: u64, term: u64, index: u64) {
    for step in content(group, term, index) {
        step_model(model, &step);
    }
}

pub(crate) fn run() {
    // A panic in one task would go unseen: the parent must see the child end.
    std::panic::set_hook(Box::new(|info| {
        eprintln!("child: {info}");
        std::process::abort();
    }));
    let dir = std::env::var_os("CRASH_CHILD_DIR").unwrap();
    let seed: u64 = std::env::var("CRASH_CHILD_SEED").unwrap().parse().unwrap();
    // The test harness may have left a line open.
    println!();
    say(format_args!("open"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let store = open(dir.as_ref());
        let leader = Store::open(small(Options::in_memory())).unwrap();
        let tasks = (1..=GROUPS).map(|group| {
            let rng = SmallRng::seed_from_u64(seed ^ group);
            let (store, leader) = (store.clone(), leader.clone());
            tokio::spawn(async move { Node::start(group, store, leader, rng).await.live().await })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
    });
}

struct Node {
    group: u64,
    store: Store,
    /// In memory: makes the snapshots that this node receives.
    leader: Store,
    rng: SmallRng,
    log: GroupLog,
    machine: StateMachine<Kv>,
    term: u64,
    last: u64,
    applied: u64,
    model: Model,
}

impl Node {
    async fn start(group: u64, store: Store, leader: Store, rng: SmallRng) -> Node {
        let mut log = store.log(group);
        let mut machine = store.machine(group, Kv::default()).unwrap();
        let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
        let last = index(log.get_log_state().await.unwrap().last_log_id);
        let applied = index(machine.applied_state().await.unwrap().0);
        let term = log.read_vote().await.unwrap().map_or(0, |vote| vote.leader_id.term);
        let committed = index(log.read_committed().await.unwrap());
        let model = cells(&store.reader(group));
        let mut node = Node { group, store, leader, rng, log, machine, term, last, applied, model };
        node.vote().await;
        if committed > applied {
            node.commit(committed).await;
        }
        node
    }

    async fn live(mut self) {
        loop {
            match self.rng.random_range(0..1000) {
                0..550 => self.append().await,
                550..800 if self.last > self.applied => {
                    let upto = self.rng.random_range(self.applied..self.last) + 1;
                    self.commit(upto).await;
                }
                800..850 if self.last > self.applied => {
                    let last = self.rng.random_range(self.applied..self.last);
                    self.truncate(last).await;
                }
                850..910 => self.vote().await,
                910..950 => self.purge().await,
                950..965 => self.install().await,
                965..973 => self = self.drop_replica().await,
                973..980 => assert_eq!(cells(&self.store.reader(self.group)), self.model),
                _ => {}
            }
        }
    }

    async fn append(&mut self) {
        let mut waiting = Vec::new();
        for _ in 0..self.rng.random_range(1..4) {
            let (first, count) = (self.last + 1, self.rng.random_range(1..8));
            let entries =
                (first..first + count).map(|index| entry_at(self.group, self.term, index)).collect();
            say(format_args!("a {} {first} {count} {}", self.group, self.term));
            waiting.push((first, count, append_later(&mut self.log, entries).await.unwrap()));
            self.last += count;
        }
        for (first, count, done) in waiting {
            done.await.unwrap().unwrap();
            say(format_args!("A {} {first} {count} {} {}", self.group, self.term, self.store.height()));
        }
    }

    async fn commit(&mut self, upto: u64) {
        say(format_args!("c {} {upto}", self.group));
        let id = self.id_at(upto).await;
        self.log.save_committed(Some(id)).await.unwrap();
        let entries = self.log.try_get_log_entries(self.applied + 1..=upto).await.unwrap();
        apply_from_log(&mut self.machine, &mut self.log, self.applied + 1, upto).await.unwrap();
        for entry in entries {
            advance(&mut self.model, self.group, entry.log_id.leader_id.term, entry.log_id.index);
        }
        self.applied = upto;
        say(format_args!("C {} {upto}", self.group));
    }

    async fn truncate(&mut self, last: u64) {
        let id = if last == 0 { None } else { Some(self.id_at(last).await) };
        say(format_args!("t {} {last}", self.group));
        self.log.truncate_after(id).await.unwrap();
        self.last = last;
        say(format_args!("T {} {last} {}", self.group, self.store.height()));
        // The same index never has two entries of one term.
        self.vote().await;
    }

    async fn vote(&mut self) {
        self.term += 1;
        let node = self.rng.random_range(1..4);
        say(format_args!("v {} {} {node}", self.group, self.term));
        self.log.save_vote(&vote(self.term, node)).await.unwrap();
        say(format_args!("V {} {} {node} {}", self.group, self.term, self.store.height()));
    }

    async fn purge(&mut self) {
        if self.rng.random() {
            let store = self.store.clone();
            tokio::task::spawn_blocking(move || store.flush()).await.unwrap().unwrap();
        }
        let purged = self.log.get_log_state().await.unwrap().last_purged_log_id.map_or(0, |id| id.index);
        if self.applied > purged {
            let upto = self.rng.random_range(purged..self.applied) + 1;
            let id = self.id_at(upto).await;
            say(format_args!("p {} {upto}", self.group));
            self.log.purge(id).await.unwrap();
        }
    }

    /// A leader that is ahead sends its state.
    async fn install(&mut self) {
        if self.last > self.applied {
            self.truncate(self.applied).await;
        }
        let upto = self.applied + self.rng.random_range(1..20);
        for index in self.applied + 1..=upto {
            advance(&mut self.model, self.group, self.term, index);
        }
        let mut steps = vec![Do::DeleteRange(vec![], None)];
        steps.extend(self.model.iter().map(|(key, value)| Do::Put(key.clone(), value.clone())));
        let mut leader = self.leader.machine(self.group, Kv::default()).unwrap();
        apply(&mut leader, vec![entry(self.term, upto, command(&steps))]).await.unwrap();
        let snapshot = leader.get_current_snapshot().await.unwrap().unwrap();
        let SnapshotData::Source(source) = snapshot.snapshot else { panic!("not a source") };

        let mut sink = self.store.receive_snapshot(self.group, snapshot.meta.clone());
        while !sink.is_complete() {
            sink.push(source.chunk(sink.position()).await.unwrap()).await.unwrap();
        }
        let staged = sink.finish().await.unwrap();
        say(format_args!("s {} {upto} {}", self.group, self.term));
        self.machine.install_snapshot(&snapshot.meta, SnapshotData::Staged(staged)).await.unwrap();
        say(format_args!("S {} {upto} {}", self.group, self.term));
        self.log.purge(log_id(self.term, upto)).await.unwrap();
        (self.applied, self.last) = (upto, upto);
        self.vote().await;
    }

    async fn drop_replica(self) -> Node {
        let Node { group, store, leader, rng, log, machine, .. } = self;
        say(format_args!("d {group}"));
        drop((log, machine));
        let (store, leader) = tokio::task::spawn_blocking(move || {
            store.drop_group(group).unwrap();
            leader.drop_group(group).unwrap();
            (store, leader)
        })
        .await
        .unwrap();
        say(format_args!("D {group} {}", store.height()));
        let node = Node::start(group, store, leader, rng).await;
        assert_eq!((node.last, node.applied, node.model.len()), (0, 0, 0));
        node
    }

    async fn id_at(&mut self, index: u64) -> LogId {
        let state = self.log.get_log_state().await.unwrap();
        match state.last_purged_log_id {
            Some(purged) if purged.index == index => purged,
            _ => self.log.try_get_log_entries(index..=index).await.unwrap()[0].log_id,
        }
    }
}
