//! openraft's own suite for storage, on disk and in memory.
//!
//! The suite purges entries that were never applied, which this crate refuses: in real life that
//! would lose them. So before it purges, the log here lets the state machine get there.
#![allow(clippy::unwrap_used)]

use std::io;
use std::sync::Arc;

use futures_util::Stream;
use openraft::EntryPayload;
use openraft::OptionalSend;
use openraft::storage::{EntryResponder, IOFlushed, LogState, RaftLogStorage, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use raft_store::types::{Entry, LogId, SnapshotMeta, StoredMembership, TypeConfig, Vote};
use raft_store::{GroupLog, Options, SnapshotBuilder, SnapshotData, StateMachine, Store};
use tempfile::TempDir;
use tokio::sync::Mutex;

use crate::common::{Kv, apply, small};

mod common;

type Shared = Arc<Mutex<StateMachine<Kv>>>;
type StorageError = openraft::StorageError<TypeConfig>;

struct SuiteLog(GroupLog, Shared);
struct SuiteMachine(Shared);

impl RaftLogStorage<TypeConfig> for SuiteLog {
    type LogReader = GroupLog;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        self.0.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> GroupLog {
        self.0.get_log_reader().await
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.0.save_vote(vote).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.0.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        self.0.read_committed().await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.0.append(entries, callback).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.0.truncate_after(last_log_id).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let mut machine = self.1.lock().await;
        let applied = machine.applied_state().await?.0;
        if applied.is_none_or(|applied| applied.index < log_id.index) {
            assert!(self.0.purge(log_id).await.is_err(), "purged what was not applied");
            apply(&mut *machine, vec![Entry { log_id, payload: EntryPayload::Blank }]).await?;
        }
        self.0.purge(log_id).await
    }
}

impl RaftStateMachine<TypeConfig> for SuiteMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        self.0.lock().await.applied_state().await
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        self.0.lock().await.apply(entries).await
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        self.0.lock().await.get_snapshot_builder().await
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        self.0.lock().await.install_snapshot(meta, snapshot).await
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<openraft::alias::SnapshotOf<TypeConfig, SnapshotData>>, io::Error> {
        self.0.lock().await.get_current_snapshot().await
    }
}

struct Builder {
    on_disk: bool,
}

impl StoreBuilder<TypeConfig, SuiteLog, SuiteMachine, (Store, Option<TempDir>)> for Builder {
    async fn build(&self) -> Result<((Store, Option<TempDir>), SuiteLog, SuiteMachine), StorageError> {
        let dir = self.on_disk.then(|| TempDir::new().unwrap());
        let options = dir.as_ref().map_or_else(Options::in_memory, |dir| Options::at(dir.path()));
        let store = Store::open(small(options)).unwrap();
        let machine = Arc::new(Mutex::new(store.machine(7, Kv::default()).unwrap()));
        let log = SuiteLog(store.log(7), machine.clone());
        Ok(((store, dir), log, SuiteMachine(machine)))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_disk() {
    Suite::test_all(Builder { on_disk: true }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_memory() {
    Suite::test_all(Builder { on_disk: false }).await.unwrap();
}
