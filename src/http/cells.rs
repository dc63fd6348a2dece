//! One cell: `/data/{table}/{row}/{column}` and, the same by a shorter name, `/kv/{key}`.

use hyper::{
    HeaderMap, StatusCode,
    header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderValue, LAST_MODIFIED,
        X_CONTENT_TYPE_OPTIONS,
    },
};

use super::{
    conditions::{Preconditions, Verdict},
    error::{Kind, Problem},
    missing,
    request::{Call, CellName},
    response::{self, Response},
    retry::retry,
    values,
};
use crate::{
    command::{
        Action, Answer, Cell, Command, Missing, OpResult, Query, Reply, Value, Version, Write, Written,
    },
    router::{Consistency, Target},
};

/// `GET` and `HEAD`.
pub(crate) async fn get(mut call: Call) -> Result<Response, Problem> {
    let consistency = call.params()?.consistency()?;
    let conditions = Preconditions::parse(&call.parts.headers)?;
    let CellName { table, row, column } = call.take_cell()?;
    let query = Query::Cell { table: table.clone(), row: row.clone(), column };
    let served = call.backend().query(Target::Row(&row), query, consistency, call.deadline).await?;
    let cell = match served.answer {
        Answer::Cell(cell) => cell,
        Answer::Missing(missing) => {
            let problem = missing::problem(call.backend(), &table, missing, call.deadline).await;
            return Ok(response::aged(problem.into_response(), served.as_of));
        }
        _ => return Err(Problem::unexpected_answer()),
    };
    let answer = match conditions.judge_read(cell.version) {
        Verdict::Serve => value(cell),
        Verdict::NotModified => not_modified(&cell),
        Verdict::Failed => Problem::precondition_failed(Some(cell.version)).into_response(),
    };
    Ok(response::aged(answer, served.as_of))
}

/// `PUT`.
pub(crate) async fn put(mut call: Call) -> Result<Response, Problem> {
    let ttl_ms = call.params()?.ttl_ms()?;
    let conditions = Preconditions::of_write(&call.parts.headers)?;
    let content_type = content_type(&call.parts.headers)?;
    let cell = call.take_cell()?;
    let (headers, body) = (&call.parts.headers, &call.body);
    let retry = retry(headers, &call.parts.method, &[&cell.table, &cell.row, &cell.column], |print| {
        print.conditions(headers, ttl_ms).part(content_type.as_deref().unwrap_or("").as_bytes()).part(body)
    })?;
    // The body is taken out of the call: from here on only the command holds it.
    let value = Value { bytes: std::mem::take(&mut call.body), content_type, ttl_ms };
    let ops = conditions.guard(cell.table, cell.column.clone(), Action::Put { column: cell.column, value });
    let command = Command { writes: vec![Write { row: cell.row, ops }], retry };
    let (version, _) = one_write(call.backend().write(command, call.deadline).await?)?;
    Ok(response::written(version))
}

/// `DELETE`.
pub(crate) async fn delete(mut call: Call) -> Result<Response, Problem> {
    let conditions = Preconditions::of_write(&call.parts.headers)?;
    let cell = call.take_cell()?;
    let headers = &call.parts.headers;
    let retry = retry(headers, &call.parts.method, &[&cell.table, &cell.row, &cell.column], |print| {
        print.conditions(headers, None)
    })?;
    let action = Action::Delete { column: cell.column.clone() };
    let ops = conditions.guard(cell.table.clone(), cell.column.clone(), action);
    let command = Command { writes: vec![Write { row: cell.row.clone(), ops }], retry };
    let (_, results) = one_write(call.backend().write(command, call.deadline).await?)?;
    match results.last() {
        Some(OpResult::Deleted(0)) => Err(never_there(&call, cell).await),
        Some(OpResult::Deleted(_)) => Ok(response::text("OK")),
        _ => Err(not_understood()),
    }
}

/// The version and the results of a command with one write.
pub(crate) fn one_write(reply: Reply) -> Result<(Version, Vec<OpResult>), Problem> {
    match reply {
        Reply::RetryMismatch => Err(retry_mismatch()),
        Reply::Done(written) => match <[Written; 1]>::try_from(written) {
            Ok([Written::Applied { version, results }]) => Ok((version, results)),
            Ok([Written::Failed { current, .. }]) => Err(Problem::precondition_failed(current)),
            Ok([Written::TooLarge]) => Err(too_large()),
            Err(_) => Err(not_understood()),
        },
        Reply::NotHere | Reply::Split(_) => Err(not_understood()),
    }
}

/// The problem of a write that would read or remove more than one command may.
pub(crate) fn too_large() -> Problem {
    Problem::new(
        Kind::TooLarge,
        format!(
            "this would read more than {} bytes or remove more than {} cells at once; split it up",
            crate::command::MAX_READ_BYTES,
            crate::command::MAX_ROW_CELLS
        ),
    )
}

/// The problem of an `Idempotency-Key` that was used for something else.
pub(crate) fn retry_mismatch() -> Problem {
    Problem::new(
        Kind::RetryMismatch,
        "this Idempotency-Key came with another body, condition or ttl before; use a new one for a new request",
    )
}

/// The problem of a reply that does not fit what was proposed: it was applied, but how is not known.
pub(crate) fn not_understood() -> Problem {
    Problem::new(Kind::Unknown, "the shard's reply was not understood; do all nodes run the same version?")
}

/// Says what was missing for a `DELETE` that found nothing. The shard is asked again: should the
/// cell have come into being meanwhile, it was the column that was missing.
async fn never_there(call: &Call, cell: CellName) -> Problem {
    let CellName { table, row, column } = cell;
    let query = Query::Cell { table: table.clone(), row: row.clone(), column };
    let answer = call.backend().ask(Target::Row(&row), query, Consistency::Linearizable, call.deadline).await;
    let missing = match answer {
        Ok(Answer::Missing(missing)) => missing,
        Ok(_) => Missing::Column,
        Err(_) => Missing::Row,
    };
    missing::problem(call.backend(), &table, missing, call.deadline).await
}

/// The `Content-Type` to keep.
fn content_type(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(None) };
    let text = value.to_str().map_err(|_| Problem::invalid("a Content-Type is visible ASCII"))?;
    values::check_content_type(text).map_err(Problem::invalid)?;
    Ok(Some(text.to_owned()))
}

/// 200 with the value.
fn value(cell: Cell) -> Response {
    let content_type = cell
        .content_type
        .as_deref()
        .and_then(|text| HeaderValue::from_str(text).ok())
        .unwrap_or(HeaderValue::from_static("application/octet-stream"));
    let mut answer = response::with_body(StatusCode::OK, cell.bytes);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // A value may be a page with scripts, and anybody may have stored it: it gets an origin of its
    // own, so that it cannot act on the cluster in the name of who looks at it.
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    validators(headers, cell.version, response::http_date(cell.written_at));
    answer
}

/// 304.
fn not_modified(cell: &Cell) -> Response {
    let mut answer = response::with_body(StatusCode::NOT_MODIFIED, "");
    validators(answer.headers_mut(), cell.version, response::http_date(cell.written_at));
    answer
}

fn validators(headers: &mut HeaderMap, version: Version, written: Option<HeaderValue>) {
    headers.insert(ETAG, response::etag(version));
    // A cache may keep it, but must ask each time: without this it could guess a lifetime.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Some(date) = written {
        headers.insert(LAST_MODIFIED, date);
    }
}
