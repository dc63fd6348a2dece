//! Lists: `/data/{table}`, `/kv` and `/data`, a page at a time or, as `application/x-ndjson`, all of
//! it as the client reads, in constant memory.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use hyper::{
    HeaderMap, StatusCode,
    header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};
use serde::{Serialize, ser::SerializeMap as _};
use serde_json::json;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use super::{
    backend::Backend,
    cursor::Cursor,
    error::Problem,
    limits::{DEFAULT_PAGE_ROWS, MAX_MAP_RETRIES, MAX_PAGE_ROWS, MAX_SHARDS_ASKED, MAX_STREAMS},
    params::Params,
    request::Call,
    response::{self, Body, Response},
    scan::{self, Selection},
    values::RowJson,
};
use crate::{
    command::{Answer, KV_COLUMN, KV_TABLE, Missing, Query, ScannedRow},
    error::Error,
    router::{Consistency, Target},
};

/// The media type of a stream of JSON lines.
const NDJSON: &str = "application/x-ndjson";

/// `GET /data/{table}`: rows with their columns.
pub(crate) async fn rows(mut call: Call) -> Result<Response, Problem> {
    let [table] = call.take_names()?;
    let list = List::Rows(select(&call.params()?, table, None)?);
    serve(call, list).await
}

/// `GET /kv`: the flat keys.
pub(crate) async fn keys(call: Call) -> Result<Response, Problem> {
    let list = List::Keys(select(&call.params()?, KV_TABLE.into(), Some(KV_COLUMN.into()))?);
    serve(call, list).await
}

/// `GET /data`: the tables.
pub(crate) async fn tables(call: Call) -> Result<Response, Problem> {
    let list = List::Tables(call.params()?.consistency()?);
    serve(call, list).await
}

/// What is listed.
enum List {
    Rows(Selection),
    Keys(Selection),
    Tables(Consistency),
}

/// A page of any list: its lines, where to go on, and as of when it is, where it is stale.
struct Lines {
    lines: Vec<Line>,
    next: Option<Cursor>,
    as_of: Option<Instant>,
}

/// A page as JSON shows it.
struct PageJson<'a> {
    member: &'static str,
    lines: &'a [Line],
    /// `Some(None)` is shown as `null`.
    next: Option<Option<String>>,
}

impl Serialize for PageJson<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut members = serializer.serialize_map(None)?;
        members.serialize_entry(self.member, self.lines)?;
        if let Some(next) = &self.next {
            members.serialize_entry("next", next)?;
        }
        members.end()
    }
}

/// A thing in a list.
enum Line {
    Row(ScannedRow),
    Key(ScannedRow),
    Table(String),
}

impl Serialize for Line {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Key<'a> {
            key: &'a str,
            version: u64,
        }
        match self {
            Line::Row(row) => RowJson { row: &row.row, columns: &row.columns }.serialize(serializer),
            Line::Key(row) => {
                let version = row.columns.first().map_or(0, |(_, cell)| cell.version);
                Key { key: &row.row, version }.serialize(serializer)
            }
            Line::Table(name) => name.serialize(serializer),
        }
    }
}

impl List {
    /// What a cursor of this list is bound to.
    fn name(&self) -> String {
        match self {
            List::Rows(selection) => format!("rows\n{}", selection.table),
            List::Keys(_) => "keys".into(),
            List::Tables(_) => "tables".into(),
        }
    }

    /// The member of a page that holds its lines.
    fn member(&self) -> &'static str {
        match self {
            List::Rows(_) => "rows",
            List::Keys(_) => "keys",
            List::Tables(_) => "tables",
        }
    }

    async fn page(
        &self,
        backend: &Backend,
        after: Option<Cursor>,
        limit: u32,
        deadline: Instant,
    ) -> Result<Lines, Problem> {
        let (selection, line) = match self {
            List::Tables(consistency) => {
                return tables_page(backend, *consistency, after, limit, deadline).await;
            }
            List::Rows(selection) => (selection, Line::Row as fn(ScannedRow) -> Line),
            List::Keys(selection) => (selection, Line::Key as fn(ScannedRow) -> Line),
        };
        let first = after.is_none();
        let page = scan::page(backend, selection, after, limit, deadline).await?;
        // Only a table with no row at all can be one that does not exist.
        if first && page.rows.is_empty() && matches!(self, List::Rows(_)) {
            let exists = backend.table_exists(&selection.table, deadline).await?;
            if !exists {
                return Err(Problem::missing(Missing::Table));
            }
        }
        Ok(Lines { lines: page.rows.into_iter().map(line).collect(), next: page.next, as_of: page.as_of })
    }
}

fn select(params: &Params<'_>, table: String, column: Option<String>) -> Result<Selection, Problem> {
    Ok(Selection {
        table,
        prefix: params.bound("prefix")?.unwrap_or("").to_owned(),
        from: params.bound("from")?.map(str::to_owned),
        to: params.bound("to")?.map(str::to_owned),
        values: column.is_none(),
        column,
        consistency: params.consistency()?,
    })
}

async fn serve(call: Call, list: List) -> Result<Response, Problem> {
    let params = call.params()?;
    let limit = params.limit()?;
    let after = params.get("cursor")?.map(|text| Cursor::decode(text, &list.name())).transpose()?;
    if wants_ndjson(&call.parts.headers) {
        return stream_all(&call, list, after, limit).await;
    }
    let page_rows = match list {
        List::Tables(_) => MAX_PAGE_ROWS,
        List::Rows(_) | List::Keys(_) => DEFAULT_PAGE_ROWS,
    };
    let lines = list.page(call.backend(), after, limit.unwrap_or(page_rows), call.deadline).await?;
    let next = lines.next.map(|cursor| cursor.encode(&list.name()));
    // The list of tables has a `next` only where it is not whole.
    let shows_next = next.is_some() || !matches!(list, List::Tables(_));
    let page = PageJson { member: list.member(), lines: &lines.lines, next: shows_next.then_some(next) };
    Ok(response::aged(response::json(&page)?, lines.as_of))
}

/// A stream between two of its pages.
struct Streaming {
    backend: Backend,
    list: List,
    /// Where to go on; the outer `None` when there is nothing more to say.
    state: Option<Option<Cursor>>,
    /// Lines still wanted, where `limit` was given.
    left: Option<u32>,
    timeout: Duration,
    _place: OwnedSemaphorePermit,
}

/// Streams from `after` on. The first page is read before the answer begins, so that what fails at
/// once has its own status.
async fn stream_all(
    call: &Call,
    list: List,
    after: Option<Cursor>,
    limit: Option<u32>,
) -> Result<Response, Problem> {
    let place = Call::take_place(&call.front.streams, "ndjson streams", MAX_STREAMS)?;
    let mut streaming = Streaming {
        backend: call.backend().clone(),
        list,
        state: Some(after),
        left: limit,
        timeout: call.timeout,
        _place: place,
    };
    let first = streaming.next_piece().await?;
    let rest = stream::unfold(streaming, |mut streaming| async move {
        streaming.state.as_ref()?;
        let piece = match streaming.next_piece().await {
            Ok(piece) => piece,
            Err(problem) => {
                streaming.state = None;
                let mut line = serde_json::to_vec(&json!({ "error": problem.to_json() })).unwrap_or_default();
                line.push(b'\n');
                Bytes::from(line)
            }
        };
        Some((piece, streaming))
    });
    let pieces = stream::once(async { first }).chain(rest).filter(|piece| {
        let some = !piece.is_empty();
        async move { some }
    });
    let mut answer = Response::new(Body::stream(pieces));
    *answer.status_mut() = StatusCode::OK;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

impl Streaming {
    /// The next page as lines of JSON.
    async fn next_piece(&mut self) -> Result<Bytes, Problem> {
        let Some(after) = self.state.take() else { return Ok(Bytes::new()) };
        let limit = self.left.unwrap_or(DEFAULT_PAGE_ROWS).min(DEFAULT_PAGE_ROWS);
        let deadline = Instant::now() + self.timeout;
        let page = self.list.page(&self.backend, after, limit, deadline).await?;
        let mut text = Vec::new();
        for line in &page.lines {
            text.extend_from_slice(&response::to_json(line)?);
            text.push(b'\n');
        }
        self.left = self.left.map(|left| left.saturating_sub(page.lines.len() as u32));
        self.state = page.next.map(Some).filter(|_| self.left != Some(0));
        Ok(Bytes::from(text))
    }
}

/// A page of the tables, merged from all shards.
async fn tables_page(
    backend: &Backend,
    consistency: Consistency,
    after: Option<Cursor>,
    limit: u32,
    deadline: Instant,
) -> Result<Lines, Problem> {
    let after = after.map(|cursor| cursor.name);
    let mut map_retries = 0;
    loop {
        match tables_by_map(backend, consistency, after.clone(), limit, deadline).await {
            // The map is old: a shard has been split meanwhile.
            Err(Asked::Elsewhere) if map_retries < MAX_MAP_RETRIES => map_retries += 1,
            Err(Asked::Elsewhere) => return Err(Error::Unavailable("shards are being split".into()).into()),
            Err(Asked::Failed(problem)) => return Err(problem),
            Ok(lines) => return Ok(lines),
        }
    }
}

/// Why there is no list of the tables.
enum Asked {
    /// A shard does not have the arc that it has by the map.
    Elsewhere,
    Failed(Problem),
}

impl From<Error> for Asked {
    fn from(error: Error) -> Self {
        match error {
            Error::NotHere { .. } => Asked::Elsewhere,
            error => Asked::Failed(error.into()),
        }
    }
}

async fn tables_by_map(
    backend: &Backend,
    consistency: Consistency,
    after: Option<String>,
    limit: u32,
    deadline: Instant,
) -> Result<Lines, Asked> {
    let map = backend.require_map()?;
    let shards: Vec<_> = map.arcs().map(|(arc, shard)| (shard.group, arc)).collect();
    let ask = |(group, arc)| {
        // One more than wanted tells whether there are more.
        let query = Query::Tables { after: after.clone(), limit: limit + 1 };
        async move { backend.query(Target::Shard(group, arc), query, consistency, deadline).await }
    };
    let mut asked = stream::iter(shards).map(ask).buffer_unordered(MAX_SHARDS_ASKED);
    let mut names = BTreeSet::new();
    let mut as_of = (consistency == Consistency::Stale).then(Instant::now);
    while let Some(served) = asked.try_next().await? {
        let Answer::Tables(tables) = served.answer else {
            return Err(Asked::Failed(Problem::unexpected_answer()));
        };
        names.extend(tables);
        as_of = scan::older(as_of, served.as_of);
        while names.len() > limit as usize + 1 {
            names.pop_last();
        }
    }
    let more = names.len() > limit as usize;
    if more {
        names.pop_last();
    }
    let next = names.last().filter(|_| more).map(|name| Cursor { position: 0, name: name.clone() });
    Ok(Lines { lines: names.into_iter().map(Line::Table).collect(), next, as_of })
}

/// Whether the client takes a stream of lines (RFC 9110, section 12.5.1; a weight of 0 is a no).
fn wants_ndjson(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',')).any(
        |range| {
            let mut parts = range.split(';').map(str::trim);
            let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(NDJSON));
            let refused = parts.any(|part| {
                let weight = part.strip_prefix("q=").or_else(|| part.strip_prefix("Q="));
                weight.is_some_and(|weight| weight.parse::<f32>() == Ok(0.0))
            });
            named && !refused
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_given_to_who_asks_for_it() {
        let wants = |accept: &'static str| {
            wants_ndjson(&HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]))
        };
        for yes in [
            NDJSON,
            "text/html, application/x-ndjson;q=0.5",
            "APPLICATION/X-NDJSON",
            "application/x-ndjson ; q=1",
        ] {
            assert!(wants(yes), "{yes}");
        }
        for no in ["", "*/*", "application/json", "application/x-ndjson;q=0", "application/x-ndjson; q=0.000"]
        {
            assert!(!wants(no), "{no}");
        }
    }

    #[test]
    fn bounds_of_names_are_names() {
        let parse = |query| select(&Params::parse(Some(query)).unwrap(), "t".into(), None);
        let all = parse("prefix=&from=&to=").unwrap();
        assert_eq!((all.prefix.as_str(), all.from, all.to, all.values), ("", None, None, true));
        let some = parse("prefix=a%2F&from=b&to=c").unwrap();
        assert_eq!(
            (some.prefix.as_str(), some.from.as_deref(), some.to.as_deref()),
            ("a/", Some("b"), Some("c"))
        );
        assert!(parse(&format!("prefix={}", "x".repeat(1_025)).leak()[..]).is_err());
    }
}
