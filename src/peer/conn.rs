//! One connection: two tasks that move frames, a third that watches for silence, and the calls that
//! wait for their answers.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout_at},
};

use super::{
    frame::{Frame, MAX_FRAME_BYTES},
    heights::OwnHeight,
    hello::Identity,
};

/// Bytes of requests that may wait for the socket of one connection. Beyond it calls fail as
/// [`CallError::Busy`]: a slow peer costs its callers an error, not this node its memory.
const MAX_QUEUED_BYTES: usize = 128 << 20;

/// Bytes of answers and requests that may wait for a peer that does not read. Beyond it the
/// connection is closed.
const MAX_UNREAD_BYTES: usize = 512 << 20;

/// Calls of the other side that may be in work at once; further ones are answered `Busy`.
const MAX_INBOUND_CALLS: usize = 32_768;

/// Frames joined in one write to the socket.
const MAX_JOINED_FRAMES: usize = 512;

/// Bodies from this size on are written from where they lie; smaller ones are copied together.
const WRITE_IN_PLACE_BYTES: usize = 16 << 10;

/// Room for what one read may bring, bytes.
const READ_BYTES: usize = 64 << 10;

/// How often a connection is checked for silence.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// A connection on which calls wait and nothing at all has come for so long is given up. Without
/// this a healed partition would be felt until TCP's retransmission timer comes round again.
const SILENCE_LIMIT: Duration = Duration::from_secs(3);

/// Why a call got no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// There was no connection to send it on. The other side has not seen it.
    #[error("{0}")]
    NotSent(String),
    /// The other side does not talk to this node, and says why. It has not seen the call.
    #[error("{0}")]
    Refused(String),
    /// Too much is waiting, here or there. The call had no effect.
    #[error("the stream to the peer is full")]
    Busy,
    /// It was sent, and the connection or the other side gave up on it.
    #[error("the connection broke before the answer came")]
    Broken,
    /// It was sent, and the answer did not come in time.
    #[error("the peer did not answer in time")]
    Timeout,
}

/// Takes the calls of other nodes.
pub trait Handler: Send + Sync + 'static {
    /// Called in the order of arrival on the connection, by the task that reads it: must not block.
    fn dispatch(&self, from: &Arc<Conn>, method: u8, body: Bytes, reply: Reply);
}

/// Where the answer of a call goes.
type Waiter = oneshot::Sender<Result<Bytes, CallError>>;

/// An established connection.
pub struct Conn {
    id: u64,
    peer: Identity,
    /// How high the other side's store stands.
    heard: Arc<AtomicU64>,
    out: mpsc::UnboundedSender<Frame>,
    queued_bytes: AtomicUsize,
    inbound_calls: AtomicUsize,
    next_id: AtomicU64,
    /// `None` once the connection is closed.
    waiting: Mutex<Option<HashMap<u64, Waiter>>>,
    /// Frames received, to tell silence from a quiet peer.
    received: AtomicU64,
    /// The other side is stopping and wants no more calls.
    leaving: AtomicBool,
    /// The other side will send no more calls.
    parted: AtomicBool,
    closed: watch::Sender<bool>,
}

impl Conn {
    /// Starts the tasks of a connection on which the greetings were exchanged. It tells the height
    /// `own`, and raises `heard` to what the other side tells.
    pub fn start<R, W>(
        peer: Identity,
        (read, write): (R, W),
        handler: Arc<dyn Handler>,
        own: OwnHeight,
        heard: Arc<AtomicU64>,
    ) -> Arc<Self>
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let (out, frames) = mpsc::unbounded_channel();
        let conn = Arc::new(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            peer,
            heard,
            out,
            queued_bytes: AtomicUsize::new(0),
            inbound_calls: AtomicUsize::new(0),
            next_id: AtomicU64::new(1),
            waiting: Mutex::new(Some(HashMap::new())),
            received: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
            parted: AtomicBool::new(false),
            closed: watch::Sender::new(false),
        });
        tokio::spawn(until_closed(conn.clone(), read_frames(conn.clone(), read, handler)));
        tokio::spawn(until_closed(conn.clone(), write_frames(conn.clone(), write, frames, own)));
        tokio::spawn(until_closed(conn.clone(), watch_silence(conn.clone())));
        conn
    }

    /// A number that no other connection of this process has.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Identity {
        &self.peer
    }

    /// Whether it is of no more use.
    pub fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Returns once the connection is closed.
    pub async fn wait_closed(&self) {
        let mut closed = self.closed.subscribe();
        // An error would mean that the sender is gone, but `self` holds it.
        let _ = closed.wait_for(|closed| *closed).await;
    }

    /// Asks the other side to send no more calls; those that are on their way are still answered.
    pub fn say_goodbye(&self) {
        self.enqueue(Frame::Goodbye);
    }

    fn part(&self) {
        let _calls = self.waiting.lock();
        self.leaving.store(true, Ordering::Relaxed);
        self.enqueue(Frame::Parted);
    }

    /// Whether no more calls will come, all that came are answered, and the answers are written.
    pub fn is_quiet(&self) -> bool {
        self.parted.load(Ordering::Relaxed)
            && self.inbound_calls.load(Ordering::Relaxed) == 0
            && self.queued_bytes.load(Ordering::Relaxed) == 0
    }

    /// Closes it: every waiting call fails as [`CallError::Broken`].
    pub fn close(&self) {
        let waiting = self.waiting.lock().take();
        for (_, call) in waiting.into_iter().flatten() {
            // The caller may have given up.
            let _ = call.send(Err(CallError::Broken));
        }
        self.closed.send_replace(true);
    }

    /// Sends a call and returns at once; calls are sent in the order of these calls.
    pub fn call(self: &Arc<Self>, method: u8, body: Bytes) -> Result<Call, CallError> {
        let frame = Frame::Request { id: self.next_id.fetch_add(1, Ordering::Relaxed), method, body };
        let Frame::Request { id, .. } = frame else { unreachable!("made in the line above") };
        let length = frame.len();
        if length > MAX_FRAME_BYTES || self.queued_bytes.load(Ordering::Relaxed) + length > MAX_QUEUED_BYTES {
            return Err(CallError::Busy);
        }
        let (sender, answer) = oneshot::channel();
        // Queued under the lock, so that no call stands behind `Frame::Parted`.
        let mut waiting = self.waiting.lock();
        match &mut *waiting {
            Some(_) if self.leaving.load(Ordering::Relaxed) => {
                return Err(CallError::NotSent("the peer is stopping".into()));
            }
            Some(waiting) => waiting.insert(id, sender),
            None => return Err(CallError::NotSent("the connection to the peer is closed".into())),
        };
        self.enqueue(frame);
        drop(waiting);
        Ok(Call { conn: self.clone(), id, answer })
    }

    fn enqueue(&self, frame: Frame) {
        self.queued_bytes.fetch_add(frame.len(), Ordering::Relaxed);
        // Fails only when the writer has ended, which closes the connection and fails all calls.
        let _ = self.out.send(frame);
    }

    fn settle(&self, id: u64, result: Result<Bytes, CallError>) {
        let call = self.waiting.lock().as_mut().and_then(|waiting| waiting.remove(&id));
        if let Some(call) = call {
            // The caller may have given up.
            let _ = call.send(result);
        }
    }
}

/// A call that was sent; waits for its answer.
pub struct Call {
    conn: Arc<Conn>,
    id: u64,
    answer: oneshot::Receiver<Result<Bytes, CallError>>,
}

impl Call {
    /// Waits for the answer until the deadline.
    pub async fn answer(self, deadline: Instant) -> Result<Bytes, CallError> {
        timeout_at(deadline, self).await.unwrap_or(Err(CallError::Timeout))
    }
}

impl Future for Call {
    type Output = Result<Bytes, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(cx).map(|answer| answer.unwrap_or(Err(CallError::Broken)))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(waiting) = self.conn.waiting.lock().as_mut() {
            waiting.remove(&self.id);
        }
    }
}

/// The obligation to answer a call. Dropped without an answer, it tells the caller so.
pub struct Reply {
    conn: Arc<Conn>,
    id: u64,
    answered: bool,
}

impl Reply {
    /// Answers. An answer that no frame holds is not sent, and the caller is told that there is none.
    pub fn send(mut self, body: Bytes) {
        let frame = Frame::Response { id: self.id, body };
        if frame.len() > MAX_FRAME_BYTES {
            tracing::error!(bytes = frame.len(), "an answer to a peer is too large");
            return;
        }
        self.answered = true;
        if self.conn.queued_bytes.load(Ordering::Relaxed) > MAX_UNREAD_BYTES {
            tracing::warn!(peer = ?self.conn.peer.node, "the peer does not read its answers");
            self.conn.close();
        }
        self.conn.enqueue(frame);
    }

    /// Answers that the call was not taken and had no effect.
    pub fn busy(mut self) {
        self.answered = true;
        self.conn.enqueue(Frame::Busy { id: self.id });
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.conn.inbound_calls.fetch_sub(1, Ordering::Relaxed);
        if !self.answered {
            self.conn.enqueue(Frame::Dropped { id: self.id });
        }
    }
}

/// Runs one of the connection's tasks; whichever ends first ends the others.
async fn until_closed(conn: Arc<Conn>, task: impl Future<Output = std::io::Result<()>>) {
    tokio::select! {
        result = task => {
            if let Err(error) = result {
                tracing::debug!(peer = ?conn.peer.node, %error, "peer connection ended");
            }
        }
        () = conn.wait_closed() => {}
    }
    conn.close();
}

async fn read_frames(
    conn: Arc<Conn>,
    mut read: impl AsyncRead + Unpin,
    handler: Arc<dyn Handler>,
) -> std::io::Result<()> {
    let mut input = BytesMut::with_capacity(READ_BYTES);
    loop {
        while let Some(frame) = Frame::take(&mut input).map_err(std::io::Error::other)? {
            conn.received.fetch_add(1, Ordering::Relaxed);
            match frame {
                Frame::Request { id, method, body } => {
                    if conn.inbound_calls.fetch_add(1, Ordering::Relaxed) < MAX_INBOUND_CALLS {
                        let reply = Reply { conn: conn.clone(), id, answered: false };
                        handler.dispatch(&conn, method, body, reply);
                    } else {
                        conn.inbound_calls.fetch_sub(1, Ordering::Relaxed);
                        conn.enqueue(Frame::Busy { id });
                    }
                }
                Frame::Response { id, body } => conn.settle(id, Ok(body)),
                Frame::Busy { id } => conn.settle(id, Err(CallError::Busy)),
                Frame::Dropped { id } => conn.settle(id, Err(CallError::Broken)),
                Frame::Ping => conn.enqueue(Frame::Pong),
                Frame::Pong => {}
                Frame::Goodbye => conn.part(),
                Frame::Parted => conn.parted.store(true, Ordering::Relaxed),
                Frame::Height(height) => drop(conn.heard.fetch_max(height, Ordering::Relaxed)),
            }
        }
        if input.capacity() == input.len() {
            input.reserve(READ_BYTES);
        }
        if read.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}

async fn write_frames(
    conn: Arc<Conn>,
    mut write: impl AsyncWrite + Unpin,
    mut frames: mpsc::UnboundedReceiver<Frame>,
    own: OwnHeight,
) -> std::io::Result<()> {
    let mut told = 0;
    let mut joined = Vec::with_capacity(MAX_JOINED_FRAMES);
    let mut buffer = BytesMut::with_capacity(64 << 10);
    while frames.recv_many(&mut joined, MAX_JOINED_FRAMES).await > 0 {
        // Tasks that are ready to run now have frames for this peer more often than not: letting
        // them run first turns about ten writes into one.
        for _ in 0..2 {
            tokio::task::yield_now().await;
            while joined.len() < MAX_JOINED_FRAMES
                && let Ok(frame) = frames.try_recv()
            {
                joined.push(frame);
            }
        }
        // In front of all of them: what they say was so at this height.
        let height = own();
        if height > told {
            Frame::Height(height).put_header(&mut buffer);
            told = height;
        }
        let mut written = 0;
        for frame in joined.drain(..) {
            written += frame.len();
            frame.put_header(&mut buffer);
            if frame.body().len() < WRITE_IN_PLACE_BYTES {
                buffer.extend_from_slice(frame.body());
            } else {
                write.write_all(&buffer).await?;
                buffer.clear();
                write.write_all(frame.body()).await?;
            }
        }
        write.write_all(&buffer).await?;
        write.flush().await?;
        buffer.clear();
        conn.queued_bytes.fetch_sub(written, Ordering::Relaxed);
    }
    Ok(())
}

/// Gives the connection up when calls wait and the other side sends nothing, not even a pong.
async fn watch_silence(conn: Arc<Conn>) -> std::io::Result<()> {
    let mut seen = 0;
    let mut silent_since = Instant::now();
    loop {
        tokio::time::sleep(WATCH_INTERVAL).await;
        let received = conn.received.load(Ordering::Relaxed);
        let idle = conn.waiting.lock().as_ref().is_none_or(HashMap::is_empty);
        if idle || received != seen {
            seen = received;
            silent_since = Instant::now();
        } else if silent_since.elapsed() >= SILENCE_LIMIT {
            return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "the peer went silent"));
        } else {
            conn.enqueue(Frame::Ping);
        }
    }
}
