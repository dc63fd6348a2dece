//! Where a client's requests go: servers, and the paths of keys and cells.

use std::{fmt, str::FromStr};

use http::uri::{Authority, PathAndQuery};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Everything but the unreserved characters of RFC 3986, section 2.3.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A node, as `http://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server(Authority);

/// Why a text is no [`Server`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no server: write http://HOST:PORT, such as http://127.0.0.1:7001")]
pub struct InvalidServer(String);

impl Server {
    pub(super) fn authority(&self) -> &Authority {
        &self.0
    }

    /// `HOST:PORT`.
    pub fn host_port(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.0)
    }
}

impl FromStr for Server {
    type Err = InvalidServer;

    /// Takes `http://HOST:PORT`, with or without a slash behind it, and `HOST:PORT`.
    fn from_str(text: &str) -> Result<Self, InvalidServer> {
        let invalid = || InvalidServer(text.chars().take(100).collect());
        let rest = match text.split_once("://") {
            Some(("http", rest)) => rest,
            Some(_) => return Err(invalid()),
            None => text,
        };
        let authority: Authority = rest.strip_suffix('/').unwrap_or(rest).parse().map_err(|_| invalid())?;
        let port = authority.port_u16().filter(|port| *port != 0);
        if port.is_none() || authority.host().is_empty() || authority.as_str().contains('@') {
            return Err(invalid());
        }
        Ok(Self(authority))
    }
}

/// A cell, by either of its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key<'a> {
    /// A flat key.
    Flat(&'a str),
    /// A cell.
    Cell {
        /// Its table.
        table: &'a str,
        /// Its row.
        row: &'a str,
        /// Its column.
        column: &'a str,
    },
}

impl Key<'_> {
    /// The path of the cell.
    pub fn path(&self) -> PathAndQuery {
        self.path_with(&[])
    }

    pub(super) fn path_with(&self, query: &[(&str, Option<String>)]) -> PathAndQuery {
        let path = match self {
            Key::Flat(key) => Path::new().segment("kv").segment(key),
            Key::Cell { table, row, column } => {
                Path::new().segment("data").segment(table).segment(row).segment(column)
            }
        };
        path.query(query).finish()
    }
}

/// A path under construction; segments and values are escaped.
pub(super) struct Path {
    text: String,
    queried: bool,
}

impl Path {
    pub(super) fn new() -> Self {
        Self { text: String::with_capacity(64), queried: false }
    }

    pub(super) fn segment(mut self, name: &str) -> Self {
        self.text.push('/');
        match name {
            // As they stand, anyone on the way may take these two for steps in the path.
            "." => self.text.push_str("%2E"),
            ".." => self.text.push_str("%2E%2E"),
            _ => self.text.extend(utf8_percent_encode(name, ESCAPED)),
        }
        self
    }

    /// Adds those parameters that have a value.
    pub(super) fn query(mut self, parameters: &[(&str, Option<String>)]) -> Self {
        for (name, value) in parameters {
            let Some(value) = value else { continue };
            self.text.push(if self.queried { '&' } else { '?' });
            self.queried = true;
            self.text.push_str(name);
            self.text.push('=');
            self.text.extend(utf8_percent_encode(value, ESCAPED));
        }
        self
    }

    pub(super) fn finish(self) -> PathAndQuery {
        PathAndQuery::from_maybe_shared(bytes::Bytes::from(self.text))
            .expect("only slashes, unreserved characters and escapes, ? & and = are written")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_host_and_port() {
        for (text, shown) in [
            ("http://127.0.0.1:7001", "http://127.0.0.1:7001"),
            ("http://localhost:80/", "http://localhost:80"),
            ("[::1]:8001", "http://[::1]:8001"),
        ] {
            assert_eq!(text.parse::<Server>().unwrap().to_string(), shown);
        }
        let bad = [
            "",
            "http://",
            "localhost",
            "http://h",
            "http://h:0",
            "http://h:99999",
            "https://h:1",
            "http://h:1/x",
            "u@h:1",
        ];
        for text in bad {
            assert!(text.parse::<Server>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_escaped_as_one_segment() {
        for (name, path) in [
            ("a-b_c.d~e", "/kv/a-b_c.d~e"),
            ("a/b?c#d%e", "/kv/a%2Fb%3Fc%23d%25e"),
            ("..", "/kv/%2E%2E"),
            ("+ \0é", "/kv/%2B%20%00%C3%A9"),
        ] {
            assert_eq!(Key::Flat(name).path().as_str(), path);
        }
        let cell = Key::Cell { table: "t/", row: "r", column: "." };
        assert_eq!(
            cell.path_with(&[("a", None), ("ttl", Some("5&s".into())), ("b", Some("1".into()))]).as_str(),
            "/data/t%2F/r/%2E?ttl=5%26s&b=1"
        );
    }
}
