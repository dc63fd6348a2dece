//! When an operation is due. In a closed loop a lane begins the next one as soon as the last one is
//! over. In an open loop operations are due at a fixed rate, whether the servers keep up or not, and
//! a latency counts from the moment the operation was *due*: the time that it waited because all lanes
//! were still at work with earlier ones is the server's fault, and leaving it out ("coordinated
//! omission", as Gil Tene named it) makes a stall look like one slow request.
//!
//! One pace belongs to one thread and its lanes.

use std::{
    cell::Cell,
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::{io::unix::AsyncFd, sync::Semaphore};

/// The parts of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    /// Operations due from here on are measured; those before are for warming up.
    pub(super) measured_from: Instant,
    /// No operation is due from here on.
    pub(super) until: Instant,
    /// What is due and was not begun by then never is.
    pub(super) give_up: Instant,
}

/// See the module's text.
pub(super) enum Pace {
    Closed,
    Open(Open),
}

/// A schedule, and how far it has come.
pub(super) struct Open {
    /// Between two operations.
    interval: Duration,
    /// The first one's distance from the schedule's begin.
    offset: Duration,
    begin: Instant,
    /// Operations on the schedule.
    scheduled: u64,
    /// Operations that are due, and not yet taken by a lane.
    due: Semaphore,
    taken: Cell<u64>,
    begun: Cell<u64>,
    lanes: usize,
    timer: OwnedFd,
}

impl Pace {
    /// `rate` operations a second of all `threads` together; this is one of them, with so many lanes.
    pub(super) fn open(
        rate: f64,
        thread: usize,
        threads: usize,
        lanes: usize,
        window: &Window,
    ) -> io::Result<Pace> {
        let interval = Duration::from_secs_f64(threads as f64 / rate).max(Duration::from_nanos(1));
        // A timer set to 0 is one that is off.
        let offset = (interval.mul_f64(thread as f64 / threads as f64)).max(Duration::from_nanos(1));
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK.union(TimerfdFlags::CLOEXEC))?;
        let times = Itimerspec { it_interval: timespec(interval)?, it_value: timespec(offset)? };
        // Before the timer runs: it never fires before an operation is due by this count.
        let begin = Instant::now();
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &times)?;
        let scheduled = scheduled(window.until.saturating_duration_since(begin), offset, interval);
        let (taken, begun) = (Cell::new(0), Cell::new(0));
        let due = Semaphore::new(0);
        Ok(Pace::Open(Open { interval, offset, begin, scheduled, due, taken, begun, lanes, timer }))
    }

    /// Waits until an operation is due: since when it is. `None` once there is no more.
    pub(super) async fn next(&self, window: &Window) -> Option<Instant> {
        match self {
            Pace::Closed => Some(Instant::now()).filter(|now| *now < window.until),
            Pace::Open(open) => {
                // Never closed: the end of the schedule is told by further permits.
                open.due.acquire().await.ok()?.forget();
                let number = open.taken.replace(open.taken.get() + 1);
                if number >= open.scheduled || Instant::now() > window.give_up {
                    return None;
                }
                open.begun.set(open.begun.get() + 1);
                Some(open.begin + open.offset + times(open.interval, number))
            }
        }
    }

    /// Lets the lanes go on as time passes; returns at the end of the schedule. The timer is the
    /// kernel's own, as tokio's is no finer than a millisecond.
    #[expect(
        deprecated,
        reason = "its replacement is unsafe for the sake of types that do not own what they name; OwnedFd does"
    )]
    pub(super) async fn keep(&self) -> io::Result<()> {
        let Pace::Open(open) = self else { return Ok(()) };
        let timer = AsyncFd::new(open.timer.try_clone()?)?;
        let mut released = 0;
        while released < open.scheduled {
            let mut guard = timer.readable().await?;
            let mut expirations = [0; 8];
            match guard.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut expirations)?)) {
                Ok(read) => drop(read?),
                Err(_would_block) => continue,
            }
            let more = u64::from_ne_bytes(expirations).min(open.scheduled - released);
            released += more;
            open.due.add_permits(usize::try_from(more).unwrap_or(Semaphore::MAX_PERMITS));
        }
        // One for each lane to learn that there is no more.
        open.due.add_permits(open.lanes);
        Ok(())
    }

    /// Operations that were due, and that no lane was free to begin.
    pub(super) fn unsent(&self) -> u64 {
        match self {
            Pace::Closed => 0,
            Pace::Open(open) => open.scheduled - open.begun.get(),
        }
    }
}

/// How many operations are due within `length`, the first at `offset`.
fn scheduled(length: Duration, offset: Duration, interval: Duration) -> u64 {
    match length.checked_sub(offset) {
        None | Some(Duration::ZERO) => 0,
        Some(rest) => u64::try_from(rest.as_nanos().div_ceil(interval.as_nanos())).unwrap_or(u64::MAX),
    }
}

fn times(interval: Duration, number: u64) -> Duration {
    let nanos = interval.as_nanos() * u128::from(number);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

fn timespec(duration: Duration) -> io::Result<Timespec> {
    Timespec::try_from(duration)
        .map_err(|_| io::Error::other(format!("{duration:?} is too long for a timer")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_counts_what_is_due_before_its_end() {
        let us = Duration::from_micros;
        assert_eq!(scheduled(us(1_000), us(0), us(100)), 10);
        assert_eq!(scheduled(us(1_000), us(1), us(100)), 10);
        assert_eq!(scheduled(us(1_001), us(0), us(100)), 11);
        assert_eq!(scheduled(us(1_000), us(999), us(100)), 1);
        assert_eq!(scheduled(us(1_000), us(1_000), us(100)), 0);
        assert_eq!(scheduled(us(1_000), us(2_000), us(100)), 0);
    }

    fn window(run: Duration, drain: Duration) -> Window {
        let begin = Instant::now();
        Window { measured_from: begin, until: begin + run, give_up: begin + run + drain }
    }

    #[tokio::test]
    async fn every_operation_is_handed_out_once_and_in_order() {
        let window = window(Duration::from_millis(40), Duration::from_secs(60));
        let pace = Pace::open(10_000.0, 1, 2, 3, &window).unwrap();
        let lane = async || {
            let mut dues = Vec::new();
            while let Some(due) = pace.next(&window).await {
                assert!(due <= Instant::now(), "handed out before it was due");
                dues.push(due);
                tokio::task::yield_now().await;
            }
            dues
        };
        let (kept, a, b, c) = tokio::join!(pace.keep(), lane(), lane(), lane());
        kept.unwrap();
        assert_eq!(pace.unsent(), 0);
        let mut dues = [a, b, c].concat();
        dues.sort();
        let Pace::Open(open) = &pace else { panic!("it is an open loop") };
        assert_eq!(dues.len() as u64, open.scheduled);
        assert!(dues.len() <= 200, "{}", dues.len());
        assert!(dues.windows(2).all(|pair| pair[1] - pair[0] == Duration::from_micros(200)));
        assert!(dues.iter().all(|due| *due < window.until));
    }

    /// A lane that is stuck for the whole run: what was due in the meantime is begun late, and
    /// counted from when it was due; or, past the last moment, not begun and counted as such.
    #[tokio::test]
    async fn what_was_due_during_a_stall_is_late_or_unsent() {
        for drain in [Duration::from_secs(60), Duration::ZERO] {
            let window = window(Duration::from_millis(20), drain);
            let pace = Pace::open(1_000.0, 0, 1, 1, &window).unwrap();
            pace.keep().await.unwrap();
            while Instant::now() <= window.until {
                tokio::task::yield_now().await;
            }
            let mut late = 0;
            while let Some(due) = pace.next(&window).await {
                assert!(due < window.until);
                late += 1;
            }
            let Pace::Open(open) = &pace else { panic!("it is an open loop") };
            assert_eq!(late + pace.unsent(), open.scheduled);
            assert_eq!(late, if drain.is_zero() { 0 } else { open.scheduled });
        }
    }
}
