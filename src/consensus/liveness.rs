//! Who leads which group as far as others have told this node, and who has fallen silent. No clock,
//! no tasks, no messages: [`super::pulse`] brings moments, views and messages, and does what this
//! decides.
//!
//! A node tells every other one which groups it leads that the other is a member of: its *claims*. They
//! are numbered, and told whole only when they have changed; a beat that says "as before" renews
//! them. So the cost of a quiet pair of nodes does not depend on how many groups they share.
//!
//! Nothing here is a promise: an election is decided by Raft's votes on disk and reads by
//! [`super::reads`]. A mistake here costs an election too many or one too late.
//!
//! Rules
//! - A group is *led* at a moment when its replica here has promised itself to a leader, and that
//!   leader claimed it in that very term with a beat at that moment, or sent it an append. A leader
//!   newly promised to counts as heard when that was noticed: its first claim is on the way.
//! - Claims hold on the connection they came on: who comes back on another one may have lost them.
//! - A node that was itself held up blames nobody for the silence ([`Liveness::tick`]).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use tokio::time::Instant;

use crate::ids::{GroupId, NodeId};

/// Between two looks at all groups.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// Between two beats to one node while nothing changes.
pub(super) const BEAT: Duration = Duration::from_millis(200);

/// A leader heard of within this time is not voted against.
pub(super) const LEASE: Duration = Duration::from_millis(1000);

/// A follower stands when its leader has been silent for so long, and its turn has come.
const STAND_AFTER: Duration = Duration::from_millis(1400);

/// The same where nobody leads: an election came to nothing, or a leader that lives claims it no more.
const STAND_UNLED: Duration = Duration::from_millis(600);

/// The same for a group that has just started here: whoever leads it tells within a beat.
const STAND_STARTED: Duration = Duration::from_millis(200);

/// Between the turns there: nobody served, so two that compete disturb nobody.
const TURN_STARTED: Duration = Duration::from_millis(100);

/// Between the turns of a group's members: time for the election of the one before.
const TURN: Duration = Duration::from_millis(250);

/// A look that comes so much late means that this node was held up.
const HELD_UP: Duration = Duration::from_millis(500);

/// Groups of which one answer says that their leader has to speak itself.
const MAX_UNSETTLED: usize = 256;

/// Whom a replica has promised itself to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Promise {
    pub(super) term: u64,
    pub(super) node: NodeId,
    /// A majority has elected that node.
    pub(super) elected: bool,
}

/// A group as its replica here is right now.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub(super) group: GroupId,
    pub(super) promise: Promise,
    /// This replica leads, and is not about to hand over.
    pub(super) leads: bool,
    /// The term in which the replica, since it runs, has last taken an append from the leader.
    pub(super) followed: u64,
    /// It has taken one since the last look.
    pub(super) appended: bool,
}

/// What is remembered of a group between looks.
#[derive(Debug)]
struct Watch {
    promise: Promise,
    /// The promise is the one that the group started with: nobody was heard to lead yet.
    started: bool,
    /// When it was last led, or the promise last changed.
    led: Instant,
    /// Its leader lives, and does not claim it.
    unclaimed: bool,
    /// When this replica last stood.
    stood: Option<Instant>,
    leads: bool,
}

impl Watch {
    /// How long it is borne that a group seems to have no leader; `None` where this replica leads.
    fn patience(&self, me: NodeId) -> Option<Duration> {
        if self.leads {
            None
        } else if self.started {
            Some(STAND_STARTED)
        } else if !self.promise.elected || self.unclaimed || self.promise.node == me {
            Some(STAND_UNLED)
        } else {
            Some(STAND_AFTER)
        }
    }
}

/// What another node has told.
#[derive(Debug)]
struct Heard {
    conn: u64,
    version: u64,
    claims: HashMap<GroupId, u64>,
    /// When it last renewed them.
    at: Instant,
    /// Groups in which this replica does not follow as claimed.
    unsettled: Vec<GroupId>,
}

/// What another node is told, and how it takes it.
#[derive(Debug, Default)]
struct Told {
    version: u64,
    claims: Vec<(GroupId, u64)>,
    /// The version that it was last known to have.
    held: u64,
    /// A beat is on the way.
    asking: bool,
    last: Option<Instant>,
    /// When the last beat that it has answered was sent.
    answered: Option<Instant>,
    /// When the first of the beats that it has not answered was sent.
    unanswered: Option<Instant>,
}

impl Told {
    fn is_lost(&self, now: Instant) -> bool {
        self.unanswered.is_some_and(|since| now >= since + LEASE)
    }
}

/// A beat to send: the version of the claims, and the claims unless they are known there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Beat {
    pub(super) to: NodeId,
    pub(super) version: u64,
    pub(super) claims: Option<Vec<(GroupId, u64)>>,
}

/// How a beat was taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Noted {
    /// Which version of the sender's claims is known now; 0: none.
    pub(super) version: u64,
    /// Groups in which the sender has to speak itself.
    pub(super) unsettled: Vec<GroupId>,
    /// The claims are the first on their connection: what was sent on the one before may be lost.
    pub(super) anew: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Liveness {
    me: NodeId,
    looked: Option<Instant>,
    groups: BTreeMap<GroupId, Watch>,
    heard: BTreeMap<NodeId, Heard>,
    told: BTreeMap<NodeId, Told>,
}

/// Notes for the answer to whoever claims a group in which this replica follows nobody, or somebody
/// else, or has not heard of the leader since it runs. The leader then speaks to it by Raft's own means:
/// this replica learns of it, or it of a newer term.
fn check_claims(heard: &mut BTreeMap<NodeId, Heard>, view: &View) {
    for (node, heard) in heard {
        let Some(term) = heard.claims.get(&view.group) else { continue };
        let promised = Promise { term: *term, node: *node, elected: true };
        let settled = view.promise == promised && view.followed == *term;
        if !settled && heard.unsettled.len() < MAX_UNSETTLED {
            heard.unsettled.push(view.group);
        }
    }
}

/// When the members of a group may stand: those before this one have had their turns. All members
/// know the same order, and it differs from group to group and from term to term.
fn turn(me: NodeId, voters: &BTreeSet<NodeId>, group: GroupId, watch: &Watch) -> Option<u32> {
    if !voters.contains(&me) {
        return None;
    }
    let leader = watch.promise.elected.then_some(watch.promise.node);
    if leader == Some(me) {
        // It led before it was started again: the others count it in where they never heard it.
        return Some(if watch.started { 0 } else { u32::try_from(voters.len()).unwrap_or(u32::MAX) });
    }
    let others: Vec<NodeId> = voters.iter().copied().filter(|id| Some(*id) != leader).collect();
    let place = others.iter().position(|id| *id == me)? as u64;
    let count = others.len() as u64;
    let turn = (place + group.0 % count + watch.promise.term % count) % count;
    let behind_leader = u32::from(watch.started && leader.is_some());
    Some(u32::try_from(turn).unwrap_or(u32::MAX).saturating_add(behind_leader))
}

impl Liveness {
    /// Who this node is: known before its first group starts.
    pub(super) fn set_me(&mut self, me: NodeId) {
        self.me = me;
    }

    /// Looks at all groups, and returns those in which this replica is to stand. `voters` is asked
    /// for groups that nobody leads only.
    pub(super) fn tick(
        &mut self,
        now: Instant,
        views: &[View],
        voters: impl Fn(GroupId) -> BTreeSet<NodeId>,
    ) -> Vec<GroupId> {
        if let Some(last) = self.looked.replace(now) {
            let late = now.saturating_duration_since(last + LOOK);
            if late >= HELD_UP {
                self.forgive(late, now);
            }
        }
        for heard in self.heard.values_mut() {
            heard.unsettled.clear();
        }
        let mut stand = Vec::new();
        for view in views {
            self.look(now, view);
            let Some(watch) = self.groups.get_mut(&view.group) else { continue };
            let Some(due) = watch.patience(self.me).map(|patience| watch.led + patience) else { continue };
            if now < due {
                continue;
            }
            let voters = voters(view.group);
            let Some(turn) = turn(self.me, &voters, view.group, watch) else { continue };
            let unit = if watch.started { TURN_STARTED } else { TURN };
            // Who was refused asks again when all have had their turns.
            let round = unit * u32::try_from(voters.len()).unwrap_or(u32::MAX);
            let rested = watch.stood.is_none_or(|stood| now >= stood + round);
            if now >= due + unit * turn && rested {
                watch.stood = Some(now);
                stand.push(view.group);
            }
        }
        if self.groups.len() > views.len() {
            let there: BTreeSet<GroupId> = views.iter().map(|view| view.group).collect();
            self.groups.retain(|group, _| there.contains(group));
        }
        stand
    }

    /// This node was held up: what came meanwhile lies unread, so nobody was silent.
    fn forgive(&mut self, late: Duration, now: Instant) {
        for heard in self.heard.values_mut() {
            heard.at = (heard.at + late).min(now);
        }
        for watch in self.groups.values_mut() {
            watch.led = (watch.led + late).min(now);
        }
        for told in self.told.values_mut() {
            told.unanswered = told.unanswered.map(|since| (since + late).min(now));
        }
    }

    fn look(&mut self, now: Instant, view: &View) {
        let watch = self.groups.entry(view.group).or_insert_with(|| Watch {
            promise: view.promise,
            started: true,
            led: now,
            unclaimed: false,
            stood: None,
            leads: false,
        });
        watch.leads = view.leads;
        if watch.promise != view.promise {
            (watch.promise, watch.started, watch.led, watch.stood) = (view.promise, false, now, None);
        }
        watch.unclaimed = false;
        check_claims(&mut self.heard, view);
        if view.leads {
            (watch.led, watch.started) = (now, false);
            return;
        }
        if view.appended {
            (watch.led, watch.started) = (now, false);
        }
        let leader = view.promise.node;
        if view.promise.elected
            && let Some(heard) = self.heard.get(&leader)
        {
            if heard.claims.get(&view.group) == Some(&view.promise.term) {
                watch.started = false;
                watch.led = watch.led.max(heard.at);
            } else {
                // It spoke later than a first claim could have taken.
                watch.unclaimed = heard.at > watch.led + BEAT * 2;
            }
        }
    }

    /// Whether this node would see `candidate` lead a group in the place of whom it has promised itself
    /// to. `promise` is the replica's right now.
    pub(super) fn may_stand(
        &self,
        now: Instant,
        group: GroupId,
        candidate: NodeId,
        promise: Promise,
        voters: &[BTreeSet<NodeId>],
    ) -> bool {
        // Who led and asks to be elected says itself that it does not lead any more.
        if !promise.elected || promise.node == candidate {
            return true;
        }
        let Some(watch) = self.groups.get(&group) else { return false };
        if watch.promise != promise {
            return false;
        }
        if watch.leads {
            return self.is_cut_off(now, voters);
        }
        let unled = watch.unclaimed || watch.started || promise.node == self.me;
        let enough = if unled { BEAT + LOOK } else { LEASE };
        now.saturating_duration_since(watch.led) >= enough
    }

    /// Takes another node's beat.
    pub(super) fn hear(
        &mut self,
        now: Instant,
        conn: u64,
        from: NodeId,
        version: u64,
        claims: Option<Vec<(GroupId, u64)>>,
    ) -> Noted {
        if let Some(claims) = claims {
            let anew = self.heard.get(&from).is_none_or(|heard| heard.conn != conn);
            let claims = claims.into_iter().collect();
            self.heard.insert(from, Heard { conn, version, claims, at: now, unsettled: Vec::new() });
            return Noted { version, unsettled: Vec::new(), anew };
        }
        match self.heard.get_mut(&from) {
            Some(heard) if heard.conn == conn && heard.version == version => {
                heard.at = heard.at.max(now);
                Noted { version, unsettled: std::mem::take(&mut heard.unsettled), anew: false }
            }
            _ => Noted::default(),
        }
    }

    /// Takes what this node now leads, by node that is to know, and returns the beats to send.
    pub(super) fn beats(
        &mut self,
        now: Instant,
        news: Option<HashMap<NodeId, Vec<(GroupId, u64)>>>,
    ) -> Vec<Beat> {
        if let Some(mut claims) = news {
            for (node, told) in &mut self.told {
                let claims = claims.remove(node).unwrap_or_default();
                if told.claims != claims {
                    (told.claims, told.version) = (claims, told.version + 1);
                }
            }
            for (node, claims) in claims {
                self.told.insert(node, Told { version: 1, claims, ..Told::default() });
            }
        }
        // Who is told nothing any more, and knows it or cannot be reached, is forgotten.
        self.told.retain(|_, told| {
            told.asking || !told.claims.is_empty() || (told.held != told.version && !told.is_lost(now))
        });
        let mut beats = Vec::new();
        for (node, told) in &mut self.told {
            let news = told.held != told.version && told.unanswered.is_none();
            if told.asking || !(news || told.last.is_none_or(|last| now >= last + BEAT)) {
                continue;
            }
            (told.asking, told.last) = (true, Some(now));
            let claims = (told.held != told.version).then(|| told.claims.clone());
            beats.push(Beat { to: *node, version: told.version, claims });
        }
        beats
    }

    /// Notes how a node took the beat that was sent at `sent`: the version that it knows, or nothing.
    pub(super) fn answered(&mut self, node: NodeId, sent: Instant, held: Option<u64>) {
        let Some(told) = self.told.get_mut(&node) else { return };
        told.asking = false;
        match held {
            Some(held) => (told.held, told.unanswered, told.answered) = (held, None, Some(sent)),
            None => {
                told.held = 0;
                told.unanswered.get_or_insert(sent);
            }
        }
    }

    /// How long ago each node that follows this one anywhere was last known to live.
    pub(super) fn answers(&self, now: Instant) -> BTreeMap<NodeId, Duration> {
        let ago = |answered: Instant| now.saturating_duration_since(answered);
        self.told.iter().filter_map(|(node, told)| Some((*node, ago(told.answered?)))).collect()
    }

    /// Whether any node has stopped answering.
    pub(super) fn misses_any(&self, now: Instant) -> bool {
        self.told.values().any(|told| told.is_lost(now))
    }

    /// Whether so many voters have stopped answering this leader that it can commit nothing. A voter
    /// that was not asked yet counts as one that answers.
    pub(super) fn is_cut_off(&self, now: Instant, voters: &[BTreeSet<NodeId>]) -> bool {
        let lost = |node: &&NodeId| self.told.get(*node).is_some_and(|told| told.is_lost(now));
        voters.iter().any(|voters| voters.iter().filter(lost).count() * 2 >= voters.len().max(1))
    }
}

#[cfg(test)]
#[path = "liveness_test.rs"]
mod tests;
