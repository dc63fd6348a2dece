//! The one openraft type configuration of this crate: commands and replies are opaque bytes, so a
//! program can keep groups of different kinds in one store.

use std::fmt;

use bytes::Bytes;
use openraft::raft::responder::Responder;
use openraft::vote::{RaftLeaderId, RaftVote};
use openraft::{OptionalSend, RaftTypeConfig};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Node numbers are `u64`, commands and replies opaque bytes, the runtime is tokio.
// The macro that usually spells this knows no other responder than its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TypeConfig;

impl RaftTypeConfig for TypeConfig {
    type D = Command;
    type R = Replies;
    type NodeId = u64;
    type Node = Node;
    type Term = u64;
    type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Command, u64, Node>;
    type Entry = openraft::Entry<<Self::LeaderId as RaftLeaderId>::Committed, Self::Payload>;
    type Responder<T>
        = OnComplete<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type AsyncRuntime = openraft::impls::TokioRuntime;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// What happens with the outcome of a write, right where it is known: no channel and no task lie
/// between the state machine and whoever waits. Must not block. Dropped without a call, it means
/// that the group has stopped.
pub struct OnComplete<T>(Box<dyn FnOnce(T) + Send>);

impl<T> OnComplete<T> {
    /// Calls `then` with the outcome.
    pub fn new(then: impl FnOnce(T) + Send + 'static) -> OnComplete<T> {
        OnComplete(Box::new(then))
    }
}

impl<T: OptionalSend + 'static> Responder<TypeConfig, T> for OnComplete<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

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
/// The vote of a leader that a quorum has elected.
pub fn leader_vote(term: u64, node: u64) -> Vote {
    Vote::from_leader_id(RaftLeaderId::new(term, node), true)
}

/// The members of a group.
pub type Membership = openraft::Membership<u64, Node>;
/// A membership and the entry that made it.
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
/// What a snapshot covers: the last applied entry, and the membership at that point.
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
