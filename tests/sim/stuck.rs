//! Time stands still while anybody works, so a task that asks again and again without a pause keeps its run
//! at one moment for ever. A thread of its own sees to it that this is told, and where.

use std::{
    io::{self, Write as _},
    process,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Real time that one node may take for one ms: far more than it does, on whatever machine.
const LONGEST: Duration = Duration::from_secs(180);

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// Watches the run of a seed, for as long as this lives.
pub(crate) struct Watchdog {
    at: Arc<Mutex<At>>,
    /// Its end ends the thread.
    _lives: Sender<()>,
}

struct At {
    since: Instant,
    node: String,
    now: u64,
}

impl Watchdog {
    pub(crate) fn start(seed: u64) -> Self {
        let at = Arc::new(Mutex::new(At { since: Instant::now(), node: "nobody".into(), now: 0 }));
        let (lives, ended) = channel();
        let watched = at.clone();
        thread::spawn(move || watch(seed, &watched, &ended));
        Self { at, _lives: lives }
    }

    /// Now this node runs.
    pub(crate) fn runs(&self, node: &str, now: u64) {
        let mut at = self.at.lock();
        (at.since, at.now) = (Instant::now(), now);
        at.node.clear();
        at.node.push_str(node);
    }
}

/// The thread that is stuck cannot be ended, so the process is.
fn watch(seed: u64, at: &Mutex<At>, ended: &Receiver<()>) {
    while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
        let at = at.lock();
        if at.since.elapsed() > LONGEST {
            // Not by a macro, whose output the test harness keeps.
            let _ = writeln!(
                io::stderr(),
                "SIM_SEED={seed}: {} has been at {} ms for {LONGEST:?}: a task never rests",
                at.node,
                at.now
            );
            process::abort();
        }
    }
}
