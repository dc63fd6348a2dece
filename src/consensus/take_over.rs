//! Who leads a group next, where that need not wait for timeouts: the leader's process is known to have
//! ended, or the group has just come into being.

use std::{sync::Arc, time::Duration};

use openraft::metrics::WaitError;
use tokio::time::Instant;

use super::{group::Group, pulse, types::Metrics};
use crate::{ids::NodeId, peer::Links};

/// Between the first candidacies of a dead leader's followers: long enough for one's election.
const STAGGER: Duration = Duration::from_millis(60);

/// How long a candidate, or whom this replica has just voted for, has for its election.
const ELECTION: Duration = Duration::from_millis(180);

/// Between two questions of a follower whether the others would vote for it.
const ASK_PAUSE: Duration = Duration::from_millis(30);

/// Between the candidacies of the parent's leader in a new shard: the others may still have to start it.
const STAND_PAUSE: Duration = Duration::from_millis(40);

/// Candidacies in a new shard; then the ordinary timeouts take over.
const STAND_ATTEMPTS: u32 = 25;

/// How long followers see to a dead leader's place; then the ordinary timeouts do.
const TAKE_OVER_TIME: Duration = Duration::from_secs(2);

/// This replica was stopped.
struct Stopped;

/// Followers of a dead leader stand one after the other, so that they seldom compete: the first by
/// number at once, the next one when the first had time to win and did not, as happens when its log
/// is shorter.
///
/// Each asks first whether the others would vote for it ([`pulse::stand`]). One that learns late of
/// the death, while another has just been elected, would else depose it by its higher term, and could
/// not win itself: the new leader's log is longer.
pub(super) async fn run(group: Arc<Group>, links: Arc<Links>, gone: NodeId) {
    let vote = |group: &Group| group.metrics(|metrics| metrics.vote);
    let rank = group.status().voters.iter().filter(|id| **id != gone && **id < group.me).count();
    let stagger = STAGGER * u32::try_from(rank).unwrap_or(u32::MAX);
    let deadline = Instant::now() + TAKE_OVER_TIME;
    group.gone.set(gone);
    let (mut wait, mut known) = (stagger, vote(&group));
    while links.is_gone(gone) && Instant::now() < deadline {
        match group.wait_for_leader(gone, wait).await {
            // It may yet be deposed by one that stood at the same time.
            Ok(true) if group.wait_for_no_leader(gone, deadline).await => {
                wait = Duration::ZERO;
                continue;
            }
            Ok(true) | Err(Stopped) => break,
            Ok(false) => {}
        }
        let now = vote(&group);
        let voted = now != std::mem::replace(&mut known, now) && now.leader_id.node_id != group.me.0;
        let stood = !voted && pulse::stand(group.clone(), links.clone()).await;
        wait = match () {
            () if voted => ELECTION,
            // Two that stood at once do not meet again.
            () if stood => ELECTION + stagger,
            () => ASK_PAUSE,
        };
    }
    group.gone.unset(gone);
}

/// Stands for election in a new shard until it has a leader.
pub(super) async fn stand_until_led(group: Arc<Group>, links: Arc<Links>) {
    for _ in 0..STAND_ATTEMPTS {
        // Asks first whether the others would vote: a term that nobody grants helps nobody.
        pulse::stand(group.clone(), links.clone()).await;
        match group.wait_for_leader(NodeId::default(), STAND_PAUSE).await {
            Ok(true) | Err(Stopped) => break,
            Ok(false) => {}
        }
    }
}

impl Group {
    /// Waits until this replica knows of a leader, at most `time`. Where it was stopped, at once, it never
    /// will: whoever asks again and again must end then, or it would do so without a pause.
    async fn wait_for_leader(&self, besides: NodeId, time: Duration) -> Result<bool, Stopped> {
        let known = |metrics: &Metrics| metrics.current_leader.is_some_and(|id| id != besides.0);
        match self.raft.wait(Some(time)).metrics(known, "a leader is known").await {
            Ok(_) => Ok(true),
            Err(WaitError::Timeout(..)) => Ok(false),
            Err(WaitError::ShuttingDown) => Err(Stopped),
        }
    }

    /// Waits until this replica knows of no leader any more, or only of `gone`, at most until the deadline.
    async fn wait_for_no_leader(&self, gone: NodeId, deadline: Instant) -> bool {
        let unknown = |metrics: &Metrics| metrics.current_leader.is_none_or(|id| id == gone.0);
        let time = deadline.saturating_duration_since(Instant::now());
        self.raft.wait(Some(time)).metrics(unknown, "no leader is known").await.is_ok()
    }
}
