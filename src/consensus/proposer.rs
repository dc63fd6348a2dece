//! Joins the commands that wait for a group into entries, while earlier entries are in flight (D4).
//!
//! Throughput follows the size of the batches, and the batches follow the load: with one client each
//! command is an entry of its own, with many the commands that came during the last round go
//! together. When the next entry goes is for [`pace`].

mod pace;

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use openraft::errors::ClientWriteError;
use parking_lot::Mutex;
use raft_store::types::OnComplete;
use tokio::{
    sync::oneshot,
    task::unconstrained,
    time::{Instant, timeout_at},
};

use self::pace::{Next, Pace};
use super::{
    alarms::{Alarms, Sleeper},
    batch,
    types::{Raft, WriteResult},
};
use crate::{
    clock,
    error::Error,
    ids::{GroupId, NodeId},
};

/// Commands of one group that may wait to be proposed.
const MAX_WAITING_COMMANDS: usize = 16_384;

/// Bytes of commands of one group that may wait to be proposed.
const MAX_WAITING_BYTES: usize = 128 << 20;

/// Commands in one entry.
const MAX_COMMANDS_PER_ENTRY: usize = 1024;

/// Bytes of commands in one entry; a single larger command is an entry of its own.
const MAX_BYTES_PER_ENTRY: usize = 1 << 20;

/// Hands commands to a group; cheap to clone.
///
/// There is no task: whoever brings a command proposes it if its time has come, and so does whoever
/// completes an entry with what has come meanwhile, and the alarm of commands that were held.
#[derive(Clone)]
pub(super) struct Proposer(Arc<Inner>);

struct Inner {
    group: GroupId,
    raft: Raft,
    alarms: Arc<Alarms>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    /// By number, ascending.
    waiting: VecDeque<Proposal>,
    waiting_bytes: usize,
    next_number: u64,
    pace: Pace,
    /// The alarm that is set for those that are held.
    alarm: Option<Instant>,
}

struct Proposal {
    number: u64,
    command: Bytes,
    deadline: Instant,
    reply: oneshot::Sender<Result<Bytes, Error>>,
}

impl Proposer {
    /// Proposes to a group.
    pub(super) fn new(group: GroupId, raft: Raft, alarms: Arc<Alarms>) -> Self {
        Self(Arc::new(Inner { group, raft, alarms, queue: Mutex::default() }))
    }

    /// Proposes a command and waits for its reply. Past the deadline the command either never
    /// enters the log ([`Error::Unavailable`]) or its fate is [`Error::Unknown`].
    pub(super) async fn propose(&self, command: Bytes, deadline: Instant) -> Result<Bytes, Error> {
        let (reply, answer) = oneshot::channel();
        let number = {
            let mut queue = self.0.queue.lock();
            if queue.waiting.len() >= MAX_WAITING_COMMANDS
                || queue.waiting_bytes + command.len() > MAX_WAITING_BYTES
            {
                return Err(Error::Busy("commands waiting for this shard".into()));
            }
            let number = queue.next_number;
            queue.next_number += 1;
            queue.waiting_bytes += command.len();
            queue.waiting.push_back(Proposal { number, command, deadline, reply });
            number
        };
        self.0.submit();
        match timeout_at(deadline, answer).await {
            Ok(Ok(result)) => result,
            // The group went away with the command still in its queue or in flight, and we cannot
            // tell which.
            Ok(Err(_)) => Err(Error::Unknown("the replica stopped before the answer came".into())),
            // One that still waits never enters the log: `take` leaves out what is past its deadline.
            Err(_) if self.0.waits(number) => Err(not_in_time()),
            Err(_) => Err(Error::Unknown("no majority answered in time".into())),
        }
    }
}

impl Sleeper for Inner {
    fn wake(self: Arc<Self>) {
        self.submit();
    }
}

impl Inner {
    fn waits(&self, number: u64) -> bool {
        self.queue.lock().waiting.binary_search_by_key(&number, |proposal| proposal.number).is_ok()
    }

    /// Proposes what waits, as far as its time has come.
    fn submit(self: &Arc<Self>) {
        while let Some(joined) = self.take() {
            let entry = batch::join(clock::now(), joined.iter().map(|proposal| &proposal.command));
            let in_flight =
                InFlight { inner: self.clone(), proposed: Instant::now(), commands: joined.len() };
            let responder = OnComplete::new(move |result| {
                deal_out(joined, result);
                drop(in_flight);
            });
            let write = self.raft.client_write_ff(raft_store::types::Command(entry), Some(responder));
            // It only puts a message into the group's channel, which has room for many more than are
            // in flight here, so it ends at once. Where it fails or would wait, the message is dropped,
            // and with it the senders of the replies: that is told as an unknown outcome.
            let _ = unconstrained(write).now_or_never();
        }
    }

    /// The commands of the next entry.
    fn take(self: &Arc<Self>) -> Option<Vec<Proposal>> {
        let mut queue = self.queue.lock();
        let now = Instant::now();
        match queue.pace.next(now, queue.waiting.len(), queue.waiting_bytes) {
            _ if queue.waiting.is_empty() => return None,
            Next::Wait => return None,
            Next::Hold(until) => {
                if queue.alarm != Some(until) {
                    self.unset_alarm(&mut queue);
                    queue.alarm = Some(until);
                    let sleeper: Weak<Self> = Arc::downgrade(self);
                    self.alarms.set(until, self.group, sleeper);
                }
                return None;
            }
            Next::Go => self.unset_alarm(&mut queue),
        }
        let mut joined = Vec::with_capacity(queue.waiting.len().min(MAX_COMMANDS_PER_ENTRY));
        let mut bytes = 0;
        while let Some(next) = queue.waiting.front() {
            let length = next.command.len();
            let full = joined.len() == MAX_COMMANDS_PER_ENTRY || bytes + length > MAX_BYTES_PER_ENTRY;
            if full && !joined.is_empty() {
                break;
            }
            queue.waiting_bytes -= length;
            let Some(proposal) = queue.waiting.pop_front() else { break };
            if proposal.deadline <= now {
                settle(proposal, Err(not_in_time()));
                continue;
            }
            bytes += length;
            joined.push(proposal);
        }
        if joined.is_empty() {
            return None;
        }
        queue.pace.proposed(now);
        Some(joined)
    }

    fn unset_alarm(&self, queue: &mut Queue) {
        if let Some(at) = queue.alarm.take() {
            self.alarms.unset(at, self.group);
        }
    }
}

/// An entry in flight. However it ends, the next one takes its place.
struct InFlight {
    inner: Arc<Inner>,
    proposed: Instant,
    commands: usize,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        {
            let mut queue = self.inner.queue.lock();
            let waiting = queue.waiting.len();
            queue.pace.ended(Instant::now(), self.proposed, self.commands, waiting);
        }
        self.inner.submit();
    }
}

/// Gives every command of an entry its own reply.
fn deal_out(batch: Vec<Proposal>, result: WriteResult) {
    let error = match result {
        Ok(written) => {
            let replies = written.response().0.iter().cloned();
            debug_assert_eq!(replies.len(), batch.len(), "a machine answers every command of an entry");
            for (proposal, reply) in batch.into_iter().zip(replies) {
                settle(proposal, Ok(reply));
            }
            return;
        }
        Err(ClientWriteError::ForwardToLeader(forward)) => {
            // Refused before it entered the log (openraft's contract for this variant).
            Error::NotLeader { leader: forward.leader_id.map(NodeId) }
        }
        Err(ClientWriteError::LogEntryDiscarded(_)) => {
            Error::Unknown("the leader changed while the write was under way".into())
        }
        Err(
            error @ (ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_)),
        ) => Error::Unavailable(error.to_string()),
    };
    for proposal in batch {
        settle(proposal, Err(error.clone()));
    }
}

fn not_in_time() -> Error {
    Error::Unavailable("no majority took the write in time".into())
}

fn settle(proposal: Proposal, result: Result<Bytes, Error>) {
    // Whoever asked may have given up.
    let _ = proposal.reply.send(result);
}
