//! The liveness table by plain calls: moments are made up, messages are handed over by hand.

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);
const GROUP: GroupId = GroupId(7);

/// A node with a table of its own, seen through one group.
struct Member {
    me: NodeId,
    table: Liveness,
    promise: Promise,
    leads: bool,
    followed: u64,
    appended: bool,
}

fn voters(count: u64) -> BTreeSet<NodeId> {
    (1..=count).map(NodeId).collect()
}

fn led_by(node: u64, term: u64) -> Promise {
    Promise { term, node: NodeId(node), elected: true }
}

impl Member {
    fn new(me: u64, promise: Promise) -> Self {
        let mut table = Liveness::default();
        table.set_me(NodeId(me));
        Self { me: NodeId(me), table, promise, leads: false, followed: 0, appended: false }
    }

    fn look(&mut self, now: Instant, count: u64) -> bool {
        let view = View {
            group: GROUP,
            promise: self.promise,
            leads: self.leads,
            followed: self.followed,
            appended: std::mem::take(&mut self.appended),
        };
        !self.table.tick(now, &[view], |_| voters(count)).is_empty()
    }

    fn allows(&self, now: Instant, candidate: u64) -> bool {
        self.table.may_stand(now, GROUP, NodeId(candidate), self.promise, &[voters(3)])
    }

    fn hear(&mut self, now: Instant, version: u64, claims: Option<&[u64]>) -> Noted {
        let claims = claims.map(|terms| terms.iter().map(|term| (GROUP, *term)).collect());
        self.table.hear(now, 1, NodeId(1), version, claims)
    }
}

/// A follower of node 1 in term 3 that has been running for a while and hears of it.
fn follower(me: u64, now: &mut Instant) -> Member {
    let mut member = Member::new(me, led_by(1, 3));
    member.followed = 3;
    member.hear(*now, 1, Some(&[3]));
    for _ in 0..10 {
        *now += LOOK;
        member.hear(*now, 1, None);
        assert!(!member.look(*now, 3));
    }
    member
}

/// How long after `now` a member stands, if nothing more is heard.
fn stands_after(member: &mut Member, now: Instant, count: u64) -> Duration {
    (1..100).map(|n| LOOK * n).find(|after| member.look(now + *after, count)).expect("it stands")
}

#[test]
fn who_hears_its_leader_neither_stands_nor_lets_others() {
    let mut now = Instant::now();
    let mut member = follower(2, &mut now);
    for _ in 0..100 {
        now += BEAT;
        assert_eq!(member.hear(now, 1, None), Noted { version: 1, ..Noted::default() });
        assert!(!member.look(now, 3) && !member.allows(now, 3));
    }
    // Appends do as well where beats are held up behind them.
    for _ in 0..50 {
        now += LOOK;
        member.appended = true;
        assert!(!member.look(now, 3) && !member.allows(now, 3));
    }
}

#[test]
fn a_silent_leader_is_replaced_within_two_seconds_by_one_after_the_other() {
    let (mut now, mut same) = {
        let start = Instant::now();
        (start, start)
    };
    let (mut two, mut three) = (follower(2, &mut now), follower(3, &mut same));
    let times = [stands_after(&mut two, now, 3), stands_after(&mut three, now, 3)];
    let (first, second) = (times.iter().min().unwrap(), times.iter().max().unwrap());
    assert!(*first >= LEASE && *second <= Duration::from_secs(2), "{times:?}");
    assert!(*second >= *first + TURN - LOOK, "{times:?}");
    assert!(!two.allows(now + LEASE - MS, 3));
    assert!(two.allows(now + LEASE, 3));
}

#[test]
fn a_leader_that_lives_and_claims_no_more_is_replaced_sooner() {
    let mut now = Instant::now();
    let mut member = follower(2, &mut now);
    member.hear(now + LOOK, 2, Some(&[]));
    let mut stood = None;
    for n in 2..30 {
        let at = now + LOOK * n;
        member.hear(at, 2, None);
        if member.look(at, 3) {
            stood = Some(LOOK * n);
            break;
        }
    }
    assert!(stood.unwrap() < STAND_AFTER && stood.unwrap() >= STAND_UNLED, "{stood:?}");
    assert!(member.allows(now + LOOK * 30, 3));
    // A claim in another term is none: the replica has promised itself to this one.
    let mut other = follower(2, &mut now);
    other.hear(now, 2, Some(&[2]));
    assert!(stands_after(&mut other, now, 3) <= STAND_AFTER + TURN * 2);
}

#[test]
fn a_new_leader_has_its_time() {
    let mut now = Instant::now();
    let mut member = follower(2, &mut now);
    now += LEASE;
    assert!(!member.look(now, 3));
    member.promise = led_by(3, 4);
    assert!(!member.allows(now, 1), "the promise is news");
    assert!(!member.look(now, 3) && !member.allows(now + LEASE - MS, 1));
    assert!(stands_after(&mut member, now, 3) >= STAND_AFTER);
}

#[test]
fn a_candidate_that_did_not_win_is_followed_by_another() {
    let mut now = Instant::now();
    let mut member = follower(2, &mut now);
    member.promise = Promise { term: 4, node: NodeId(3), elected: false };
    assert!(!member.look(now, 3));
    assert!(member.allows(now, 3) && member.allows(now, 1));
    let after = stands_after(&mut member, now, 3);
    assert!(after >= STAND_UNLED && after <= STAND_UNLED + TURN * 3 + LOOK, "{after:?}");
}

#[test]
fn after_a_restart_the_former_leader_is_first() {
    let now = Instant::now();
    let mut times = Vec::new();
    for me in 1..=3 {
        let mut member = Member::new(me, led_by(1, 3));
        assert!(!member.look(now, 3));
        assert!(member.allows(now, 1), "it says itself that it does not lead");
        times.push(stands_after(&mut member, now, 3));
    }
    assert!(times[0] < times[1].min(times[2]) && times[1] != times[2], "{times:?}");
    assert!(*times.iter().max().unwrap() < LEASE + TURN, "{times:?}");
}

#[test]
fn only_voters_stand_and_the_only_one_at_once() {
    let now = Instant::now();
    let mut learner = Member::new(9, led_by(1, 3));
    assert!((0..100).all(|n| !learner.look(now + LOOK * n, 3)));
    let mut alone = Member::new(1, led_by(1, 3));
    assert!(!alone.look(now, 1));
    assert!(stands_after(&mut alone, now, 1) <= STAND_STARTED);
}

#[test]
fn who_was_held_up_blames_nobody() {
    let mut now = Instant::now();
    let mut member = follower(2, &mut now);
    now += Duration::from_secs(60);
    assert!(!member.look(now, 3) && !member.allows(now, 3));
    member.hear(now, 1, None);
    assert!(!member.look(now + LOOK, 3));
    // Then it waits as ever.
    let after = stands_after(&mut member, now + LOOK, 3);
    assert!(after >= STAND_AFTER - LOOK && after <= Duration::from_secs(2), "{after:?}");
}

#[test]
fn lost_claims_are_told_again() {
    let mut now = Instant::now();
    let mut member = follower(2, &mut now);
    // Another version, another connection, another process: nothing is renewed by it.
    assert_eq!(member.hear(now, 2, None), Noted::default());
    assert_eq!(member.table.hear(now, 2, NodeId(1), 1, None), Noted::default());
    assert_eq!(member.table.hear(now, 1, NodeId(3), 1, None), Noted::default());
    let anew = member.table.hear(now, 2, NodeId(1), 1, Some(vec![(GROUP, 3)]));
    assert_eq!(anew, Noted { version: 1, unsettled: vec![], anew: true });
    // The leader sends no claims again before it is asked to.
    let mut leader = Liveness::default();
    let news = || Some(HashMap::from([(NodeId(2), vec![(GROUP, 3)])]));
    let beats = leader.beats(now, news());
    assert_eq!(beats, [Beat { to: NodeId(2), version: 1, claims: Some(vec![(GROUP, 3)]) }]);
    assert!(leader.beats(now + BEAT, None).is_empty(), "one at a time");
    leader.answered(NodeId(2), now, Some(1));
    assert_eq!(leader.beats(now + BEAT, news()), [Beat { to: NodeId(2), version: 1, claims: None }]);
    leader.answered(NodeId(2), now + BEAT, Some(0));
    let again = leader.beats(now + BEAT, None);
    assert_eq!(again, [Beat { to: NodeId(2), version: 1, claims: Some(vec![(GROUP, 3)]) }]);
    leader.answered(NodeId(2), now + BEAT, Some(1));
    // Nothing more to tell: told once, then forgotten.
    let none = leader.beats(now + BEAT, Some(HashMap::new()));
    assert_eq!(none, [Beat { to: NodeId(2), version: 2, claims: Some(vec![]) }]);
    leader.answered(NodeId(2), now + BEAT, Some(2));
    assert!(leader.beats(now + BEAT * 9, None).is_empty() && leader.told.is_empty());
}

#[test]
fn a_replica_that_does_not_follow_as_claimed_asks_for_the_leader_itself() {
    let mut now = Instant::now();
    let mut member = follower(2, &mut now);
    for (promise, followed) in [(led_by(1, 3), 0), (led_by(1, 2), 2), (led_by(3, 4), 4)] {
        (member.promise, member.followed) = (promise, followed);
        member.look(now, 3);
        assert_eq!(member.hear(now, 1, None).unsettled, [GROUP], "{promise:?}");
        assert!(member.hear(now, 1, None).unsettled.is_empty(), "once a look");
    }
}

#[test]
fn a_leader_that_nobody_answers_knows_that_it_is_cut_off() {
    let (start, all) = (Instant::now(), [voters(3)]);
    let mut leader = Member::new(1, led_by(1, 3));
    leader.leads = true;
    assert!(!leader.look(start, 3));
    let claims = || (2..=3).map(|id| (NodeId(id), vec![(GROUP, 3)])).collect();
    assert_eq!(leader.table.beats(start, Some(claims())).len(), 2);
    assert!(!leader.table.is_cut_off(start + LEASE * 9, &all), "who was not waited for is not lost");
    leader.table.answered(NodeId(2), start, None);
    assert!(!leader.table.is_cut_off(start + LEASE, &all), "one of three");
    leader.table.answered(NodeId(3), start, None);
    assert!(!leader.table.is_cut_off(start + LEASE - MS, &all) && !leader.allows(start + LEASE - MS, 2));
    assert!(leader.table.is_cut_off(start + LEASE, &all) && leader.allows(start + LEASE, 2));
    // A joint membership needs both its majorities.
    assert!(leader.table.is_cut_off(start + LEASE, &[voters(1), voters(3)]));
    assert!(!leader.table.is_cut_off(start + LEASE, &[voters(1)]));
    assert_eq!(leader.table.beats(start + LEASE, None).len(), 2);
    leader.table.answered(NodeId(3), start + LEASE, Some(1));
    assert!(!leader.table.is_cut_off(start + LEASE * 2, &all));
    assert_eq!(leader.me, NodeId(1));
}

proptest! {
    /// Whatever is lost, late or held up: with the leader's beats coming through again, nobody
    /// stands, and without them every voter does, each at a moment of its own.
    #[test]
    fn any_past_ends_in_peace_or_in_an_election(
        past in prop::collection::vec((0u64..4000, 0u8..4), 0..40),
        group in 0u64..9,
        count in 3u64..6,
    ) {
        let mut now = Instant::now();
        let mut members: Vec<Member> = (2..=count).map(|me| Member::new(me, led_by(1, group + 1))).collect();
        for (wait, what) in past {
            now += MS * u32::try_from(wait).unwrap();
            for member in &mut members {
                match what {
                    0 => drop(member.hear(now, 1, Some(&[group + 1]))),
                    1 => drop(member.hear(now, 1, None)),
                    2 => drop(member.hear(now, 2, Some(&[]))),
                    _ => member.appended = true,
                }
                member.look(now, count);
            }
        }
        for n in 0..40 {
            now += LOOK;
            for member in &mut members {
                member.hear(now, 5, (n == 0).then_some(&[group + 1]));
                let stands = member.look(now, count);
                prop_assert!(n == 0 || !stands);
            }
        }
        let mut times: Vec<_> = members.iter_mut().map(|member| stands_after(member, now, count)).collect();
        times.sort_unstable();
        prop_assert!(times[0] >= LEASE && times[0] <= Duration::from_secs(2));
        prop_assert!(times.windows(2).all(|pair| pair[0] + LOOK < pair[1]), "{times:?}");
    }
}
