//! Clients that keep their connections, as pools do: they go elsewhere when an answer, or the end of the
//! connection, says so, and for nothing that they have sent do they stay without an answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{HEAL, Raw, eventually};

/// Between two looks at all nodes, while none is ready.
const LOOK: Duration = Duration::from_millis(25);

/// Clients at work.
#[derive(Debug)]
pub(crate) struct Kept {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    sent_away: Arc<AtomicU64>,
    clients: Vec<JoinHandle<()>>,
}

struct Client {
    name: String,
    ports: Vec<u16>,
    /// Of the ports, the one that is asked.
    turn: usize,
    connection: Option<Raw>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    sent_away: Arc<AtomicU64>,
}

impl Kept {
    /// Starts as many clients as there are paces, spread over the nodes at `ports`. Each writes and reads
    /// in turn, and rests for so long behind each answer.
    pub(crate) fn start(ports: &[u16], paces: &[Duration]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (answered, sent_away) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let client = |(number, pace): (usize, &Duration)| {
            let client = Client {
                name: format!("kept-{number}"),
                ports: ports.to_vec(),
                turn: number,
                connection: None,
                stop: stop.clone(),
                answered: answered.clone(),
                sent_away: sent_away.clone(),
            };
            tokio::spawn(client.run(*pace))
        };
        let clients = paces.iter().enumerate().map(client).collect();
        Self { stop, answered, sent_away, clients }
    }

    /// Waits until so many more requests are answered.
    pub(crate) async fn until_more(&self, more: u64) {
        let wanted = self.answered.load(Ordering::Relaxed) + more;
        eventually("clients are answered", HEAL, async || {
            assert!(!self.clients.iter().any(JoinHandle::is_finished), "a client has failed");
            let now = self.answered.load(Ordering::Relaxed);
            if now >= wanted { Ok(()) } else { Err(format!("{now} of {wanted}")) }
        })
        .await;
    }

    /// Answers so far that were the last of their connections.
    pub(crate) fn sent_away(&self) -> u64 {
        self.sent_away.load(Ordering::Relaxed)
    }

    /// Ends them; fails if one of their requests has failed.
    pub(crate) async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
    }
}

impl Client {
    async fn run(mut self, pace: Duration) {
        let mut rest = (!pace.is_zero()).then(|| interval(pace));
        if let Some(rest) = &mut rest {
            rest.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        for value in 0_u64.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let (name, body) = (self.name.clone(), value.to_string());
            let length = body.len();
            let wrote =
                format!("PUT /kv/{name} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}");
            self.ask(&wrote, "OK").await;
            self.ask(&format!("GET /kv/{name} HTTP/1.1\r\nhost: x\r\n\r\n"), &body).await;
            if let Some(rest) = &mut rest {
                // The first is over at once.
                rest.reset();
                rest.tick().await;
            }
        }
    }

    /// Sends a request once, and expects this answer.
    async fn ask(&mut self, request: &str, expected: &str) {
        let mut connection = match self.connection.take() {
            Some(connection) if !connection.is_over() => connection,
            ended => {
                self.turn += usize::from(ended.is_some());
                self.connect().await
            }
        };
        connection.send(request).await;
        let port = self.ports[self.turn % self.ports.len()];
        let Some((status, answer)) = connection.answer().await else {
            panic!("port {port} has not answered: {request}");
        };
        assert_eq!(status, 200, "port {port}: {request}\n{answer}");
        assert!(answer.ends_with(&format!("\r\n\r\n{expected}")), "port {port}: {request}\n{answer}");
        self.answered.fetch_add(1, Ordering::Relaxed);
        if answer.contains("connection: close") {
            self.sent_away.fetch_add(1, Ordering::Relaxed);
            self.turn += 1;
        } else {
            self.connection = Some(connection);
        }
    }

    /// Connects to the next node that says that it is ready, as a balancer with probes would.
    async fn connect(&mut self) -> Raw {
        let deadline = Instant::now() + HEAL;
        let mut looks = interval(LOOK);
        loop {
            for _ in 0..self.ports.len() {
                if let Some(connection) = ready(self.ports[self.turn % self.ports.len()]).await {
                    return connection;
                }
                self.turn += 1;
            }
            assert!(Instant::now() < deadline, "no node is ready");
            looks.tick().await;
        }
    }
}

/// A connection to a node, if that is ready.
async fn ready(port: u16) -> Option<Raw> {
    let mut connection = Raw::try_connect(port).await.ok()?;
    connection.send("GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let (status, answer) = connection.answer().await?;
    (status == 200 && !answer.contains("connection: close")).then_some(connection)
}
