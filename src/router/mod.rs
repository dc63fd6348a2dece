//! The way of a client's request from any node to whoever can answer it: row → position → shard →
//! leader, with a cached map, leader hints and bounded retries.
//!
//! What may be tried again: anything that is known not to have happened ([`Error::outcome`]), and
//! every read. Never a write whose fate is unknown. All of it within the request's deadline.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use parking_lot::RwLock;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::{
    command::{Answer, Command, Query, Reply, Write},
    consensus::host::Host,
    error::{Error, Outcome},
    ids::{Epoch, GroupId, NodeId, Position, Span, WorkerId},
    peer::{CallError, Lane, Links, Peer},
    ring::{
        map::{Indexed, Map},
        partitioner,
    },
};

pub mod calls;
mod cluster;
pub mod local;
mod turns;

use calls::{ClusterAnswer, ClusterCall};
use turns::Turns;

/// The first wait before a request is tried again; doubled each time …
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// … up to this.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// How long a question that any replica could answer waits for the leader's better answer.
const LEADER_ANSWERS_WITHIN: Duration = Duration::from_millis(300);

/// How fresh an answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// It reflects every write acknowledged before the request came.
    Linearizable,
    /// Any replica may answer from what it has.
    Stale,
}

/// Where a query goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// To the shard of a row.
    Row(&'a str),
    /// To a shard by its number and arc (scans, lists of tables), as the asker's map has it.
    Shard(GroupId, Span),
}

/// An answer and how old it may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// The answer.
    pub answer: Answer,
    /// For stale reads, where known: every write acknowledged by this moment is in the answer.
    pub as_of: Option<Instant>,
}

/// Where a row lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Its position on the ring.
    pub position: Position,
    /// The shard.
    pub group: GroupId,
    /// The worker believed to lead it.
    pub leader: Option<NodeId>,
    /// The workers that keep it, the primary first.
    pub replicas: Vec<NodeId>,
}

/// An active worker, as `/workers` lists it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ActiveWorker {
    /// Its name.
    pub id: WorkerId,
    /// `host:port`.
    pub addr: String,
}

/// How this node answers calls about the cluster itself; only a coordinator that leads does.
pub trait Coordination: Send + Sync {
    /// Answers, or says who leads.
    fn answer(&self, call: ClusterCall, deadline: Instant) -> BoxFuture<'_, Result<ClusterAnswer, Error>>;
}

/// Routes requests; cheap to clone.
#[derive(Clone)]
pub struct Router(Arc<Inner>);

struct Inner {
    host: Arc<Host>,
    links: Arc<Links>,
    me: AtomicU64,
    coordination: Arc<dyn Coordination>,
    map: ArcSwapOption<Indexed>,
    epoch: watch::Sender<Epoch>,
    /// The newest epoch that another node has named.
    heard: AtomicU64,
    leaders: RwLock<HashMap<GroupId, NodeId>>,
    /// Coordinators to ask before there is a map, and the one that answered last.
    seeds: RwLock<Vec<Peer>>,
    coordinator: RwLock<Option<Peer>>,
}

/// Which shard is asked.
#[derive(Clone, Copy)]
enum Place<'a> {
    /// That of a row.
    Row(&'a str),
    /// The one that all of these are of.
    Rows(&'a [Write]),
    /// This one, if this is its arc.
    Shard(GroupId, Span),
}

/// What is asked of a shard.
enum Work {
    /// An encoded command.
    Write(Bytes),
    Query(Query, Consistency),
}

impl Work {
    fn needs_leader(&self) -> bool {
        !matches!(self, Work::Query(_, Consistency::Stale))
    }
}

/// What a shard answered.
enum Done {
    /// An encoded reply.
    Replied(Bytes),
    Served(Served),
}

impl Router {
    /// A router without a map.
    pub fn new(host: Arc<Host>, links: Arc<Links>, coordination: Arc<dyn Coordination>) -> Self {
        Self(Arc::new(Inner {
            host,
            links,
            me: AtomicU64::new(0),
            coordination,
            map: ArcSwapOption::empty(),
            epoch: watch::Sender::new(Epoch(0)),
            heard: AtomicU64::new(0),
            leaders: RwLock::default(),
            seeds: RwLock::default(),
            coordinator: RwLock::default(),
        }))
    }

    /// Which node this is, once it has a number.
    pub fn set_me(&self, me: NodeId) {
        self.0.me.store(me.0, Ordering::Relaxed);
    }

    /// Where to look for coordinators while there is no map.
    pub fn set_seeds(&self, seeds: Vec<Peer>) {
        *self.0.seeds.write() = seeds;
    }

    /// Takes a newer map, and tells whether it was newer; an older one is ignored.
    pub fn set_map(&self, map: Map) -> bool {
        let epoch = map.epoch;
        self.0.epoch.send_if_modified(|current| {
            if self.0.map.load().is_some() && epoch <= *current {
                return false;
            }
            self.0.map.store(Some(Arc::new(Indexed::new(map))));
            *current = epoch;
            true
        })
    }

    /// The epoch of this node's map, as it changes.
    pub fn epochs(&self) -> watch::Receiver<Epoch> {
        self.0.epoch.subscribe()
    }

    /// Whether another node has a newer map.
    pub fn is_map_old(&self) -> bool {
        self.0.heard.load(Ordering::Relaxed) > self.0.epoch.borrow().0
    }

    /// This node's copy of the map; `None` before it has one.
    pub fn map(&self) -> Option<Arc<Indexed>> {
        self.0.map.load_full()
    }

    /// Where a row lives, by this node's map; `None` before the cluster has shards.
    pub fn locate(&self, row: &str) -> Option<Located> {
        let map = self.map()?;
        let position = partitioner::position(map.settings.partitioner, row);
        let (_, shard) = map.shard_at(position)?;
        Some(Located {
            position,
            group: shard.group,
            leader: self.leader_of(shard.group),
            replicas: shard.replicas.clone(),
        })
    }

    /// Whom this node believes to lead a shard.
    pub fn leader_of(&self, group: GroupId) -> Option<NodeId> {
        let local = self.0.host.get(group).and_then(|group| group.leader());
        local.or_else(|| self.0.leaders.read().get(&group).copied())
    }

    /// Proposes `command` to the shard of its rows. The caller makes sure that all of them lie in one
    /// shard ([`Router::locate`]); where by a newer map they do not, it is told so
    /// ([`Error::NotHere`]), and nothing has happened.
    pub async fn write(&self, command: Command, deadline: Instant) -> Result<Reply, Error> {
        let Some(first) = command.writes.first() else {
            return Err(Error::Invalid("a command needs at least one write".into()));
        };
        let body: Bytes = calls::encode_command(&command);
        let place = match &command.writes[..] {
            [_] => Place::Row(&first.row),
            writes => Place::Rows(writes),
        };
        match self.attempt(place, &Work::Write(body), deadline).await? {
            Done::Replied(reply) => calls::decode_reply(&reply),
            Done::Served(_) => Err(Error::Unknown("the shard answered something else".into())),
        }
    }

    /// Asks one shard.
    pub async fn query(
        &self,
        target: Target<'_>,
        query: Query,
        consistency: Consistency,
        deadline: Instant,
    ) -> Result<Served, Error> {
        let place = match target {
            Target::Row(row) => Place::Row(row),
            Target::Shard(group, arc) => Place::Shard(group, arc),
        };
        if consistency == Consistency::Stale
            && let Some(served) = self.query_here(place, &query, deadline).await
        {
            return Ok(served);
        }
        match self.attempt(place, &Work::Query(query, consistency), deadline).await? {
            Done::Served(served) => Ok(served),
            Done::Replied(_) => Err(Error::Unavailable("the shard answered something else".into())),
        }
    }

    /// Whether any shard has a cell in this table. A shard whose leader does not answer soon is asked
    /// at any replica, which may not know of the newest writes.
    pub async fn table_exists(&self, table: &str, deadline: Instant) -> Result<bool, Error> {
        loop {
            let map = self.map().ok_or_else(no_shards)?;
            let asked = map.arcs().map(|(arc, shard)| {
                let query = Query::HasTable { table: table.to_owned() };
                let target = Target::Shard(shard.group, arc);
                let soon = deadline.min(Instant::now() + LEADER_ANSWERS_WITHIN);
                async move {
                    match self.query(target, query.clone(), Consistency::Linearizable, soon).await {
                        Err(Error::Unavailable(_)) => {
                            self.query(target, query, Consistency::Stale, deadline).await
                        }
                        answer => answer,
                    }
                }
            });
            let mut failed = None;
            for answer in join_all(asked).await {
                match answer {
                    Ok(Served { answer: Answer::HasTable(true), .. }) => return Ok(true),
                    Ok(_) => {}
                    Err(error) => failed = Some(error),
                }
            }
            match failed {
                None => return Ok(false),
                // By a newer map, which this node has now.
                Some(Error::NotHere { .. }) if Instant::now() < deadline => {}
                Some(error) => return Err(error),
            }
        }
    }

    /// Tries the replicas of a shard, the leader first, until one answers or the deadline comes.
    async fn attempt(&self, place: Place<'_>, work: &Work, deadline: Instant) -> Result<Done, Error> {
        let mut pause = FIRST_PAUSE;
        let mut turns = Turns::default();
        let mut last = no_shards();
        loop {
            let mut epochs = self.epochs();
            let epoch = *epochs.borrow_and_update();
            if let Some((group, arc, replicas)) = self.replicas(place)? {
                let node = turns.next(self.leader_of(group), &replicas);
                match self.send(node, group, arc, epoch, work, deadline).await {
                    Err(Error::NotLeader { leader }) => {
                        let news = leader.filter(|leader| *leader != node);
                        self.note_leader(group, news);
                        if news.is_some_and(|leader| !self.knows(leader)) {
                            self.0.heard.fetch_max(epoch.0 + 1, Ordering::Relaxed);
                        }
                        if news.is_some_and(|leader| turns.is_worth(leader, &replicas)) {
                            continue;
                        }
                        last = Error::Unavailable("the shard has no leader".into());
                    }
                    Err(Error::NotHere { epoch: theirs }) => {
                        self.0.heard.fetch_max(theirs.0, Ordering::Relaxed);
                        self.note_leader(group, None);
                        last = Error::Unavailable("the shard is moving".into());
                    }
                    Err(error @ Error::Unavailable(_)) => {
                        self.note_leader(group, None);
                        turns.failed(node);
                        last = error;
                    }
                    Ok(done) => {
                        if work.needs_leader() {
                            self.note_leader(group, Some(node));
                        }
                        return Ok(done);
                    }
                    Err(error) => {
                        // Who took the work and was not heard of again may lead no more.
                        if error.outcome() == Outcome::Unknown {
                            self.note_leader(group, None);
                        }
                        return Err(error);
                    }
                }
            }
            if Instant::now() + pause >= deadline {
                return Err(last);
            }
            // A newer map may know better at once.
            let _ = timeout_at(Instant::now() + pause, epochs.changed()).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Asks one node, which may be this one.
    async fn send(
        &self,
        node: NodeId,
        group: GroupId,
        arc: Span,
        epoch: Epoch,
        work: &Work,
        deadline: Instant,
    ) -> Result<Done, Error> {
        let here = node.0 == self.0.me.load(Ordering::Relaxed);
        match work {
            Work::Write(command) if here => {
                local::write(&self.0.host, group, epoch, command.clone(), deadline).await.map(Done::Replied)
            }
            Work::Write(command) => {
                let call = calls::write(group, deadline, command);
                self.call(&Peer::Node(node), calls::method::WRITE, call, deadline).await.map(Done::Replied)
            }
            Work::Query(query, consistency) if here => {
                let query = query.clone();
                local::query(&self.0.host, group, epoch, arc, query, *consistency, deadline)
                    .await
                    .map(Done::Served)
            }
            Work::Query(query, consistency) => {
                let call = calls::query(group, deadline, *consistency, arc, query);
                let asked = Instant::now();
                let answer = self.call(&Peer::Node(node), calls::method::QUERY, call, deadline).await;
                // A read has no effect, so it may be asked again whatever became of it.
                let answer = answer.map_err(|error| match error.outcome() {
                    Outcome::None => error,
                    Outcome::Unknown => Error::Unavailable(error.to_string()),
                })?;
                calls::decode_served(&answer, asked).map(Done::Served)
            }
        }
    }

    /// The shard that a place means, its arc, and who should have it; `None` while there are no shards.
    /// An error where by this map there is no such shard: whoever asked has an older one.
    fn replicas(&self, place: Place<'_>) -> Result<Option<(GroupId, Span, Vec<NodeId>)>, Error> {
        let map = self.0.map.load();
        let Some(map) = map.as_ref() else { return Ok(None) };
        let at = |row: &str| partitioner::position(map.settings.partitioner, row);
        let elsewhere = || Error::NotHere { epoch: map.epoch };
        let shard = match place {
            Place::Row(row) => map.shard_at(at(row)),
            Place::Rows(writes) => {
                let first = writes.first().and_then(|write| map.shard_at(at(&write.row)));
                let span = first.map(|(start, _)| map.span(start));
                if !writes.iter().all(|write| span.is_none_or(|span| span.contains(at(&write.row)))) {
                    return Err(elsewhere());
                }
                first
            }
            Place::Shard(group, arc) => {
                let shard = map.shard(group).filter(|(start, _)| map.span(*start) == arc);
                Some(shard.ok_or_else(elsewhere)?)
            }
        };
        let placed = shard.filter(|(_, shard)| !shard.replicas.is_empty());
        Ok(placed.map(|(start, shard)| (shard.group, map.span(start), shard.replicas.clone())))
    }

    async fn query_here(&self, place: Place<'_>, query: &Query, deadline: Instant) -> Option<Served> {
        let (group, arc, _) = self.replicas(place).ok()??;
        let epoch = *self.0.epoch.borrow();
        local::query(&self.0.host, group, epoch, arc, query.clone(), Consistency::Stale, deadline).await.ok()
    }

    /// Whether the map has this worker.
    fn knows(&self, worker: NodeId) -> bool {
        self.0.map.load().as_ref().is_some_and(|map| map.workers.contains_key(&worker))
    }

    fn note_leader(&self, group: GroupId, leader: Option<NodeId>) {
        if self.0.leaders.read().get(&group).copied() == leader {
            return;
        }
        let mut leaders = self.0.leaders.write();
        match leader {
            Some(leader) => leaders.insert(group, leader),
            None => leaders.remove(&group),
        };
    }

    async fn call(&self, peer: &Peer, method: u8, body: Bytes, deadline: Instant) -> Result<Bytes, Error> {
        let answer = self.0.links.call(peer, Lane::Main, method, body, deadline + calls::ANSWER_GRACE).await;
        match answer {
            Ok(answer) => calls::open(answer),
            // Another replica, or coordinator, may talk to this node.
            Err(CallError::NotSent(why) | CallError::Refused(why)) => Err(Error::Unavailable(why)),
            Err(CallError::Busy) => Err(Error::Busy("requests on the stream to the shard's leader".into())),
            Err(error @ (CallError::Broken | CallError::Timeout)) => Err(Error::Unknown(error.to_string())),
        }
    }
}

fn no_shards() -> Error {
    Error::Unavailable("the cluster has no shards yet: it needs a coordinator and a worker".into())
}
