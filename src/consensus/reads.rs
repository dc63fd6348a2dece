//! Linearizable reads without log entries (ReadIndex: Ongaro's dissertation, section 6.4).
//!
//! A read may be answered once the leader has, *after the read came*, heard from a majority that it
//! still leads, and has applied everything that was committed by then: any write acknowledged before
//! the read came was committed by then. No clock is trusted. All reads that wait share one round.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use openraft::{
    ReadPolicy,
    errors::{LinearizableReadError, RaftError},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

use super::types::Raft;
use crate::{error::Error, ids::NodeId};

/// Reads of one group that may wait for a round.
const MAX_WAITING_READS: usize = 65_536;

/// Rounds of one group under way at once. A read that comes while a round is under way cannot share
/// it, as the round began before the read; with two, it need not wait for that round to end either.
const MAX_ROUNDS: usize = 2;

type Waiter = oneshot::Sender<Result<u64, Error>>;

/// Hands reads to a group's reader; cheap to clone.
#[derive(Clone)]
pub(super) struct Reads {
    queue: mpsc::UnboundedSender<Waiter>,
    waiting: Arc<AtomicUsize>,
}

impl Reads {
    /// Starts the task that proves leadership for a group's reads; it ends with the last handle.
    pub(super) fn start(raft: Raft) -> Self {
        let (queue, waiters) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        tokio::spawn(run(raft, waiters, waiting.clone()));
        Self { queue, waiting }
    }

    /// Returns once the local state reflects every write acknowledged before this call: they are at
    /// or below the index that is returned.
    pub(super) async fn barrier(&self, deadline: Instant) -> Result<u64, Error> {
        if self.waiting.load(Ordering::Relaxed) >= MAX_WAITING_READS {
            return Err(Error::Busy("reads waiting for this shard".into()));
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let (sender, proved) = oneshot::channel();
        let stopped = || Error::Unavailable("this replica is stopping".into());
        self.queue.send(sender).map_err(|_| stopped())?;
        match timeout_at(deadline, proved).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(stopped()),
            Err(_) => Err(Error::Unavailable("no majority confirmed the leader in time".into())),
        }
    }
}

async fn run(raft: Raft, mut queue: mpsc::UnboundedReceiver<Waiter>, waiting: Arc<AtomicUsize>) {
    let mut rounds = FuturesUnordered::new();
    loop {
        let mut waiters = Vec::new();
        tokio::select! {
            biased;
            Some(()) = rounds.next(), if !rounds.is_empty() => continue,
            taken = queue.recv_many(&mut waiters, MAX_WAITING_READS), if rounds.len() < MAX_ROUNDS => {
                if taken == 0 {
                    break;
                }
                waiting.fetch_sub(taken, Ordering::Relaxed);
            }
        }
        let raft = &raft;
        rounds.push(async move {
            let result = prove(raft).await;
            for waiter in waiters {
                // Whoever asked may have given up.
                let _ = waiter.send(result.clone());
            }
        });
    }
    while rounds.next().await.is_some() {}
}

async fn prove(raft: &Raft) -> Result<u64, Error> {
    match raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
        Ok(read) => Ok(read.index()),
        Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
            Err(Error::NotLeader { leader: forward.leader_id.map(NodeId) })
        }
        Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
            Err(Error::Unavailable("no majority of the shard's replicas can be reached".into()))
        }
        Err(RaftError::Fatal(_)) => Err(Error::Unavailable("this replica has stopped".into())),
    }
}
