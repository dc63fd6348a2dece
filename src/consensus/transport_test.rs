//! A session of appends between two ends of a connection in memory, on a clock that the test moves.

use openraft::EntryPayload;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use uuid::Uuid;

use super::*;
use crate::{
    consensus::types::Entry,
    ids::{Opening, StoreId},
    peer::{Handler, Identity, Reply},
};

const GROUP: GroupId = GroupId(3);
const MS: Duration = Duration::from_millis(1);

/// A member that takes every append and shows it.
struct Member(UnboundedSender<AppendRequest>);

impl Handler for Member {
    fn dispatch(&self, _: &Arc<Conn>, _: u8, mut body: Bytes, reply: Reply) {
        assert_eq!(wire::group(&mut body), Ok(GROUP));
        let (_, _, request) = wire::read_append(body).unwrap();
        let last = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
        self.0.send(request).unwrap();
        reply.send(wire::answer(&Answer::<AppendResult>::Ok(Ok(last))));
    }
}

fn id(index: u64) -> Option<LogId> {
    (index > 0).then(|| LogId::new(raft_store::types::leader_vote(1, 1).leader_id, index))
}

/// What openraft asks to be sent: the entry behind `prev`, or none, and how far the log is committed.
fn request(prev: u64, entries: u64, committed: u64) -> AppendRequest {
    let entry = |index| Entry { log_id: id(index).expect("from 1 on"), payload: EntryPayload::Blank };
    AppendRequest {
        vote: raft_store::types::leader_vote(1, 1),
        prev_log_id: id(prev),
        entries: (prev + 1..=prev + entries).map(entry).collect(),
        leader_commit: id(committed),
    }
}

/// The leader's end, driven by a task.
struct Leader {
    requests: UnboundedSender<AppendRequest>,
    /// What openraft is told.
    answers: UnboundedReceiver<Option<LogId>>,
    /// What the member has got.
    got: UnboundedReceiver<AppendRequest>,
}

impl Leader {
    fn new() -> Self {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (show, got) = mpsc::unbounded_channel();
        let member: Arc<dyn Handler> = Arc::new(Member(show));
        let identity = |node| Identity {
            cluster: None,
            node: Some(NodeId(node)),
            store: StoreId(Uuid::from_u128(node.into())),
            opening: Opening { id: 1, height: 1 },
        };
        let start = |node, io| {
            Conn::start(identity(node), tokio::io::split(io), member.clone(), Arc::new(|| 1), Arc::default())
        };
        let (conn, _) = (start(2, near), start(1, far));
        let (requests, mut asked) = mpsc::unbounded_channel::<AppendRequest>();
        let (tell, answers) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut session =
                Session::new(GROUP, SharedIndex::default(), conn, raft_store::types::leader_vote(1, 1));
            let mut stream = Some(stream::poll_fn(move |cx| asked.poll_recv(cx)));
            while let Some(answer) = session.next(&mut stream).await {
                tell.send(answer.unwrap().unwrap()).unwrap();
            }
        });
        Self { requests, answers, got }
    }

    fn ask(&self, prev: u64, entries: u64, committed: u64) {
        self.requests.send(request(prev, entries, committed)).unwrap();
    }

    /// What the member gets next: the last entry it then has, and how far that is committed.
    async fn next(&mut self) -> (usize, Option<LogId>) {
        let request = self.got.recv().await.expect("the session goes on");
        (request.entries.len(), request.leader_commit)
    }
}

#[tokio::test(start_paused = true)]
async fn commits_are_told_with_later_appends_or_after_a_while() {
    let mut leader = Leader::new();
    leader.ask(0, 1, 0);
    assert_eq!(leader.next().await, (1, None));
    assert_eq!(leader.answers.recv().await, Some(id(1)));
    // Long after the last news, an append tells what is committed.
    tokio::time::advance(NEWS_DELAY * 2).await;
    leader.ask(1, 1, 1);
    assert_eq!(leader.next().await, (1, id(1)));
    assert_eq!(leader.answers.recv().await, Some(id(2)));
    // Right behind it, one does not, and neither does a notice of its own.
    leader.ask(2, 0, 2);
    leader.ask(2, 1, 2);
    assert_eq!(leader.next().await, (1, id(1)));
    let asked = Instant::now();
    // By itself it is told once it is due, behind an entry that the member has.
    assert_eq!(leader.next().await, (0, id(2)));
    assert!(asked.elapsed() >= NEWS_DELAY - MS && asked.elapsed() <= NEWS_DELAY + MS);
}

#[tokio::test(start_paused = true)]
async fn an_answer_waits_only_if_what_it_confirms_is_committed_already() {
    let mut leader = Leader::new();
    leader.ask(0, 1, 0);
    let asked = Instant::now();
    assert_eq!(leader.answers.recv().await, Some(id(1)));
    assert!(asked.elapsed() < NEWS_DELAY);
    // A majority of others was faster: the answer for entry 2 comes when 2 is committed.
    leader.ask(1, 1, 2);
    let asked = Instant::now();
    assert_eq!(leader.answers.recv().await, Some(id(2)));
    assert!(asked.elapsed() >= NEWS_DELAY - MS);
    // The next one that is news stands for the one that waited.
    leader.ask(2, 1, 3);
    leader.ask(3, 1, 3);
    assert_eq!(leader.answers.recv().await, Some(id(4)));
    // At the end nothing is held back.
    leader.ask(4, 1, 5);
    drop(leader.requests);
    assert_eq!(leader.answers.recv().await, Some(id(5)));
    assert_eq!(leader.answers.recv().await, None);
}
