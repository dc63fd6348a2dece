//! Calls between nodes above Raft: forwarded requests, and what coordinators and workers tell each
//! other. Every body carries the time that is left, as clocks differ; every answer says what
//! happened.

use std::{collections::BTreeSet, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::Instant;

use super::{ActiveWorker, Consistency, Served};
use crate::{
    command::{Answer, At, Command, Query, Reply},
    coordinator::status::{Cluster, Coordinators},
    error::Error,
    ids::{ClusterId, Epoch, GroupId, NodeId, Opening, Position, Span, StoreId, WorkerId},
    ring::map::Map,
};

/// What a call asks; the numbers below are Raft's own.
pub mod method {
    /// A write, forwarded to the shard's leader.
    pub const WRITE: u8 = 16;
    /// A query, forwarded to a replica.
    pub const QUERY: u8 = 17;
    /// A [`ClusterCall`](super::ClusterCall).
    pub const CLUSTER: u8 = 18;
}

/// How much longer than the request's deadline a caller waits for a forwarded request's answer: the
/// node that answers knows better what happened.
pub const ANSWER_GRACE: Duration = Duration::from_millis(250);

/// What nodes ask each other about the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClusterCall {
    /// Whether the coordinator asked belongs to a group already. Answered by any coordinator; a worker
    /// says that it is none.
    Formed,
    /// A worker wants to become, or says again that it is, a member.
    Join {
        /// Its name.
        id: WorkerId,
        /// Its store.
        store: StoreId,
        /// Where it listens.
        addr: String,
        /// Where it stands.
        zone: Option<String>,
        /// The number that it was given earlier.
        node: Option<NodeId>,
        /// The time by its clock.
        at: At,
        /// The opening of its store.
        opening: Opening,
    },
    /// A member worker lives.
    Heartbeat {
        /// Its number.
        node: NodeId,
        /// The epoch of its map.
        epoch: Epoch,
        /// What it keeps.
        held: Vec<Held>,
        /// The time by its clock.
        at: At,
        /// Whether it should lead nothing: its disk does not finish its syncs in time, or it is about to
        /// stop.
        limps: bool,
    },
    /// A newer map, from the coordinator's leader to everyone.
    TakeMap(Box<Map>),
    /// To a shard's leader: give the leadership to another voter.
    Transfer {
        /// The shard.
        group: GroupId,
        /// The new leader.
        to: NodeId,
    },
    /// To a worker that belongs to no cluster: join the one of these coordinators.
    Invite {
        /// `host:port` of each.
        coordinators: Vec<String>,
    },
    /// A worker that only pings.
    Ping {
        /// Its name.
        id: WorkerId,
        /// Where it listens.
        addr: String,
    },
    /// The active workers.
    Workers,
    /// The whole state.
    Status,
    /// The wish that everything be moved off a worker, or that it stay.
    Drain {
        /// The worker.
        id: WorkerId,
        /// Whether it is to be emptied.
        draining: bool,
    },
    /// Takes a worker out for good.
    Remove {
        /// The worker.
        id: WorkerId,
    },
    /// The state of the coordinator group alone.
    Coordinators,
    /// Brings the running, empty coordinator at this address into the group.
    AddCoordinator {
        /// `host:port`.
        addr: String,
    },
    /// Takes a coordinator out of the group for good.
    RemoveCoordinator {
        /// Its number, or its `host:port`.
        which: String,
    },
    /// From the coordinators' leader to an empty coordinator: the map has this number for it.
    TakeSeat {
        /// Its number.
        node: NodeId,
        /// The map that says so.
        map: Box<Map>,
    },
    /// A coordinator asks whether it still belongs to the group.
    Seated {
        /// Its number.
        node: NodeId,
    },
    /// The map of the node that is asked, whatever its role.
    Map,
    /// To a shard's leader: whether the shard counts on the replica of a node. What it answers was
    /// proved after the question came.
    CountsOn {
        /// The shard.
        group: GroupId,
        /// The node.
        node: NodeId,
    },
    /// Makes two shards of one.
    Split {
        /// The shard.
        group: GroupId,
        /// Where the new one begins; the middle if not said.
        at: Option<Position>,
    },
    /// To a shard's leader: the position that parts the shard's data into halves.
    Middle {
        /// The shard.
        group: GroupId,
        /// Its arc.
        arc: Span,
    },
}

/// A replica as its worker reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The shard.
    pub group: GroupId,
    /// What only its leader knows; `None` from followers.
    pub leads: Option<Leads>,
}

/// A shard as its leader reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leads {
    /// The leader's term: of two reports, the one of the higher term is true.
    pub term: u64,
    /// The last committed index.
    pub commit: u64,
    /// The last applied index.
    pub applied: u64,
    /// The size of the data, bytes, estimated.
    pub bytes: u64,
    /// The arc that this is the size of; `None` where the shard was not split yet.
    pub arc: Option<Span>,
    /// Who votes.
    pub voters: BTreeSet<NodeId>,
    /// Who only listens.
    pub learners: BTreeSet<NodeId>,
    /// Log entries that the slowest member is behind.
    pub behind: u64,
}

/// The answers to [`ClusterCall`]s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClusterAnswer {
    /// It was done.
    Done,
    /// How far the coordinator asked is.
    Formed {
        /// Whether its group has members: then nobody may found it again.
        initialized: bool,
        /// The cluster, if it knows one.
        cluster: Option<ClusterId>,
        /// Its store.
        store: StoreId,
        /// The stores of its group's members.
        stores: Vec<StoreId>,
        /// Its `host:port`, as it says itself.
        addr: String,
        /// Whether it is empty and waits to be added to a group.
        free: bool,
    },
    /// The worker is a member.
    Joined {
        /// Its number.
        node: NodeId,
        /// The map that has it.
        map: Box<Map>,
    },
    /// The worker was heard.
    Heard {
        /// The map, where the worker's was older.
        map: Option<Box<Map>>,
        /// Replicas that it keeps and that seem to belong to their shard no longer: to be wiped, if the
        /// shard says so too.
        wipe: Vec<GroupId>,
        /// By how much its clock is off, where that is too much, milliseconds.
        clock_off_ms: Option<i64>,
    },
    /// The active workers.
    Workers(Vec<ActiveWorker>),
    /// The whole state.
    Status(Box<Cluster>),
    /// The worker, or coordinator, was taken out for good, and its directory with it.
    Expelled,
    /// The state of the coordinator group.
    Coordinators(Coordinators),
    /// The seat that a coordinator has got, or lost.
    Seat(Seat),
    /// The map of the node that was asked, if it has one.
    Map(Option<Box<Map>>),
    /// Whether the shard counts on it.
    CountsOn(bool),
    /// The shard was split.
    Split {
        /// The new shard.
        shard: GroupId,
        /// Where it begins.
        at: Position,
    },
    /// Where the middle is; `None` where all data has one position.
    Middle(Option<Position>),
    /// The worker's directory went back to an earlier state.
    Outgrown {
        /// The height that it was at before.
        height: u64,
    },
}

/// A coordinator's place in the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// Its number.
    pub node: NodeId,
    /// Its `host:port`.
    pub addr: String,
    /// Of a new one: the member with the same address, and a directory that was lost, whose place it
    /// takes.
    pub replaces: Option<NodeId>,
}

impl ClusterAnswer {
    /// For calls that have nothing to return.
    pub fn done(self) -> Result<(), Error> {
        match self {
            ClusterAnswer::Done => Ok(()),
            other => Err(other.unexpected()),
        }
    }

    /// For an answer to something else than was asked, as a node of another version may give.
    pub fn unexpected(self) -> Error {
        Error::Unknown(format!("the coordinator gave an answer that does not fit: {self:?}"))
    }
}

/// Encodes what this module and `command` define.
pub fn encode<T: Serialize>(value: &T) -> Bytes {
    postcard::to_stdvec(value).expect("plain data serializes and memory does not fail").into()
}

/// Encodes a command as what is put into a shard's log, without copying it first.
pub fn encode_command(command: &Command) -> Bytes {
    #[derive(Serialize)]
    enum Borrowed<'a> {
        // In the place of `Proposal::Command`.
        Command(&'a Command),
    }
    encode(&Borrowed::Command(command))
}

fn malformed() -> Error {
    Error::Invalid("a message between nodes cannot be read: are all nodes of one version?".into())
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    postcard::from_bytes(bytes).map_err(|_| malformed())
}

fn left_ms(deadline: Instant) -> u32 {
    u32::try_from(deadline.saturating_duration_since(Instant::now()).as_millis()).unwrap_or(u32::MAX)
}

fn take_deadline(body: &mut Bytes) -> Result<Instant, Error> {
    if body.len() < 4 {
        return Err(malformed());
    }
    Ok(Instant::now() + Duration::from_millis(u64::from(body.get_u32_le())))
}

/// A write: `left u32 | group u64 | command`.
pub fn write(group: GroupId, deadline: Instant, command: &Bytes) -> Bytes {
    let mut out = BytesMut::with_capacity(12 + command.len());
    out.put_u32_le(left_ms(deadline));
    out.put_u64_le(group.0);
    out.extend_from_slice(command);
    out.freeze()
}

/// Reads what [`write()`] wrote.
pub fn read_write(mut body: Bytes) -> Result<(GroupId, Instant, Bytes), Error> {
    let deadline = take_deadline(&mut body)?;
    if body.len() < 8 {
        return Err(malformed());
    }
    let group = GroupId(body.get_u64_le());
    Ok((group, deadline, body))
}

/// A query: `left u32 | (group, stale, arc, query)`.
pub fn query(group: GroupId, deadline: Instant, consistency: Consistency, arc: Span, query: &Query) -> Bytes {
    timed(deadline, &(group, consistency == Consistency::Stale, arc, query))
}

/// Reads what [`query`] wrote.
pub fn read_query(mut body: Bytes) -> Result<(GroupId, Instant, Consistency, Span, Query), Error> {
    let deadline = take_deadline(&mut body)?;
    let (group, stale, arc, query) = decode(&body)?;
    let consistency = if stale { Consistency::Stale } else { Consistency::Linearizable };
    Ok((group, deadline, consistency, arc, query))
}

/// A call about the cluster: `left u32 | call`.
pub fn cluster(deadline: Instant, call: &ClusterCall) -> Bytes {
    timed(deadline, call)
}

/// Reads what [`cluster`] wrote.
pub fn read_cluster(mut body: Bytes) -> Result<(Instant, ClusterCall), Error> {
    let deadline = take_deadline(&mut body)?;
    Ok((deadline, decode(&body)?))
}

fn timed<T: Serialize>(deadline: Instant, value: &T) -> Bytes {
    let out = left_ms(deadline).to_le_bytes().to_vec();
    postcard::to_extend(value, out).expect("plain data serializes and memory does not fail").into()
}

const OK: u8 = 0;
const FAILED: u8 = 1;

/// An answer that is bytes already: `0 | bytes`, or `1 | error`.
pub fn seal(result: Result<Bytes, Error>) -> Bytes {
    let (tag, body) = match result {
        Ok(body) => (OK, body),
        Err(error) => (FAILED, encode(&error)),
    };
    let mut out = BytesMut::with_capacity(1 + body.len());
    out.put_u8(tag);
    out.extend_from_slice(&body);
    out.freeze()
}

/// Reads what [`seal`] wrote.
pub fn open(mut answer: Bytes) -> Result<Bytes, Error> {
    match answer.split_to(answer.len().min(1)).first() {
        Some(&OK) => Ok(answer),
        Some(&FAILED) => Err(decode(&answer)?),
        _ => Err(malformed()),
    }
}

/// What [`super::local::query`] answers, for the way back. Clocks differ, so a moment travels as its
/// age.
pub fn encode_served(served: &Served) -> Bytes {
    encode(&(&served.answer, served.as_of.map(age_ms)))
}

/// Reads what [`encode_served`] wrote, the answer to a question that was sent at `asked`: its age was
/// told after that, so counting it from there makes it no younger.
pub fn decode_served(bytes: &[u8], asked: Instant) -> Result<Served, Error> {
    let (answer, age_ms): (Answer, Option<u64>) = decode(bytes)?;
    let as_of = age_ms.and_then(|age_ms| asked.checked_sub(Duration::from_millis(age_ms)));
    Ok(Served { answer, as_of })
}

/// How long ago a moment was, in whole milliseconds, rounded up: an upper bound.
pub fn age_ms(moment: Instant) -> u64 {
    u64::try_from(moment.elapsed().as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// Reads a shard machine's reply. An empty one says that the command could not be read, which every
/// replica found alike, so it was not applied.
pub fn decode_reply(bytes: &[u8]) -> Result<Reply, Error> {
    decode(bytes)
}

/// Whether a shard machine's reply says that the command is another shard's.
pub fn is_not_here(reply: &[u8]) -> bool {
    // Nearly all replies are longer.
    reply.len() == 1 && postcard::from_bytes(reply) == Ok(Reply::NotHere)
}

/// Reads the answer to a [`ClusterCall`].
pub fn decode_cluster(bytes: &[u8]) -> Result<ClusterAnswer, Error> {
    decode(bytes)
}
