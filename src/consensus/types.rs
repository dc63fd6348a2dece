//! openraft's generics, spelled once.

use raft_store::types::TypeConfig;

use super::machine::Machine;

/// A running Raft group.
pub type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// A group's durable state machine.
pub type StateMachine = raft_store::StateMachine<Machine>;

/// See [`openraft::type_config::alias`].
pub type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
/// See [`openraft::type_config::alias`].
pub type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
/// See [`openraft::type_config::alias`].
pub type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
/// See [`openraft::type_config::alias`].
pub type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
/// See [`openraft::type_config::alias`].
pub type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, raft_store::SnapshotData>;
/// See [`openraft::raft::AppendEntriesRequest`].
pub type AppendRequest = openraft::raft::AppendEntriesRequest<TypeConfig>;
/// See [`openraft::raft::AppendEntriesResponse`].
pub type AppendResponse = openraft::raft::AppendEntriesResponse<TypeConfig>;
/// See [`openraft::raft::StreamAppendResult`].
pub type AppendResult = openraft::raft::StreamAppendResult<TypeConfig>;
/// See [`openraft::raft::VoteRequest`].
pub type VoteRequest = openraft::raft::VoteRequest<TypeConfig>;
/// See [`openraft::raft::VoteResponse`].
pub type VoteResponse = openraft::raft::VoteResponse<TypeConfig>;
/// See [`openraft::raft::SnapshotResponse`].
pub type SnapshotResponse = openraft::raft::SnapshotResponse<TypeConfig>;
/// What a write of ours ends with.
pub type WriteResult = openraft::raft::ClientWriteResult<TypeConfig>;
/// What a call between members ends with.
pub type RpcError = openraft::errors::RPCError<TypeConfig>;
/// What openraft shows of a group.
pub type Metrics = openraft::RaftMetrics<TypeConfig>;
