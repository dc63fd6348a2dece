//! A cluster of real processes.

use std::{
    fs,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};

use super::{HEAL, Http, Network, Node, Role, START, Spec, Workdir, eventually, free_port};

/// Clusters that a test has for itself, at once: each is up to six processes that sync to one disk.
const PRIVATE_CLUSTERS: usize = 2;

static PRIVATE: Semaphore = Semaphore::const_new(PRIVATE_CLUSTERS);

/// Leave for a cluster of one's own.
pub(crate) async fn private() -> SemaphorePermit<'static> {
    PRIVATE.acquire().await.expect("it is never closed")
}

/// A cluster. All its processes are gone once it is dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) spec: Spec,
    pub(crate) nodes: Vec<Node>,
    /// Shards that came into being by splits.
    split_off: AtomicUsize,
    // Dropped after the nodes, whose files are in it.
    pub(crate) dir: Workdir,
    _permit: Option<SemaphorePermit<'static>>,
}

impl Cluster {
    /// Starts a cluster for one test, and waits until it is whole.
    pub(crate) async fn start(name: &str, spec: Spec) -> Self {
        let cluster = Self::unstarted(name, spec).await;
        cluster.nodes.iter().for_each(Node::start);
        cluster.until_whole_within(START).await;
        cluster
    }

    /// The same, with nothing started yet.
    pub(crate) async fn unstarted(name: &str, spec: Spec) -> Self {
        Self::prepare(name, spec, Some(private().await))
    }

    /// Starts a cluster in a network, and waits until it is whole.
    pub(crate) async fn start_in(network: &Network, name: &str, spec: Spec) -> Self {
        let mut cluster = Self::unstarted(name, spec).await;
        let mut coordinators = Vec::new();
        for node in &mut cluster.nodes {
            let host = network.add(node.port).await;
            node.put_at(host);
            node.put_behind(network.before(node.port));
            if node.role == Role::Coordinator {
                coordinators.push(format!("{host}:{}", node.port));
            }
        }
        cluster.nodes.iter_mut().for_each(|node| node.set_coordinators(&coordinators.join(",")));
        cluster.restart_all().await;
        cluster
    }

    /// The cluster that all tests share that neither hurt it nor mind what others write.
    pub(crate) async fn shared() -> &'static Self {
        static SHARED: OnceCell<Cluster> = OnceCell::const_new();
        SHARED
            .get_or_init(|| async {
                let cluster = Self::prepare("shared", Spec::default(), None);
                cluster.nodes.iter().for_each(Node::start);
                cluster.until_whole_within(START).await;
                cluster
            })
            .await
    }

    fn prepare(name: &str, spec: Spec, permit: Option<SemaphorePermit<'static>>) -> Self {
        let dir = Workdir::new(name);
        let ports = |count: usize| (0..count).map(|_| free_port()).collect::<Vec<_>>();
        let (coordinators, workers) = (ports(spec.coordinators), ports(spec.workers));
        fs::write(dir.path().join("cluster.toml"), spec.toml(&coordinators, &workers)).unwrap();
        let addresses: Vec<_> = coordinators.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let peers = addresses.join(",");
        let node = |role| {
            let (root, peers, further) = (dir.path().to_owned(), peers.clone(), spec.args);
            move |port: &u16| Node::new(&root, role, *port, &peers, further)
        };
        let nodes =
            coordinators.iter().map(node(Role::Coordinator)).chain(workers.iter().map(node(Role::Worker)));
        Self { nodes: nodes.collect(), spec, split_off: AtomicUsize::new(0), dir, _permit: permit }
    }

    /// Starts another worker, and returns its port.
    pub(crate) fn start_worker(&mut self, zone: Option<&str>) -> u16 {
        let peers: Vec<_> = self.coordinators().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        let node = Node::new(self.dir.path(), Role::Worker, free_port(), &peers.join(","), &[]);
        let node = zone.into_iter().fold(node, Node::in_zone);
        node.start();
        self.nodes.push(node);
        self.nodes.last().unwrap().port
    }

    pub(crate) fn coordinators(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.role == Role::Coordinator)
    }

    pub(crate) fn workers(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.role == Role::Worker)
    }

    pub(crate) fn worker(&self, index: usize) -> &Node {
        self.workers().nth(index).expect("there are so many")
    }

    /// Every node, as a client sees it.
    pub(crate) fn each(&self) -> impl Iterator<Item = Http> + Clone + '_ {
        self.nodes.iter().map(Node::http)
    }

    pub(crate) fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(|node| node.port).collect()
    }

    /// Some node of those that run.
    pub(crate) fn any(&self) -> Http {
        self.nodes.iter().rev().find(|node| node.is_up()).expect("some node runs").http()
    }

    /// The worker of this name.
    pub(crate) fn named(&self, id: &str) -> &Node {
        self.workers().find(|worker| worker.id() == id).unwrap_or_else(|| panic!("no worker is named {id}"))
    }

    /// `/cluster`, from a node that answers it.
    pub(crate) async fn status(&self) -> Result<Value, String> {
        let answer = self.any().get("/cluster").attempt().await.map_err(|failure| format!("{failure:?}"))?;
        if answer.status == 200 { Ok(answer.json()) } else { Err(answer.text()) }
    }

    /// The worker that leads the shard of a key, and the others.
    pub(crate) async fn leader_and_followers(&self, key: &str) -> (&Node, Vec<&Node>) {
        let found = eventually("a shard has a leader", HEAL, async || {
            let ring = self.any().get(format!("/ring?key={key}")).await.is(200).json();
            let shard = self.shard(&ring["shard"]).await?;
            shard["leader"].as_str().map(str::to_owned).ok_or_else(|| shard.to_string())
        });
        let id = found.await;
        let leader = self.named(&id);
        (leader, self.workers().filter(|worker| worker.port != leader.port).collect())
    }

    async fn shard(&self, id: &Value) -> Result<Value, String> {
        let status = self.status().await?;
        let shards = status["shards"].as_array().unwrap().clone();
        shards.into_iter().find(|shard| shard["id"] == *id).ok_or_else(|| format!("no shard {id}"))
    }

    /// Waits until every running node is ready, and every shard whole and led.
    pub(crate) async fn until_whole(&self) {
        self.until_whole_within(HEAL).await;
    }

    async fn until_whole_within(&self, within: Duration) {
        eventually("the cluster is whole", within, async || {
            for node in self.nodes.iter().filter(|node| node.is_up()) {
                node.check_alive();
                let answer = node.http().get("/readyz").attempt().await;
                let answer = answer.map_err(|failure| format!("{}: {failure:?}", node.port))?;
                if answer.status != 200 {
                    return Err(format!("{}: {}", node.port, answer.text()));
                }
            }
            self.judge(&self.status().await?)
        })
        .await;
    }

    /// Waits until it is whole and nothing is left to be moved. Between two parts of a larger change nothing moves,
    /// either, until the coordinators' next round: one may have joined when shards were placed already.
    pub(crate) async fn until_at_rest(&self) {
        const ROUNDS: Duration = Duration::from_secs(1);
        let mut seen: Option<(Vec<Value>, Instant)> = None;
        eventually("the cluster is at rest", HEAL, async || {
            let status = self.status().await?;
            self.judge(&status)?;
            let shards = status["shards"].as_array().unwrap().iter();
            let replicas: Vec<_> = shards.map(|shard| shard["replicas"].clone()).collect();
            match &seen {
                Some((same, since)) if *same == replicas && since.elapsed() >= ROUNDS => return Ok(()),
                Some((same, _)) if *same == replicas => {}
                _ => seen = Some((replicas, Instant::now())),
            }
            Err("replicas have moved within the last second".to_owned())
        })
        .await;
    }

    /// Whether `/cluster` shows what the specification asks for, with the workers that run.
    fn judge(&self, status: &Value) -> Result<(), String> {
        let up = self.workers().filter(|worker| worker.is_up()).count();
        let active = status["workers"].as_array().unwrap().iter();
        let active = active.filter(|worker| worker["active"] == true && worker["joined"] == true).count();
        let shards = status["shards"].as_array().unwrap();
        let whole = |shard: &&Value| {
            !shard["leader"].is_null() && shard["replicas"].as_array().unwrap().len() == self.spec.copies()
        };
        let still = status["moves"].as_array().unwrap().is_empty();
        if active >= up
            && shards.len() == self.spec.shards as usize + self.split_off.load(Ordering::Relaxed)
            && shards.iter().all(|s| whole(&s))
            && still
        {
            return Ok(());
        }
        Err(format!("{up} workers run, {active} are active; {} shards: {status}", shards.len()))
    }

    /// The ids of all shards.
    pub(crate) async fn shards(&self) -> Vec<u64> {
        let status = eventually("the cluster tells its state", HEAL, async || self.status().await).await;
        status["shards"].as_array().unwrap().iter().map(|shard| shard["id"].as_u64().unwrap()).collect()
    }

    /// Orders a split, once it is taken; the new shard's id and start.
    pub(crate) async fn split(&self, shard: u64, query: &str) -> (u64, String) {
        let answer = eventually("a split is taken", HEAL, async || {
            let call = self.any().call("POST", format!("/cluster/shards/{shard}/split{query}"));
            let answer = call.attempt().await.map_err(|failure| format!("{failure:?}"))?;
            // While leaders change, or the shard is still being split.
            if matches!(answer.status, 409 | 503 | 504) { Err(answer.text()) } else { Ok(answer) }
        })
        .await
        .is(202)
        .json();
        self.split_off.fetch_add(1, Ordering::Relaxed);
        assert_eq!(answer["id"], shard);
        (answer["into"].as_u64().unwrap(), answer["at"].as_str().unwrap().to_owned())
    }

    /// Kills every node at once.
    pub(crate) fn kill_all(&self) {
        self.nodes.iter().for_each(Node::kill);
    }

    /// Starts every node that does not run, and waits until the cluster is whole.
    pub(crate) async fn restart_all(&self) {
        self.nodes.iter().filter(|node| !node.is_up()).for_each(Node::start);
        self.until_whole_within(START).await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                eprintln!("--- {:?} {} ---\n{}", node.role, node.port, node.log_tail());
            }
        }
        self.kill_all();
    }
}
