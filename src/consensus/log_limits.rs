//! How long logs may be, and what of a log can go.
//!
//! Two bounds. What every member has is let go as soon as it has come to some MiB on the node, which is
//! while it is still in the log's memtables: so most entries are written to the WAL and never again. What a
//! member lacks, as it is away or is being sent a snapshot, is kept for it until the group's log is long:
//! entries are cheaper than a snapshot of a whole shard.

/// How long logs may be; see [`Host::compact`](super::host::Host::compact).
#[derive(Debug, Clone, Copy)]
pub struct LogLimits {
    /// All logs of the node are shortened when they could be by so many bytes together.
    pub spare_bytes: u64,
    /// A group's log is shortened, whoever lacks it, when it holds more entries than this …
    pub entries: u64,
    /// … or more bytes than this.
    pub bytes: u64,
    /// Entries kept in any case, for followers that are a little behind …
    pub keep: u64,
    /// … and the most bytes of them, of all groups together, about.
    pub keep_bytes: u64,
}

impl LogLimits {
    /// For a store whose log has memtables of so many bytes.
    pub fn within(log_memtables_bytes: u64) -> Self {
        Self {
            spare_bytes: log_memtables_bytes / 4,
            entries: 64 << 10,
            bytes: 32 << 20,
            keep: 2048,
            keep_bytes: log_memtables_bytes / 32,
        }
    }
}

/// A group's log, as far as shortening it is concerned. All indexes count from 1; 0 is none.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Log {
    pub(super) purged: u64,
    /// Up to where openraft knows of a snapshot and the state is durable.
    pub(super) snapshot: u64,
    pub(super) applied: u64,
    /// At a leader: the last index that every other member has.
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

    /// What it is once it is purged up to there.
    pub(super) fn purge(&mut self, upto: u64) {
        self.bytes -= self.bytes_up_to(upto);
        self.entries = self.entries.saturating_sub(upto - self.purged);
        self.purged = upto;
    }

    /// About: as if all entries were of one size.
    fn bytes_up_to(&self, upto: u64) -> u64 {
        let entries = upto.saturating_sub(self.purged).min(self.entries);
        let bytes = u128::from(self.bytes) * u128::from(entries) / u128::from(self.entries.max(1));
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// Whether it is too long for anybody to be waited for.
    pub(super) fn is_long(&self, limits: &LogLimits) -> bool {
        self.entries > limits.entries || self.bytes > limits.bytes
    }

    fn needless(&self, upto: u64, limits: &LogLimits, groups: u64) -> u64 {
        let upto = match self.shared {
            Some(shared) if !self.is_long(limits) => upto.min(shared),
            _ => upto,
        };
        let entry_bytes = (self.bytes / self.entries.max(1)).max(1);
        let keep = limits.keep.min(limits.keep_bytes / groups.max(1) / entry_bytes);
        upto.saturating_sub(keep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: LogLimits =
        LogLimits { spare_bytes: 10_000, entries: 1_000, bytes: 1 << 20, keep: 50, keep_bytes: 40_000 };

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
    fn what_a_member_lacks_is_kept_until_the_log_is_long() {
        let lacked = Log { shared: Some(430), ..log() };
        assert!(lacked.purge_to(&LIMITS, 2) <= 400);
        assert_eq!(lacked.spare_bytes(&LIMITS, 2), 0);
        for long in [Log { entries: 1_001, ..lacked }, Log { bytes: (1 << 20) + 1, ..lacked }] {
            assert!(long.is_long(&LIMITS));
            assert!(long.purge_to(&LIMITS, 2) > 600);
            assert!(long.spare_bytes(&LIMITS, 2) > 0);
        }
    }
}
