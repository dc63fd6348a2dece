//! One simulated node: a whole node of the program but for its front-end, in a runtime of its own with a
//! paused clock, so that it can lose all its tasks at once.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use quoring::{config, node::bare::Bare, peer::Network};
use raft_store::{Stats, Store};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    time::{Instant, advance, sleep_until},
};

use super::{
    disk::{Crash, Disk},
    net::{Net, Place, Uplink},
    panics,
};

/// For what RocksDB is just doing when a node crashes. Real time, and far more than it takes.
const UNWIND: Duration = Duration::from_secs(60);

pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) name: String,
    config: config::Node,
    pub(crate) disk: Disk,
    net: Arc<Net>,
    life: Option<Life>,
    ran: bool,
    /// Until when it does not run (SIGSTOP).
    pub(crate) paused_until: u64,
}

/// From a start to a crash or a stop.
struct Life {
    runtime: Runtime,
    origin: Instant,
    began: u64,
    store: Store,
    bare: Arc<Bare>,
    ended: Arc<Mutex<Option<Ended>>>,
}

/// How a life came to its end by itself.
#[derive(Debug, Clone)]
pub(crate) enum Ended {
    Stopped,
    Failed(String),
}

impl Node {
    pub(crate) fn new(place: Place, name: String, config: config::Node, disk: Disk, net: Arc<Net>) -> Self {
        Self { place, name, config, disk, net, life: None, ran: false, paused_until: 0 }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.life.is_some()
    }

    /// Whether it was never started.
    pub(crate) fn is_spare(&self) -> bool {
        !self.ran
    }

    /// What its program is asked by; `None` while it is down.
    pub(crate) fn bare(&self) -> Option<&Arc<Bare>> {
        self.life.as_ref().map(|life| &life.bare)
    }

    /// The counters of its store; `None` while it is down.
    pub(crate) fn stats(&self) -> Option<Stats> {
        self.life.as_ref().map(|life| life.store.stats())
    }

    /// Where tasks of others run on it; `None` while it is down.
    pub(crate) fn handle(&self) -> Option<&Handle> {
        self.life.as_ref().map(|life| life.runtime.handle())
    }

    /// Starts the process on what its disk holds.
    pub(crate) fn start(&mut self, now: u64) -> Result<(), String> {
        assert!(self.life.is_none(), "{} is up", self.name);
        let store = self.disk.open(now)?;
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            // One at a time, in the order in which they were begun.
            .max_blocking_threads(1)
            .build()
            .map_err(|error| error.to_string())?;
        self.net.start(self.place);
        let network: Arc<dyn Network> = Arc::new(Uplink(self.net.clone(), self.place));
        let _entered = runtime.enter();
        let origin = Instant::now();
        let bare = Bare::new(self.config.clone(), store.clone(), self.name.clone(), network);
        let bare = Arc::new(bare.map_err(|error| format!("{error:#}"))?);
        let ended = Arc::<Mutex<Option<Ended>>>::default();
        let (running, told) = (bare.clone(), ended.clone());
        runtime.spawn(async move {
            let why = running.until_failed().await;
            told.lock().get_or_insert(Ended::Failed(format!("{why:#}")));
        });
        let (links, net, place) = (bare.links().clone(), self.net.clone(), self.place);
        runtime.spawn(async move {
            loop {
                let socket = net.clone().accept(place).await;
                let links = links.clone();
                tokio::spawn(async move { links.accept(socket).await });
            }
        });
        drop(_entered);
        (self.ran, self.paused_until) = (true, 0);
        self.life = Some(Life { runtime, origin, began: now, store, bare, ended });
        Ok(())
    }

    /// Lets the node run until this moment, and its disk work. Says how its life ended, if it did.
    pub(crate) fn run_to(&mut self, now: u64) -> Option<Ended> {
        let life = self.life.as_mut()?;
        if now < self.paused_until {
            return None;
        }
        let until = life.origin + Duration::from_millis(now - life.began);
        let _span = tracing::info_span!("node", name = self.name, now).entered();
        life.runtime.block_on(async {
            let behind = until.saturating_duration_since(Instant::now());
            if behind > Duration::from_millis(1) {
                // It was paused: all its timers are late at once.
                advance(behind - Duration::from_millis(1)).await;
            }
            sleep_until(until).await;
        });
        let _entered = life.runtime.enter();
        self.disk.work(now, &life.store);
        // As the program's own build does: a panic in any task ends the process.
        panics::take().map(Ended::Failed).or_else(|| life.ended.lock().clone())
    }

    /// Asks it to stop; it goes on running until it has.
    pub(crate) fn ask_to_stop(&self) {
        let Some(life) = &self.life else { return };
        let (bare, ended) = (life.bare.clone(), life.ended.clone());
        life.runtime.spawn(async move {
            bare.stop().await;
            *ended.lock() = Some(Ended::Stopped);
        });
    }

    /// Ends its life: all tasks are gone at once, and its disk keeps what a crash leaves.
    pub(crate) fn crash(&mut self, now: u64, crash: Crash) -> Result<(), String> {
        let Some(life) = self.life.take() else { return Ok(()) };
        self.net.stop(self.place, crash == Crash::Unpowered);
        let Life { runtime, store, bare, .. } = life;
        drop(bare);
        runtime.shutdown_timeout(UNWIND);
        self.disk
            .crash(now, &store, crash)
            .map_err(|error| format!("copy the disk of {}: {error}", self.name))?;
        drop(store);
        self.disk.forget_past();
        Ok(())
    }
}
