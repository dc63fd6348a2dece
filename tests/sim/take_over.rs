//! How long shards have no leader when the process of a worker ends: the others are told by their
//! connections, one of them perhaps late, and must not undo each other's elections.

use rand::RngExt;

use super::{
    clients::{Clients, Reads},
    disk::Crash,
    net::Place,
    rng,
    run::{ANSWER_MS, FOUND_MS},
    runs::seeds,
    world::{Failure, Spec, World},
};

const FEW: u64 = 6;

/// Times that a worker is killed in each run.
const KILLS: u64 = 6;

/// Within which every shard must have a leader that a majority follows, ms. An election takes some 20 ms,
/// and two that come to nothing 180 and 240 before the next.
const LED_WITHIN_MS: u64 = 600;

/// How late one of the others may be to notice, ms.
const LATE_MS: u64 = 150;

/// For the cluster to be whole again, ms.
const HEAL_MS: u64 = 30_000;

#[test]
fn a_dead_leader_is_soon_replaced() {
    for seed in seeds(FEW) {
        let spec = Spec { workers: 3, spares: 0, shards: 3, ..Spec::default() };
        let mut world = World::new(seed, spec).unwrap();
        if let Err(failure) = play(&mut world, seed) {
            panic!("take over, SIM_SEED={seed}: {failure}\nthe last events:\n{}", world.events());
        }
    }
}

/// A replica that is stopped (its shard moves away, say) while it sees to a dead leader's place gives up, and
/// does not go on asking a group that answers nothing any more.
#[test]
fn a_replica_that_is_stopped_meanwhile_gives_up() {
    for seed in seeds(1) {
        let mut world =
            World::new(seed, Spec { workers: 3, spares: 0, shards: 1, ..Spec::default() }).unwrap();
        if let Err(failure) = stop_meanwhile(&mut world) {
            panic!("stopped meanwhile, SIM_SEED={seed}: {failure}\nthe last events:\n{}", world.events());
        }
    }
}

fn stop_meanwhile(world: &mut World) -> Result<(), Failure> {
    world.until("the cluster is founded", FOUND_MS, |_| Ok(()), World::is_whole)?;
    let shard = world.map().and_then(|map| map.shards.into_values().next()).expect("it has one").group;
    let (leader, _) = world.leader(shard).expect("it is led");
    let mut followers = (0..world.nodes.len())
        .filter(|place| world.is_worker(*place) && *place != leader)
        .collect::<Vec<_>>();
    let left = followers.pop().expect("three workers");
    // Alone it cannot be elected, so it goes on trying.
    for dead in followers.into_iter().chain([leader]) {
        world.crash(dead, Crash::Killed, HEAL_MS)?;
    }
    world.ticks(LATE_MS)?;
    let node = &world.nodes[left];
    let host = node.bare().expect("it is up").host().clone();
    node.handle().expect("it is up").spawn(async move { host.stop(shard).await });
    world.ticks(LED_WITHIN_MS)
}

fn play(world: &mut World, seed: u64) -> Result<(), Failure> {
    let mut rng = rng(seed, "take over", 0);
    world.until("the cluster is founded", FOUND_MS, |_| Ok(()), World::is_whole)?;
    let mut clients = Clients::new(seed, 6, 8, Reads::Linearizable);
    for kill in 0..KILLS {
        for _ in 0..rng.random_range(100..1_500) {
            world.tick()?;
            clients.step(world)?;
        }
        let workers: Vec<Place> = (0..world.nodes.len()).filter(|place| world.is_worker(*place)).collect();
        // Each in turn, and of the other two now this one and now that.
        let (dead, other) = (workers[(kill % 3) as usize], workers[((kill + 1 + kill / 3) % 3) as usize]);
        world.crash(dead, Crash::Killed, HEAL_MS)?;
        world.pause(other, rng.random_range(0..LATE_MS));
        let step = |world: &mut World| clients.step(world);
        world.until("every shard is led again", LATE_MS + LED_WITHIN_MS, step, |world| led(world, dead))?;
        world.start(dead)?;
        world.until("the cluster is whole again", HEAL_MS, |world| clients.step(world), World::is_whole)?;
    }
    clients.resting = true;
    let deadline = world.now + ANSWER_MS;
    while !clients.are_idle() {
        world.tick()?;
        clients.step(world)?;
        if world.now >= deadline {
            return Err(Failure::TooLate("clients are answered at the end".into()));
        }
    }
    clients.judge()?;
    Ok(())
}

fn led(world: &World, dead: Place) -> Result<(), String> {
    let map = world.map().ok_or("no node has a map")?;
    for shard in map.shards.values() {
        let leader = world.leader(shard.group).filter(|(place, _)| *place != dead);
        leader.ok_or_else(|| format!("shard {} has no leader", shard.group))?;
    }
    Ok(())
}
