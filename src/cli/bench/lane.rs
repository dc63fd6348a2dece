//! A lane: one operation after another over one way to the servers. As many lanes as there may be
//! operations in flight, spread over a few threads.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    link::{Link, Values},
    pace::{Pace, Window},
    tally::{Done, Failure, Tally, Traffic},
    workload::{Generator, Kind, Op},
};
use crate::{command::MAX_BATCH_BYTES, error::Outcome};

/// Cells in one request of the load.
const LOAD_BATCH_CELLS: u64 = 100;

/// Bytes of JSON around a cell in a batch, at most.
const BATCH_CELL_BYTES: usize = 64;

/// How often a request of the load is tried; in between it waits for [`LOAD_PAUSE`], twice that, and
/// so on.
const LOAD_TRIES: u32 = 10;
/// See [`LOAD_TRIES`].
const LOAD_PAUSE: Duration = Duration::from_millis(100);

/// After a failure in a closed loop: a server that refuses at once is not asked in a frenzy.
const FAILURE_PAUSE: Duration = Duration::from_millis(10);

/// What all lanes have in common.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) values: Values,
    pub(super) batch_ops: usize,
    /// Keys that the load writes.
    pub(super) keys: u64,
    /// The next key that the load writes.
    pub(super) to_load: AtomicU64,
    /// Keys that the load has written.
    pub(super) loaded: AtomicU64,
    /// The next key to be inserted.
    pub(super) to_insert: AtomicU64,
    /// The keys `0..there` have been written, but for inserts that are still under way or failed.
    pub(super) there: AtomicU64,
    /// Operations that may still be begun in the measured part.
    pub(super) left: AtomicU64,
}

impl Common {
    pub(super) fn new(values: Values, batch_ops: usize, keys: u64, ops: Option<u64>) -> Self {
        Self {
            values,
            batch_ops,
            keys,
            to_load: AtomicU64::new(0),
            loaded: AtomicU64::new(0),
            to_insert: AtomicU64::new(keys),
            there: AtomicU64::new(keys),
            left: AtomicU64::new(ops.unwrap_or(u64::MAX)),
        }
    }

    /// Cells of one request of the load: fewer where they are large.
    fn load_chunk(&self) -> u64 {
        let cell = self.values.get(0).len() + BATCH_CELL_BYTES;
        ((MAX_BATCH_BYTES / 2 / cell) as u64).clamp(1, LOAD_BATCH_CELLS)
    }

    fn take_op(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

/// See the module's text.
pub(super) struct Lane<'c> {
    common: &'c Common,
    tally: &'c Mutex<Tally>,
    link: Link,
    generator: Generator,
    cells: Vec<(u64, usize)>,
    /// When the first of the failures since the last success was due.
    failing_since: Option<Instant>,
}

impl<'c> Lane<'c> {
    pub(super) fn new(common: &'c Common, tally: &'c Mutex<Tally>, link: Link, generator: Generator) -> Self {
        Self { common, tally, link, generator, cells: Vec::new(), failing_since: None }
    }

    pub(super) async fn connect(&mut self) -> Result<(), Failure> {
        self.link.connect().await
    }

    /// Writes keys until, with the other lanes, all are written. Fails once a request was refused
    /// again and again.
    pub(super) async fn load(&mut self) -> Result<(), Failure> {
        let chunk = self.common.load_chunk();
        loop {
            let from = self.common.to_load.fetch_add(chunk, Ordering::Relaxed);
            let to = self.common.keys.min(from.saturating_add(chunk));
            if from >= to {
                return Ok(());
            }
            self.cells.clear();
            for key in from..to {
                self.cells.push((key, self.generator.below(self.common.values.count())));
            }
            let mut tries = 0;
            while let Err(failure) = self.write_cells().await {
                tries += 1;
                if tries == LOAD_TRIES {
                    // The other lanes need not go on.
                    self.common.to_load.fetch_max(self.common.keys, Ordering::Relaxed);
                    return Err(failure);
                }
                tokio::time::sleep(LOAD_PAUSE * tries).await;
            }
            self.common.loaded.fetch_add(to - from, Ordering::Relaxed);
        }
    }

    /// Runs operations until none is due any more.
    pub(super) async fn run(&mut self, window: &Window, pace: &Pace) {
        while let Some(due) = pace.next(window).await {
            let measured = due >= window.measured_from;
            if measured && !self.common.take_op() {
                break;
            }
            let before = self.link.traffic();
            let op = self.generator.next(self.common.there.load(Ordering::Relaxed));
            let result = self.perform(op).await;
            let failed = result.is_err();
            self.record(op.kind(), due, measured, result, before);
            if failed && matches!(pace, Pace::Closed) {
                tokio::time::sleep(FAILURE_PAUSE).await;
            }
        }
        if let Some(since) = self.failing_since.take() {
            let mut tally = self.tally.lock();
            tally.longest_outage = tally.longest_outage.max(since.elapsed());
        }
    }

    /// Counts an operation that has just ended; `before` is what had gone over the link until then.
    fn record(
        &mut self,
        kind: Kind,
        due: Instant,
        measured: bool,
        result: Result<Done, Failure>,
        before: Traffic,
    ) {
        let end = Instant::now();
        let failed = result.is_err();
        let latency = end.saturating_duration_since(due);
        let mut tally = self.tally.lock();
        tally.look(latency, !failed);
        if !measured {
            return;
        }
        let after = self.link.traffic();
        let traffic = Traffic {
            sent_bytes: after.sent_bytes - before.sent_bytes,
            received_bytes: after.received_bytes - before.received_bytes,
        };
        tally.record(kind, latency, end, result, traffic);
        if failed {
            self.failing_since = self.failing_since.or(Some(due));
        } else if let Some(since) = self.failing_since.take() {
            tally.longest_outage = tally.longest_outage.max(end.saturating_duration_since(since));
        }
    }

    async fn perform(&mut self, op: Op) -> Result<Done, Failure> {
        let common = self.common;
        let value = common.values.get(self.generator.below(common.values.count()));
        match op {
            Op::Read(key) => self.link.get(key).await,
            Op::Update(key) => self.link.put(key, value).await,
            Op::Insert => {
                let key = common.to_insert.fetch_add(1, Ordering::Relaxed);
                let done = self.link.put(key, value).await?;
                common.there.fetch_max(key + 1, Ordering::Relaxed);
                Ok(done)
            }
            Op::Scan { from, rows } => self.link.scan(from, rows).await,
            Op::ReadModifyWrite(key) => {
                // Nothing was written yet when the read fails.
                let read = self
                    .link
                    .get(key)
                    .await
                    .map_err(|failure| Failure { outcome: Outcome::None, ..failure })?;
                self.link.put(key, value).await?;
                Ok(read)
            }
            Op::Batch => {
                let there = common.there.load(Ordering::Relaxed);
                self.cells.clear();
                for _ in 0..common.batch_ops {
                    let cell = (self.generator.key(there), self.generator.below(common.values.count()));
                    self.cells.push(cell);
                }
                // A transaction of etcd writes no key twice.
                self.cells.sort_unstable();
                self.cells.dedup_by_key(|(key, _)| *key);
                self.write_cells().await
            }
        }
    }

    async fn write_cells(&mut self) -> Result<Done, Failure> {
        let values = &self.common.values;
        match self.cells.as_slice() {
            [(key, value)] => {
                let done = self.link.put(*key, values.get(*value)).await?;
                Ok(Done { cells: 1, ..done })
            }
            cells => self.link.batch(cells.iter().map(|(key, value)| (*key, values.get(*value)))).await,
        }
    }
}
