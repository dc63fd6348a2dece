//! Waiting for a condition, to a deadline: the only place where a test waits for time.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

/// For a cluster to start on a busy machine.
pub(crate) const START: Duration = Duration::from_secs(90);

/// For a cluster to recover from a fault on a busy machine. It is a deadline, not a measure.
pub(crate) const HEAL: Duration = Duration::from_secs(60);

/// Between two looks.
const POLL: Duration = Duration::from_millis(25);

/// Looks until `attempt` gives a value, and returns it; panics with its last reason at the deadline.
pub(crate) async fn eventually<T>(
    what: &str,
    within: Duration,
    mut attempt: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + within;
    let mut looks = interval(POLL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let why = match attempt().await {
            Ok(value) => return value,
            Err(why) => why,
        };
        assert!(Instant::now() < deadline, "{what}: not within {within:?}: {why}");
    }
}
