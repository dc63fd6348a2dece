//! Names in URLs: percent-decoded once, from the raw text, and checked. A slash inside a name is
//! `%2F`; `..` and `%00` are names like any other; a `+` in a path is a plus.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::error::Problem;
use crate::command::MAX_NAME_BYTES;

/// A name out of one raw segment of a path.
pub(crate) fn decode_name(segment: &str) -> Result<String, Problem> {
    let name = percent_decode(segment).ok_or_else(|| {
        Problem::invalid("a name in the path is not percent-encoded UTF-8; encode a '%' as %25")
    })?;
    check_name(&name)?;
    Ok(name.into_owned())
}

/// Whether a text may be the name of a table, row or column.
pub(crate) fn check_name(name: &str) -> Result<(), Problem> {
    if (1..=MAX_NAME_BYTES).contains(&name.len()) {
        Ok(())
    } else {
        Err(Problem::invalid(format!(
            "a name has 1 to {MAX_NAME_BYTES} bytes of UTF-8, this one has {}",
            name.len()
        )))
    }
}

/// Decodes `%XX`; `None` for a `%` without two hex digits, or where the result is not UTF-8.
pub(crate) fn percent_decode(text: &str) -> Option<Cow<'_, str>> {
    let bytes = text.as_bytes();
    let escapes_whole = memchr_percent(bytes).all(|at| {
        bytes.get(at + 1).is_some_and(u8::is_ascii_hexdigit)
            && bytes.get(at + 2).is_some_and(u8::is_ascii_hexdigit)
    });
    if !escapes_whole {
        return None;
    }
    percent_decode_str(text).decode_utf8().ok()
}

fn memchr_percent(bytes: &[u8]) -> impl Iterator<Item = usize> + '_ {
    bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%').map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    use super::*;

    /// What a path segment must escape at the least (RFC 3986, `pchar`), so that hyper takes it.
    const SEGMENT: &AsciiSet = &CONTROLS
        .add(b' ')
        .add(b'"')
        .add(b'#')
        .add(b'%')
        .add(b'/')
        .add(b'<')
        .add(b'>')
        .add(b'?')
        .add(b'[')
        .add(b'\\')
        .add(b']')
        .add(b'^')
        .add(b'`')
        .add(b'{')
        .add(b'|')
        .add(b'}');

    #[test]
    fn odd_names_are_names() {
        for (raw, name) in [
            ("a%2Fb", "a/b"),
            ("..", ".."),
            ("%2E%2E", ".."),
            (".", "."),
            ("%00", "\0"),
            ("a+b", "a+b"),
            ("%2B", "+"),
            ("%25", "%"),
            ("%2525", "%25"),
            ("%e2%82%ac", "€"),
            ("%20", " "),
            ("a=b;c", "a=b;c"),
        ] {
            assert_eq!(decode_name(raw).unwrap(), name, "{raw}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for raw in ["", "%", "%2", "a%", "%G1", "%1G", "% 1", "%+1", "%ff", "%C3%28", "%ed%a0%80"] {
            assert!(decode_name(raw).is_err(), "{raw}");
        }
    }

    #[test]
    fn the_longest_name_counts_its_decoded_bytes() {
        assert!(decode_name(&"%61".repeat(MAX_NAME_BYTES)).is_ok());
        assert!(decode_name(&"a".repeat(MAX_NAME_BYTES + 1)).is_err());
        assert!(decode_name(&"€".repeat(MAX_NAME_BYTES / 3)).is_ok());
        assert!(decode_name(&"€".repeat(MAX_NAME_BYTES / 3 + 1)).is_err());
    }

    proptest! {
        #[test]
        fn any_name_survives_its_encoding(name in "\\PC{1,64}|[\\x00-\\x7f]{1,64}|(/|%|\\.|\\+|\u{0}|é|\u{10ffff}){1,32}") {
            let all = utf8_percent_encode(&name, NON_ALPHANUMERIC).to_string();
            let least = utf8_percent_encode(&name, SEGMENT).to_string();
            for raw in [all, least] {
                let uri: hyper::Uri = format!("/kv/{raw}").parse().unwrap();
                let segment = uri.path().strip_prefix("/kv/").unwrap();
                prop_assert_eq!(decode_name(segment).unwrap(), name.as_str());
            }
        }

        #[test]
        fn no_text_panics(raw in ".*") {
            let _ = decode_name(&raw);
        }
    }
}
