//! Values in JSON: text where they are UTF-8, base64 where they are not.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hyper::header::HeaderValue;
use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::{limits::MAX_CONTENT_TYPE_BYTES, response};
use crate::command::Cell;

/// A cell as JSON shows it: `value` or `base64`, and what is kept beside it.
pub(crate) struct CellJson<'a>(pub(crate) &'a Cell);

impl Serialize for CellJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut members = serializer.serialize_map(None)?;
        serialize_members(self.0, &mut members)?;
        members.end()
    }
}

/// Writes a cell's members into an object that may have others.
pub(crate) fn serialize_members<M: serde::ser::SerializeMap>(
    cell: &Cell,
    members: &mut M,
) -> Result<(), M::Error> {
    match str::from_utf8(&cell.bytes) {
        Ok(text) => members.serialize_entry("value", text)?,
        Err(_) => members.serialize_entry("base64", &STANDARD.encode(&cell.bytes))?,
    }
    members.serialize_entry("version", &cell.version)?;
    if let Some(content_type) = &cell.content_type {
        members.serialize_entry("content_type", content_type)?;
    }
    if let Some(at) = cell.expires_at {
        members.serialize_entry("expires_at", &response::rfc3339(at))?;
    }
    Ok(())
}

/// A row as JSON shows it.
pub(crate) struct RowJson<'a> {
    pub(crate) row: &'a str,
    pub(crate) columns: &'a [(String, Cell)],
}

impl Serialize for RowJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Columns<'a>(&'a [(String, Cell)]);
        impl Serialize for Columns<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map(self.0.iter().map(|(name, cell)| (name, CellJson(cell))))
            }
        }
        let mut members = serializer.serialize_map(Some(2))?;
        members.serialize_entry("row", self.row)?;
        members.serialize_entry("columns", &Columns(self.columns))?;
        members.end()
    }
}

/// The bytes that `value` or `base64` stand for, of which exactly one is given; the error is a
/// sentence.
pub(crate) fn bytes(value: Option<String>, base64: Option<String>) -> Result<Bytes, &'static str> {
    match (value, base64) {
        (Some(text), None) => Ok(Bytes::from(text)),
        (None, Some(encoded)) => STANDARD
            .decode(encoded)
            .map(Bytes::from)
            .map_err(|_| "'base64' is not padded standard base64 (RFC 4648, section 4)"),
        (Some(_), Some(_)) => Err("give 'value' or 'base64', not both"),
        (None, None) => Err("a 'value' (text) or a 'base64' is needed"),
    }
}

/// Whether a text can stand in a `Content-Type` header; the error is a sentence.
pub(crate) fn check_content_type(text: &str) -> Result<(), String> {
    if text.len() <= MAX_CONTENT_TYPE_BYTES && HeaderValue::from_str(text).is_ok() {
        Ok(())
    } else {
        Err(format!("a content type is at most {MAX_CONTENT_TYPE_BYTES} bytes of visible ASCII"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::At;

    fn cell(bytes: &'static [u8]) -> Cell {
        Cell {
            version: 7,
            written_at: At(1),
            expires_at: None,
            content_type: None,
            bytes: Bytes::from_static(bytes),
        }
    }

    #[test]
    fn text_stays_text_and_bytes_become_base64() {
        let json = |cell: &Cell| serde_json::to_string(&CellJson(cell)).unwrap();
        assert_eq!(json(&cell("é\"".as_bytes())), r#"{"value":"é\"","version":7}"#);
        assert_eq!(json(&cell(b"")), r#"{"value":"","version":7}"#);
        assert_eq!(json(&cell(b"\xff\x00")), r#"{"base64":"/wA=","version":7}"#);
        let all = Cell { expires_at: Some(At(0)), content_type: Some("text/x".into()), ..cell(b"v") };
        assert_eq!(
            json(&all),
            r#"{"value":"v","version":7,"content_type":"text/x","expires_at":"1970-01-01T00:00:00.000Z"}"#
        );
    }

    #[test]
    fn a_row_has_its_columns_by_name() {
        let columns = [("a".to_owned(), cell(b"1")), ("\n".to_owned(), cell(b"2"))];
        let json = serde_json::to_string(&RowJson { row: "r", columns: &columns }).unwrap();
        assert_eq!(
            json,
            r#"{"row":"r","columns":{"a":{"value":"1","version":7},"\n":{"value":"2","version":7}}}"#
        );
    }

    #[test]
    fn a_content_type_is_a_header() {
        for good in ["text/plain; charset=utf-8", "x", ""] {
            assert!(check_content_type(good).is_ok(), "{good}");
        }
        for bad in ["a\r\nb", "\0", &"x".repeat(MAX_CONTENT_TYPE_BYTES + 1)] {
            assert!(check_content_type(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn one_of_value_and_base64_is_given() {
        assert_eq!(bytes(Some("x".into()), None).unwrap(), "x");
        assert_eq!(bytes(None, Some("/wA=".into())).unwrap(), &b"\xff\x00"[..]);
        assert_eq!(bytes(None, Some("".into())).unwrap(), "");
        for bad in [
            (None, None),
            (Some("x"), Some("")),
            (None, Some("/wA")),
            (None, Some("_wA=")),
            (None, Some("a b=")),
        ] {
            assert!(bytes(bad.0.map(str::to_owned), bad.1.map(str::to_owned)).is_err(), "{bad:?}");
        }
    }
}
