//! Bytes of entries, votes, log ids, memberships and snapshot metas: on disk, and for a transport
//! that wants to send the same bytes.
//!
//! Integers are LEB128 varints. An entry is `kind | term | leader | index | payload`, the payload
//! reaching to the end of the buffer, so that a command is a slice of what was read and is never
//! copied. Kind numbers are never reused; the store's format version covers the rest.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes};
use openraft::EntryPayload;
use openraft::vote::{RaftLeaderId, RaftVote};
use uuid::Uuid;

use crate::error::StoreError;
use crate::types::{
    Command, Entry, LogId, Membership, Node, SnapshotMeta, StoredMembership, TypeConfig, Vote,
};

type LeaderId = openraft::alias::LeaderIdOf<TypeConfig>;

const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// Upper bound of what [`encode`] adds to a command: kind and three varints, in bytes.
pub const ENTRY_OVERHEAD_BYTES: usize = 1 + 3 * 10;

/// Bound of list lengths that a decoder reserves memory for before it has seen the elements.
const RESERVE_MAX: usize = 64;

/// Appends the entry's bytes to `out`.
pub fn encode(entry: &Entry, out: &mut Vec<u8>) {
    let kind = match &entry.payload {
        EntryPayload::Blank => BLANK,
        EntryPayload::Normal(_) => NORMAL,
        EntryPayload::Membership(_) => MEMBERSHIP,
    };
    out.push(kind);
    encode_log_id(&entry.log_id, out);
    match &entry.payload {
        EntryPayload::Blank => {}
        EntryPayload::Normal(command) => out.extend_from_slice(&command.0),
        EntryPayload::Membership(membership) => encode_membership(membership, out),
    }
}

/// Reads an entry that is all of `bytes`; the command is a slice of it.
pub fn decode(bytes: &Bytes) -> Result<Entry, StoreError> {
    let mut rest = bytes.clone();
    let kind = take_u8(&mut rest, "an entry")?;
    let log_id = decode_log_id(&mut rest)?;
    let payload = match kind {
        BLANK => EntryPayload::Blank,
        NORMAL => EntryPayload::Normal(Command(rest.split_off(0))),
        MEMBERSHIP => EntryPayload::Membership(decode_membership(&mut rest)?),
        _ => return Err(StoreError::Corrupt { what: "an entry", reason: "its kind is unknown" }),
    };
    if kind != NORMAL {
        end(&rest, "an entry")?;
    }
    Ok(Entry { log_id, payload })
}

/// Reads only the log id of an entry.
pub(crate) fn decode_entry_log_id(bytes: &[u8]) -> Result<LogId, StoreError> {
    let mut rest = bytes;
    take_u8(&mut rest, "an entry")?;
    decode_log_id(&mut rest)
}

/// Appends a log id.
pub fn encode_log_id(id: &LogId, out: &mut Vec<u8>) {
    put_varint(id.leader_id.term, out);
    put_varint(id.leader_id.node_id, out);
    put_varint(id.index, out);
}

/// Reads a log id from the front of `bytes`.
pub fn decode_log_id(bytes: &mut impl Buf) -> Result<LogId, StoreError> {
    let what = "a log id";
    let leader_id = LeaderId::new(take_varint(bytes, what)?, take_varint(bytes, what)?);
    Ok(LogId::new(leader_id, take_varint(bytes, what)?))
}

/// Appends an optional log id.
pub fn encode_log_id_option(id: Option<&LogId>, out: &mut Vec<u8>) {
    out.push(id.is_some().into());
    if let Some(id) = id {
        encode_log_id(id, out);
    }
}

/// Reads an optional log id from the front of `bytes`.
pub fn decode_log_id_option(bytes: &mut impl Buf) -> Result<Option<LogId>, StoreError> {
    match take_u8(bytes, "a log id")? {
        0 => Ok(None),
        1 => Ok(Some(decode_log_id(bytes)?)),
        _ => Err(StoreError::Corrupt { what: "a log id", reason: "neither present nor absent" }),
    }
}

/// Appends a vote.
pub fn encode_vote(vote: &Vote, out: &mut Vec<u8>) {
    put_varint(vote.leader_id().term, out);
    put_varint(*vote.leader_id().node_id(), out);
    out.push(vote.is_committed().into());
}

/// Reads a vote from the front of `bytes`.
pub fn decode_vote(bytes: &mut impl Buf) -> Result<Vote, StoreError> {
    let what = "a vote";
    let leader_id = LeaderId::new(take_varint(bytes, what)?, take_varint(bytes, what)?);
    match take_u8(bytes, what)? {
        0 => Ok(Vote::from_leader_id(leader_id, false)),
        1 => Ok(Vote::from_leader_id(leader_id, true)),
        _ => Err(StoreError::Corrupt { what, reason: "neither committed nor not" }),
    }
}

/// Appends a membership.
pub fn encode_membership(membership: &Membership, out: &mut Vec<u8>) {
    let configs = membership.get_joint_config();
    put_varint(configs.len() as u64, out);
    for config in configs {
        put_varint(config.len() as u64, out);
        config.iter().for_each(|id| put_varint(*id, out));
    }
    put_varint(membership.nodes().count() as u64, out);
    for (id, node) in membership.nodes() {
        put_varint(*id, out);
        out.extend_from_slice(node.store.as_bytes());
        put_varint(node.addr.len() as u64, out);
        out.extend_from_slice(node.addr.as_bytes());
    }
}

/// Reads a membership from the front of `bytes`.
pub fn decode_membership(bytes: &mut impl Buf) -> Result<Membership, StoreError> {
    let what = "a membership";
    let configs_len = take_varint(bytes, what)? as usize;
    let mut configs = Vec::with_capacity(configs_len.min(RESERVE_MAX));
    for _ in 0..configs_len {
        let mut config = BTreeSet::new();
        for _ in 0..take_varint(bytes, what)? {
            config.insert(take_varint(bytes, what)?);
        }
        configs.push(config);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..take_varint(bytes, what)? {
        let id = take_varint(bytes, what)?;
        let store = Uuid::from_slice(&take(bytes, 16, what)?)
            .map_err(|_| StoreError::Corrupt { what, reason: "a store id is not 16 bytes" })?;
        let len = take_varint(bytes, what)? as usize;
        let addr = String::from_utf8(take(bytes, len, what)?.into())
            .map_err(|_| StoreError::Corrupt { what, reason: "an address is not UTF-8" })?;
        nodes.insert(id, Node { addr, store });
    }
    Membership::new(configs, nodes).map_err(|_| StoreError::Corrupt {
        what,
        reason: "a configuration is empty, or names an unknown node",
    })
}

/// Appends a membership and the id of its entry.
pub fn encode_stored_membership(stored: &StoredMembership, out: &mut Vec<u8>) {
    encode_log_id_option(stored.log_id().as_ref(), out);
    encode_membership(stored.membership(), out);
}

/// Reads a membership and the id of its entry from the front of `bytes`.
pub fn decode_stored_membership(bytes: &mut impl Buf) -> Result<StoredMembership, StoreError> {
    let log_id = decode_log_id_option(bytes)?;
    Ok(StoredMembership::new(log_id, decode_membership(bytes)?))
}

/// Appends a snapshot's meta.
pub fn encode_snapshot_meta(meta: &SnapshotMeta, out: &mut Vec<u8>) {
    encode_log_id_option(meta.last_log_id.as_ref(), out);
    encode_stored_membership(&meta.last_membership, out);
}

/// Reads a snapshot's meta from the front of `bytes`.
pub fn decode_snapshot_meta(bytes: &mut impl Buf) -> Result<SnapshotMeta, StoreError> {
    let last_log_id = decode_log_id_option(bytes)?;
    Ok(SnapshotMeta { last_log_id, last_membership: decode_stored_membership(bytes)? })
}

pub(crate) fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

pub(crate) fn take_varint(bytes: &mut impl Buf, what: &'static str) -> Result<u64, StoreError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take_u8(bytes, what)?;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            break;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(StoreError::Corrupt { what, reason: "a number is too long" })
}

pub(crate) fn take_u8(bytes: &mut impl Buf, what: &'static str) -> Result<u8, StoreError> {
    bytes.try_get_u8().map_err(|_| StoreError::Corrupt { what, reason: "it is cut short" })
}

pub(crate) fn take(bytes: &mut impl Buf, len: usize, what: &'static str) -> Result<Bytes, StoreError> {
    if bytes.remaining() < len {
        return Err(StoreError::Corrupt { what, reason: "it is cut short" });
    }
    Ok(bytes.copy_to_bytes(len))
}

/// Refuses bytes behind a record that should have ended.
pub(crate) fn end(bytes: &impl Buf, what: &'static str) -> Result<(), StoreError> {
    if bytes.has_remaining() {
        return Err(StoreError::Corrupt { what, reason: "bytes follow its end" });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn log_id() -> impl Strategy<Value = LogId> {
        (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(t, n, i)| LogId::new(LeaderId::new(t, n), i))
    }

    fn membership() -> impl Strategy<Value = Membership> {
        let config = proptest::collection::btree_set(0u64..300, 1..5);
        let learners = proptest::collection::btree_set(any::<u64>(), 0..3);
        (proptest::collection::vec(config, 0..3), learners, ".{0,20}", any::<u128>()).prop_map(
            |(configs, learners, addr, store)| {
                let node = Node { addr, store: Uuid::from_u128(store) };
                let ids = configs.iter().flatten().copied().chain(learners);
                let nodes: BTreeMap<u64, Node> = ids.map(|id| (id, node.clone())).collect();
                Membership::new(configs, nodes).unwrap()
            },
        )
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let payload = prop_oneof![
            Just(EntryPayload::Blank),
            any::<Vec<u8>>().prop_map(|bytes| EntryPayload::Normal(Command(bytes.into()))),
            membership().prop_map(EntryPayload::Membership),
        ];
        (log_id(), payload).prop_map(|(log_id, payload)| Entry { log_id, payload })
    }

    proptest! {
        #[test]
        fn entries_survive_the_trip(entry in entry()) {
            let mut bytes = Vec::new();
            encode(&entry, &mut bytes);
            if let EntryPayload::Normal(command) = &entry.payload {
                prop_assert!(bytes.len() <= command.0.len() + ENTRY_OVERHEAD_BYTES);
            }
            let bytes = Bytes::from(bytes);
            prop_assert_eq!(decode_entry_log_id(&bytes).unwrap(), entry.log_id);
            prop_assert_eq!(decode(&bytes).unwrap(), entry);
        }

        #[test]
        fn records_survive_the_trip(
            applied in proptest::option::of(log_id()), at in proptest::option::of(log_id()),
            membership in membership(), committed: bool, term: u64, node: u64,
        ) {
            let last_membership = StoredMembership::new(at, membership);
            let meta = SnapshotMeta { last_log_id: applied, last_membership };
            let mut bytes = Vec::new();
            encode_snapshot_meta(&meta, &mut bytes);
            let mut rest = &bytes[..];
            prop_assert_eq!(decode_snapshot_meta(&mut rest).unwrap(), meta);
            prop_assert!(rest.is_empty());

            let vote = Vote::from_leader_id(LeaderId::new(term, node), committed);
            let mut bytes = Vec::new();
            encode_vote(&vote, &mut bytes);
            prop_assert_eq!(decode_vote(&mut &bytes[..]).unwrap(), vote);
        }

        /// A cut entry is never read as another: only a command may be shorter.
        #[test]
        fn cut_entries_are_refused(entry in entry(), cut in 1usize..8) {
            let mut bytes = Vec::new();
            encode(&entry, &mut bytes);
            bytes.truncate(bytes.len().saturating_sub(cut));
            if let Ok(read) = decode(&Bytes::from(bytes)) {
                prop_assert!(matches!(read.payload, EntryPayload::Normal(_)));
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let _ = decode(&Bytes::from(bytes.clone()));
            let _ = decode_snapshot_meta(&mut &bytes[..]);
            let _ = decode_vote(&mut &bytes[..]);
        }
    }

    #[test]
    fn a_command_is_not_copied() {
        let entry = Entry {
            log_id: LogId::new(LeaderId::new(1, 2), 3),
            payload: EntryPayload::Normal(Command(Bytes::from_static(b"command"))),
        };
        let mut bytes = Vec::new();
        encode(&entry, &mut bytes);
        let bytes = Bytes::from(bytes);
        let EntryPayload::Normal(command) = decode(&bytes).unwrap().payload else { panic!("not normal") };
        assert!(bytes.as_ptr_range().contains(&command.0.as_ptr()));
    }
}
