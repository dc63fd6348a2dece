//! How long logs may be, and what of a log can go.
//!
//! Two bounds. What every member has is let go as soon as it has come to some MiB on the node, which is
//! while it is still in the log's memtables: so most entries are written to the WAL and never again. What a
//! member lacks, as it is away or is being sent a snapshot, is kept for it until that is much: entries are
//! cheaper than a snapshot of a whole shard. Followers keep it, too, by what their leader tells them: one of
//! them may have to lead before the member has caught up.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// What may be kept for members of one group that lack it, bytes …
const LACKED_BYTES: u64 = 32 << 20;
/// … and of all groups of a node together.
const ALL_LACKED_BYTES: u64 = 1 << 30;

/// A group's part of what can be spared is told to its followers in so many steps.
const NEWS_PART: u64 = 8;

/// How long logs may be; see [`Host::compact`](super::host::Host::compact).
#[derive(Debug, Clone, Copy)]
pub struct LogLimits {
    /// All logs of the node are shortened when they could be by so many bytes together.
    pub spare_bytes: u64,
    /// Entries kept of a group for a member that lacks them, in any case no more than some MiB.
    pub lacked: u64,
    /// Entries kept in any case, for members that are a little behind …
    pub keep: u64,
    /// … and the most bytes of them, of all groups together, about.
    pub keep_bytes: u64,
}

impl LogLimits {
    /// For a store whose log has memtables of so many bytes.
    pub fn within(log_memtables_bytes: u64) -> Self {
        Self {
            spare_bytes: log_memtables_bytes / 4,
            lacked: 64 << 10,
            keep: 2048,
            keep_bytes: log_memtables_bytes / 32,
        }
    }
}

/// The last index that every member of a group is known to have, as its leader knows it and tells the
/// others with each append. 0 before anything is known.
#[derive(Debug, Clone, Default)]
pub(super) struct SharedIndex(Arc<AtomicU64>);

impl SharedIndex {
    pub(super) fn set(&self, index: u64) {
        self.0.store(index, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A group's log, as far as shortening it is concerned. All indexes count from 1; 0 is none.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Log {
    pub(super) purged: u64,
    /// Up to where openraft knows of a snapshot and the state is durable.
    pub(super) snapshot: u64,
    pub(super) applied: u64,
    /// The last index that every other member has; `None` where there is no other.
    pub(super) shared: Option<u64>,
    pub(super) entries: u64,
    pub(super) bytes: u64,
}

impl Log {
    /// Up to where it can be purged now, on a node with so many groups.
    pub(super) fn purge_to(&self, limits: &LogLimits, groups: u64) -> u64 {
        self.needless(self.snapshot, limits, groups)
    }

    /// How many bytes could be purged, were all that is applied durable.
    pub(super) fn spare_bytes(&self, limits: &LogLimits, groups: u64) -> u64 {
        self.bytes_up_to(self.needless(self.applied, limits, groups))
    }

    /// At a leader: whether what all members have now is worth telling them, who know of another index.
    pub(super) fn is_news(&self, told: u64, limits: &LogLimits, groups: u64) -> bool {
        let shared = self.shared.unwrap_or(0);
        let more = self.bytes_up_to(shared).saturating_sub(self.bytes_up_to(told));
        shared < told || (shared > told && more >= limits.spare_bytes / groups.max(1) / NEWS_PART)
    }

    /// What it is once it is purged up to there.
    pub(super) fn purge(&mut self, upto: u64) {
        self.bytes -= self.bytes_up_to(upto);
        self.entries = self.entries.saturating_sub(upto.saturating_sub(self.purged));
        self.purged = upto;
    }

    /// About: as if all entries were of one size.
    fn bytes_up_to(&self, upto: u64) -> u64 {
        let entries = upto.saturating_sub(self.purged).min(self.entries);
        let bytes = u128::from(self.bytes) * u128::from(entries) / u128::from(self.entries.max(1));
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    fn needless(&self, upto: u64, limits: &LogLimits, groups: u64) -> u64 {
        let groups = groups.max(1);
        let lacked_bytes = LACKED_BYTES.min(ALL_LACKED_BYTES / groups);
        let upto = match self.shared.map(|shared| upto.min(shared)) {
            // What would be left is not too much to keep.
            Some(shared)
                if upto.saturating_sub(shared.max(self.purged)) <= limits.lacked
                    && self.bytes_up_to(upto) - self.bytes_up_to(shared) <= lacked_bytes =>
            {
                shared
            }
            _ => upto,
        };
        let entry_bytes = (self.bytes / self.entries.max(1)).max(1);
        let keep = limits.keep.min(limits.keep_bytes / groups / entry_bytes);
        upto.saturating_sub(keep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: LogLimits = LogLimits { spare_bytes: 10_000, lacked: 400, keep: 50, keep_bytes: 40_000 };

    /// 600 entries of 100 bytes behind index 400, of which all but 20 are applied.
    fn log() -> Log {
        Log { purged: 400, snapshot: 700, applied: 980, shared: None, entries: 600, bytes: 60_000 }
    }

    #[test]
    fn what_is_durable_goes_but_for_a_few() {
        assert_eq!(log().purge_to(&LIMITS, 2), 650);
        assert_eq!(log().spare_bytes(&LIMITS, 2), 53_000);
        let mut purged = log();
        purged.purge(650);
        assert_eq!((purged.entries, purged.bytes, purged.spare_bytes(&LIMITS, 2)), (350, 35_000, 28_000));
        assert_eq!(Log::default().purge_to(&LIMITS, 2), 0);
        assert_eq!(Log::default().spare_bytes(&LIMITS, 2), 0);
    }

    #[test]
    fn fewer_are_kept_of_large_ones_and_by_many_groups() {
        assert_eq!(log().purge_to(&LIMITS, 40), 690);
        let large = Log { bytes: 600_000, ..log() };
        assert_eq!(large.purge_to(&LIMITS, 2), 680);
        assert_eq!(Log { bytes: 600 << 20, ..log() }.purge_to(&LIMITS, 2), 700);
    }

    #[test]
    fn what_a_member_lacks_is_kept_until_it_is_much() {
        let lacked = Log { shared: Some(410), ..log() };
        assert!(lacked.purge_to(&LIMITS, 2) <= 400);
        // It lacks 570 of those that are applied: more than is kept.
        assert_eq!(lacked.spare_bytes(&LIMITS, 2), 53_000);
        assert_eq!(Log { shared: Some(600), ..lacked }.spare_bytes(&LIMITS, 2), 15_000);
        assert_eq!(Log { snapshot: 980, ..lacked }.purge_to(&LIMITS, 2), 930);
        let large = Log { bytes: 600 << 20, snapshot: 450, ..lacked };
        assert_eq!(large.purge_to(&LIMITS, 2), 450);
        assert_eq!(Log { snapshot: 440, ..large }.purge_to(&LIMITS, 2), 410);
        assert_eq!(Log { snapshot: 440, ..large }.purge_to(&LIMITS, 100), 440);
    }

    /// A replica that is being sent a snapshot has nothing yet.
    #[test]
    fn what_comes_behind_a_snapshot_is_kept_for_who_gets_it() {
        let sent = Log { snapshot: 790, shared: Some(0), ..log() };
        assert!(sent.purge_to(&LIMITS, 2) <= 400);
        assert_eq!(Log { snapshot: 801, ..sent }.purge_to(&LIMITS, 2), 751);
    }

    #[test]
    fn it_is_told_in_steps() {
        let log = Log { shared: Some(700), ..log() };
        assert!(
            log.is_news(400, &LIMITS, 2) && !log.is_news(694, &LIMITS, 2) && !log.is_news(700, &LIMITS, 2)
        );
        assert!(log.is_news(701, &LIMITS, 2), "a new member has less");
    }

    #[test]
    fn a_long_log_that_all_have_is_long_for_nobody() {
        let shared = Log { snapshot: 980, shared: Some(940), ..log() };
        assert_eq!(shared.purge_to(&LIMITS, 2), 890);
    }
}
