//! `POST /message`: reads and writes of flat keys as messages, for programs that speak in such.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{
    body,
    cells::{not_understood, one_write},
    error::Problem,
    names::check_name,
    request::{Call, CellName},
    response::{self, Response},
};
use crate::{
    command::{Action, Answer, At, Command, Condition, OpResult, Query, RowOp, Value, Write},
    router::{Consistency, Target},
};

/// A message to the cluster.
#[derive(Debug, Deserialize)]
struct Message {
    #[serde(rename = "type")]
    kind: MessageType,
    key: String,
    value: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum MessageType {
    Get,
    Set,
    Delete,
}

/// The message that answers it.
#[derive(Debug, Serialize)]
struct Answered {
    #[serde(rename = "type")]
    kind: &'static str,
    key: String,
    value: Option<String>,
    timestamp: String,
    status: &'static str,
    error: Option<&'static str>,
}

/// `POST /message`.
pub(crate) async fn post(call: Call) -> Result<Response, Problem> {
    let message: Message = serde_json::from_slice(&call.body)
        .map_err(|error| Problem::invalid(format!("the body is no message: {error}")))?;
    check_name(&message.key)?;
    let key = message.key.clone();
    let result = match (message.kind, message.value) {
        (MessageType::Get, _) => get(&call, message.key).await?,
        (MessageType::Delete, _) => delete(&call, message.key).await?,
        (MessageType::Set, Some(value)) => set(&call, message.key, value).await?,
        (MessageType::Set, None) => return Err(Problem::invalid("a SET needs a 'value', which is a text")),
    };
    let (value, error) = match result {
        Ok(value) => (value, None),
        Err(error) => (None, Some(error)),
    };
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    response::json(&Answered {
        kind: "RESPONSE",
        key,
        value,
        timestamp: response::rfc3339(At(now_ms)),
        status: if error.is_none() { "SUCCESS" } else { "ERROR" },
        error,
    })
}

/// What a message may be told beside success: the value, or why there is none.
type Told = Result<Option<String>, &'static str>;

const NO_SUCH_KEY: &str = "the key does not exist";

async fn get(call: &Call, key: String) -> Result<Told, Problem> {
    let CellName { table, row, column } = CellName::of_key(key);
    let query = Query::Cell { table, row: row.clone(), column };
    match call.backend().ask(Target::Row(&row), query, Consistency::Linearizable, call.deadline).await? {
        Answer::Cell(cell) => Ok(match String::from_utf8(cell.bytes.to_vec()) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err("the value is no UTF-8 text; GET /kv/{key} gives its bytes"),
        }),
        Answer::Missing(_) => Ok(Err(NO_SUCH_KEY)),
        _ => Err(Problem::unexpected_answer()),
    }
}

async fn set(call: &Call, key: String, text: String) -> Result<Told, Problem> {
    if text.len() as u64 > call.max_value_bytes {
        return Err(body::too_large(call.max_value_bytes));
    }
    let content_type = Some("text/plain; charset=utf-8".to_owned());
    let value = Value { bytes: text.clone().into(), content_type, ttl_ms: None };
    write(call, key, |column| Action::Put { column, value }).await?;
    Ok(Ok(Some(text)))
}

async fn delete(call: &Call, key: String) -> Result<Told, Problem> {
    match write(call, key, |column| Action::Delete { column }).await? {
        OpResult::Deleted(0) => Ok(Err(NO_SUCH_KEY)),
        OpResult::Deleted(_) => Ok(Ok(None)),
        OpResult::Put | OpResult::Got(_) => Err(not_understood()),
    }
}

async fn write(call: &Call, key: String, action: impl FnOnce(String) -> Action) -> Result<OpResult, Problem> {
    let CellName { table, row, column } = CellName::of_key(key);
    let op = RowOp { table, action: action(column), condition: Condition::Always };
    let command = Command { writes: vec![Write { row, ops: vec![op] }], retry: None };
    let (_, results) = one_write(call.backend().write(command, call.deadline).await?)?;
    results.into_iter().next().ok_or_else(not_understood)
}
