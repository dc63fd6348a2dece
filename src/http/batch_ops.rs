//! The operations of `POST /batch` as they are written: read, checked and counted before any work
//! is done. One malformed operation refuses the whole, by its index.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

use super::{
    body,
    error::{Kind, Problem},
    names::check_name,
    params::parse_ttl_ms,
    request::CellName,
    values,
};
use crate::command::{Condition, MAX_BATCH_OPS, Value, Version};

/// An operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Op {
    pub(crate) cell: CellName,
    pub(crate) act: Act,
    pub(crate) condition: Condition,
}

/// What an operation does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    Put(Value),
    Get,
    Delete,
}

/// Reads the body of a batch.
pub(crate) fn parse(text: &[u8], max_value_bytes: u64) -> Result<Vec<Op>, Problem> {
    let Operations(ops) = serde_json::from_slice(text)
        .map_err(|error| Problem::invalid(format!("the body is no JSON array of operations: {error}")))?;
    for (index, op) in ops.iter().enumerate() {
        if let Act::Put(value) = &op.act
            && value.bytes.len() as u64 > max_value_bytes
        {
            let limit = body::too_large(max_value_bytes).detail;
            return Err(Problem::new(Kind::TooLarge, format!("operation {index}: {limit} per value")));
        }
    }
    Ok(ops)
}

struct Operations(Vec<Op>);

/// An operation as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    op: Verb,
    key: Option<String>,
    table: Option<String>,
    row: Option<String>,
    column: Option<String>,
    value: Option<String>,
    base64: Option<String>,
    content_type: Option<String>,
    if_version: Option<Version>,
    ttl: Option<String>,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Verb {
    Put,
    Get,
    Delete,
}

impl TryFrom<Written> for Op {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let sentence = |problem: Problem| problem.detail.into_owned();
        let cell = match (written.key, written.table, written.row, written.column) {
            (Some(key), None, None, None) => CellName::of_key(key),
            (None, Some(table), Some(row), Some(column)) => CellName { table, row, column },
            _ => return Err("name the cell by 'key', or by 'table', 'row' and 'column'".into()),
        };
        for name in [&cell.table, &cell.row, &cell.column] {
            check_name(name).map_err(sentence)?;
        }
        let has_value = written.value.is_some() || written.base64.is_some();
        let act = if written.op == Verb::Put {
            let bytes = values::bytes(written.value, written.base64)?;
            written.content_type.as_deref().map(values::check_content_type).transpose()?;
            let ttl_ms = written.ttl.as_deref().map(parse_ttl_ms).transpose().map_err(sentence)?;
            Act::Put(Value { bytes, content_type: written.content_type, ttl_ms })
        } else if has_value || written.ttl.is_some() || written.content_type.is_some() {
            return Err("only a put has a value and a 'ttl'".into());
        } else if written.op == Verb::Get {
            Act::Get
        } else {
            Act::Delete
        };
        let condition = match written.if_version {
            None => Condition::Always,
            Some(0) => Condition::Absent,
            Some(version) => Condition::VersionIn(vec![version]),
        };
        Ok(Op { cell, act, condition })
    }
}

impl<'de> Deserialize<'de> for Operations {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Array;

        impl<'de> de::Visitor<'de> for Array {
            type Value = Operations;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of operations")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut array: A) -> Result<Operations, A::Error> {
                let mut ops = Vec::new();
                loop {
                    let index = ops.len();
                    let wrong =
                        |why: &dyn fmt::Display| de::Error::custom(format_args!("operation {index}: {why}"));
                    let Some(written) = array.next_element::<Written>().map_err(|error| wrong(&error))?
                    else {
                        return Ok(Operations(ops));
                    };
                    if index == MAX_BATCH_OPS {
                        return Err(de::Error::custom(format_args!("more than {MAX_BATCH_OPS} operations")));
                    }
                    ops.push(Op::try_from(written).map_err(|why| wrong(&why))?);
                }
            }
        }

        deserializer.deserialize_seq(Array)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(table: &str, row: &str, column: &str) -> CellName {
        CellName { table: table.into(), row: row.into(), column: column.into() }
    }

    #[test]
    fn operations_are_read() {
        let text = br#"[
            {"op": "put", "key": "k", "value": "v", "ttl": "30s", "if_version": 0},
            {"op": "put", "table": "t", "row": "r", "column": "c", "base64": "/w==", "if_version": 7},
            {"op": "get", "key": "k"},
            {"op": "delete", "table": "t", "row": "r", "column": "c"}
        ]"#;
        let put = |bytes: &'static [u8], ttl_ms| {
            Act::Put(Value { bytes: bytes.into(), content_type: None, ttl_ms })
        };
        assert_eq!(
            parse(text, 10).unwrap(),
            [
                Op {
                    cell: cell("kv", "k", "value"),
                    act: put(b"v", Some(30_000)),
                    condition: Condition::Absent
                },
                Op {
                    cell: cell("t", "r", "c"),
                    act: put(b"\xff", None),
                    condition: Condition::VersionIn(vec![7])
                },
                Op { cell: cell("kv", "k", "value"), act: Act::Get, condition: Condition::Always },
                Op { cell: cell("t", "r", "c"), act: Act::Delete, condition: Condition::Always },
            ]
        );
        assert!(parse(b"[]", 10).unwrap().is_empty());
    }

    #[test]
    fn a_malformed_operation_is_named_by_its_index() {
        let good = r#"{"op":"get","key":"k"}"#;
        for bad in [
            r#"{"op":"set","key":"k","value":"v"}"#,
            r#"{"op":"put","key":"k"}"#,
            r#"{"op":"put","key":"k","value":"v","base64":""}"#,
            r#"{"op":"put","key":"k","base64":"!"}"#,
            r#"{"op":"put","key":"k","value":1}"#,
            r#"{"op":"put","key":"","value":"v"}"#,
            r#"{"op":"put","key":"k","value":"v","ttl":"1d"}"#,
            r#"{"op":"put","key":"k","value":"v","ttl":30}"#,
            r#"{"op":"put","key":"k","value":"v","content_type":"a\nb"}"#,
            r#"{"op":"put","key":"k","value":"v","if_version":-1}"#,
            r#"{"op":"put","key":"k","value":"v","if_versoin":1}"#,
            r#"{"op":"put","key":"k","table":"t","row":"r","column":"c","value":"v"}"#,
            r#"{"op":"put","table":"t","row":"r","value":"v"}"#,
            r#"{"op":"get","key":"k","value":"v"}"#,
            r#"{"op":"delete","key":"k","ttl":"1s"}"#,
            r#"{"key":"k"}"#,
            "7",
            "null",
        ] {
            let problem = parse(format!("[{good},{bad},{good}]").as_bytes(), 10).unwrap_err();
            assert_eq!(problem.kind, Kind::Invalid);
            assert!(problem.detail.contains("operation 1: "), "{bad}: {}", problem.detail);
        }
        for bad in ["", "{}", "null", "[", "[]x", "[{\"op\":\"get\",\"key\":\"k\"}"] {
            assert_eq!(parse(bad.as_bytes(), 10).unwrap_err().kind, Kind::Invalid, "{bad}");
        }
    }

    #[test]
    fn counts_and_sizes_are_bounded() {
        let good = r#"{"op":"get","key":"k"}"#;
        let most = vec![good; MAX_BATCH_OPS].join(",");
        assert_eq!(parse(format!("[{most}]").as_bytes(), 10).unwrap().len(), MAX_BATCH_OPS);
        let more = parse(format!("[{most},{good}]").as_bytes(), 10).unwrap_err();
        assert!(more.detail.contains("more than 10000"), "{}", more.detail);
        let large = parse(
            format!(r#"[{good},{{"op":"put","key":"k","value":"{}"}}]"#, "x".repeat(11)).as_bytes(),
            10,
        );
        let large = large.unwrap_err();
        assert_eq!(large.kind, Kind::TooLarge);
        assert!(large.detail.starts_with("operation 1: "), "{}", large.detail);
    }
}
