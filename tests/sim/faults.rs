//! What goes wrong: drawn from the seed, one thing after the other, many of them at the same time.

use std::ops::RangeInclusive;

use quoring::{consensus::log_limits::LogLimits, ids::GroupId, router::Router};
use rand::{RngExt, rngs::StdRng, seq::SliceRandom};
use tokio::time::{Duration, Instant};

use super::{
    disk::Crash,
    net::Place,
    rng,
    world::{Failure, World},
};

/// Between two faults, ms: in most runs one comes before the last one is over, in others the cluster has
/// time to do its work.
const PAUSES_MS: [RangeInclusive<u64>; 3] = [50..=900, 50..=900, 400..=3_000];

/// How long a fault lasts, ms.
const LASTS_MS: RangeInclusive<u64> = 50..=3_000;

/// How long a node is down, ms: now and then so long that its replicas are made anew elsewhere.
const DOWN_MS: RangeInclusive<u64> = 20..=2_500;
const DOWN_LONG_MS: RangeInclusive<u64> = 4_500..=8_000;

/// The time for an order to the coordinators.
const ORDER: Duration = Duration::from_secs(2);

/// What may be drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Crash(Crash),
    CrashMany(Crash),
    Stop,
    Pause,
    CutOff,
    /// Whoever leads some shard.
    CutOffLeader,
    PauseLeader,
    CutPair,
    Split,
    Slow,
    Reset,
    Refuse,
    SlowDisk,
    Shorten,
    /// Changes of the cluster.
    SplitShard,
    Drain,
    Join,
}

/// Faults of machines, disks and network.
pub(crate) const FAULTS: [Fault; 18] = [
    Fault::Crash(Crash::Killed),
    Fault::Crash(Crash::Killed),
    Fault::Crash(Crash::Unpowered),
    Fault::Crash(Crash::Unpowered),
    Fault::CrashMany(Crash::Killed),
    Fault::CrashMany(Crash::Unpowered),
    Fault::Stop,
    Fault::Pause,
    Fault::CutOff,
    Fault::CutOffLeader,
    Fault::PauseLeader,
    Fault::CutPair,
    Fault::Split,
    Fault::Slow,
    Fault::Reset,
    Fault::Refuse,
    Fault::SlowDisk,
    Fault::Shorten,
];

/// The same, and changes of the cluster meanwhile.
pub(crate) fn with_changes() -> Vec<Fault> {
    let changes = [Fault::SplitShard, Fault::SplitShard, Fault::Drain, Fault::Drain, Fault::Join];
    [&FAULTS[..], &changes[..]].concat()
}

/// What is to be taken back, and when.
enum Back {
    Cut(Vec<(Place, Place)>),
    Delay(Vec<(Place, Place)>),
    Refused(Vec<(Place, Place)>),
    Disk(Place),
    Drain(String),
}

pub(crate) struct Faults {
    rng: StdRng,
    kinds: Vec<Fault>,
    pause_ms: RangeInclusive<u64>,
    next_at: u64,
    back: Vec<(u64, Back)>,
}

impl Faults {
    pub(crate) fn new(seed: u64, kinds: Vec<Fault>) -> Self {
        let mut rng = rng(seed, "faults", 0);
        let pause_ms = PAUSES_MS[rng.random_range(0..PAUSES_MS.len())].clone();
        Self { rng, kinds, pause_ms, next_at: 0, back: Vec::new() }
    }

    /// What happens in this ms.
    pub(crate) fn step(&mut self, world: &mut World) -> Result<(), Failure> {
        let now = world.now;
        self.back.extract_if(.., |(at, _)| *at <= now).for_each(|(_, back)| take_back(back, world));
        if now < self.next_at {
            return Ok(());
        }
        self.next_at = now + self.rng.random_range(self.pause_ms.clone());
        let kind = self.kinds[self.rng.random_range(0..self.kinds.len())];
        self.strike(kind, world)
    }

    /// Ends all of it.
    pub(crate) fn end(self, world: &mut World) -> Result<(), Failure> {
        for (_, back) in self.back {
            if let Back::Drain(_) = back {
                take_back(back, world);
            }
        }
        world.heal()
    }

    fn strike(&mut self, kind: Fault, world: &mut World) -> Result<(), Failure> {
        let places: Vec<Place> = (0..world.nodes.len()).filter(|place| world.nodes[*place].is_up()).collect();
        if places.len() < 2 {
            return Ok(());
        }
        let one = self.rng.random_range(0..places.len());
        let one = places[one];
        let mut two = places.clone();
        two.shuffle(&mut self.rng);
        let (a, b) = (two[0], two[1]);
        let lasts = self.rng.random_range(LASTS_MS);
        let until = world.now + lasts;
        match kind {
            Fault::Crash(crash) => {
                let down = self.down();
                world.crash(one, crash, down)?;
            }
            Fault::CrashMany(crash) => {
                let count = self.rng.random_range(2..=places.len());
                for place in two.into_iter().take(count) {
                    let down = self.rng.random_range(DOWN_MS);
                    world.crash(place, crash, down)?;
                }
            }
            Fault::Stop => {
                let down = self.down();
                world.stop(one, down);
            }
            Fault::Pause => world.pause(one, lasts),
            Fault::PauseLeader => {
                let leader = self.leader(world).unwrap_or(one);
                world.pause(leader, lasts);
            }
            Fault::CutOff | Fault::CutOffLeader => {
                let leader = if kind == Fault::CutOffLeader { self.leader(world) } else { None };
                let one = leader.unwrap_or(one);
                let all = 0..world.nodes.len();
                let others = all.filter(|other| *other != one);
                let ways = others.flat_map(|other| [(one, other), (other, one)]).collect();
                world.note(format!("{} is cut off for {lasts} ms", world.nodes[one].name));
                self.cut(ways, until, world);
            }
            Fault::CutPair => {
                let both = self.rng.random_bool(0.5);
                let ways = if both { vec![(a, b), (b, a)] } else { vec![(a, b)] };
                world.note(format!(
                    "{} to {} is cut for {lasts} ms, both ways: {both}",
                    name(world, a),
                    name(world, b)
                ));
                self.cut(ways, until, world);
            }
            Fault::Split => {
                let (left, right) = two.split_at(self.rng.random_range(1..two.len()));
                let ways = left.iter().flat_map(|l| right.iter().flat_map(move |r| [(*l, *r), (*r, *l)]));
                let ways: Vec<_> = ways.collect();
                let names: Vec<_> = left.iter().map(|place| name(world, *place)).collect();
                world.note(format!("{} are apart from the others for {lasts} ms", names.join(", ")));
                self.cut(ways, until, world);
            }
            Fault::Slow => {
                let most = self.rng.random_range(10..=400);
                world.note(format!(
                    "{} to {} is slow: up to {most} ms, for {lasts} ms",
                    name(world, a),
                    name(world, b)
                ));
                world.net.set_delay(a, b, 1..=most);
                self.back.push((until, Back::Delay(vec![(a, b)])));
            }
            Fault::Reset => {
                world.note(format!("{} and {} are reset", name(world, a), name(world, b)));
                world.net.reset(a, b);
            }
            Fault::Refuse => {
                world.note(format!("{} refuses {} for {lasts} ms", name(world, b), name(world, a)));
                world.net.set_refused(a, b, true);
                world.net.reset(a, b);
                self.back.push((until, Back::Refused(vec![(a, b)])));
            }
            Fault::SlowDisk => {
                let slower = self.rng.random_range(5..=300);
                world
                    .note(format!("the disk of {} takes {slower} ms more, for {lasts} ms", name(world, one)));
                world.nodes[one].disk.slower_ms = slower;
                self.back.push((until, Back::Disk(one)));
            }
            Fault::Shorten => self.shorten(one, world),
            Fault::SplitShard => self.split_shard(world),
            Fault::Drain => self.drain(until, world),
            Fault::Join => {
                let spare = (0..world.nodes.len()).find(|place| world.nodes[*place].is_spare());
                if let Some(place) = spare {
                    world.start(place)?;
                }
            }
        }
        Ok(())
    }

    fn down(&mut self) -> u64 {
        let long = self.rng.random_bool(0.1);
        self.rng.random_range(if long { DOWN_LONG_MS } else { DOWN_MS })
    }

    /// Whoever leads some shard.
    fn leader(&mut self, world: &World) -> Option<Place> {
        let map = world.map()?;
        let shards: Vec<GroupId> = map.shards.values().map(|shard| shard.group).collect();
        if shards.is_empty() {
            return None;
        }
        world.leader(shards[self.rng.random_range(0..shards.len())]).map(|(place, _)| place)
    }

    fn cut(&mut self, ways: Vec<(Place, Place)>, until: u64, world: &World) {
        ways.iter().for_each(|(from, to)| world.net.set_cut(*from, *to, true));
        self.back.push((until, Back::Cut(ways)));
    }

    /// Makes a node drop the entries of its logs but for a few, so that who lacks them needs a snapshot.
    fn shorten(&mut self, place: Place, world: &mut World) {
        let keep = self.rng.random_range(0..=20);
        world.note(format!("{} shortens its logs to {keep} entries", name(world, place)));
        let (Some(bare), Some(handle)) = (world.nodes[place].bare(), world.nodes[place].handle()) else {
            return;
        };
        // At times whoever lacks entries is waited for.
        let lacked = if self.rng.random_bool(0.5) { 0 } else { 1_000 };
        let limits = LogLimits { spare_bytes: 1, lacked, keep, ..LogLimits::within(u64::MAX) };
        let host = bare.host().clone();
        handle.spawn(async move {
            // The first call notes a snapshot, the next ones drop what is behind it.
            for _ in 0..3 {
                // Fails only with the node.
                let _ = host.compact(&limits).await;
                tokio::time::sleep_until(Instant::now() + Duration::from_millis(100)).await;
            }
        });
    }

    fn split_shard(&mut self, world: &mut World) {
        let Some(map) = world.map() else { return };
        let shards: Vec<GroupId> = map.shards.values().map(|shard| shard.group).collect();
        if shards.is_empty() || shards.len() >= 8 {
            return;
        }
        let group = shards[self.rng.random_range(0..shards.len())];
        world.note(format!("shard {group} is to be split"));
        self.order(world, move |router| async move {
            // Refused where it is just moving.
            let _ = router.split(group, None, Instant::now() + ORDER).await;
        });
    }

    fn drain(&mut self, until: u64, world: &mut World) {
        let workers: Vec<Place> = (0..world.nodes.len()).filter(|place| world.is_worker(*place)).collect();
        let worker = world.nodes[workers[self.rng.random_range(0..workers.len())]].name.clone();
        world.note(format!("{worker} is to be drained"));
        self.back.push((until + 2_000, Back::Drain(worker.clone())));
        self.order(world, move |router| async move {
            let Ok(id) = worker.parse() else { return };
            // Refused where too few others are left.
            let _ = router.drain(id, true, Instant::now() + ORDER).await;
        });
    }

    fn order<F>(&mut self, world: &World, order: impl FnOnce(Router) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Some(place) = world.any_up(&mut self.rng) else { return };
        let (Some(bare), Some(handle)) = (world.nodes[place].bare(), world.nodes[place].handle()) else {
            return;
        };
        handle.spawn(order(bare.router().clone()));
    }
}

fn name(world: &World, place: Place) -> String {
    world.nodes[place].name.clone()
}

fn take_back(back: Back, world: &mut World) {
    match back {
        Back::Cut(ways) => ways.iter().for_each(|(from, to)| world.net.set_cut(*from, *to, false)),
        Back::Delay(ways) => {
            ways.iter().for_each(|(from, to)| world.net.set_delay(*from, *to, super::net::USUAL_DELAY_MS));
        }
        Back::Refused(ways) => {
            ways.iter().for_each(|(from, to)| world.net.set_refused(*from, *to, false));
        }
        Back::Disk(place) => world.nodes[place].disk.slower_ms = 0,
        Back::Drain(worker) => undrain(&worker, world),
    }
}

/// Asks that a worker keep what it has; whether it is heard depends on who lives.
pub(crate) fn undrain(worker: &str, world: &World) {
    let Some(node) = world.nodes.iter().find(|node| node.is_up()) else { return };
    let (Some(bare), Some(handle), Ok(id)) = (node.bare(), node.handle(), worker.parse()) else { return };
    let router = bare.router().clone();
    handle.spawn(async move {
        let _ = router.drain(id, false, Instant::now() + ORDER).await;
    });
}
