//! `Idempotency-Key`: a client's name for a request, made into what the shards remember.

use hyper::{HeaderMap, Method};
use xxhash_rust::xxh3::Xxh3;

use super::{error::Problem, limits::MAX_IDEMPOTENCY_KEY_BYTES};
use crate::command::Retry;

/// The header.
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// What a request would do, in parts that may not run into each other.
pub(crate) struct Fingerprint(Xxh3);

impl Fingerprint {
    pub(crate) fn new() -> Self {
        Self(Xxh3::new())
    }

    /// Adds a part that decides the request's meaning.
    pub(crate) fn part(mut self, part: &[u8]) -> Self {
        self.0.update(&(part.len() as u64).to_be_bytes());
        self.0.update(part);
        self
    }

    /// Adds the headers and the part of the URL that decide a write's meaning.
    pub(crate) fn conditions(self, headers: &HeaderMap, ttl_ms: Option<u64>) -> Self {
        let mut this = self.part(&ttl_ms.map_or([0; 8], u64::to_be_bytes));
        for name in [hyper::header::IF_MATCH, hyper::header::IF_NONE_MATCH] {
            for line in headers.get_all(&name) {
                this = this.part(line.as_bytes());
            }
            this = this.part(b"");
        }
        this
    }

    fn digest(&self) -> u128 {
        self.0.digest128()
    }
}

/// The retry token of a request, `None` without the header. The key's scope is the method and the
/// names in the path as they decode, so that two spellings of a path are one.
pub(crate) fn retry(
    headers: &HeaderMap,
    method: &Method,
    path: &[&str],
    fingerprint: impl FnOnce(Fingerprint) -> Fingerprint,
) -> Result<Option<Retry>, Problem> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = keys.next() else { return Ok(None) };
    if keys.next().is_some() || !(1..=MAX_IDEMPOTENCY_KEY_BYTES).contains(&key.len()) {
        return Err(Problem::invalid(format!(
            "send one Idempotency-Key of 1 to {MAX_IDEMPOTENCY_KEY_BYTES} bytes"
        )));
    }
    let scope = path
        .iter()
        .fold(Fingerprint::new().part(method.as_str().as_bytes()), |scope, name| scope.part(name.as_bytes()));
    Ok(Some(Retry {
        key: scope.part(key.as_bytes()).digest(),
        fingerprint: fingerprint(Fingerprint::new()).digest(),
    }))
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};

    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    fn key(method: &Method, path: &[&str], key: &'static str) -> u128 {
        retry(&headers(&[(IDEMPOTENCY_KEY, key)]), method, path, |part| part).unwrap().unwrap().key
    }

    #[test]
    fn the_scope_is_method_and_path() {
        let first = key(&Method::PUT, &["t", "r", "c"], "k");
        assert_eq!(first, key(&Method::PUT, &["t", "r", "c"], "k"));
        for other in [
            key(&Method::DELETE, &["t", "r", "c"], "k"),
            key(&Method::PUT, &["t", "r", "d"], "k"),
            key(&Method::PUT, &["tr", "", "c"], "k"),
            key(&Method::PUT, &["t", "r", "c"], "l"),
        ] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn a_fingerprint_tells_requests_apart() {
        let print = |lines: &[(&'static str, &'static str)], ttl_ms, body: &[u8]| {
            let fingerprint = Fingerprint::new().conditions(&headers(lines), ttl_ms);
            fingerprint.part(body).digest()
        };
        let first = print(&[("if-match", "\"1\"")], Some(5), b"body");
        assert_eq!(first, print(&[("if-match", "\"1\""), ("accept", "*/*")], Some(5), b"body"));
        for other in [
            print(&[("if-none-match", "\"1\"")], Some(5), b"body"),
            print(&[("if-match", "\"2\"")], Some(5), b"body"),
            print(&[], Some(5), b"body"),
            print(&[("if-match", "\"1\"")], Some(6), b"body"),
            print(&[("if-match", "\"1\"")], None, b"body"),
            print(&[("if-match", "\"1\"")], Some(5), b"bodY"),
        ] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn a_key_is_one_and_in_bounds() {
        let parse = |lines: &HeaderMap| retry(lines, &Method::PUT, &[], |part| part);
        assert_eq!(parse(&headers(&[])), Ok(None));
        assert!(parse(&headers(&[(IDEMPOTENCY_KEY, "")])).is_err());
        assert!(parse(&headers(&[(IDEMPOTENCY_KEY, "any thing: \"{}\"")])).unwrap().is_some());
        let mut twice = headers(&[(IDEMPOTENCY_KEY, "a")]);
        twice.append(IDEMPOTENCY_KEY, HeaderValue::from_static("a"));
        assert!(parse(&twice).is_err());
        let mut long = headers(&[]);
        long.insert(IDEMPOTENCY_KEY, HeaderValue::try_from("x".repeat(1_025)).unwrap());
        assert!(parse(&long).is_err());
    }
}
