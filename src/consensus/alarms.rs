//! Wakes groups at moments that are known to the microsecond: tokio's timers count in milliseconds, and a
//! round of a group is often shorter than a few.

use std::{
    collections::BTreeMap,
    future::pending,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::{
    io::unix::AsyncFd,
    sync::Notify,
    task::AbortHandle,
    time::{Instant, sleep_until},
};

use crate::ids::GroupId;

/// What tells the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    /// The kernel (`timerfd_create(2)`).
    Kernel,
    /// tokio, where time is simulated.
    Tokio,
}

/// Who is woken.
pub(super) trait Sleeper: Send + Sync {
    /// Its moment has come. Does not block.
    fn wake(self: Arc<Self>);
}

/// The alarms of a node's groups, for as long as this lives.
pub(super) struct Alarms {
    shared: Arc<Shared>,
    task: AbortHandle,
}

struct Shared {
    set: Mutex<BTreeMap<(Instant, GroupId), Weak<dyn Sleeper>>>,
    source: Source,
}

enum Source {
    Kernel(AsyncFd<OwnedFd>),
    Tokio(Notify),
}

impl Alarms {
    /// To be called where tokio runs.
    pub(super) fn start(timer: Timer) -> Self {
        let source = match timer {
            Timer::Kernel => Source::kernel().unwrap_or_else(|error| {
                tracing::warn!(%error, "make a timer; commands may wait a millisecond longer");
                Source::Tokio(Notify::new())
            }),
            Timer::Tokio => Source::Tokio(Notify::new()),
        };
        let shared = Arc::new(Shared { set: Mutex::default(), source });
        let task = tokio::spawn(run(shared.clone())).abort_handle();
        Self { shared, task }
    }

    /// Has the sleeper of a group woken at this moment.
    pub(super) fn set(&self, at: Instant, group: GroupId, sleeper: Weak<dyn Sleeper>) {
        let mut set = self.shared.set.lock();
        set.insert((at, group), sleeper);
        if is_first(&set, at, group) {
            self.shared.source.arm(Some(at));
        }
    }

    /// Takes an alarm back. One that rings just now may still wake.
    pub(super) fn unset(&self, at: Instant, group: GroupId) {
        let mut set = self.shared.set.lock();
        let was_first = is_first(&set, at, group);
        set.remove(&(at, group));
        if was_first {
            self.shared.source.arm(first(&set));
        }
    }
}

impl Drop for Alarms {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn first<T>(set: &BTreeMap<(Instant, GroupId), T>) -> Option<Instant> {
    set.first_key_value().map(|((at, _), _)| *at)
}

fn is_first<T>(set: &BTreeMap<(Instant, GroupId), T>, at: Instant, group: GroupId) -> bool {
    set.first_key_value().is_some_and(|(first, _)| *first == (at, group))
}

async fn run(shared: Arc<Shared>) {
    loop {
        shared.rings().await;
        let mut due = Vec::new();
        {
            let mut set = shared.set.lock();
            let now = Instant::now();
            while first(&set).is_some_and(|at| at <= now) {
                due.extend(set.pop_first().map(|(_, sleeper)| sleeper));
            }
            // Where nothing was due, the first moment was changed just now, and with it the source.
            if !due.is_empty() {
                shared.source.arm(first(&set));
            }
        }
        due.iter().filter_map(Weak::upgrade).for_each(Sleeper::wake);
    }
}

impl Shared {
    /// Waits until the first moment may have come.
    async fn rings(&self) {
        match &self.source {
            Source::Kernel(timer) => {
                // Fails only where the runtime ends.
                let Ok(mut ready) = timer.readable().await else { return pending().await };
                // What is read is how often it rang. Where it was set anew meanwhile there is nothing to read.
                let mut rang = [0; 8];
                let _ = ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut rang)?));
            }
            Source::Tokio(changed) => {
                let first = first(&self.set.lock());
                let moment = async {
                    match first {
                        Some(at) => sleep_until(at).await,
                        None => pending().await,
                    }
                };
                tokio::select! {
                    () = moment => {}
                    () = changed.notified() => {}
                }
            }
        }
    }
}

impl Source {
    #[expect(
        deprecated,
        reason = "its replacement is unsafe for the sake of types that do not own what they name; OwnedFd does"
    )]
    fn kernel() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK.union(TimerfdFlags::CLOEXEC);
        Ok(Source::Kernel(AsyncFd::new(timerfd_create(TimerfdClockId::Monotonic, flags)?)?))
    }

    /// The next moment; `None`: there is none.
    fn arm(&self, at: Option<Instant>) {
        match self {
            Source::Kernel(timer) => {
                // A timer set to 0 is one that is off.
                let ahead = at.map_or(Duration::ZERO, |at| {
                    at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1))
                });
                let it_value = Timespec::try_from(ahead).expect("alarms are near");
                let times = Itimerspec { it_interval: Timespec::default(), it_value };
                timerfd_settime(timer.get_ref(), TimerfdTimerFlags::empty(), &times)
                    .expect("a timer takes any moment");
            }
            Source::Tokio(changed) => changed.notify_one(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{sync::mpsc, task::yield_now, time::timeout};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    struct Bed(u64, mpsc::UnboundedSender<(u64, Instant)>);

    impl Sleeper for Bed {
        fn wake(self: Arc<Self>) {
            let _ = self.1.send((self.0, Instant::now()));
        }
    }

    async fn wakes_in_order(timer: Timer) {
        let (woken, mut wakes) = mpsc::unbounded_channel();
        let beds: Vec<Arc<Bed>> = (0..7).map(|number| Arc::new(Bed(number, woken.clone()))).collect();
        let alarms = Alarms::start(timer);
        let start = Instant::now();
        let at = |ms: u32| start + MS * ms;
        let set = |ms, bed: usize| {
            let sleeper: Weak<Bed> = Arc::downgrade(&beds[bed]);
            alarms.set(at(ms), GroupId(bed as u64), sleeper);
        };
        for (ms, bed) in [(30, 1), (10, 2), (20, 3), (15, 4), (5, 5)] {
            set(ms, bed);
        }
        // One that is neither first nor last, and the first.
        alarms.unset(at(15), GroupId(4));
        alarms.unset(at(5), GroupId(5));
        for (ms, bed) in [(10, 2), (20, 3), (30, 1)] {
            let (woken, when) = wakes.recv().await.unwrap();
            assert_eq!(woken, bed);
            assert!(when >= at(ms));
        }
        set(0, 6);
        assert_eq!(wakes.recv().await.unwrap().0, 6, "a moment that has passed");
        let shared = Arc::downgrade(&alarms.shared);
        drop(alarms);
        let gone = async {
            while shared.strong_count() > 0 {
                yield_now().await;
            }
        };
        timeout(Duration::from_secs(60), gone).await.expect("the task goes with its alarms");
    }

    #[tokio::test]
    async fn the_kernel_wakes_in_order() {
        wakes_in_order(Timer::Kernel).await;
    }

    #[tokio::test(start_paused = true)]
    async fn tokio_wakes_in_order() {
        wakes_in_order(Timer::Tokio).await;
    }
}
