//! Joins the commands that wait for a group into entries, while earlier entries are in flight (D4).
//!
//! Throughput follows the size of the batches, and the batches follow the load: with one client each
//! command is an entry of its own, with many the commands that came during the last round go
//! together. Nothing is ever delayed to make a batch larger.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use openraft::{errors::ClientWriteError, impls::ProgressResponder};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    batch,
    types::{Raft, WriteResult},
};
use crate::{clock, error::Error, ids::NodeId};

/// Commands of one group that may wait to be proposed.
const MAX_WAITING_COMMANDS: usize = 16_384;

/// Bytes of commands of one group that may wait to be proposed.
const MAX_WAITING_BYTES: usize = 128 << 20;

/// Commands in one entry.
const MAX_COMMANDS_PER_ENTRY: usize = 1024;

/// Bytes of commands in one entry; a single larger command is an entry of its own.
const MAX_BYTES_PER_ENTRY: usize = 1 << 20;

/// Entries of one group proposed and not yet applied. A few hide the latency of the disk and the
/// network; more would only make smaller batches.
const MAX_ENTRIES_IN_FLIGHT: usize = 4;

/// Hands commands to a group's proposer; cheap to clone.
#[derive(Clone)]
pub(super) struct Proposer {
    queue: mpsc::UnboundedSender<Proposal>,
    waiting: Arc<Waiting>,
}

#[derive(Default)]
struct Waiting {
    commands: AtomicUsize,
    bytes: AtomicUsize,
}

struct Proposal {
    command: Bytes,
    deadline: Instant,
    reply: oneshot::Sender<Result<Bytes, Error>>,
}

impl Proposer {
    /// Starts a group's proposer; it ends with the last handle.
    pub(super) fn start(raft: Raft) -> Self {
        let (queue, proposals) = mpsc::unbounded_channel();
        let waiting = Arc::new(Waiting::default());
        tokio::spawn(run(raft, proposals, waiting.clone()));
        Self { queue, waiting }
    }

    /// Proposes a command and waits for its reply. Past the deadline the command either never
    /// enters the log ([`Error::Unavailable`]) or its fate is [`Error::Unknown`].
    pub(super) async fn propose(&self, command: Bytes, deadline: Instant) -> Result<Bytes, Error> {
        let bytes = command.len();
        if self.waiting.commands.load(Ordering::Relaxed) >= MAX_WAITING_COMMANDS
            || self.waiting.bytes.load(Ordering::Relaxed) + bytes > MAX_WAITING_BYTES
        {
            return Err(Error::Busy("commands waiting for this shard".into()));
        }
        self.waiting.commands.fetch_add(1, Ordering::Relaxed);
        self.waiting.bytes.fetch_add(bytes, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        let stopped = || Error::Unavailable("this replica is stopping".into());
        self.queue.send(Proposal { command, deadline, reply }).map_err(|_| stopped())?;
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(result)) => result,
            // The proposer answers all it took; it went away with the command still in its queue or
            // in flight, and we cannot tell which.
            Ok(Err(_)) => Err(Error::Unknown("the replica stopped before the answer came".into())),
            Err(_) => Err(Error::Unknown("no majority answered in time".into())),
        }
    }
}

async fn run(raft: Raft, mut proposals: mpsc::UnboundedReceiver<Proposal>, waiting: Arc<Waiting>) {
    let mut in_flight = FuturesUnordered::new();
    let mut joined: Vec<Proposal> = Vec::new();
    // The first proposal that did not fit the last entry.
    let mut held: Option<Proposal> = None;
    loop {
        if held.is_none() {
            tokio::select! {
                biased;
                Some(()) = in_flight.next(), if !in_flight.is_empty() => continue,
                proposal = proposals.recv(), if in_flight.len() < MAX_ENTRIES_IN_FLIGHT => match proposal {
                    Some(proposal) => held = Some(proposal),
                    None => break,
                },
            }
        } else if in_flight.len() >= MAX_ENTRIES_IN_FLIGHT {
            in_flight.next().await;
            continue;
        }
        let mut bytes = 0;
        while let Some(proposal) = held.take().or_else(|| proposals.try_recv().ok()) {
            let full = joined.len() == MAX_COMMANDS_PER_ENTRY
                || bytes + proposal.command.len() > MAX_BYTES_PER_ENTRY;
            if full && !joined.is_empty() {
                held = Some(proposal);
                break;
            }
            waiting.commands.fetch_sub(1, Ordering::Relaxed);
            waiting.bytes.fetch_sub(proposal.command.len(), Ordering::Relaxed);
            if proposal.deadline <= Instant::now() {
                settle(proposal, Err(Error::Unavailable("no majority took the write in time".into())));
                continue;
            }
            bytes += proposal.command.len();
            joined.push(proposal);
        }
        if joined.is_empty() {
            continue;
        }
        let entry = batch::join(clock::now(), joined.iter().map(|proposal| &proposal.command));
        let (responder, receiver) = ProgressResponder::complete_only();
        let batch = std::mem::take(&mut joined);
        match raft.client_write_ff(raft_store::types::Command(entry), Some(responder)).await {
            Ok(()) => in_flight.push(async move {
                let result = receiver.await.ok();
                deal_out(batch, result);
            }),
            Err(_) => {
                // The core had stopped before it took the message.
                for proposal in batch {
                    settle(proposal, Err(Error::Unavailable("this replica has stopped".into())));
                }
            }
        }
    }
    while in_flight.next().await.is_some() {}
}

/// Gives every command of an entry its own reply.
fn deal_out(batch: Vec<Proposal>, result: Option<WriteResult>) {
    let error = match result {
        Some(Ok(written)) => {
            let replies = written.response().0.iter().cloned();
            debug_assert_eq!(replies.len(), batch.len(), "a machine answers every command of an entry");
            for (proposal, reply) in batch.into_iter().zip(replies) {
                settle(proposal, Ok(reply));
            }
            return;
        }
        Some(Err(ClientWriteError::ForwardToLeader(forward))) => {
            // Refused before it entered the log (openraft's contract for this variant).
            Error::NotLeader { leader: forward.leader_id.map(NodeId) }
        }
        Some(Err(ClientWriteError::LogEntryDiscarded(_))) => {
            Error::Unknown("the leader changed while the write was under way".into())
        }
        Some(Err(
            error @ (ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_)),
        )) => Error::Unavailable(error.to_string()),
        None => Error::Unknown("the replica stopped while the write was under way".into()),
    };
    for proposal in batch {
        settle(proposal, Err(error.clone()));
    }
}

fn settle(proposal: Proposal, result: Result<Bytes, Error>) {
    // Whoever asked may have given up.
    let _ = proposal.reply.send(result);
}
