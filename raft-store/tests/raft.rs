//! Real Raft groups over stores on disk: writes, purge, a snapshot to a new member, restart, drop.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{Config, OptionalSend, SnapshotPolicy};
use parking_lot::Mutex;
use raft_store::types::{Node, TypeConfig, Vote};
use raft_store::{SnapshotData, StateMachine, Store};
use tempfile::TempDir;
use tokio::time::interval;

use crate::common::{Do, Kv, cells, command, open};

mod common;

type Raft = openraft::Raft<TypeConfig, StateMachine<Kv>>;
type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotData>;
/// Between two looks at something that is waited for.
const POLL: Duration = Duration::from_millis(50);
const PATIENCE: Option<Duration> = Some(Duration::from_secs(30));

/// All nodes of the process, by group and node.
#[derive(Clone, Default)]
struct Network(Arc<Mutex<Nodes>>);

type Nodes = BTreeMap<(u64, u64), (Raft, Store)>;

struct Link {
    network: Network,
    group: u64,
    target: u64,
}

#[derive(Clone)]
struct Links(Network, u64);

impl RaftNetworkFactory<TypeConfig> for Links {
    type Network = Link;

    async fn new_client(&mut self, target: u64, _: &Node) -> Link {
        Link { network: self.0.clone(), group: self.1, target }
    }
}

impl Link {
    fn target(&self) -> Result<(Raft, Store), Unreachable<TypeConfig>> {
        let node = self.network.0.lock().get(&(self.group, self.target)).cloned();
        node.ok_or_else(|| Unreachable::from_string("the node is down"))
    }
}

fn failed(error: impl std::fmt::Display) -> NetworkError<TypeConfig> {
    NetworkError::from_string(error.to_string())
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        Ok(self.target()?.0.append_entries(rpc).await.map_err(failed)?)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Ok(self.target()?.0.vote(rpc).await.map_err(failed)?)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let (raft, store) = self.target()?;
        let SnapshotData::Source(source) = snapshot.snapshot else { panic!("not a source") };
        let mut sink = store.receive_snapshot(self.group, snapshot.meta.clone());
        while !sink.is_complete() {
            let chunk = source.chunk(sink.position()).await.map_err(failed)?;
            sink.push(chunk).await.map_err(failed)?;
        }
        let staged = sink.finish().await.map_err(failed)?;
        let snapshot = Snapshot { meta: snapshot.meta, snapshot: SnapshotData::Staged(staged) };
        Ok(raft.install_full_snapshot(vote, snapshot).await.map_err(failed)?)
    }
}

async fn start(network: &Network, group: u64, id: u64, store: &Store) -> Raft {
    let config = Config {
        heartbeat_interval: 100,
        election_timeout_min: 400,
        election_timeout_max: 800,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    let machine = store.machine(group, Kv::default()).unwrap();
    let links = Links(network.clone(), group);
    let config = Arc::new(config.validate().unwrap());
    let raft = Raft::new(id, config, links, store.log(group), machine).await.unwrap();
    network.0.lock().insert((group, id), (raft.clone(), store.clone()));
    raft
}

/// Writes through whoever leads; gives the reply.
async fn write(rafts: &[Raft], key: &str, value: &str) -> Vec<u8> {
    let steps = [Do::Put(key.into(), value.into()), Do::Get(key.into())];
    let mut looks = interval(POLL);
    for _ in 0..200 {
        looks.tick().await;
        for raft in rafts {
            if let Ok(written) = raft.client_write(command(&steps)).await {
                return written.data.0[1].to_vec();
            }
        }
    }
    panic!("nobody leads");
}

async fn applied_everywhere(rafts: &[Raft]) {
    let metrics = rafts.iter().map(|raft| raft.metrics().borrow_watched().last_log_index.unwrap_or(0));
    let last = metrics.max().unwrap();
    for raft in rafts {
        raft.wait(PATIENCE).applied_index_at_least(Some(last), "applied").await.unwrap();
    }
}

fn node(store: &Store) -> Node {
    Node { addr: "localhost:1".to_owned(), store: store.id() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_live_through_purge_snapshot_restart_and_drop() {
    let dirs: Vec<TempDir> = (0..3).map(|_| TempDir::new().unwrap()).collect();
    let network = Network::default();
    let stores: Vec<Store> = dirs.iter().map(|dir| open(dir.path())).collect();
    let groups = [4u64, 9];
    for group in groups {
        let mut rafts = Vec::new();
        for (id, store) in (1..).zip(&stores[..2]) {
            rafts.push(start(&network, group, id, store).await);
        }
        let members: BTreeMap<u64, Node> = (1..).zip(stores[..2].iter().map(node)).collect();
        rafts[0].initialize(members).await.unwrap();
        rafts[0]
            .wait(PATIENCE)
            .metrics(|metrics| metrics.current_leader.is_some(), "a leader")
            .await
            .unwrap();
        for n in 0..300 {
            let reply = write(&rafts, &format!("k{n}"), &format!("{group}")).await;
            assert_eq!(reply, postcard::to_stdvec(&Some(group.to_string().into_bytes())).unwrap());
        }

        // The log goes, so that the third node can only have a snapshot.
        applied_everywhere(&rafts).await;
        for raft in &rafts {
            let last = raft.metrics().borrow_watched().last_applied.unwrap();
            raft.trigger().snapshot().await.unwrap();
            raft.wait(PATIENCE).snapshot(last, "built").await.unwrap();
            raft.trigger().purge_log(last.index).await.unwrap();
            raft.wait(PATIENCE).purged(Some(last), "purged").await.unwrap();
        }
        let third = start(&network, group, 3, &stores[2]).await;
        let leader = rafts[0].current_leader().await.unwrap();
        let leading = rafts[leader as usize - 1].clone();
        rafts.push(third);
        leading.add_learner(3, node(&stores[2]), true).await.unwrap();
        leading.change_membership(BTreeSet::from([1, 2, 3]), false).await.unwrap();
        write(&rafts, "after", "snapshot").await;
        applied_everywhere(&rafts).await;
        let expected = cells(&stores[0].reader(group));
        assert_eq!(expected.len(), 301);
        for store in &stores {
            assert_eq!(cells(&store.reader(group)), expected);
        }
        // One from the empty state to the snapshot.
        assert!(stores[2].stats().installs_total >= 1);
        assert!(stores[0].log_size(group).entries < 50);
        if group == groups[1] {
            leading.change_membership(BTreeSet::from([1, 2]), false).await.unwrap();
        }
    }

    // The third node is no longer of one group, and comes back to it after all have restarted.
    stop(&network).await;
    stores[2].drop_group(groups[1]).unwrap();
    assert_eq!(stores[2].groups(), [groups[0]]);
    for store in &stores {
        store.shutdown().unwrap();
    }
    drop(stores);
    let mut stores = Vec::new();
    for dir in &dirs {
        stores.push(reopen(dir.path()).await);
    }
    assert_eq!(stores[0].groups(), groups);
    for group in groups {
        let mut rafts = Vec::new();
        for (id, store) in (1..).zip(&stores) {
            rafts.push(start(&network, group, id, store).await);
        }
        write(&rafts, "after", "restart").await;
        if group == groups[1] {
            let leader = rafts[0].current_leader().await.unwrap();
            let leading = rafts[leader as usize - 1].clone();
            leading.add_learner(3, node(&stores[2]), true).await.unwrap();
            leading.change_membership(BTreeSet::from([1, 2, 3]), false).await.unwrap();
        }
        applied_everywhere(&rafts).await;
        let expected = cells(&stores[0].reader(group));
        assert_eq!(expected.len(), 301);
        for store in &stores {
            assert_eq!(cells(&store.reader(group)), expected, "group {group}");
        }
    }
    stop(&network).await;
}

async fn stop(network: &Network) {
    let nodes = std::mem::take(&mut *network.0.lock());
    for (raft, _) in nodes.into_values() {
        raft.shutdown().await.unwrap();
    }
}

/// The tasks of a Raft instance let go of the store a moment after its shutdown.
async fn reopen(dir: &Path) -> Store {
    let mut looks = interval(POLL);
    for _ in 0..200 {
        looks.tick().await;
        match Store::open(common::small(raft_store::Options::at(dir))) {
            Err(raft_store::StoreError::Locked { .. }) => {}
            opened => return opened.unwrap(),
        }
    }
    panic!("{} stays locked", dir.display());
}
