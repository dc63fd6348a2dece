//! What the coordinator's leader has heard, in memory only (D11): who lives, and what shards'
//! leaders report. A new leader starts with nothing heard and gives everyone their time again.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    command::At,
    coordinator::{
        clocks,
        observed::{Heartbeat, Observed, ShardSeen, WorkerSeen},
    },
    ids::{GroupId, NodeId, WorkerId},
    ring::map::Map,
    router::calls::Held,
};

/// What was heard since this node leads the coordinator group.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Since when; `None` while it does not lead.
    since: Option<Instant>,
    workers: HashMap<NodeId, Sign>,
    pinged: HashMap<WorkerId, Sign>,
    shards: HashMap<GroupId, ShardSeen>,
    /// The shards that each worker's last report says it leads.
    led: HashMap<NodeId, HashSet<GroupId>>,
    /// Grows with every report that changes what a plan looks at in a shard.
    changes: u64,
    /// When a transfer of a shard's leadership was last ordered.
    transfers: HashMap<GroupId, Instant>,
    /// When a split for a shard's size was last tried.
    splits: HashMap<GroupId, Instant>,
    /// The first time a worker was active, for the wait before the shards are made.
    first_worker: Option<Instant>,
}

/// What a plan looks at in what was heard: equal signs under one map make equal plans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signs {
    /// Since when this node watches.
    since: Option<Instant>,
    /// What has changed in the shards since.
    changes: u64,
    /// Of every worker whether it counts as active, whether its replicas are to be made anew, and
    /// whether its clock is off or its disk limps.
    workers: Vec<(NodeId, bool, bool, bool)>,
}

/// A sign of life.
#[derive(Debug, Clone, Copy)]
struct Sign {
    heard: Instant,
    at: At,
    /// By how much its clock differs from this one's, milliseconds, where it told.
    offset_ms: Option<i64>,
    /// Its disk does not finish its syncs.
    limps: bool,
}

impl Seen {
    /// Starts to watch, if it does not already.
    pub(super) fn lead(&mut self, now: Instant) {
        if self.since.is_none() {
            *self = Self { since: Some(now), ..Self::default() };
        }
    }

    /// Forgets everything: another node leads.
    pub(super) fn follow(&mut self) {
        *self = Self::default();
    }

    /// A worker spoke, with the time by its own clock where it told. Its report is whole: what it led
    /// before and does not say to lead now, it leads no more. One that was just started again may not
    /// even name all the shards that it keeps.
    pub(super) fn heard(&mut self, node: NodeId, held: &[Held], theirs: Option<At>, now: Instant, at: At) {
        let known = self.workers.get(&node).and_then(|sign| sign.offset_ms);
        let offset_ms = theirs.map(|theirs| offset_ms(theirs, at)).or(known);
        self.workers.insert(node, Sign { heard: now, at, offset_ms, limps: false });
        self.first_worker.get_or_insert(now);
        for held in held {
            let shard = self.shards.entry(held.group).or_default();
            // Of two that believe to lead, the one of the higher term does.
            let Some(leads) = held.leads.as_ref().filter(|leads| leads.term >= shard.term) else { continue };
            let news = ShardSeen {
                leader: Some(node),
                term: leads.term,
                voters: leads.voters.iter().copied().collect(),
                learners: leads.learners.iter().copied().collect(),
                commit: Some(leads.commit),
                applied: Some(leads.applied),
                bytes: Some(leads.bytes),
                arc: leads.arc,
                behind: Some(leads.behind),
            };
            let plans = |shard: &ShardSeen| (shard.leader, shard.term, shard.bytes, shard.arc);
            let same = plans(&news) == plans(shard)
                && news.voters == shard.voters
                && news.learners == shard.learners;
            self.changes += u64::from(!same);
            *shard = news;
        }
        let leads = held.iter().filter(|held| held.leads.is_some()).map(|held| held.group).collect();
        let led = self.led.insert(node, leads).unwrap_or_default();
        for group in led.difference(&self.led[&node]) {
            if let Some(shard) = self.shards.get_mut(group)
                && shard.leader == Some(node)
            {
                shard.leader = None;
                self.changes += 1;
            }
        }
    }

    /// Someone pinged for this id.
    pub(super) fn pinged(&mut self, id: WorkerId, now: Instant, at: At) {
        self.pinged.insert(id, Sign { heard: now, at, offset_ms: None, limps: false });
    }

    /// By how much the clock of a worker is off, by the clocks of the others, where that is too much.
    pub(super) fn clock_off(&self, node: Option<NodeId>, theirs: At, at: At) -> Option<i64> {
        let offset = offset_ms(theirs, at);
        let others = self.workers.iter().filter(|(other, _)| Some(**other) != node);
        let others = others.filter_map(|(_, sign)| sign.offset_ms);
        clocks::off(offset, clocks::middle(others.chain([offset])))
    }

    /// Notes whether the disk of a worker that was just heard limps, or the worker is about to stop.
    pub(super) fn limps(&mut self, node: NodeId, limps: bool) {
        if let Some(sign) = self.workers.get_mut(&node) {
            sign.limps = limps;
        }
    }

    /// Forgets workers and shards that the map no longer has.
    pub(super) fn retain(&mut self, map: &Map, pinged: impl Fn(&WorkerId) -> bool) {
        self.workers.retain(|node, _| map.workers.contains_key(node));
        self.led.retain(|node, _| map.workers.contains_key(node));
        self.pinged.retain(|id, _| pinged(id));
    }

    /// What of it a plan looks at, without walking over the shards.
    pub(super) fn signs(&self, map: &Map, now: Instant) -> Signs {
        let inactive_after = Duration::from_millis(map.settings.inactive_after_ms);
        let replace_after = Duration::from_millis(map.settings.replace_after_ms);
        let middle = clocks::middle(self.workers.values().filter_map(|sign| sign.offset_ms));
        let of = |node: &NodeId| {
            let silent = self.silent_for(*node, now);
            let sign = self.workers.get(node);
            let offset = sign.and_then(|sign| sign.offset_ms);
            let is_off = offset.is_some_and(|offset| clocks::off(offset, middle).is_some());
            let unfit = is_off || sign.is_some_and(|sign| sign.limps);
            (*node, silent < inactive_after, silent >= replace_after, unfit)
        };
        Signs { since: self.since, changes: self.changes, workers: map.workers.keys().map(of).collect() }
    }

    /// How long a worker has been silent; one that was never heard, since this node watches.
    pub(super) fn silent_for(&self, node: NodeId, now: Instant) -> Duration {
        let since = self.workers.get(&node).map(|sign| sign.heard).or(self.since).unwrap_or(now);
        now.saturating_duration_since(since)
    }

    /// Whom to order to transfer a shard's leadership: its leader, unless that was done just now.
    pub(super) fn order_transfer(&mut self, group: GroupId, pause: Duration, now: Instant) -> Option<NodeId> {
        let leader = self.shards.get(&group)?.leader?;
        let last = self.transfers.get(&group);
        if last.is_some_and(|last| now.saturating_duration_since(*last) < pause) {
            return None;
        }
        self.transfers.insert(group, now);
        Some(leader)
    }

    /// Whether to try and split a shard for its size: not again, if that was done just now.
    pub(super) fn order_split(&mut self, group: GroupId, pause: Duration, now: Instant) -> bool {
        let last = self.splits.get(&group);
        let is_due = last.is_none_or(|last| now.saturating_duration_since(*last) >= pause);
        if is_due {
            self.splits.insert(group, now);
        }
        is_due
    }

    /// A shard was split for its size, and may be so again as soon as its new size is known.
    pub(super) fn forget_split(&mut self, group: GroupId) {
        self.splits.remove(&group);
    }

    /// The last report about a shard.
    pub(super) fn shard(&self, group: GroupId) -> Option<&ShardSeen> {
        self.shards.get(&group)
    }

    /// All of it, as plain data for plans and the status.
    pub(super) fn observed(
        &self,
        map: &Map,
        pinged: impl Iterator<Item = WorkerId>,
        leader: NodeId,
        term: u64,
        now: Instant,
    ) -> Observed {
        let inactive_after = Duration::from_millis(map.settings.inactive_after_ms);
        let middle = clocks::middle(self.workers.values().filter_map(|sign| sign.offset_ms));
        let workers = map.workers.keys().map(|node| {
            let sign = self.workers.get(node);
            let silent = self.silent_for(*node, now);
            let seen = WorkerSeen {
                active: silent < inactive_after,
                silent_for_ms: millis(silent),
                last_ping: sign.map(|sign| sign.at),
                clock_off_ms: sign
                    .and_then(|sign| sign.offset_ms)
                    .and_then(|offset| clocks::off(offset, middle)),
                limps: sign.is_some_and(|sign| sign.limps),
            };
            (*node, seen)
        });
        let pinged = pinged.map(|id| {
            let sign = self.pinged.get(&id);
            let since = sign.map(|sign| sign.heard).or(self.since).unwrap_or(now);
            let active = now.saturating_duration_since(since) < inactive_after;
            (id, Heartbeat { active, last_ping: sign.map(|sign| sign.at) })
        });
        let mut shards: BTreeMap<GroupId, ShardSeen> =
            self.shards.iter().map(|(group, shard)| (*group, shard.clone())).collect();
        for shard in shards.values_mut() {
            // A leader that fell silent no longer counts as one.
            let silent = |node: &NodeId| self.silent_for(*node, now) >= inactive_after;
            if shard.leader.as_ref().is_some_and(silent) {
                shard.leader = None;
            }
        }
        Observed {
            workers: workers.collect(),
            shards,
            pinged: pinged.collect(),
            first_worker_waited_ms: self
                .first_worker
                .map_or(0, |first| millis(now.saturating_duration_since(first))),
            coordinator_leader: Some(leader),
            coordinator_term: term,
            ..Observed::default()
        }
    }
}

fn offset_ms(theirs: At, ours: At) -> i64 {
    let far = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    if theirs >= ours { far(theirs.0 - ours.0) } else { -far(ours.0 - theirs.0) }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        config::Settings,
        ids::{ClusterId, Epoch, StoreId},
        ring::map::Worker,
        router::calls::Leads,
    };

    const WORKER: NodeId = NodeId(4);

    fn map() -> Map {
        let worker = Worker {
            id: "w".parse().unwrap(),
            addr: "127.0.0.1:1".into(),
            store: StoreId::default(),
            zone: None,
            draining: false,
        };
        Map {
            epoch: Epoch(1),
            cluster: ClusterId(uuid::Uuid::nil()),
            settings: Settings::default(),
            coordinators: BTreeMap::new(),
            workers: BTreeMap::from([(WORKER, worker)]),
            shards: BTreeMap::new(),
        }
    }

    fn report(term: u64, commit: u64, voters: &[u64]) -> Vec<Held> {
        let voters: BTreeSet<NodeId> = voters.iter().copied().map(NodeId).collect();
        let leads = Leads {
            term,
            commit,
            applied: commit,
            bytes: 7,
            arc: None,
            voters,
            learners: BTreeSet::new(),
            behind: 0,
        };
        vec![Held { group: GroupId(1), leads: Some(leads) }]
    }

    #[test]
    fn signs_change_with_what_plans_look_at_and_with_nothing_else() {
        let (map, start) = (map(), Instant::now());
        let mut seen = Seen::default();
        seen.lead(start);
        seen.heard(WORKER, &report(1, 1, &[4]), None, start, At(0));
        let quiet = seen.signs(&map, start);
        // The same again, later, and further in its log: no plan would differ.
        let later = start + Duration::from_secs(5);
        seen.heard(WORKER, &report(1, 9, &[4]), None, later, At(5_000));
        assert_eq!(seen.signs(&map, later), quiet);
        let mut differ = vec![quiet];
        for held in [report(2, 9, &[4]), report(2, 9, &[4, 5]), vec![Held { group: GroupId(1), leads: None }]]
        {
            seen.heard(WORKER, &held, None, later, At(5_000));
            let signs = seen.signs(&map, later);
            assert!(!differ.contains(&signs), "{held:?}");
            differ.push(signs);
        }
        // Silence, without any report.
        let settings = &map.settings;
        for silent_ms in [settings.inactive_after_ms, settings.replace_after_ms] {
            let signs = seen.signs(&map, later + Duration::from_millis(silent_ms));
            assert!(!differ.contains(&signs), "{silent_ms}");
            differ.push(signs);
        }
    }

    #[test]
    fn who_says_nothing_of_a_shard_leads_it_no_more() {
        let (map, start) = (map(), Instant::now());
        let mut seen = Seen::default();
        seen.lead(start);
        seen.heard(WORKER, &report(1, 1, &[4]), None, start, At(0));
        assert_eq!(seen.shard(GroupId(1)).unwrap().leader, Some(WORKER));
        let quiet = seen.signs(&map, start);
        // Started again, and its shards are not open yet.
        seen.heard(WORKER, &[], None, start, At(0));
        assert_eq!(seen.shard(GroupId(1)).unwrap().leader, None);
        assert_ne!(seen.signs(&map, start), quiet);
        // What another one leads since then is not taken from it.
        let other = NodeId(5);
        seen.heard(WORKER, &report(2, 1, &[4, 5]), None, start, At(0));
        seen.heard(other, &report(3, 1, &[4, 5]), None, start, At(0));
        seen.heard(WORKER, &[], None, start, At(0));
        assert_eq!(seen.shard(GroupId(1)).unwrap().leader, Some(other));
    }
}
