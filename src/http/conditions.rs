//! Conditional requests (RFC 9110, section 13): `If-Match` and `If-None-Match` become conditions
//! that the shard decides, or are judged here for a read, whose version is in the answer.
//!
//! Dates are no conditions here: two writes within one second have the same date, and a reader
//! could be told that nothing changed. `If-Modified-Since` is therefore ignored, as if the cell had
//! no date, and a write under `If-Unmodified-Since`, which must not be ignored, is refused.

use hyper::{
    HeaderMap,
    header::{HeaderName, IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE},
};

use super::error::Problem;
use crate::command::{Action, Condition, RowOp, Version};

/// The conditions of a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Preconditions {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
}

/// A list of entity tags.
#[derive(Debug, PartialEq, Eq)]
enum Tags {
    /// `*`
    Any,
    Listed(Vec<Tag>),
}

#[derive(Debug, PartialEq, Eq)]
struct Tag {
    weak: bool,
    /// `None` for a tag that no version of ours ever has.
    version: Option<Version>,
}

/// What conditions make of a read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Serve,
    NotModified,
    Failed,
}

impl Preconditions {
    /// The conditions in the headers.
    pub(crate) fn parse(headers: &HeaderMap) -> Result<Self, Problem> {
        Ok(Self { if_match: tags(headers, &IF_MATCH)?, if_none_match: tags(headers, &IF_NONE_MATCH)? })
    }

    /// The conditions of a write.
    pub(crate) fn of_write(headers: &HeaderMap) -> Result<Self, Problem> {
        if headers.contains_key(IF_UNMODIFIED_SINCE) {
            return Err(Problem::invalid("dates are too coarse for a condition: use If-Match with the ETag"));
        }
        Self::parse(headers)
    }

    /// Refuses all conditions, on what has no single version.
    pub(crate) fn refuse(headers: &HeaderMap) -> Result<(), Problem> {
        let conditional = [IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE];
        if conditional.iter().any(|name| headers.contains_key(name)) {
            Err(Problem::invalid(
                "a row takes no conditions: it has no ETag; use POST /batch with if_version",
            ))
        } else {
            Ok(())
        }
    }

    /// The operations that change a cell under these conditions. RFC 9110 has `If-Match` judged
    /// first, then `If-None-Match`; both together need a second operation on the same cell.
    pub(crate) fn guard(self, table: String, column: String, action: Action) -> Vec<RowOp> {
        let if_match = self.if_match.map(|tags| match tags {
            Tags::Any => Condition::Exists,
            // Strong comparison: a weak tag matches nothing.
            Tags::Listed(tags) => Condition::VersionIn(
                tags.iter().filter(|tag| !tag.weak).filter_map(|tag| tag.version).collect(),
            ),
        });
        let if_none_match = self.if_none_match.map(|tags| match tags {
            Tags::Any => Condition::Absent,
            // Weak comparison: W/"3" and "3" are the same.
            Tags::Listed(tags) => {
                Condition::VersionNotIn(tags.iter().filter_map(|tag| tag.version).collect())
            }
        });
        match (if_match, if_none_match) {
            (Some(first), Some(second)) => vec![
                RowOp { table: table.clone(), action: Action::Get { column }, condition: first },
                RowOp { table, action, condition: second },
            ],
            (one, other) => {
                let condition = one.or(other).unwrap_or(Condition::Always);
                vec![RowOp { table, action, condition }]
            }
        }
    }

    /// Judges a read of a cell that is there. (Of one that is not, the answer is 404 whatever the
    /// conditions: RFC 9110, section 13.2.1.)
    pub(crate) fn judge_read(&self, current: Version) -> Verdict {
        let listed = |tags: &[Tag], weak_too: bool| {
            tags.iter().any(|tag| tag.version == Some(current) && (weak_too || !tag.weak))
        };
        match &self.if_match {
            Some(Tags::Listed(tags)) if !listed(tags, false) => return Verdict::Failed,
            Some(Tags::Any | Tags::Listed(_)) | None => {}
        }
        match &self.if_none_match {
            Some(Tags::Any) => Verdict::NotModified,
            Some(Tags::Listed(tags)) if listed(tags, true) => Verdict::NotModified,
            Some(Tags::Listed(_)) | None => Verdict::Serve,
        }
    }
}

/// Reads all lines of a header as one list (RFC 9110, section 5.3); `None` where there is none.
fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, Problem> {
    let mut lines = headers.get_all(name).iter();
    let Some(first) = lines.next() else { return Ok(None) };
    let malformed = || {
        Problem::invalid(format!(
            "'{name}' is '*' or a list of quoted versions, such as \"17\" or \"17\", \"21\""
        ))
    };
    if first.as_bytes() == b"*" {
        return if lines.next().is_none() { Ok(Some(Tags::Any)) } else { Err(malformed()) };
    }
    let mut tags = Vec::new();
    for line in std::iter::once(first).chain(lines) {
        parse_list(line.as_bytes(), &mut tags).ok_or_else(malformed)?;
    }
    if tags.is_empty() { Err(malformed()) } else { Ok(Some(Tags::Listed(tags))) }
}

/// Reads `[W/]"…", …`; empty elements are allowed. A comma may stand inside the quotes.
fn parse_list(mut rest: &[u8], tags: &mut Vec<Tag>) -> Option<()> {
    loop {
        rest = rest.trim_ascii_start();
        match rest {
            [] => return Some(()),
            [b',', behind @ ..] => {
                rest = behind;
                continue;
            }
            _ => {}
        }
        let (weak, opaque) = match rest {
            [b'W', b'/', b'"', behind @ ..] => (true, behind),
            [b'"', behind @ ..] => (false, behind),
            _ => return None,
        };
        let end = opaque.iter().position(|byte| *byte == b'"')?;
        let (inside, behind) = (&opaque[..end], &opaque[end + 1..]);
        // RFC 9110, section 8.8.3: etagc = %x21 / %x23-7E / obs-text
        if !inside.iter().all(|byte| *byte >= 0x21 && *byte != 0x7f) {
            return None;
        }
        tags.push(Tag { weak, version: version(inside) });
        rest = behind.trim_ascii_start();
        if !matches!(rest.first(), None | Some(b',')) {
            return None;
        }
    }
}

/// The version that has exactly this tag: `"017"` is not `"17"`.
fn version(opaque: &[u8]) -> Option<Version> {
    if !opaque.iter().all(u8::is_ascii_digit) || opaque.first() == Some(&b'0') {
        return None;
    }
    str::from_utf8(opaque).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn headers(lines: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn conditions(lines: &[(HeaderName, &str)]) -> Vec<Condition> {
        Preconditions::of_write(&headers(lines))
            .unwrap()
            .guard("t".into(), "c".into(), Action::DeleteRow)
            .into_iter()
            .map(|op| op.condition)
            .collect()
    }

    #[test]
    fn headers_become_conditions() {
        for (name, value, condition) in [
            (IF_MATCH, "*", Condition::Exists),
            (IF_NONE_MATCH, "*", Condition::Absent),
            (IF_MATCH, "\"17\"", Condition::VersionIn(vec![17])),
            (IF_MATCH, " \"3\" ,, \"7\",", Condition::VersionIn(vec![3, 7])),
            (IF_MATCH, "W/\"3\", \"7\"", Condition::VersionIn(vec![7])),
            (IF_MATCH, "W/\"3\"", Condition::VersionIn(vec![])),
            (
                IF_MATCH,
                "\"a,b\", \"\", \"017\", \"+3\", \"0\", \"18446744073709551616\"",
                Condition::VersionIn(vec![]),
            ),
            (IF_NONE_MATCH, "W/\"3\", \"7\"", Condition::VersionNotIn(vec![3, 7])),
            (IF_NONE_MATCH, "\"x\"", Condition::VersionNotIn(vec![])),
        ] {
            assert_eq!(conditions(&[(name.clone(), value)]), [condition], "{name}: {value}");
        }
        assert_eq!(conditions(&[]), [Condition::Always]);
    }

    #[test]
    fn lines_join_and_both_headers_hold() {
        assert_eq!(
            conditions(&[(IF_MATCH, "\"1\""), (IF_MATCH, "\"2\"")]),
            [Condition::VersionIn(vec![1, 2])]
        );
        assert_eq!(
            conditions(&[(IF_NONE_MATCH, "\"3\""), (IF_MATCH, "*")]),
            [Condition::Exists, Condition::VersionNotIn(vec![3])]
        );
    }

    #[test]
    fn malformed_lists_are_refused() {
        for value in [
            "",
            ",",
            "17",
            "\"17",
            "17\"",
            "\"1\" \"2\"",
            "*, \"1\"",
            "w/\"1\"",
            "W/1",
            "\"a b\"",
            "W/",
            "\"1\"x",
        ] {
            for name in [IF_MATCH, IF_NONE_MATCH] {
                let headers = headers(&[(name, value)]);
                assert!(Preconditions::parse(&headers).is_err(), "{value}");
            }
        }
        assert!(Preconditions::parse(&headers(&[(IF_MATCH, "*"), (IF_MATCH, "*")])).is_err());
        let date = headers(&[(IF_UNMODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:37 GMT")]);
        assert!(Preconditions::of_write(&date).is_err());
        assert_eq!(Preconditions::parse(&date), Ok(Preconditions::default()));
        assert!(Preconditions::refuse(&date).is_err());
        assert!(Preconditions::refuse(&headers(&[])).is_ok());
    }

    #[test]
    fn reads_are_judged_by_the_version_in_the_answer() {
        let judge =
            |lines: &[(HeaderName, &str)]| Preconditions::parse(&headers(lines)).unwrap().judge_read(17);
        for (lines, verdict) in [
            (&[][..], Verdict::Serve),
            (&[(IF_NONE_MATCH, "\"17\"")], Verdict::NotModified),
            (&[(IF_NONE_MATCH, "W/\"17\"")], Verdict::NotModified),
            (&[(IF_NONE_MATCH, "*")], Verdict::NotModified),
            (&[(IF_NONE_MATCH, "\"16\", \"18\"")], Verdict::Serve),
            (&[(IF_MATCH, "\"17\"")], Verdict::Serve),
            (&[(IF_MATCH, "*")], Verdict::Serve),
            (&[(IF_MATCH, "W/\"17\"")], Verdict::Failed),
            (&[(IF_MATCH, "\"16\"")], Verdict::Failed),
            (&[(IF_MATCH, "\"16\""), (IF_NONE_MATCH, "\"17\"")], Verdict::Failed),
            (&[(IF_MATCH, "\"17\""), (IF_NONE_MATCH, "\"17\"")], Verdict::NotModified),
        ] {
            assert_eq!(judge(lines), verdict, "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(value in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                let mut headers = HeaderMap::new();
                headers.insert(IF_MATCH, value);
                let _ = Preconditions::parse(&headers);
            }
        }
    }
}
