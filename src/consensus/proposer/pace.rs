//! When the next entry of a group is proposed. No clock and no tasks: moments are brought.
//!
//! **One entry at a time.** A second one in flight splits what could have gone together, and costs every
//! replica another append, sync and apply. It is worth that where much waits, so that all processors have
//! work while the first is synced, and where the first takes long.
//!
//! **Held for company.** Whoever was just answered asks again soon, but not all at the same moment: proposed
//! at once, the next entry would take only the first of them, and the others would wait for all of it. So
//! it is held until most of them are there: of those that were in the entry before and of those that came
//! while it was under way, which is everybody where each asks again once answered. For no longer than two
//! rounds: they may have left. A lone client waits for nobody.
//!
//! docs/BENCHMARKS.md has what each of it brings.

use std::time::Duration;

use tokio::time::Instant;

/// Entries of one group proposed and not yet applied.
const MAX_ENTRIES_IN_FLIGHT: usize = 2;

/// From so many bytes on, about a hundred small commands, what an entry costs by itself is little beside
/// what its commands cost.
const LARGE_ENTRY_BYTES: usize = 32 << 10;

/// An entry that takes longer than this has far to go, or a slow disk.
const LONG_ROUND: Duration = Duration::from_millis(10);

/// The next entry is held for at most so many rounds,
const HOLD_ROUNDS: u32 = 2;

/// and no longer than this.
const HOLD_MAX: Duration = Duration::from_millis(4);

/// So many of a hundred commands that may come are waited for: the last few are late too often.
const HOLD_PERCENT: usize = 80;

/// What to do with the commands that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Propose them.
    Go,
    /// An entry in flight comes first.
    Wait,
    /// Propose them at this moment, unless enough others come before.
    Hold(Instant),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pace {
    in_flight: usize,
    /// When the last entry was proposed.
    proposed: Option<Instant>,
    /// What an entry takes from its proposal to its end, as a moving average.
    round: Duration,
    hold: Option<Hold>,
}

#[derive(Debug)]
struct Hold {
    until: Instant,
    /// Commands that are expected.
    commands: usize,
}

impl Pace {
    /// What to do with so many waiting commands.
    pub(super) fn next(&self, now: Instant, waiting: usize, waiting_bytes: usize) -> Next {
        let is_large = waiting_bytes >= LARGE_ENTRY_BYTES;
        if self.in_flight > 0 {
            let is_long = self.proposed.is_none_or(|at| now.saturating_duration_since(at) >= LONG_ROUND);
            let has_room = self.in_flight < MAX_ENTRIES_IN_FLIGHT && (is_large || is_long);
            return if has_room { Next::Go } else { Next::Wait };
        }
        match &self.hold {
            Some(hold) if !is_large && waiting < hold.commands && now < hold.until => Next::Hold(hold.until),
            _ => Next::Go,
        }
    }

    /// An entry is proposed.
    pub(super) fn proposed(&mut self, now: Instant) {
        self.in_flight += 1;
        (self.proposed, self.hold) = (Some(now), None);
    }

    /// An entry of so many commands has come to its end, while so many wait.
    pub(super) fn ended(&mut self, now: Instant, proposed: Instant, commands: usize, waiting: usize) {
        self.in_flight -= 1;
        self.round = (self.round * 7 + now.saturating_duration_since(proposed)) / 8;
        let length = (self.round * HOLD_ROUNDS).min(HOLD_MAX);
        let commands = ((commands + waiting) * HOLD_PERCENT).div_ceil(100);
        self.hold = Some(Hold { until: now + length, commands });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_second_entry_goes_when_it_is_large_or_the_first_takes_long() {
        let start = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.next(start, 1, 1), Next::Go);
        pace.proposed(start);
        assert_eq!(pace.next(start, 10, LARGE_ENTRY_BYTES - 1), Next::Wait);
        assert_eq!(pace.next(start, 1, LARGE_ENTRY_BYTES), Next::Go);
        assert_eq!(pace.next(start + LONG_ROUND, 1, 1), Next::Go);
        pace.proposed(start);
        assert_eq!(pace.next(start + LONG_ROUND, 1, LARGE_ENTRY_BYTES), Next::Wait);
    }

    /// As if every round took so long.
    fn paced(start: Instant, round: Duration, commands: usize, waiting: usize) -> (Pace, Instant) {
        let (mut pace, mut now) = (Pace::default(), start);
        for _ in 0..100 {
            pace.proposed(now);
            pace.ended(now + round, now, commands, waiting);
            now += round;
        }
        (pace, now)
    }

    #[test]
    fn an_entry_is_held_until_most_are_back_or_two_rounds_are_over() {
        let (pace, now) = paced(Instant::now(), MS, 6, 4);
        let Next::Hold(until) = pace.next(now, 7, 7) else { panic!("{pace:?}") };
        assert!(until > now + MS && until <= now + 2 * MS, "{:?}", until - now);
        assert_eq!(pace.next(now, 8, 8), Next::Go);
        assert_eq!(pace.next(now, 1, LARGE_ENTRY_BYTES), Next::Go);
        assert_eq!(pace.next(until, 1, 1), Next::Go);
    }

    #[test]
    fn two_in_turn_come_together_and_one_alone_waits_for_nobody() {
        let (pace, now) = paced(Instant::now(), MS, 1, 1);
        assert!(matches!(pace.next(now, 1, 1), Next::Hold(_)), "{pace:?}");
        assert_eq!(pace.next(now, 2, 2), Next::Go);
        let (pace, now) = paced(Instant::now(), MS, 1, 0);
        assert_eq!(pace.next(now, 1, 1), Next::Go);
    }

    #[test]
    fn behind_long_rounds_nobody_is_held_for_long() {
        let (pace, now) = paced(Instant::now(), 100 * MS, 2, 0);
        assert_eq!(pace.next(now, 1, 1), Next::Hold(now + HOLD_MAX));
    }
}
