//! Raft messages as bytes. Entries keep the form that the log has on disk; everything else is small
//! and goes through postcard.

use bytes::{Buf, BufMut, Bytes};
use serde::{Serialize, de::DeserializeOwned};

use super::types::{AppendRequest, LogId, Vote};
use crate::ids::{GroupId, NodeId};

/// What a call between members asks; the first bytes of its body are the group.
pub(super) mod method {
    /// Entries in a session ([`append`](super::append)); answered with an `AppendResult`.
    pub(crate) const APPEND: u8 = 1;
    /// Entries or a leader's sign outside of any session; answered with an `AppendResponse`.
    pub(crate) const APPEND_ONE: u8 = 2;
    /// A vote request and the leader that is gone; answered with a `VoteResponse`.
    pub(crate) const VOTE: u8 = 3;
    /// A pre-vote request; answered with a `VoteResponse`.
    pub(crate) const PRE_VOTE: u8 = 4;
    /// A transfer of leadership.
    pub(crate) const TRANSFER: u8 = 5;
    /// The beginning of a snapshot; answered with where to go on.
    pub(crate) const SNAPSHOT_BEGIN: u8 = 6;
    /// A piece of a snapshot.
    pub(crate) const SNAPSHOT_CHUNK: u8 = 7;
    /// The end of a snapshot; answered with a `SnapshotResponse` when it is installed.
    pub(crate) const SNAPSHOT_END: u8 = 8;
    /// Whether leaders still stand, of several groups: the body names no group in front.
    pub(crate) const STANDS: u8 = 9;
    /// Up to which index everything acknowledged is; answered with that index by the leader, once a
    /// majority has confirmed that it leads.
    pub(crate) const READ_INDEX: u8 = 10;

    /// Which groups the sender leads: the body names no group in front ([`super::super::pulse`]).
    pub(crate) const BEAT: u8 = 11;

    /// The highest method of this layer; those above belong to the layers above.
    pub(crate) const LAST: u8 = 15;
}

/// Room that most appends need, bytes.
const APPEND_ROOM_BYTES: usize = 1024;

/// Bytes that are no message of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed Raft message")]
pub(super) struct Malformed;

/// An answer: what was asked for, or a sentence why this node cannot tell.
pub(super) type Answer<T> = Result<T, String>;

/// Takes the group off the front of a body.
pub(super) fn group(body: &mut Bytes) -> Result<GroupId, Malformed> {
    if body.len() < 8 { Err(Malformed) } else { Ok(GroupId(body.get_u64_le())) }
}

/// A message of a group, through postcard.
pub(super) fn message<T: Serialize>(group: GroupId, message: &T) -> Bytes {
    let mut out = group.0.to_le_bytes().to_vec();
    out = postcard::to_extend(message, out).expect("these types serialize and memory does not fail");
    out.into()
}

/// An answer, through postcard.
pub(super) fn answer<T: Serialize>(answer: &Answer<T>) -> Bytes {
    postcard::to_stdvec(answer).expect("these types serialize and memory does not fail").into()
}

/// Reads what [`message`] (behind the group) or [`answer`] wrote.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Malformed> {
    postcard::from_bytes(body).map_err(|_| Malformed)
}

/// An append: the group, the session it belongs to (0: none), the last index that every member has, the
/// request.
pub(super) fn append(group: GroupId, session: u64, shared: u64, request: &AppendRequest) -> Bytes {
    let mut out = Vec::with_capacity(APPEND_ROOM_BYTES);
    out.put_u64_le(group.0);
    out.put_u64_le(session);
    out.put_u64_le(shared);
    let head = (&request.vote, &request.prev_log_id, &request.leader_commit);
    put_sized(&mut out, |out| {
        let head = postcard::to_stdvec(&head).expect("these types serialize and memory does not fail");
        out.extend_from_slice(&head);
    });
    for entry in &request.entries {
        put_sized(&mut out, |out| raft_store::entry::encode(entry, out));
    }
    out.into()
}

/// Writes what `put` writes behind its length.
fn put_sized(out: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.put_u32_le(0);
    put(out);
    let length = u32::try_from(out.len() - at - 4).expect("an entry fits a frame, far below 4 GiB");
    out[at..at + 4].copy_from_slice(&length.to_le_bytes());
}

fn take_sized(body: &mut Bytes) -> Result<Bytes, Malformed> {
    if body.len() < 4 {
        return Err(Malformed);
    }
    let length = body.get_u32_le() as usize;
    if body.len() < length { Err(Malformed) } else { Ok(body.split_to(length)) }
}

/// Reads what [`append`] wrote behind the group. Entries share the body's memory.
pub(super) fn read_append(mut body: Bytes) -> Result<(u64, u64, AppendRequest), Malformed> {
    if body.len() < 16 {
        return Err(Malformed);
    }
    let (session, shared) = (body.get_u64_le(), body.get_u64_le());
    let (vote, prev_log_id, leader_commit): (Vote, Option<LogId>, Option<LogId>) =
        read(&take_sized(&mut body)?)?;
    let mut entries = Vec::new();
    while body.has_remaining() {
        let entry = take_sized(&mut body)?;
        entries.push(raft_store::entry::decode(&entry).map_err(|_| Malformed)?);
    }
    Ok((session, shared, AppendRequest { vote, prev_log_id, entries, leader_commit }))
}

/// What a vote request carries beside openraft's own: the leader whose process the candidate knows
/// to be gone, if that is why it stands.
pub(super) type GoneLeader = Option<NodeId>;
