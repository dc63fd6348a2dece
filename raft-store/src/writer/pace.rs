//! How soon the log writer syncs again.

use std::time::{Duration, Instant};

/// How long the next sync waits for company behind one that several operations shared: so many times
/// as long as a sync takes, and no longer than this. A sync costs processor time as well, and who
/// waits for it waits for followers too, whose syncs are gathered the same way; so on a busy machine
/// the wait is won back. Behind a sync of one operation alone nobody waits. (PostgreSQL has the same as `commit_delay`
/// and `commit_siblings`; docs/BENCHMARKS.md has what it brings.)
const LINGER_SYNCS: u32 = 3;
const LINGER_MAX: Duration = Duration::from_millis(2);

/// When to sync next.
#[derive(Default)]
pub(super) struct Pace {
    /// What a sync takes, as a moving average.
    sync: Duration,
    pub(super) not_before: Option<Instant>,
}

impl Pace {
    pub(super) fn wrote(&mut self, began: Instant, ended: Instant, crowded: bool) {
        self.sync = (self.sync * 15 + ended.duration_since(began)) / 16;
        let linger = (self.sync * LINGER_SYNCS).min(LINGER_MAX);
        self.not_before = crowded.then(|| ended + linger);
    }
}
