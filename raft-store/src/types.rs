//! The one openraft type configuration of this crate: commands and replies are opaque bytes, so a
//! program can keep groups of different kinds in one store.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

openraft::declare_raft_types!(
    /// Node numbers are `u64`, commands and replies opaque bytes, the runtime is tokio.
    pub TypeConfig:
        D = Command,
        R = Replies,
        NodeId = u64,
        Node = Node,
);

/// What an entry carries: bytes that only the group's [`crate::Machine`] understands.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command(pub Bytes);

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({} bytes)", self.0.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The answers to the commands that were joined in one entry, in order. Empty for entries that
/// carry no command, and on nodes where nobody waits for them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replies(pub Vec<Bytes>);

/// A member of a group, as its membership entries record it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// `host:port` at the time of the entry; it may have moved since.
    pub addr: String,
    /// The member's store: a node that comes back with another store is not this member.
    pub store: Uuid,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.addr)
    }
}

/// An entry of a group's log.
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
/// The position of an entry: the leader that proposed it, and its index.
pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
/// The leader a node has voted for, and whether a quorum granted it.
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
/// The members of a group.
pub type Membership = openraft::Membership<u64, Node>;
/// A membership and the entry that made it.
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
/// What a snapshot covers: the last applied entry, and the membership at that point.
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
