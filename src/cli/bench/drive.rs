//! A run from its first connection to its last answer: threads, phases, progress.
//!
//! Each thread has an event loop and lanes of its own, and shares nothing with the others on the way
//! of an operation but a few counters. Phases begin for all at once: connect, load, then warm up and
//! measure in one go, so that nothing cools down in between.

use std::{
    io,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use futures_util::future::{join_all, try_join_all};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    cpu::{Clocks, Processes},
    etcd,
    http1::Http,
    lane::{Common, Lane},
    link::{Link, Values},
    pace::{Pace, Window},
    plan::{Plan, Target},
    tally::{Failure, Live, Tally},
    workload::{Chooser, Generator},
};

/// Between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// What happened, second by second, for whoever watches.
pub(super) enum Progress<'a> {
    /// So many keys are loaded, after so long.
    Loading { loaded: u64, elapsed: Duration },
    /// What has happened since the last time; negative time is warming up.
    Running { live: &'a Live, interval: Duration, warming_up: bool, elapsed: Duration },
}

/// What a run has shown.
pub(super) struct Measured {
    /// How long the load took, if there was one.
    pub(super) load: Option<Duration>,
    /// `None` if there was only a load.
    pub(super) run: Option<Run>,
}

/// What the measured part has shown.
pub(super) struct Run {
    pub(super) tally: Tally,
    /// From the begin of the measured part to the end of its last operation.
    pub(super) elapsed: Duration,
    /// Operations that were due and could not be begun.
    pub(super) unsent: u64,
    /// CPU time of the servers; `None` where it is not known.
    pub(super) servers: Option<Clocks>,
    /// CPU time of this process.
    pub(super) client: Option<Clocks>,
}

/// What a thread tells.
enum Told {
    Ready,
    Done { unsent: u64 },
    Failed(String),
}

/// Runs a plan; the error is a sentence.
pub(super) fn run(
    plan: &Plan,
    servers: &Processes,
    watch: &mut dyn FnMut(Progress<'_>),
) -> Result<Measured, String> {
    let values = Values::new(plan.value_bytes, plan.seed);
    let common = Common::new(values, plan.batch_ops, plan.keys, plan.ops);
    let chooser = Chooser::new(plan.workload.distribution, plan.keys);
    let tallies: Vec<_> = (0..plan.threads).map(|_| Mutex::new(Tally::new())).collect();
    let (begin, begun) = watch::channel(None);
    let (tell, told) = mpsc::channel();
    let measured = thread::scope(|scope| {
        for (thread, tally) in tallies.iter().enumerate() {
            let (tell, begun, common) = (tell.clone(), begun.clone(), &common);
            let work = move || {
                let done = work(plan, common, tally, &chooser, thread, begun, &tell);
                // Nobody listens once another thread has failed.
                let _ = tell.send(match done {
                    Ok(unsent) => Told::Done { unsent },
                    Err(error) => Told::Failed(error),
                });
            };
            let named = thread::Builder::new().name(format!("bench-{thread}"));
            named.spawn_scoped(scope, work).map_err(|error| format!("cannot start a thread: {error}"))?;
        }
        drop(tell);
        // Threads that wait for the begin end with `begin`, so that an error here ends them all.
        conduct(plan, &common, &tallies, servers, begin, &told, watch)
    })?;
    let Conducted { load, run } = measured;
    let run = run.map(|(window, unsent, server_clocks, client)| {
        let mut all = Tally::new();
        for tally in tallies {
            all.merge(tally.into_inner());
        }
        let last = all.last_end.map(|end| end.saturating_duration_since(window.measured_from));
        // Where operations ran out, that was the end; otherwise silence counts too.
        let least = if common.left.load(Ordering::Relaxed) == 0 { Duration::ZERO } else { plan.duration };
        let elapsed = last.unwrap_or_default().max(least);
        Run { tally: all, elapsed, unsent, servers: server_clocks, client }
    });
    Ok(Measured { load, run })
}

struct Conducted {
    load: Option<Duration>,
    run: Option<(Window, u64, Option<Clocks>, Option<Clocks>)>,
}

/// Leads the threads through the phases.
fn conduct(
    plan: &Plan,
    common: &Common,
    tallies: &[Mutex<Tally>],
    servers: &Processes,
    begin: watch::Sender<Option<Window>>,
    told: &mpsc::Receiver<Told>,
    watch: &mut dyn FnMut(Progress<'_>),
) -> Result<Conducted, String> {
    let start = Instant::now();
    let mut next = start + PROGRESS_INTERVAL;
    let mut ready = 0;
    while ready < plan.threads {
        match told.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(Told::Failed(error)) => return Err(error),
            Ok(Told::Ready | Told::Done { .. }) => ready += 1,
            Err(RecvTimeoutError::Timeout) => {
                next += PROGRESS_INTERVAL;
                let loaded = common.loaded.load(Ordering::Relaxed);
                watch(Progress::Loading { loaded, elapsed: start.elapsed() });
            }
            Err(RecvTimeoutError::Disconnected) => return Err("a thread has died".to_owned()),
        }
    }
    let load = plan.load.then(|| start.elapsed());
    if !plan.run {
        return Ok(Conducted { load, run: None });
    }

    let begun = Instant::now();
    let measured_from = begun + plan.warmup;
    let until = measured_from + plan.duration;
    let window = Window { measured_from, until, give_up: until + plan.timeout };
    begin.send_replace(Some(window));
    let mut before = None;
    let mut unsent = 0;
    let mut done = 0;
    let (mut last_look, mut next) = (begun, begun + PROGRESS_INTERVAL);
    while done < plan.threads {
        let wake = if before.is_none() { next.min(measured_from) } else { next };
        match told.recv_timeout(wake.saturating_duration_since(Instant::now())) {
            Ok(Told::Failed(error)) => return Err(error),
            Ok(Told::Ready) => {}
            Ok(Told::Done { unsent: more }) => {
                unsent += more;
                done += 1;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err("a thread has died".to_owned()),
        }
        let now = Instant::now();
        if before.is_none() && now >= measured_from {
            before = Some((servers.clocks(), Processes::own().clocks()));
        }
        if now >= next && done < plan.threads {
            let mut live = Live::new();
            tallies.iter().for_each(|tally| live.take(&mut tally.lock().live));
            let (interval, elapsed) = (now - last_look, now - begun);
            let warming_up = now < measured_from;
            watch(Progress::Running { live: &live, interval, warming_up, elapsed });
            last_look = now;
            next += PROGRESS_INTERVAL;
        }
    }
    let after = (servers.clocks(), Processes::own().clocks());
    let (servers_before, own_before) = before.unwrap_or_default();
    let server_clocks = Clocks::between(servers_before, after.0);
    let client = Clocks::between(own_before, after.1);
    Ok(Conducted { load, run: Some((window, unsent, server_clocks, client)) })
}

/// One thread's part; how many operations it could not begin.
fn work(
    plan: &Plan,
    common: &Common,
    tally: &Mutex<Tally>,
    chooser: &Chooser,
    thread: usize,
    mut begun: watch::Receiver<Option<Window>>,
    tell: &mpsc::Sender<Told>,
) -> Result<u64, String> {
    let cannot_start = |error: io::Error| format!("cannot start: {error}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot_start)?;
    runtime.block_on(async {
        let mut lanes = lanes(plan, common, tally, chooser, thread);
        let connected = try_join_all(lanes.iter_mut().map(Lane::connect)).await;
        connected.map_err(|failure| failure.detail)?;
        if plan.load {
            let loaded = try_join_all(lanes.iter_mut().map(Lane::load)).await;
            loaded.map_err(|failure: Failure| format!("the load does not get on: {failure}"))?;
        }
        let _ = tell.send(Told::Ready);
        let Ok(window) = begun.wait_for(Option::is_some).await.map(|window| *window) else { return Ok(0) };
        let Some(window) = window else { return Ok(0) };
        let pace = match plan.rate {
            None => Pace::Closed,
            Some(rate) => Pace::open(rate, thread, plan.threads, lanes.len(), &window)
                .map_err(|error| format!("cannot set a timer: {error}"))?,
        };
        tokio::select! {
            _ = join_all(lanes.iter_mut().map(|lane| lane.run(&window, &pace))) => {}
            Err(error) = pace.keep() => return Err(format!("the timer failed: {error}")),
        }
        // A run that ends because it has done its operations has left none undone.
        Ok(if common.left.load(Ordering::Relaxed) == 0 { 0 } else { pace.unsent() })
    })
}

/// The lanes of one thread. Connections go round over the threads, and over the servers.
fn lanes<'c>(
    plan: &Plan,
    common: &'c Common,
    tally: &'c Mutex<Tally>,
    chooser: &Chooser,
    thread: usize,
) -> Vec<Lane<'c>> {
    let mut lanes = Vec::new();
    for connection in (thread..plan.connections).step_by(plan.threads) {
        let generator = |lane: usize| {
            let number = (connection * plan.multiplex + lane) as u64;
            Generator::new(plan.workload.mix, *chooser, plan.seed, number)
        };
        match plan.target {
            Target::Quoring => {
                let link = Link::quoring(Http::new(plan.servers.clone(), connection), plan.timeout);
                lanes.push(Lane::new(common, tally, link, generator(0)));
            }
            Target::Etcd => {
                let shared = Arc::new(etcd::Shared::new(plan.servers.clone(), connection));
                for lane in 0..plan.multiplex {
                    let link = Link::etcd(shared.clone(), plan.timeout);
                    lanes.push(Lane::new(common, tally, link, generator(lane)));
                }
            }
        }
    }
    lanes
}
