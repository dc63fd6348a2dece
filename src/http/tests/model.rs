//! A cluster in memory, one step at a time: shards with versions, conditions, expiry and remembered
//! answers, behind the router's methods. It answers what the contract says, and can be told to fail.

mod cluster;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    command::{
        Action, Answer, At, Cell, Command, Condition, Missing, OpResult, Query, Reply, Scan, ScannedRow,
        Version, Write, Written,
    },
    config::{Partitioner, Settings},
    error::Error,
    ids::{ClusterId, Epoch, GroupId, NodeId, Position, StoreId, WorkerId},
    ring::map::{Indexed, Map, Shard, Worker},
    router::{Consistency, Located, Served, Target},
};

/// The time of the model's clock at its beginning: 2026-01-01T00:00:00Z.
pub(crate) const START: At = At(1_767_225_600_000);

/// How old the model says its stale answers are, when it gives them.
pub(crate) const STALENESS: Duration = Duration::from_millis(42);

type Place = (u64, String);

#[derive(Default)]
struct Group {
    version: Version,
    /// By table, place of the row, and column.
    cells: BTreeMap<String, BTreeMap<Place, BTreeMap<String, Cell>>>,
    remembered: BTreeMap<u128, (u128, Reply)>,
}

struct State {
    /// The map as the front-end sees it.
    seen: Option<Arc<Map>>,
    /// The map as it is; the front-end sees it once a shard told it that its own is old.
    real: Option<Arc<Map>>,
    groups: BTreeMap<GroupId, Group>,
    faults: BTreeMap<GroupId, Error>,
    coordinators: Result<(), Error>,
    pings: BTreeMap<WorkerId, String>,
    draining: BTreeSet<WorkerId>,
    now: At,
    silent: bool,
    proposals: usize,
}

/// See the module.
pub(crate) struct Model(Mutex<State>);

type Split = Result<(GroupId, Position), Error>;

impl Model {
    /// A cluster of shards that begin at these positions, and three workers.
    pub(crate) fn new(partitioner: Partitioner, starts: &[u64]) -> Arc<Self> {
        let map = Arc::new(map(partitioner, starts, 1));
        let groups = map.shards.values().map(|shard| (shard.group, Group::default())).collect();
        Arc::new(Self(Mutex::new(State {
            seen: Some(Arc::clone(&map)),
            real: Some(map),
            groups,
            faults: BTreeMap::new(),
            coordinators: Ok(()),
            pings: BTreeMap::new(),
            draining: BTreeSet::new(),
            now: START,
            silent: false,
            proposals: 0,
        })))
    }

    /// Makes a shard answer everything with an error.
    pub(crate) fn fail(&self, group: u64, error: Error) {
        self.0.lock().faults.insert(GroupId(group), error);
    }

    /// Makes every shard answer again.
    pub(crate) fn heal(&self) {
        self.0.lock().faults.clear();
    }

    /// Makes the coordinator group answer everything with an error.
    pub(crate) fn fail_coordinators(&self, error: Error) {
        self.0.lock().coordinators = Err(error);
    }

    /// Makes every call wait for ever.
    pub(crate) fn fall_silent(&self) {
        self.0.lock().silent = true;
    }

    /// Lets time pass.
    pub(crate) fn advance_ms(&self, ms: u64) {
        self.0.lock().now.0 += ms;
    }

    /// Takes the map away, as at a node that has not joined.
    pub(crate) fn forget_map(&self) {
        self.0.lock().seen = None;
    }

    /// How many commands were proposed.
    pub(crate) fn proposals(&self) -> usize {
        self.0.lock().proposals
    }

    /// Changes a setting that the front-end goes by.
    pub(crate) fn set(&self, change: impl FnOnce(&mut Settings)) {
        let mut state = self.0.lock();
        let mut map = state.real.as_deref().unwrap().clone();
        change(&mut map.settings);
        state.real = Some(Arc::new(map));
        state.seen = state.real.clone();
    }

    /// Splits a shard in two behind the front-end's back.
    pub(crate) fn part(&self, at: u64) {
        let mut state = self.0.lock();
        let mut map = state.real.as_deref().unwrap().clone();
        map.epoch.0 += 1;
        let old = map.shards.range(..Position(at)).next_back().unwrap().1.clone();
        let group = GroupId(100 + map.shards.len() as u64);
        map.shards.insert(Position(at), Shard { group, ..old.clone() });
        let from = state.groups.get_mut(&old.group).unwrap();
        let mut upper =
            Group { version: from.version, remembered: from.remembered.clone(), ..Group::default() };
        for (table, rows) in &mut from.cells {
            upper.cells.insert(table.clone(), rows.split_off(&(at, String::new())));
        }
        state.groups.insert(group, upper);
        state.real = Some(Arc::new(map));
    }

    async fn begin(&self) {
        if self.0.lock().silent {
            std::future::pending::<()>().await;
        }
    }

    pub(crate) async fn write(&self, command: Command, _: Instant) -> Result<Reply, Error> {
        self.begin().await;
        let mut state = self.0.lock();
        state.proposals += 1;
        let rows: Vec<_> = command.writes.iter().map(|write| write.row.as_str()).collect();
        let group = state.group_of_rows(&rows)?;
        let now = state.now;
        let place = |row: &str| (position(state.partitioner(), row), row.to_owned());
        let places: Vec<_> = rows.iter().map(|row| place(row)).collect();
        let group = state.groups.get_mut(&group).unwrap();
        if let Some(retry) = &command.retry
            && let Some((fingerprint, reply)) = group.remembered.get(&retry.key)
        {
            return Ok(if *fingerprint == retry.fingerprint { reply.clone() } else { Reply::RetryMismatch });
        }
        let written =
            command.writes.iter().zip(places).map(|(write, place)| group.apply(write, place, now)).collect();
        let reply = Reply::Done(written);
        if let Some(retry) = command.retry {
            group.remembered.insert(retry.key, (retry.fingerprint, reply.clone()));
        }
        Ok(reply)
    }

    pub(crate) async fn query(
        &self,
        target: Target<'_>,
        query: Query,
        consistency: Consistency,
        _: Instant,
    ) -> Result<Served, Error> {
        self.begin().await;
        let mut state = self.0.lock();
        let group = match target {
            Target::Row(row) => state.group_of_rows(&[row])?,
            Target::Shard(group, _) => {
                // A shard that was split answers only for the map that the asker has.
                if state.seen.as_ref().map(|map| map.epoch) != state.real.as_ref().map(|map| map.epoch) {
                    state.seen = state.real.clone();
                    return Err(Error::NotHere { epoch: Epoch(9) });
                }
                group
            }
        };
        if let Some(error) = state.faults.get(&group) {
            return Err(error.clone());
        }
        let as_of = Instant::now().checked_sub(STALENESS).filter(|_| consistency == Consistency::Stale);
        let (now, partitioner) = (state.now, state.partitioner());
        Ok(Served { answer: state.groups[&group].answer(query, partitioner, now), as_of })
    }

    pub(crate) async fn table_exists(&self, table: &str, _: Instant) -> Result<bool, Error> {
        let state = self.0.lock();
        if let Some(error) = state.faults.values().next() {
            return Err(error.clone());
        }
        let now = state.now;
        Ok(state.groups.values().any(|group| group.rows(table, now).next().is_some()))
    }

    pub(crate) async fn split(&self, shard: GroupId, at: Option<Position>, _: Instant) -> Split {
        match (shard.0, at.unwrap_or(Position(8))) {
            (1, Position(0)) => Err(Error::Refused("a shard is split behind its start".into())),
            (1, at) => Ok((GroupId(9), at)),
            _ => Err(Error::NotFound(format!("there is no shard {shard}"))),
        }
    }

    pub(crate) fn locate(&self, row: &str) -> Option<Located> {
        let state = self.0.lock();
        let map = state.seen.as_ref()?;
        let position = Position(position(map.settings.partitioner, row));
        let (_, shard) = map.shards.range(..=position).next_back()?;
        Some(Located {
            position,
            group: shard.group,
            leader: shard.replicas.first().copied(),
            replicas: shard.replicas.clone(),
        })
    }

    pub(crate) fn map(&self) -> Option<Arc<Indexed>> {
        self.0.lock().seen.as_ref().map(|map| Arc::new(Indexed::new(Map::clone(map))))
    }
}

impl State {
    fn partitioner(&self) -> Partitioner {
        self.real.as_ref().unwrap().settings.partitioner
    }

    /// The one shard of these rows, if it answers.
    fn group_of_rows(&mut self, rows: &[&str]) -> Result<GroupId, Error> {
        if self.seen.is_none() {
            return Err(Error::Unavailable("no map".into()));
        }
        let map = self.real.clone().unwrap();
        let group = |row: &&str| {
            let position = Position(position(map.settings.partitioner, row));
            map.shards.range(..=position).next_back().unwrap().1.group
        };
        let groups: BTreeSet<_> = rows.iter().map(group).collect();
        let (Some(group), 1) = (groups.first().copied(), groups.len()) else {
            self.seen = self.real.clone();
            return Err(Error::NotHere { epoch: map.epoch });
        };
        self.faults.get(&group).map_or(Ok(group), |error| Err(error.clone()))
    }
}

impl Group {
    fn cell(&self, table: &str, place: &Place, column: &str, now: At) -> Option<&Cell> {
        self.cells.get(table)?.get(place)?.get(column).filter(|cell| lives(cell, now))
    }

    /// The rows of a table that have a living cell, in ring order.
    fn rows<'a>(
        &'a self,
        table: &str,
        now: At,
    ) -> impl Iterator<Item = (&'a Place, Vec<(String, Cell)>)> + use<'a> {
        self.cells.get(table).into_iter().flatten().filter_map(move |(place, columns)| {
            let living: Vec<_> = columns
                .iter()
                .filter(|(_, cell)| lives(cell, now))
                .map(|(n, c)| (n.clone(), c.clone()))
                .collect();
            (!living.is_empty()).then_some((place, living))
        })
    }

    fn apply(&mut self, write: &Write, place: Place, now: At) -> Written {
        for (index, op) in write.ops.iter().enumerate() {
            let current = match &op.action {
                Action::Get { column } | Action::Put { column, .. } | Action::Delete { column } => {
                    self.cell(&op.table, &place, column, now).map(|cell| cell.version)
                }
                Action::DeleteRow => None,
            };
            let holds = match &op.condition {
                Condition::Always => true,
                Condition::Exists => current.is_some(),
                Condition::Absent => current.is_none(),
                Condition::VersionIn(versions) => current.is_some_and(|version| versions.contains(&version)),
                Condition::VersionNotIn(versions) => {
                    !current.is_some_and(|version| versions.contains(&version))
                }
            };
            if !holds {
                return Written::Failed { op: index as u32, current };
            }
        }
        let gets: Vec<_> = write
            .ops
            .iter()
            .map(|op| match &op.action {
                Action::Get { column } => self.cell(&op.table, &place, column, now).cloned(),
                _ => None,
            })
            .collect();
        self.version += 1;
        let version = self.version;
        let mut results = Vec::new();
        for (op, got) in write.ops.iter().zip(gets) {
            let columns = self.cells.entry(op.table.clone()).or_default().entry(place.clone()).or_default();
            results.push(match &op.action {
                Action::Get { .. } => OpResult::Got(got),
                Action::Put { column, value } => {
                    let cell = Cell {
                        version,
                        written_at: now,
                        expires_at: value.ttl_ms.map(|ttl_ms| At(now.0 + ttl_ms)),
                        content_type: value.content_type.clone(),
                        bytes: value.bytes.clone(),
                    };
                    columns.insert(column.clone(), cell);
                    OpResult::Put
                }
                Action::Delete { column } => {
                    let removed = columns.remove(column).filter(|cell| lives(cell, now));
                    OpResult::Deleted(u64::from(removed.is_some()))
                }
                Action::DeleteRow => {
                    let removed = std::mem::take(columns);
                    OpResult::Deleted(removed.values().filter(|cell| lives(cell, now)).count() as u64)
                }
            });
        }
        Written::Applied { version, results }
    }

    fn answer(&self, query: Query, partitioner: Partitioner, now: At) -> Answer {
        let row_of = |table: &str, row: &str| {
            let place = (position(partitioner, row), row.to_owned());
            self.rows(table, now).find(|(found, _)| **found == place).map(|(_, columns)| columns)
        };
        let has_table = |table: &str| self.rows(table, now).next().is_some();
        match query {
            Query::Cell { table, row, column } => match row_of(&table, &row) {
                Some(columns) => match columns.into_iter().find(|(name, _)| *name == column) {
                    Some((_, cell)) => Answer::Cell(cell),
                    None => Answer::Missing(Missing::Column),
                },
                None if has_table(&table) => Answer::Missing(Missing::Row),
                None => Answer::Missing(Missing::Table),
            },
            Query::Row { table, row } => match row_of(&table, &row) {
                Some(columns) => Answer::Row(columns),
                None if has_table(&table) => Answer::Missing(Missing::Row),
                None => Answer::Missing(Missing::Table),
            },
            Query::HasTable { table } => Answer::HasTable(has_table(&table)),
            Query::Tables { after, limit } => {
                let behind = |name: &&String| after.as_ref().is_none_or(|after| *name > after);
                let names = self.cells.keys().filter(behind).filter(|name| has_table(name));
                Answer::Tables(names.take(limit as usize).cloned().collect())
            }
            Query::Scan(scan) => self.scan(&scan, now),
        }
    }

    fn scan(&self, scan: &Scan, now: At) -> Answer {
        let mut rows = Vec::new();
        let mut bytes = 0;
        for (place, mut columns) in self.rows(&scan.table, now) {
            let row = &place.1;
            let wanted = row.starts_with(&scan.prefix)
                && scan.from.as_ref().is_none_or(|from| row >= from)
                && scan.to.as_ref().is_none_or(|to| row < to)
                && scan.after.as_ref().is_none_or(|after| place > after);
            columns.retain(|(name, _)| scan.column.as_ref().is_none_or(|column| name == column));
            if !wanted || columns.is_empty() {
                continue;
            }
            if rows.len() == scan.limit as usize || bytes > scan.max_bytes as usize {
                let next = rows.last().map(|row: &ScannedRow| (row.position, row.row.clone()));
                return Answer::Rows { rows, next };
            }
            bytes += columns.iter().map(|(_, cell)| cell.bytes.len()).sum::<usize>();
            rows.push(ScannedRow { position: place.0, row: row.clone(), columns });
        }
        Answer::Rows { rows, next: None }
    }
}

fn lives(cell: &Cell, now: At) -> bool {
    cell.expires_at.is_none_or(|at| now < at)
}

fn position(partitioner: Partitioner, row: &str) -> u64 {
    if partitioner != Partitioner::Ordered {
        return xxh3_64(row.as_bytes());
    }
    let mut first = [0; 8];
    let count = row.len().min(8);
    first[..count].copy_from_slice(&row.as_bytes()[..count]);
    u64::from_be_bytes(first)
}

fn map(partitioner: Partitioner, starts: &[u64], first_group: u64) -> Map {
    let worker = |index: u64| Worker {
        id: format!("worker{index}").parse().unwrap(),
        addr: format!("127.0.0.1:{}", 8000 + index),
        store: StoreId(Uuid::nil()),
        zone: None,
        draining: false,
    };
    let shard = |index: usize| Shard {
        group: GroupId(first_group + index as u64),
        replicas: vec![NodeId(4), NodeId(5), NodeId(6)],
        formed: true,
        parent: None,
    };
    Map {
        epoch: Epoch(1),
        cluster: ClusterId(Uuid::nil()),
        settings: Settings {
            name: "model".into(),
            replication: 3,
            shards: starts.len() as u32,
            partitioner,
            ping_interval_ms: 5_000,
            inactive_after_ms: 15_000,
            replace_after_ms: 60_000,
            request_timeout_ms: 5_000,
            max_value_bytes: 64 << 10,
            split_size_bytes: 0,
        },
        coordinators: BTreeMap::new(),
        workers: (4..7).map(|index| (NodeId(index), worker(index))).collect(),
        shards: starts.iter().enumerate().map(|(index, start)| (Position(*start), shard(index))).collect(),
    }
}
