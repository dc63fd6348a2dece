//! One row of a table: `/data/{table}/{row}`. Every write of it is atomic over its columns.

use std::{collections::BTreeSet, fmt};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, de};

use super::{
    body,
    cells::{not_understood, one_write},
    conditions::Preconditions,
    error::Problem,
    missing,
    names::check_name,
    request::Call,
    response::{self, Response},
    retry::retry,
    scan,
    values::{self, RowJson},
};
use crate::{
    command::{
        Action, Answer, Command, Condition, MAX_BATCH_OPS, Missing, OpResult, Query, RowOp, Value, Write,
    },
    router::{Consistency, Target},
};

/// `GET` and `HEAD`.
pub(crate) async fn get(mut call: Call) -> Result<Response, Problem> {
    let consistency = call.params()?.consistency()?;
    Preconditions::refuse(&call.parts.headers)?;
    let [table, row] = call.take_names()?;
    let query = Query::Row { table: table.clone(), row: row.clone() };
    let served = call.backend().query(Target::Row(&row), query, consistency, call.deadline).await?;
    let answer = match served.answer {
        Answer::Row(columns) => response::json(&RowJson { row: &row, columns: &columns })?,
        Answer::TooLarge => return Err(scan::row_too_large().into()),
        Answer::Missing(missing) => {
            missing::problem(call.backend(), &table, missing, call.deadline).await.into_response()
        }
        _ => return Err(Problem::unexpected_answer()),
    };
    Ok(response::aged(answer, served.as_of))
}

/// `PATCH`.
pub(crate) async fn patch(mut call: Call) -> Result<Response, Problem> {
    let ttl_ms = call.params()?.ttl_ms()?;
    Preconditions::refuse(&call.parts.headers)?;
    let [table, row] = call.take_names()?;
    let Changes(changes) = serde_json::from_slice(&call.body)
        .map_err(|error| Problem::invalid(format!("the body is no JSON object of columns: {error}")))?;
    if changes.is_empty() {
        return Err(Problem::invalid("the body names no column: there is nothing to change"));
    }
    let headers = &call.parts.headers;
    let retry = retry(headers, &call.parts.method, &[&table, &row], |print| {
        print.conditions(headers, ttl_ms).part(&call.body)
    })?;
    let mut ops = Vec::with_capacity(changes.len());
    for (column, change) in changes {
        let action = match change {
            None => Action::Delete { column },
            Some((bytes, _)) if bytes.len() as u64 > call.max_value_bytes => {
                return Err(body::too_large(call.max_value_bytes));
            }
            Some((bytes, content_type)) => {
                Action::Put { column, value: Value { bytes, content_type, ttl_ms } }
            }
        };
        ops.push(RowOp { table: table.clone(), action, condition: Condition::Always });
    }
    let command = Command { writes: vec![Write { row, ops }], retry };
    let (version, _) = one_write(call.backend().write(command, call.deadline).await?)?;
    response::json(&serde_json::json!({ "version": version }))
}

/// `DELETE`.
pub(crate) async fn delete(mut call: Call) -> Result<Response, Problem> {
    Preconditions::refuse(&call.parts.headers)?;
    let [table, row] = call.take_names()?;
    let retry = retry(&call.parts.headers, &call.parts.method, &[&table, &row], |print| print)?;
    let op = RowOp { table: table.clone(), action: Action::DeleteRow, condition: Condition::Always };
    let command = Command { writes: vec![Write { row: row.clone(), ops: vec![op] }], retry };
    let (_, results) = one_write(call.backend().write(command, call.deadline).await?)?;
    match results.as_slice() {
        [OpResult::Deleted(0)] => {
            let query = Query::Row { table: table.clone(), row: row.clone() };
            let again =
                call.backend().ask(Target::Row(&row), query, Consistency::Linearizable, call.deadline);
            let missing = match again.await {
                Ok(Answer::Missing(missing)) => missing,
                _ => Missing::Row,
            };
            Err(missing::problem(call.backend(), &table, missing, call.deadline).await)
        }
        [OpResult::Deleted(_)] => Ok(response::text("OK")),
        _ => Err(not_understood()),
    }
}

/// The columns of a `PATCH` and what becomes of each; `None` to remove it.
#[derive(Debug)]
struct Changes(Vec<(String, Option<NewValue>)>);

/// A value and its content type.
type NewValue = (Bytes, Option<String>);

/// A column's new value.
#[derive(Deserialize)]
#[serde(untagged)]
enum Change {
    Text(String),
    Object(ChangeObject),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeObject {
    value: Option<String>,
    base64: Option<String>,
    content_type: Option<String>,
}

impl<'de> Deserialize<'de> for Changes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Columns;

        impl<'de> de::Visitor<'de> for Columns {
            type Value = Changes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of columns, each \"text\", {\"base64\": …} or null")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut columns: A) -> Result<Changes, A::Error> {
                let mut seen = BTreeSet::new();
                let mut changes = Vec::new();
                while let Some(column) = columns.next_key::<String>()? {
                    check_name(&column).map_err(|problem| de::Error::custom(problem.detail))?;
                    if changes.len() == MAX_BATCH_OPS {
                        return Err(de::Error::custom(format_args!("more than {MAX_BATCH_OPS} columns")));
                    }
                    if !seen.insert(column.clone()) {
                        return Err(de::Error::custom(format_args!("the column {column:?} is given twice")));
                    }
                    let wrong =
                        |why: &dyn fmt::Display| de::Error::custom(format_args!("column {column:?}: {why}"));
                    let change = match columns.next_value::<Option<Change>>() {
                        Err(error) => return Err(wrong(&error)),
                        Ok(None) => None,
                        Ok(Some(Change::Text(text))) => Some((Bytes::from(text), None)),
                        Ok(Some(Change::Object(ChangeObject { value, base64, content_type }))) => {
                            let bytes = values::bytes(value, base64).map_err(|why| wrong(&why))?;
                            let checked = content_type.as_deref().map(values::check_content_type);
                            checked.transpose().map_err(|why| wrong(&why))?;
                            Some((bytes, content_type))
                        }
                    };
                    changes.push((column, change));
                }
                Ok(Changes(changes))
            }
        }

        deserializer.deserialize_map(Columns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<(String, Option<NewValue>)>, String> {
        serde_json::from_str::<Changes>(text).map(|changes| changes.0).map_err(|error| error.to_string())
    }

    #[test]
    fn text_bytes_and_removals_are_read() {
        let changes = parse(
            r#"{"a": "text\n", "b": {"base64": "/wA="}, "c": null, "": {"value": "x", "content_type": "t/x"}}"#
                .replace("\"\":", "\"d\":")
                .as_str(),
        )
        .unwrap();
        assert_eq!(
            changes,
            [
                ("a".into(), Some(("text\n".into(), None))),
                ("b".into(), Some((Bytes::from_static(b"\xff\x00"), None))),
                ("c".into(), None),
                ("d".into(), Some(("x".into(), Some("t/x".into())))),
            ]
        );
        assert!(parse("{}").unwrap().is_empty());
    }

    #[test]
    fn what_is_malformed_is_named() {
        for (text, word) in [
            ("[]", "object of columns"),
            ("{\"a\": 1}", "column \"a\""),
            ("{\"a\": {\"base65\": \"\"}}", "column \"a\""),
            ("{\"a\": {\"base64\": \"!\"}}", "base64"),
            ("{\"a\": {}}", "needed"),
            ("{\"a\": {\"value\": \"x\", \"content_type\": \"a\\nb\"}}", "content type"),
            ("{\"a\": \"1\", \"a\": \"2\"}", "twice"),
            ("{\"\": \"1\"}", "1 to 1024"),
            ("{\"a\": \"1\"", "EOF"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
