//! Linearizable reads without log entries and without clocks.
//!
//! A read may be answered from what the leader has applied once, *after the read came*, a majority
//! of the voters has said that it has promised itself to no newer leader. For then
//! - no newer leader can have acknowledged anything before the read came: it needed a majority for
//!   it, one of which is among those asked, and whose promise was on its disk before it helped
//!   (`raft_store::GroupLog::vote`);
//! - what this leader has acknowledged it had applied before;
//! - what earlier leaders have acknowledged was applied with this leader's first own entry, which is
//!   waited for ([`Lead::has_own_entry`]).
//!
//! This is ReadIndex (Ongaro's dissertation, section 6.4) with the applied state in the place of the
//! commit index. It does not use openraft's, which also counts the answer to an append that was sent
//! before the read as a proof (an empty append with the same last log id, queued after the read, is
//! taken as answered with it); and here one message between two nodes carries the questions of all
//! their groups.
//!
//! The voters are those of the leader's latest membership as openraft shows it, which may be one
//! step behind. That is safe: a leader takes the next step only after the last one is committed and
//! shown, and a majority of the joint or of the old voters meets every majority of the step after.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use raft_store::Store;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout_at},
};

use super::{
    types::Vote,
    wire::{Malformed, method},
};
use crate::{
    error::Error,
    ids::{GroupId, NodeId},
    peer::{Lane, Links, Peer},
};

/// Reads of a node that may wait for their proofs.
const MAX_WAITING_READS: usize = 65_536;

/// Groups that one message asks about.
const MAX_GROUPS_PER_QUESTION: usize = 4096;

/// The time for an answer; then the voter is asked again.
const QUESTION_TIMEOUT: Duration = Duration::from_millis(500);

/// Between two attempts to ask a voter that did not answer.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Bytes of a question about one group: group, term and node of the leader.
const QUESTION_BYTES: usize = 24;

/// What a voter says about a group: it has promised itself to nobody newer.
const STANDS: u8 = 1;
/// What a voter says about a group: it knows of a newer leader or candidate.
const DEPOSED: u8 = 0;

/// As whom a node leads a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lead {
    pub(super) group: GroupId,
    /// The vote that it was elected with.
    pub(super) vote: Vote,
}

type Waiter = oneshot::Sender<Result<(), Error>>;

/// The question whether a leader still leads, for all reads that came before it was first sent.
struct Proof {
    lead: Lead,
    /// One set of voters, or two while they change; a majority is needed of each.
    voters: Vec<BTreeSet<u64>>,
    state: Mutex<ProofState>,
}

struct ProofState {
    /// Who has said that the leader stands.
    said: Vec<u64>,
    waiters: Vec<Waiter>,
    done: bool,
}

impl Proof {
    fn is_done(&self) -> bool {
        let state = self.state.lock();
        state.done || state.waiters.iter().all(Waiter::is_closed)
    }

    fn settle(&self, result: &Result<(), Error>) {
        let waiters = {
            let mut state = self.state.lock();
            state.done = true;
            std::mem::take(&mut state.waiters)
        };
        for waiter in waiters {
            // Whoever asked may have given up.
            let _ = waiter.send(result.clone());
        }
    }

    /// Notes that a voter has said so; true if now a majority has.
    fn has_majority_with(&self, voter: u64) -> bool {
        let mut state = self.state.lock();
        if !state.said.contains(&voter) {
            state.said.push(voter);
        }
        let majority = |voters: &BTreeSet<u64>| {
            voters.iter().filter(|voter| state.said.contains(voter)).count() * 2 > voters.len()
        };
        !state.done && self.voters.iter().all(majority)
    }
}

/// The proofs of all groups that this node leads.
pub(super) struct Reads {
    store: Store,
    links: Arc<Links>,
    waiting: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Proofs that nobody has been asked about yet: a read that comes may join.
    forming: BTreeMap<GroupId, Arc<Proof>>,
    voters: BTreeMap<NodeId, Asked>,
}

/// What one voter is still to be asked.
#[derive(Default)]
struct Asked {
    proofs: BTreeMap<GroupId, Vec<Arc<Proof>>>,
    /// A task asks.
    busy: bool,
}

/// A place among the waiting reads.
struct Place<'r>(&'r AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Reads {
    pub(super) fn new(store: Store, links: Arc<Links>) -> Arc<Self> {
        Arc::new(Self { store, links, waiting: AtomicUsize::new(0), state: Mutex::default() })
    }

    /// Returns once it is proved that `lead` led after this call came. `voters` is only asked for
    /// where no other read has begun a proof that this one can share.
    pub(super) async fn prove(
        self: &Arc<Self>,
        lead: Lead,
        voters: impl FnOnce() -> Vec<BTreeSet<u64>>,
        deadline: Instant,
    ) -> Result<(), Error> {
        let place = Place(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING_READS {
            return Err(Error::Busy("reads waiting for their shard's majority".into()));
        }
        let (waiter, proved) = oneshot::channel();
        self.begin(lead, voters, waiter);
        let result = timeout_at(deadline, proved).await;
        drop(place);
        match result {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Error::Unavailable("this replica is stopping".into())),
            Err(_) => Err(Error::Unavailable("no majority confirmed the leader in time".into())),
        }
    }

    fn begin(self: &Arc<Self>, lead: Lead, voters: impl FnOnce() -> Vec<BTreeSet<u64>>, waiter: Waiter) {
        let mut state = self.state.lock();
        if let Some(proof) = state.forming.get(&lead.group)
            && proof.lead == lead
        {
            let mut joined = proof.state.lock();
            if !joined.done {
                joined.waiters.push(waiter);
                return;
            }
        }
        let me = lead.vote.leader_id.node_id;
        let proof = Arc::new(Proof {
            lead,
            voters: voters(),
            state: Mutex::new(ProofState { said: Vec::new(), waiters: vec![waiter], done: false }),
        });
        let others: BTreeSet<u64> = proof.voters.iter().flatten().copied().filter(|id| *id != me).collect();
        state.forming.insert(lead.group, proof.clone());
        for voter in others {
            let voter = NodeId(voter);
            let asked = state.voters.entry(voter).or_default();
            let proofs = asked.proofs.entry(lead.group).or_default();
            // Others have proved these meanwhile: a voter that does not answer must not collect them.
            proofs.retain(|proof| !proof.is_done());
            proofs.push(proof.clone());
            if !std::mem::replace(&mut asked.busy, true) {
                tokio::spawn(ask(self.clone(), voter));
            }
        }
        drop(state);
        self.hear(&proof, me);
    }

    /// What is to be asked of a voter now; nothing more joins these proofs. `None`: nothing.
    fn question(&self, voter: NodeId) -> Option<Vec<Arc<Proof>>> {
        let mut state = self.state.lock();
        let State { forming, voters } = &mut *state;
        let asked = voters.get_mut(&voter)?;
        let mut question = Vec::new();
        asked.proofs.retain(|group, proofs| {
            if question.len() >= MAX_GROUPS_PER_QUESTION {
                return true;
            }
            question.extend(proofs.drain(..).filter(|proof| !proof.is_done()));
            forming.remove(group);
            false
        });
        if question.is_empty() {
            // Of a voter that is gone for good nothing is kept.
            voters.remove(&voter);
            return None;
        }
        Some(question)
    }

    fn ask_again(&self, voter: NodeId, question: Vec<Arc<Proof>>) {
        let mut state = self.state.lock();
        let asked = state.voters.entry(voter).or_default();
        for proof in question.into_iter().filter(|proof| !proof.is_done()) {
            asked.proofs.entry(proof.lead.group).or_default().push(proof);
        }
    }

    /// A voter has said that the leader stands. This node is one itself, and the last one asked.
    fn hear(&self, proof: &Proof, voter: u64) {
        if proof.has_majority_with(voter) {
            let still = self.store.vote(proof.lead.group.0) == Some(proof.lead.vote);
            proof.settle(&if still { Ok(()) } else { Err(deposed()) });
        }
    }
}

fn deposed() -> Error {
    Error::NotLeader { leader: None }
}

/// Asks one voter as long as there is something to ask.
async fn ask(reads: Arc<Reads>, voter: NodeId) {
    loop {
        // Reads that are ready to come now share the question.
        tokio::task::yield_now().await;
        let Some(question) = reads.question(voter) else { return };
        let mut body = BytesMut::with_capacity(question.len() * QUESTION_BYTES);
        for proof in &question {
            let Lead { group, vote } = proof.lead;
            body.put_u64_le(group.0);
            body.put_u64_le(vote.leader_id.term);
            body.put_u64_le(vote.leader_id.node_id);
        }
        let deadline = Instant::now() + QUESTION_TIMEOUT;
        let peer = Peer::Node(voter);
        match reads.links.call(&peer, Lane::Main, method::STANDS, body.freeze(), deadline).await {
            Ok(answer) if answer.len() == question.len() => {
                for (proof, answer) in question.iter().zip(answer) {
                    if answer == STANDS {
                        reads.hear(proof, voter.0);
                    } else {
                        proof.settle(&Err(deposed()));
                    }
                }
            }
            _ => {
                sleep(RETRY_PAUSE).await;
                reads.ask_again(voter, question);
            }
        }
    }
}

/// Answers a leader's question, from the promises that this node has on its disk. It need not have a
/// replica now: what it had promised counts for ever.
pub(super) fn answer(store: &Store, mut question: Bytes) -> Result<Bytes, Malformed> {
    if !question.len().is_multiple_of(QUESTION_BYTES) {
        return Err(Malformed);
    }
    let mut answer = BytesMut::with_capacity(question.len() / QUESTION_BYTES);
    while question.has_remaining() {
        let group = question.get_u64_le();
        let (term, node_id) = (question.get_u64_le(), question.get_u64_le());
        let asks = raft_store::types::leader_vote(term, node_id);
        let stands = store.vote(group).is_none_or(|promised| promised <= asks);
        answer.put_u8(if stands { STANDS } else { DEPOSED });
    }
    Ok(answer.freeze())
}
