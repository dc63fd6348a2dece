//! When the next entry of a group is proposed. No clock and no tasks: moments are brought.
//!
//! **One entry at a time.** A second one in flight splits what could have gone together, and costs every
//! replica another append, sync and apply. It is worth that where much waits, so that all processors have
//! work while the first is synced, and where the first takes long.
//!
//! **Held for company.** Whoever was just answered asks again soon, but not all at the same moment: proposed
//! at once, the next entry would take only the first of them, and the others would wait for all of it. So
//! it is held until as many commands wait as were in the entry before, for no longer than a part
//! of a round. Behind an entry of one command nothing is held.
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

/// The next entry is held for at most one such part of a round,
const HOLD_PART: u32 = 2;

/// and no longer than this.
const HOLD_MAX: Duration = Duration::from_millis(2);

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

    /// An entry of so many commands has come to its end.
    pub(super) fn ended(&mut self, now: Instant, proposed: Instant, commands: usize) {
        self.in_flight -= 1;
        self.round = (self.round * 7 + now.saturating_duration_since(proposed)) / 8;
        let length = (self.round / HOLD_PART).min(HOLD_MAX);
        self.hold = (commands > 1).then(|| Hold { until: now + length, commands });
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
    fn paced(start: Instant, round: Duration, commands: usize) -> (Pace, Instant) {
        let (mut pace, mut now) = (Pace::default(), start);
        for _ in 0..100 {
            pace.proposed(now);
            pace.ended(now + round, now, commands);
            now += round;
        }
        (pace, now)
    }

    #[test]
    fn an_entry_is_held_until_as_many_come_or_a_part_of_a_round_is_over() {
        let (pace, now) = paced(Instant::now(), 2 * MS, 5);
        let Next::Hold(until) = pace.next(now, 4, 4) else { panic!("{pace:?}") };
        assert!(until > now + MS / 2 && until <= now + MS, "{:?}", until - now);
        assert_eq!(pace.next(now, 5, 5), Next::Go);
        assert_eq!(pace.next(now, 1, LARGE_ENTRY_BYTES), Next::Go);
        assert_eq!(pace.next(until, 1, 1), Next::Go);
    }

    #[test]
    fn long_rounds_hold_no_longer_and_single_commands_nothing() {
        let (pace, now) = paced(Instant::now(), 100 * MS, 2);
        assert_eq!(pace.next(now, 1, 1), Next::Hold(now + HOLD_MAX));
        let (pace, now) = paced(Instant::now(), MS, 1);
        assert_eq!(pace.next(now, 1, 1), Next::Go);
    }
}
