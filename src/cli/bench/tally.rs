//! What was measured: latencies by kind of operation, and failures by what they mean.
//!
//! Latencies are those of successes; a failure is counted by its cause and outcome instead, so that
//! quick refusals do not pass for speed.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use super::workload::Kind;
use crate::error::Outcome;

/// The longest latency told apart, in µs: longer than any `--timeout`.
const MAX_LATENCY_US: u64 = 3_600_000_000;

/// Significant decimal digits of a latency.
const LATENCY_DIGITS: u8 = 3;

/// The longest text kept of a failure, in characters.
const MAX_EXAMPLE_CHARS: usize = 200;

/// What kept an operation from succeeding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// No connection could be made.
    Connect,
    /// The connection broke, or what came over it could not be understood.
    Broken,
    /// No answer within `--timeout`.
    TimedOut,
    /// An HTTP status.
    Status(u16),
    /// A gRPC status, by its number.
    Grpc(u16),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Connect => f.write_str("no connection"),
            Cause::Broken => f.write_str("connection broken"),
            Cause::TimedOut => f.write_str("timed out"),
            Cause::Status(status) => write!(f, "{status}"),
            Cause::Grpc(status) => write!(f, "grpc {status}"),
        }
    }
}

/// An operation that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) cause: Cause,
    pub(super) outcome: Outcome,
    /// For people.
    pub(super) detail: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.cause, self.detail)
    }
}

/// An operation that did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Done {
    /// It read what is not there.
    pub(super) absent: bool,
    /// Cells written by a batch, rows found by a scan.
    pub(super) cells: u64,
}

/// Bytes that went over a connection, or that were in its messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
}

/// A histogram of latencies in µs.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_LATENCY_US, LATENCY_DIGITS)
        .expect("1 to more than 2, with at most 5 digits")
}

/// The successes of one kind.
#[derive(Debug)]
pub(super) struct Successes {
    pub(super) latency_us: Histogram<u64>,
    pub(super) absent: u64,
    pub(super) cells: u64,
}

/// The failures of one cause and outcome.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failures {
    pub(super) count: u64,
    /// What the first of them said.
    pub(super) example: String,
}

/// What happened since the last look, for the line of progress.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) latency_us: Histogram<u64>,
    pub(super) failed: u64,
}

impl Live {
    pub(super) fn new() -> Self {
        Self { latency_us: histogram(), failed: 0 }
    }

    /// Moves what `other` counted here.
    pub(super) fn take(&mut self, other: &mut Live) {
        self.latency_us.add(&other.latency_us).expect("both have the same bounds");
        self.failed += other.failed;
        other.latency_us.reset();
        other.failed = 0;
    }
}

/// Everything that one thread measured.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) successes: BTreeMap<Kind, Successes>,
    /// By cause, and whether the outcome is unknown.
    pub(super) failures: BTreeMap<(Cause, bool), Failures>,
    pub(super) traffic: Traffic,
    /// When the last operation ended.
    pub(super) last_end: Option<Instant>,
    /// The longest time of a connection from the start of a failed operation to its next success,
    /// or to the end of the run.
    pub(super) longest_outage: Duration,
    pub(super) live: Live,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            successes: BTreeMap::new(),
            failures: BTreeMap::new(),
            traffic: Traffic::default(),
            last_end: None,
            longest_outage: Duration::ZERO,
            live: Live::new(),
        }
    }

    /// Counts an operation for the line of progress alone.
    pub(super) fn look(&mut self, latency: Duration, succeeded: bool) {
        if succeeded {
            self.live.latency_us.saturating_record(micros(latency));
        } else {
            self.live.failed += 1;
        }
    }

    /// Counts an operation that belongs to the measured part.
    pub(super) fn record(
        &mut self,
        kind: Kind,
        latency: Duration,
        end: Instant,
        result: Result<Done, Failure>,
        traffic: Traffic,
    ) {
        self.traffic.sent_bytes += traffic.sent_bytes;
        self.traffic.received_bytes += traffic.received_bytes;
        self.last_end = self.last_end.max(Some(end));
        match result {
            Ok(done) => {
                let successes = self.successes.entry(kind).or_insert_with(|| Successes {
                    latency_us: histogram(),
                    absent: 0,
                    cells: 0,
                });
                successes.latency_us.saturating_record(micros(latency));
                successes.absent += u64::from(done.absent);
                successes.cells += done.cells;
            }
            Err(failure) => {
                let key = (failure.cause, failure.outcome == Outcome::Unknown);
                let failures = self.failures.entry(key).or_insert_with(|| Failures {
                    count: 0,
                    example: failure.detail.chars().take(MAX_EXAMPLE_CHARS).collect(),
                });
                failures.count += 1;
            }
        }
    }

    /// Adds what another thread measured.
    pub(super) fn merge(&mut self, other: Tally) {
        for (kind, more) in other.successes {
            match self.successes.get_mut(&kind) {
                None => drop(self.successes.insert(kind, more)),
                Some(successes) => {
                    successes.latency_us.add(&more.latency_us).expect("both have the same bounds");
                    successes.absent += more.absent;
                    successes.cells += more.cells;
                }
            }
        }
        for (key, more) in other.failures {
            match self.failures.get_mut(&key) {
                None => drop(self.failures.insert(key, more)),
                Some(failures) => failures.count += more.count,
            }
        }
        self.traffic.sent_bytes += other.traffic.sent_bytes;
        self.traffic.received_bytes += other.traffic.received_bytes;
        self.last_end = self.last_end.max(other.last_end);
        self.longest_outage = self.longest_outage.max(other.longest_outage);
    }
}

fn micros(latency: Duration) -> u64 {
    u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(cause: Cause, outcome: Outcome, detail: &str) -> Result<Done, Failure> {
        Err(Failure { cause, outcome, detail: detail.to_owned() })
    }

    #[test]
    fn threads_add_up() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let traffic = Traffic { sent_bytes: 10, received_bytes: 1 };
        let ms = Duration::from_millis;
        let mut all = Tally::new();
        for thread in 0..2 {
            let mut tally = Tally::new();
            for latency in 1..=100 {
                let done = Done { absent: latency == 1, cells: 2 };
                tally.record(Kind::Read, ms(latency), at(latency + thread), Ok(done), traffic);
            }
            let unknown = failure(Cause::Status(504), Outcome::Unknown, &format!("thread {thread}"));
            tally.record(Kind::Update, ms(9), at(200 + thread), unknown, traffic);
            let refused = failure(Cause::Status(503), Outcome::None, "later");
            tally.record(Kind::Update, ms(9), at(100), refused, traffic);
            tally.longest_outage = ms(5 + thread);
            all.merge(tally);
        }
        let reads = &all.successes[&Kind::Read];
        assert_eq!((reads.latency_us.len(), reads.absent, reads.cells), (200, 2, 400));
        let median = reads.latency_us.value_at_quantile(0.5);
        assert!((49_900..=50_100).contains(&median), "{median}");
        assert_eq!(all.successes.len(), 1, "failures have no latency");
        let unknown = &all.failures[&(Cause::Status(504), true)];
        assert_eq!(*unknown, Failures { count: 2, example: "thread 0".to_owned() });
        assert_eq!(all.failures[&(Cause::Status(503), false)].count, 2);
        assert_eq!(all.traffic, Traffic { sent_bytes: 2_040, received_bytes: 204 });
        assert_eq!(all.last_end, Some(at(201)));
        assert_eq!(all.longest_outage, ms(6));
    }

    #[test]
    fn a_look_takes_what_was_counted() {
        let mut tally = Tally::new();
        tally.look(Duration::from_millis(3), true);
        tally.look(Duration::from_millis(3), false);
        let mut live = Live::new();
        live.take(&mut tally.live);
        live.take(&mut tally.live);
        assert_eq!((live.latency_us.len(), live.failed), (1, 1));
        assert!(tally.successes.is_empty() && tally.failures.is_empty());
    }

    #[test]
    fn no_latency_is_too_short_or_too_long() {
        let mut tally = Tally::new();
        for latency in [Duration::ZERO, Duration::MAX] {
            tally.record(Kind::Read, latency, Instant::now(), Ok(Done::default()), Traffic::default());
        }
        assert_eq!(tally.successes[&Kind::Read].latency_us.len(), 2);
    }
}
