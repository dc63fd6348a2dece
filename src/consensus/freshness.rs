//! How old the applied state of a replica may be: the bound that stale reads tell.
//!
//! A replica asks the leader, which may be itself, now and then up to which index everything is
//! acknowledged, and the leader answers after a quorum round of its own ([`super::reads`]). Let `asked`
//! be the moment *before* the question was sent. Every write acknowledged by then is at or below the
//! index that the leader read later. So once this replica has applied that index, it shows every write
//! that was acknowledged by `asked`. Only this node's monotonic clock is read, and nobody else's; and
//! not openraft's record of when a majority last answered, which may be later than the truth.
//!
//! No read waits for this: a question is sent behind a stale read, one at a time and at most one per
//! [`ASK_INTERVAL`] for all reads of a group, so a group that nobody reads so costs nothing. Without a
//! leader the bound grows, as it should.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Between two questions of one replica.
const ASK_INTERVAL: Duration = Duration::from_millis(200);

/// The longest that an answer may take; then the next stale read asks again.
pub(super) const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// What a replica knows of its own age.
#[derive(Default)]
pub(super) struct Freshness(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// Every write acknowledged by this moment is applied here.
    as_of: Option<Instant>,
    /// The same for a later moment, once this index is applied.
    ahead: Option<(u64, Instant)>,
    /// When the last question was sent.
    asked: Option<Instant>,
    /// Whether it is still open.
    asking: bool,
}

impl Freshness {
    /// The latest moment by which every acknowledged write is among the entries up to `applied`.
    pub(super) fn as_of(&self, applied: u64) -> Option<Instant> {
        let mut known = self.0.lock();
        if let Some((_, asked)) = known.ahead.take_if(|(index, _)| *index <= applied) {
            known.as_of = known.as_of.max(Some(asked));
        }
        known.as_of
    }

    /// Whether it is time to ask; then the caller does, and says [`Freshness::told`].
    pub(super) fn begin(&self, now: Instant) -> bool {
        let mut known = self.0.lock();
        let rested = known.asked.is_none_or(|asked| now >= asked + ASK_INTERVAL);
        // An answer that this replica has not caught up with stands: were it replaced by newer ones,
        // a replica that stays behind would never reach any.
        if known.asking || known.ahead.is_some() || !rested {
            return false;
        }
        (known.asked, known.asking) = (Some(now), true);
        true
    }

    /// Notes the answer to the question that was begun at `asked`, if there is one.
    pub(super) fn told(&self, asked: Instant, index: Option<u64>) {
        let mut known = self.0.lock();
        known.asking = false;
        known.ahead = index.map(|index| (index, asked));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_moment_counts_once_its_index_is_applied() {
        let (freshness, start) = (Freshness::default(), Instant::now());
        assert_eq!(freshness.as_of(u64::MAX), None);
        assert!(freshness.begin(start));
        freshness.told(start, Some(10));
        assert_eq!(freshness.as_of(9), None);
        assert_eq!(freshness.as_of(10), Some(start));
        // What was once shown stays shown.
        assert_eq!(freshness.as_of(0), Some(start));
    }

    #[test]
    fn one_question_at_a_time_and_not_too_often() {
        let (freshness, start) = (Freshness::default(), Instant::now());
        assert!(freshness.begin(start));
        assert!(!freshness.begin(start + ASK_INTERVAL));
        freshness.told(start, None);
        assert!(!freshness.begin(start + ASK_INTERVAL - MS));
        let again = start + ASK_INTERVAL;
        assert!(freshness.begin(again));
        freshness.told(again, Some(5));
        // Not caught up with yet: no other question, however long it takes.
        assert_eq!(freshness.as_of(4), None);
        assert!(!freshness.begin(again + ASK_INTERVAL * 10));
        assert_eq!(freshness.as_of(7), Some(again));
        assert!(freshness.begin(again + ASK_INTERVAL * 10));
    }
}
