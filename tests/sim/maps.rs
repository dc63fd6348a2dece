//! Maps that come late.

use std::{sync::Arc, time::Duration};

use quoring::{
    node::bare::Bare,
    peer::{Lane, Peer},
    router::calls::{ClusterAnswer, ClusterCall},
};
use tokio::{sync::oneshot, time::Instant};

use super::{
    disk::Crash,
    net::Place,
    run::FOUND_MS,
    runs::seeds,
    world::{Failure, Spec, World},
};

/// For an answer, ms.
const ANSWER_MS: u64 = 3_000;

/// An answer with an older map may come behind a newer map. Neither the map goes back nor what this node knows
/// of where the others are: it would find nobody whom it is not connected to.
#[test]
fn an_older_map_that_comes_late_changes_nothing() {
    for seed in seeds(1) {
        let mut world =
            World::new(seed, Spec { workers: 3, spares: 0, shards: 1, ..Spec::default() }).unwrap();
        if let Err(failure) = play(&mut world) {
            panic!("late map, SIM_SEED={seed}: {failure}\nthe last events:\n{}", world.events());
        }
    }
}

fn play(world: &mut World) -> Result<(), Failure> {
    world.until("the cluster is founded", FOUND_MS, |_| Ok(()), World::is_whole)?;
    let [one, other] = [0, 1].map(|worker| world.spec.coordinators + worker);
    let number = |world: &World, place: Place| {
        world.nodes[place].bare().and_then(|bare| bare.links().identity().node).expect("it is a member")
    };
    let (of_one, of_other) = (number(world, one), number(world, other));
    let mut old = world.map().expect("it is founded");
    old.epoch.0 -= 1;
    old.workers.clear();
    old.coordinators.clear();
    let told = ask(world, 0, move |bare, deadline| async move {
        let call = ClusterCall::TakeMap(Box::new(old));
        bare.router().ask_coordinator(&Peer::Node(of_one), &call, deadline).await
    })?;
    assert_eq!(told, Ok(ClusterAnswer::Done));
    // Else the other one could have connected to this one, which has to notice that it is gone.
    world.crash(other, Crash::Killed, FOUND_MS)?;
    world.ticks(ANSWER_MS)?;
    let refused = ask(world, one, move |bare, deadline| async move {
        bare.links().connection(&Peer::Node(of_other), Lane::Main, deadline).await.map(drop)
    })?;
    let why = refused.expect_err("it is down").to_string();
    assert!(!why.contains("not known"), "{why}");
    Ok(())
}

/// Has a node ask something, and waits for the answer.
fn ask<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    world: &mut World,
    place: Place,
    question: impl FnOnce(Arc<Bare>, Instant) -> F + Send + 'static,
) -> Result<T, Failure> {
    let node = &world.nodes[place];
    let (bare, handle) = (node.bare().expect("it is up").clone(), node.handle().expect("it is up"));
    let (sender, mut answer) = oneshot::channel();
    handle.spawn(async move {
        let told = question(bare, Instant::now() + Duration::from_millis(ANSWER_MS)).await;
        let _ = sender.send(told);
    });
    for _ in 0..=ANSWER_MS {
        world.tick()?;
        if let Ok(told) = answer.try_recv() {
            return Ok(told);
        }
    }
    Err(Failure::TooLate("an answer".into()))
}
