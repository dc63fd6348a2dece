//! What exactly is not there: a shard knows only of itself whether it has a table.

use tokio::time::Instant;

use super::{backend::Backend, error::Problem};
use crate::command::Missing;

/// The problem of something that a shard does not have. Where the shards that would know of the
/// table cannot be asked, it is the row that is missing.
pub(crate) async fn problem(backend: &Backend, table: &str, missing: Missing, deadline: Instant) -> Problem {
    let missing = match missing {
        Missing::Table => match backend.table_exists(table, deadline).await {
            Ok(false) => Missing::Table,
            Ok(true) | Err(_) => Missing::Row,
        },
        Missing::Row | Missing::Column => missing,
    };
    Problem::missing(missing)
}
