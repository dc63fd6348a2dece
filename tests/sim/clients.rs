//! Clients of the simulated cluster: each does one operation after the other, on any of a few keys, at
//! any node, and what it was told becomes part of the history.
//!
//! What a client does not know stays unknown. Half of the writes bear a name (`Idempotency-Key`), and
//! where their outcome is unknown they are asked again under it, as a client would: what is told then is
//! what became of the one write.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use quoring::{
    command::{
        Action, Answer, Command, Condition, OpResult, Query, Reply, Retry, RowOp, Value, Write, Written,
    },
    error::{Error, Outcome as Fate},
    node::bare::Bare,
    router::{Consistency, Target},
};
use rand::{RngExt, rngs::StdRng};
use tokio::{sync::oneshot, time::Instant};

use super::{
    linearizability::{Op, Outcome, Recorder, Value as Number},
    node::Node,
    rng,
    world::{Failure, World},
};

/// The time that a client gives an operation.
const PATIENCE: Duration = Duration::from_millis(2_000);

/// Between two operations of a client, ms.
const PACE_MS: std::ops::RangeInclusive<u64> = 5..=80;

/// A client that waits for an answer of a node that is gone finds out so late, ms, beyond its patience.
const GRACE_MS: u64 = 1_000;

/// Times that a write with a name is asked again.
const REPEATS: u32 = 5;

pub(crate) const TABLE: &str = "history";
const COLUMN: &str = "value";

/// How clients read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reads {
    Linearizable,
    /// From the state of a node that believes to lead, without a proof: a bug put back.
    Unproved,
}

/// What a node told.
type Told = Result<(Outcome, Option<u64>), Error>;

struct Asked {
    key: usize,
    op: Op,
    called: u64,
    command: Option<Command>,
    repeats: u32,
    given_up_at: u64,
    /// Nothing is on the way while a repeat waits for its time.
    answer: Option<oneshot::Receiver<Told>>,
    /// An earlier attempt may have taken effect, or may yet.
    in_doubt: bool,
}

struct Client {
    number: u64,
    rng: StdRng,
    written: Number,
    next_at: u64,
    asked: Option<Asked>,
    /// The value last seen of each key, with its version, for conditions.
    seen: Vec<Option<(Number, u64)>>,
}

/// What was told of the versions of a key: when it was known, and the version.
#[derive(Default)]
struct Versions(Vec<(u64, u64)>);

pub(crate) struct Clients {
    clients: Vec<Client>,
    keys: usize,
    reads: Reads,
    recorder: Recorder,
    versions: BTreeMap<usize, Versions>,
    /// No client begins anything.
    pub(crate) resting: bool,
}

fn row(key: usize) -> String {
    format!("key-{key}")
}

impl Clients {
    pub(crate) fn new(seed: u64, count: u64, keys: usize, reads: Reads) -> Self {
        let client = |number| Client {
            number,
            rng: rng(seed, "client", number),
            written: 0,
            next_at: 0,
            asked: None,
            seen: vec![None; keys],
        };
        Self {
            clients: (1..=count).map(client).collect(),
            keys,
            reads,
            recorder: Recorder::default(),
            versions: BTreeMap::new(),
            resting: false,
        }
    }

    /// Operations whose outcome is known, so far.
    pub(crate) fn told(&self) -> u64 {
        self.recorder.told()
    }

    /// Whether no operation is under way.
    pub(crate) fn are_idle(&self) -> bool {
        self.clients.iter().all(|client| client.asked.is_none())
    }

    /// Judges all that was told: a summary.
    pub(crate) fn judge(&self) -> Result<String, Failure> {
        self.recorder.judge().map_err(Failure::NotLinearizable)
    }

    /// Lets every client do what it does in this ms.
    pub(crate) fn step(&mut self, world: &mut World) -> Result<(), Failure> {
        for place in 0..self.clients.len() {
            let mut client = std::mem::replace(&mut self.clients[place], Client::placeholder());
            let result = self.run(&mut client, world);
            self.clients[place] = client;
            result?;
        }
        Ok(())
    }

    fn run(&mut self, client: &mut Client, world: &mut World) -> Result<(), Failure> {
        let Some(mut asked) = client.asked.take() else {
            if world.now >= client.next_at && !self.resting {
                let asked = self.choose(client, world);
                client.asked = self.ask(client, asked, world);
            }
            return Ok(());
        };
        let Some(answer) = &mut asked.answer else {
            // A repeat's time has come.
            if world.now >= client.next_at {
                client.asked = self.ask(client, asked, world);
            } else {
                client.asked = Some(asked);
            }
            return Ok(());
        };
        let told = match answer.try_recv() {
            Ok(told) => told,
            Err(oneshot::error::TryRecvError::Empty) if world.now < asked.given_up_at => {
                client.asked = Some(asked);
                return Ok(());
            }
            // The node is gone, or does not run.
            Err(_) => Err(Error::Unknown("no answer".into())),
        };
        client.next_at = world.now + client.rng.random_range(PACE_MS);
        asked.answer = None;
        match told {
            Ok((outcome, version)) => self.told_of(client, &asked, outcome, version, world)?,
            Err(error) => {
                let is_read = asked.op == Op::Get;
                asked.in_doubt |= !is_read && error.outcome() == Fate::Unknown;
                if matches!(error, Error::Invalid(_) | Error::NotFound(_)) {
                    return Err(Failure::Broken(format!("{:?} was answered {error:?}", asked.op)));
                }
                let named = asked.command.as_ref().is_some_and(|command| command.retry.is_some());
                if asked.in_doubt && named && asked.repeats < REPEATS {
                    asked.repeats += 1;
                    client.next_at = world.now + (100 << asked.repeats);
                    client.asked = Some(asked);
                } else if asked.in_doubt {
                    self.recorder.note(&row(asked.key), asked.op, Outcome::Unknown, asked.called);
                }
                // Else nothing happened, nor ever will: the checker sees it if that is not true.
            }
        }
        Ok(())
    }

    fn told_of(
        &mut self,
        client: &mut Client,
        asked: &Asked,
        outcome: Outcome,
        version: Option<u64>,
        world: &World,
    ) -> Result<(), Failure> {
        self.recorder.note(&row(asked.key), asked.op, outcome, asked.called);
        let seen = match (asked.op, outcome) {
            (_, Outcome::Got(value)) => value.zip(version),
            (Op::Put(new), Outcome::Written) | (Op::Swap { new, .. }, Outcome::Swapped(true)) => {
                version.map(|version| (new, version))
            }
            _ => None,
        };
        if !matches!(outcome, Outcome::Swapped(false)) {
            client.seen[asked.key] = seen;
        }
        let Some((_, version)) = seen else { return Ok(()) };
        // Versions only grow: what was known when the operation was called is not newer than its own.
        let known = self.versions.entry(asked.key).or_default();
        let before = known.0.iter().filter(|(at, _)| *at < asked.called).map(|(_, version)| *version).max();
        if before.is_some_and(|before| before > version) {
            return Err(Failure::Broken(format!(
                "version {version} of {} came after {before:?} was told ({:?} at {} ms)",
                row(asked.key),
                asked.op,
                world.now
            )));
        }
        known.0.push((self.recorder.moment(), version));
        Ok(())
    }

    /// What a client does next.
    fn choose(&self, client: &mut Client, world: &World) -> Asked {
        let key = client.rng.random_range(0..self.keys);
        client.written += 1;
        let value = client.number << 32 | client.written;
        let mut condition = Condition::Always;
        let op = match (client.rng.random_range(0..10), client.seen[key]) {
            (0..=4, _) => Op::Get,
            (5, _) => Op::Delete,
            (6 | 7, Some((current, version))) => {
                condition = Condition::VersionIn(vec![version]);
                Op::Swap { expected: Some(current), new: value }
            }
            (6 | 7, None) => {
                condition = Condition::Absent;
                Op::Swap { expected: None, new: value }
            }
            _ => Op::Put(value),
        };
        let action = match op {
            Op::Get => None,
            Op::Delete => Some(Action::Delete { column: COLUMN.into() }),
            Op::Put(new) | Op::Swap { new, .. } => {
                let bytes = Bytes::from(new.to_string());
                let value = Value { bytes, content_type: None, ttl_ms: None };
                Some(Action::Put { column: COLUMN.into(), value })
            }
        };
        let named = client.rng.random_bool(0.5);
        let name = u128::from(value);
        let command = action.map(|action| Command {
            writes: vec![Write {
                row: row(key),
                ops: vec![RowOp { table: TABLE.into(), action, condition }],
            }],
            retry: named.then_some(Retry { key: name, fingerprint: name }),
        });
        Asked {
            key,
            op,
            called: self.recorder.moment(),
            command,
            repeats: 0,
            given_up_at: world.now,
            answer: None,
            in_doubt: false,
        }
    }

    /// Sends it to a node; where none is up, the client looks again later.
    fn ask(&self, client: &mut Client, mut asked: Asked, world: &World) -> Option<Asked> {
        let is_repeat = asked.in_doubt;
        let mut place = world.any_up(&mut client.rng);
        let unproved = self.reads == Reads::Unproved && asked.op == Op::Get;
        if unproved {
            place = believed_leader(world, asked.key).or(place);
        }
        let Some(place) = place else {
            client.next_at = world.now + 100;
            return is_repeat.then_some(asked);
        };
        let (bare, handle) = (world.nodes[place].bare()?.clone(), world.nodes[place].handle()?.clone());
        let (sender, answer) = oneshot::channel();
        let (key, op, command) = (asked.key, asked.op, asked.command.clone());
        handle.spawn(async move {
            let deadline = Instant::now() + PATIENCE;
            let told = match command {
                Some(command) => write(&bare, op, command, deadline).await,
                None if unproved => read(&bare, key, Consistency::Stale, deadline).await,
                None => read(&bare, key, Consistency::Linearizable, deadline).await,
            };
            // The client may have given up.
            let _ = sender.send(told);
        });
        asked.answer = Some(answer);
        asked.given_up_at = world.now + PATIENCE.as_millis() as u64 + GRACE_MS;
        Some(asked)
    }
}

impl Client {
    fn placeholder() -> Self {
        Self { number: 0, rng: rng(0, "", 0), written: 0, next_at: 0, asked: None, seen: Vec::new() }
    }
}

/// A worker that believes to lead the shard of a key: of several, the one that was elected first.
fn believed_leader(world: &World, key: usize) -> Option<usize> {
    let leads = |node: &Node| {
        let bare = node.bare()?;
        let located = bare.router().locate(&row(key))?;
        Some((bare.host().get(located.group)?.leads_in()?, node.place))
    };
    world.nodes.iter().filter_map(leads).min().map(|(_, place)| place)
}

async fn read(bare: &Bare, key: usize, consistency: Consistency, deadline: Instant) -> Told {
    let row = row(key);
    let query = Query::Cell { table: TABLE.into(), row: row.clone(), column: COLUMN.into() };
    let served = bare.router().query(Target::Row(&row), query, consistency, deadline).await?;
    Ok(match served.answer {
        Answer::Cell(cell) => {
            let value = std::str::from_utf8(&cell.bytes).ok().and_then(|text| text.parse().ok());
            let value = value.ok_or_else(|| Error::Invalid(format!("no client wrote {cell:?}")))?;
            (Outcome::Got(Some(value)), Some(cell.version))
        }
        Answer::Missing(_) => (Outcome::Got(None), None),
        other => return Err(Error::Invalid(format!("{other:?}"))),
    })
}

async fn write(bare: &Bare, op: Op, command: Command, deadline: Instant) -> Told {
    let reply = bare.router().write(command, deadline).await?;
    let Reply::Done(written) = reply else { return Err(Error::Invalid(format!("{reply:?}"))) };
    Ok(match (op, &written[..]) {
        (Op::Delete, [Written::Applied { results, .. }]) => match results[..] {
            [OpResult::Deleted(count)] => (Outcome::Deleted(count > 0), None),
            _ => return Err(Error::Invalid(format!("{written:?}"))),
        },
        (Op::Put(_), [Written::Applied { version, .. }]) => (Outcome::Written, Some(*version)),
        (Op::Swap { .. }, [Written::Applied { version, .. }]) => (Outcome::Swapped(true), Some(*version)),
        (Op::Swap { .. }, [Written::Failed { .. }]) => (Outcome::Swapped(false), None),
        _ => return Err(Error::Invalid(format!("{written:?}"))),
    })
}
