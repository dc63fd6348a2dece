//! A client that does any operation on any of a few keys at any node, and notes what it was told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    harness::{Answer, Call, Failure, Http},
    linearizability::{Op, Outcome, Recorder, Value},
};

/// A client gives up soon, as many do: what it then does not know is part of the history.
const PATIENCE: Duration = Duration::from_secs(3);

/// Between two operations of a client, at least.
const PACE: Duration = Duration::from_millis(5);

pub(super) struct Client {
    pub(super) number: u64,
    pub(super) ports: Vec<u16>,
    pub(super) keys: Vec<String>,
    pub(super) recorder: Arc<Recorder>,
    pub(super) stop: Arc<AtomicBool>,
}

impl Client {
    pub(super) async fn run(self) {
        // The choices are repeatable; what the cluster makes of them is not.
        let mut rng = StdRng::seed_from_u64(self.number);
        // The value last seen of each key, with its version, for conditions.
        let mut seen = vec![None; self.keys.len()];
        let mut written: Value = 0;
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.stop.load(Ordering::Relaxed) {
            pace.tick().await;
            let place = rng.random_range(0..self.keys.len());
            let node = Http::at(self.ports[rng.random_range(0..self.ports.len())]);
            written += 1;
            let value = self.number << 32 | written;
            let (op, call) = self.choose(rng.random_range(0..10), node, place, value, seen[place]);
            if let Some(now) = self.ask(place, op, call).await {
                seen[place] = now;
            }
        }
    }

    fn choose(
        &self,
        dice: u32,
        node: Http,
        place: usize,
        value: Value,
        seen: Option<(Value, u64)>,
    ) -> (Op, Call) {
        let path = format!("/kv/{}", self.keys[place]);
        match (dice, seen) {
            (0..=4, _) => (Op::Get, node.get(path)),
            (5, _) => (Op::Delete, node.delete(path)),
            (6 | 7, Some((expected, version))) => {
                let op = Op::Swap { expected: Some(expected), new: value };
                (op, node.put(path, value.to_string()).header("if-match", format!("\"{version}\"")))
            }
            (6 | 7, None) => {
                let op = Op::Swap { expected: None, new: value };
                (op, node.put(path, value.to_string()).header("if-none-match", "*"))
            }
            _ => (Op::Put(value), node.put(path, value.to_string())),
        }
    }

    /// Asks, notes, and returns what the key is now known to hold.
    async fn ask(&self, place: usize, op: Op, call: Call) -> Option<Option<(Value, u64)>> {
        let called = self.recorder.moment();
        let told = call.patience(PATIENCE).attempt().await;
        let outcome = outcome(op, &told)?;
        self.recorder.note(&self.keys[place], op, outcome, called);
        let version = |value: Value| told.as_ref().ok().map(|answer| (value, answer.version()));
        match (op, outcome) {
            (_, Outcome::Got(value)) => Some(value.and_then(version)),
            (_, Outcome::Deleted(_)) => Some(None),
            (Op::Put(new), Outcome::Written) | (Op::Swap { new, .. }, Outcome::Swapped(true)) => {
                Some(version(new))
            }
            _ => None,
        }
    }
}

/// What an answer says; `None` where nothing happened and nothing was learnt.
fn outcome(op: Op, told: &Result<Answer, Failure>) -> Option<Outcome> {
    let answer = match told {
        Ok(answer) => answer,
        Err(Failure::NotSent(_)) => return None,
        Err(Failure::Broken(_)) => return (op != Op::Get).then_some(Outcome::Unknown),
    };
    Some(match (op, answer.status) {
        (Op::Get, 200) => Outcome::Got(Some(answer.text().parse().unwrap())),
        (Op::Get, 404) => Outcome::Got(None),
        (Op::Put(_), 200) => Outcome::Written,
        (Op::Delete, 200) => Outcome::Deleted(true),
        (Op::Delete, 404) => Outcome::Deleted(false),
        (Op::Swap { .. }, 200) => Outcome::Swapped(true),
        (Op::Swap { .. }, 412) => Outcome::Swapped(false),
        // The contract: not applied, now or ever. The checker sees it if that is not true.
        (_, 429 | 503) => return None,
        (Op::Get, 504) => return None,
        (_, 504) => Outcome::Unknown,
        _ => panic!("{op:?}: {answer:?}"),
    })
}
