//! What the client does when servers fail: whom it asks next, and what it says became of a write.

use std::sync::{Arc, Mutex};

use axum::{Router, response::IntoResponse as _};
use tokio::net::TcpListener;

use super::*;
use crate::command::Condition;

type Seen = Arc<Mutex<Vec<String>>>;

/// A server that notes each request and gives the same answer to all.
async fn server(
    status: u16,
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
) -> (Server, Seen) {
    let seen = Seen::default();
    let notes = Arc::clone(&seen);
    let handler = move |request: axum::extract::Request| {
        let mut line = format!("{} {}", request.method(), request.uri());
        for name in ["if-match", "if-none-match", "content-type", IDEMPOTENCY_KEY] {
            if let Some(value) = text(request.headers().get(name)) {
                line.push_str(&format!(" {name}={value}"));
            }
        }
        notes.lock().unwrap().push(line);
        async move {
            let mut answer = body.into_response();
            *answer.status_mut() = StatusCode::from_u16(status).unwrap();
            for (name, value) in headers {
                answer.headers_mut().insert(*name, HeaderValue::from_static(value));
            }
            answer
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await });
    (address.to_string().parse().unwrap(), seen)
}

/// A server that hangs up as soon as a request comes.
async fn hanging_up() -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.readable().await.unwrap();
        }
    });
    address.to_string().parse().unwrap()
}

/// An address that nobody listens on.
async fn nobody() -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string().parse().unwrap()
}

fn client(servers: &[&Server]) -> Client {
    Client::new(servers.iter().map(|server| (*server).clone()).collect(), &Options::default())
}

fn seen(notes: &Seen) -> Vec<String> {
    notes.lock().unwrap().clone()
}

const OK: &[(&str, &str)] = &[("etag", "\"17\""), ("content-type", "text/plain")];
const KEY: Key<'static> = Key::Flat("k");

#[tokio::test]
async fn calls_become_requests_and_answers_values() {
    let (server, notes) = server(200, OK, "hello").await;
    let client = client(&[&server]);
    let got = client.get(KEY).await.unwrap();
    assert_eq!(
        (&got.bytes[..], got.version, got.content_type.as_deref()),
        (&b"hello"[..], 17, Some("text/plain"))
    );
    client.get_stale(KEY).await.unwrap();
    assert_eq!(client.put(KEY, Bytes::from_static(b"v")).await.unwrap(), 17);
    client.update(KEY, Bytes::new()).await.unwrap();
    let options = PutOptions {
        content_type: Some("a/b".into()),
        ttl_ms: Some(1_500),
        condition: Some(Condition::VersionIn(vec![3, 7])),
        idempotency_key: Some("once".into()),
    };
    client.put_with(KEY, Bytes::new(), &options).await.unwrap();
    client.delete(Key::Cell { table: "t", row: "r", column: "c" }).await.unwrap();
    client.drain(&"w1".parse().unwrap(), false).await.unwrap();
    client.join("h:1").await.unwrap();
    let (splitter, split_notes) =
        self::server(202, &[], "{\"id\": 3, \"into\": 17, \"at\": \"00000000000000ff\"}").await;
    let splitter = self::client(&[&splitter]);
    let split = splitter.split(crate::ids::GroupId(3), Some(crate::ids::Position(255))).await.unwrap();
    assert_eq!((split.into, split.at), (crate::ids::GroupId(17), crate::ids::Position(255)));
    splitter.split(crate::ids::GroupId(3), None).await.unwrap();
    let expected = ["POST /cluster/shards/3/split?at=00000000000000ff", "POST /cluster/shards/3/split"];
    assert_eq!(seen(&split_notes), expected);
    let expected = [
        "GET /kv/k",
        "GET /kv/k?consistency=stale",
        "PUT /kv/k",
        "PUT /kv/k if-match=*",
        "PUT /kv/k?ttl=1500ms if-match=\"3\", \"7\" content-type=a/b idempotency-key=once",
        "DELETE /data/t/r/c",
        "DELETE /cluster/workers/w1/drain",
        "POST /cluster/join?addr=h%3A1",
    ];
    assert_eq!(seen(&notes), expected);
}

#[tokio::test]
async fn a_write_goes_on_to_the_next_server_where_it_was_not_applied() {
    let (unavailable, notes) = server(503, &[("retry-after", "1")], "{\"detail\": \"no majority\"}").await;
    let (good, _) = server(200, OK, "").await;
    let client = client(&[&nobody().await, &unavailable, &good]);
    assert_eq!(client.put(KEY, Bytes::new()).await.unwrap(), 17);
    assert_eq!(seen(&notes).len(), 1);
    // It stays with the server that answered.
    assert_eq!(client.server(), &good);
    client.put(KEY, Bytes::new()).await.unwrap();
    assert_eq!(seen(&notes).len(), 1);
}

#[tokio::test]
async fn a_write_that_may_have_been_applied_is_not_sent_again() {
    let (timeout, _) = server(504, &[], "{\"detail\": \"no answer\", \"outcome\": \"unknown\"}").await;
    let (good, notes) = server(200, OK, "").await;
    for first in [&hanging_up().await, &timeout] {
        let error = client(&[first, &good]).put(KEY, Bytes::new()).await.unwrap_err();
        assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
        assert!(seen(&notes).is_empty(), "{error}");
    }
    // Unless the caller made it repeatable; and reads always are.
    let options = PutOptions { idempotency_key: Some("x".into()), ..PutOptions::default() };
    for first in [&hanging_up().await, &timeout] {
        client(&[first, &good]).put_with(KEY, Bytes::new(), &options).await.unwrap();
        client(&[first, &good]).get(KEY).await.unwrap();
    }
    assert_eq!(seen(&notes).len(), 4);
}

#[tokio::test]
async fn what_one_try_left_unknown_stays_unknown() {
    let (unavailable, _) = server(503, &[], "").await;
    let options = PutOptions { idempotency_key: Some("x".into()), ..PutOptions::default() };
    let client = client(&[&hanging_up().await, &unavailable]);
    let error = client.put_with(KEY, Bytes::new(), &options).await.unwrap_err();
    assert_eq!(error.status(), Some(StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(error.outcome(), Outcome::Unknown);
}

#[tokio::test]
async fn refusals_are_told_and_nobody_else_is_asked() {
    let (good, notes) = server(200, OK, "").await;
    let (missing, _) =
        server(404, &[], "{\"detail\": \"no such row\", \"missing\": \"row\", \"outcome\": \"none\"}").await;
    let error = client(&[&missing, &good]).get(KEY).await.unwrap_err();
    assert!(error.is_not_found());
    assert_eq!(error.missing(), Some(crate::command::Missing::Row));
    assert_eq!(error.to_string(), "no such row");
    let (failed, _) = server(412, &[("etag", "\"9\"")], "{}").await;
    let error = client(&[&failed, &good]).update(KEY, Bytes::new()).await.unwrap_err();
    assert!(error.is_precondition_failed());
    assert_eq!((error.current(), error.outcome()), (Some(9), Outcome::None));
    let (busy, _) = server(429, &[("retry-after", "2")], "{}").await;
    let error = client(&[&busy, &good]).put(KEY, Bytes::new()).await.unwrap_err();
    assert_eq!((error.retry_after(), error.outcome()), (Some(Duration::from_secs(2)), Outcome::None));
    let (stranger, _) = server(500, &[], "<html>\nboom").await;
    let error = client(&[&stranger, &good]).put(KEY, Bytes::new()).await.unwrap_err();
    assert!(error.to_string().contains("<html>\\nboom (not known whether it was applied)"), "{error}");
    assert!(seen(&notes).is_empty());
}

#[tokio::test]
async fn nobody_there_is_one_line_and_nothing_happened() {
    let server = nobody().await;
    let error = client(&[&server]).put(KEY, Bytes::new()).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::None);
    assert!(error.to_string().starts_with(&format!("{server} cannot be reached: ")), "{error}");
    assert!(!error.to_string().contains('\n'));
    let options = PutOptions { content_type: Some("a\nb".into()), ..PutOptions::default() };
    let error = client(&[&server]).put_with(KEY, Bytes::new(), &options).await.unwrap_err();
    assert_eq!(error.to_string(), "content-type must be printable ASCII");
}

#[tokio::test]
async fn a_silent_server_costs_no_more_than_the_timeout() {
    // Never accepted: the kernel takes the connection and the request, and nobody answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap().to_string().parse().unwrap();
    let options = Options { timeout: Duration::from_millis(50), ..Options::default() };
    let error = Client::new(vec![server], &options).put(KEY, Bytes::new()).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert!(error.to_string().contains("did not answer within 50 ms"), "{error}");
}
