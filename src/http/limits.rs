//! Every bound of the front-end, with its unit and what happens at it.

use std::time::Duration;

/// Client connections open at once. Those beyond it are answered 429 and closed.
pub(crate) const MAX_CONNECTIONS: usize = 8_192;

/// Connections taken beyond [`MAX_CONNECTIONS`], so that other nodes, whose streams begin as HTTP
/// requests, and probes of health still come through. Those beyond these are closed unanswered.
pub(crate) const RESERVED_CONNECTIONS: usize = 256;

/// The longest request target, in bytes; beyond it 414.
pub(crate) const MAX_URL_BYTES: usize = 32 << 10;

/// The most bytes of header lines; beyond it 431. hyper also answers 431 to over 100 headers.
pub(crate) const MAX_HEADER_BYTES: usize = 64 << 10;

/// The most bytes of a request's head that are ever buffered: target, headers, and room for the
/// rest of the request line.
pub(crate) const MAX_HEAD_BYTES: usize = MAX_URL_BYTES + MAX_HEADER_BYTES + 1024;

/// The most bytes that a connection buffers in each direction.
pub(crate) const MAX_CONNECTION_BUFFER_BYTES: usize = 256 << 10;

/// How long a connection may take for a head, or stay idle between two requests.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a body may take as a whole; beyond it 408. Between two pieces of a body no more than
/// the request timeout may pass.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a client may leave its answer unread before the connection is cut.
pub(crate) const WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// What the front-end grants the layers below beyond a request's deadline to say themselves what
/// happened, before it answers that it does not know.
pub(crate) const ANSWER_GRACE: Duration = Duration::from_millis(1_000);

/// How long a connection may go without a request while the server leaves: a client that sends one
/// request after another has sent the next by then, and was told with its answer to go elsewhere.
pub(crate) const LEAVE_IDLE: Duration = Duration::from_millis(1_000);

/// How long the connections may take to end once no more of them are taken; beyond it they are cut.
/// With all else that a stopping node does, this fits into the 10 s that process managers grant.
pub const DRAIN_TIMEOUT: Duration = Duration::from_millis(3_000);

/// How long, and over how many bytes, a connection that is closed with the request half read goes
/// on reading: to close at once would reset it, and destroy the answer on its way to the client.
pub(crate) const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// See [`LINGER_TIMEOUT`].
pub(crate) const LINGER_BYTES: usize = 64 << 20;

/// Requests for data in flight at once; beyond it 429. Other requests are bounded by the
/// connections, which carry one each.
pub(crate) const MAX_REQUESTS_IN_FLIGHT: usize = 4_096;

/// Bodies larger than [`SMALL_BODY_BYTES`] in memory at once; beyond it 429. Smaller ones are
/// bounded by [`MAX_REQUESTS_IN_FLIGHT`].
pub(crate) const MAX_BODY_MEMORY_BYTES: usize = 256 << 20;
/// See [`MAX_BODY_MEMORY_BYTES`].
pub(crate) const SMALL_BODY_BYTES: usize = 4 << 10;

/// ndjson streams open at once; beyond it 429. Each holds at most one page.
pub(crate) const MAX_STREAMS: usize = 64;

/// Rows in a page, unless `limit` says otherwise, and the most it may say.
pub(crate) const DEFAULT_PAGE_ROWS: u32 = 1_000;
/// See [`DEFAULT_PAGE_ROWS`].
pub(crate) const MAX_PAGE_ROWS: u32 = 10_000;

/// A page ends early once it has so many bytes of names and values; one row is always given.
pub(crate) const MAX_PAGE_BYTES: u32 = 4 << 20;

/// Shards asked at once for a page, where the first ones had too few rows to fill it.
pub(crate) const MAX_SHARDS_ASKED: usize = 16;

/// Queries of one `POST /batch` in flight at once.
pub(crate) const MAX_BATCH_READS_IN_FLIGHT: usize = 32;

/// Bytes of values read by one `POST /batch`; a `get` beyond it is answered 413.
pub(crate) const MAX_BATCH_REPLY_BYTES: usize = 64 << 20;

/// How often a scan or a batch looks at the map anew when a shard is no longer where it was.
pub(crate) const MAX_MAP_RETRIES: usize = 3;

/// The longest `Idempotency-Key`, in bytes.
pub(crate) const MAX_IDEMPOTENCY_KEY_BYTES: usize = 1_024;

/// The longest `Content-Type`, in bytes.
pub(crate) const MAX_CONTENT_TYPE_BYTES: usize = 1_024;

/// The longest time to live: 100 years, in milliseconds.
pub(crate) const MAX_TTL_MS: u64 = 100 * 365 * 24 * 3_600_000;

/// How long a client is asked to wait before it tries again after 429 or 503, in seconds.
pub(crate) const RETRY_AFTER_SECONDS: u32 = 1;

/// The longest time a request may take while no map tells the cluster's setting, in milliseconds.
pub(crate) const DEFAULT_REQUEST_TIMEOUT_MS: u64 = 5_000;

/// The largest value while no map tells the cluster's setting, in bytes.
pub(crate) const DEFAULT_MAX_VALUE_BYTES: u64 = 8 << 20;

/// How long the home page waits for the coordinator group before it shows what this node knows.
pub(crate) const PAGE_TIMEOUT: Duration = Duration::from_millis(1_000);

/// Shards listed on the home page; `/cluster` has them all.
pub(crate) const MAX_SHARDS_SHOWN: usize = 512;
