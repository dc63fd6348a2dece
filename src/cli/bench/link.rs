//! One lane's way to the servers, whatever they are, and what both kinds share: the names of keys,
//! the text of values, and the bound on answers.

use std::{sync::Arc, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::Xoshiro256PlusPlus};
use tokio::time::timeout;

use super::{
    etcd::{self, Etcd},
    http1::Http,
    tally::{Cause, Done, Failure, Traffic},
};
use crate::error::Outcome;

/// The longest answer that is read, in bytes.
pub(super) const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Decimal digits of a key's number: every name has the same length.
const KEY_DIGITS: usize = 12;

/// The most keys there can be.
pub(super) const MAX_KEYS: u64 = 1_000_000_000;

/// Different texts from which values are cut, in bytes.
const POOL_BYTES: usize = 1 << 20;

/// Of base64url: 6 bits in a byte, and as they stand in JSON.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Writes the name of a key.
pub(super) fn push_key(to: &mut Vec<u8>, key: u64) {
    let mut name = [b'0'; 1 + KEY_DIGITS];
    name[0] = b'k';
    let mut left = key;
    for digit in name[1..].iter_mut().rev() {
        *digit += (left % 10) as u8;
        left /= 10;
    }
    to.extend_from_slice(&name);
}

/// The name of a key.
#[cfg(test)]
pub(super) fn key_name(key: u64) -> String {
    let mut name = Vec::new();
    push_key(&mut name, key);
    String::from_utf8(name).expect("a letter and digits")
}

/// Values: random text, so that compression gains little and each write differs from the one before.
#[derive(Debug)]
pub(super) struct Values {
    pool: String,
    value_bytes: usize,
}

impl Values {
    pub(super) fn new(value_bytes: usize, seed: u64) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut letter = || char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]);
        let pool = std::iter::repeat_with(&mut letter).take(POOL_BYTES + value_bytes).collect();
        Self { pool, value_bytes }
    }

    /// How many different values there are.
    pub(super) fn count(&self) -> usize {
        POOL_BYTES
    }

    /// The value with this number, which is below the count.
    pub(super) fn get(&self, number: usize) -> &str {
        &self.pool[number..number + self.value_bytes]
    }
}

/// A way to the servers. An operation is over when its time is: what was under way is given up with
/// its connection.
pub(super) struct Link {
    way: Way,
    timeout: Duration,
}

enum Way {
    Quoring(Box<Http>),
    Etcd(Box<Etcd>),
}

impl Link {
    pub(super) fn quoring(http: Http, timeout: Duration) -> Self {
        Self { way: Way::Quoring(Box::new(http)), timeout }
    }

    /// One of those that share a connection.
    pub(super) fn etcd(shared: Arc<etcd::Shared>, timeout: Duration) -> Self {
        Self { way: Way::Etcd(Box::new(Etcd::new(shared))), timeout }
    }

    /// Connects, so that the first operation need not.
    pub(super) async fn connect(&mut self) -> Result<(), Failure> {
        let connect = async {
            match &mut self.way {
                Way::Quoring(http) => http.connect().await,
                Way::Etcd(etcd) => etcd.connect().await,
            }
        };
        timeout(self.timeout, connect).await.unwrap_or_else(|_| Err(timed_out(self.timeout, Outcome::None)))
    }

    pub(super) async fn get(&mut self, key: u64) -> Result<Done, Failure> {
        let get = async {
            match &mut self.way {
                Way::Quoring(http) => http.get(key).await,
                Way::Etcd(etcd) => etcd.get(key).await,
            }
        };
        timeout(self.timeout, get).await.unwrap_or_else(|_| Err(timed_out(self.timeout, Outcome::None)))
    }

    pub(super) async fn put(&mut self, key: u64, value: &str) -> Result<Done, Failure> {
        let put = async {
            match &mut self.way {
                Way::Quoring(http) => http.put(key, value.as_bytes()).await,
                Way::Etcd(etcd) => etcd.put(key, value.as_bytes()).await,
            }
        };
        timeout(self.timeout, put).await.unwrap_or_else(|_| Err(timed_out(self.timeout, Outcome::Unknown)))
    }

    pub(super) async fn scan(&mut self, from: u64, rows: u32) -> Result<Done, Failure> {
        let scan = async {
            match &mut self.way {
                Way::Quoring(http) => http.scan(from, rows).await,
                Way::Etcd(etcd) => etcd.scan(from, rows).await,
            }
        };
        timeout(self.timeout, scan).await.unwrap_or_else(|_| Err(timed_out(self.timeout, Outcome::None)))
    }

    /// Writes values of different keys at once.
    pub(super) async fn batch<'v>(
        &mut self,
        cells: impl Iterator<Item = (u64, &'v str)>,
    ) -> Result<Done, Failure> {
        let limit = self.timeout;
        let batch = async {
            match &mut self.way {
                Way::Quoring(http) => http.batch(cells).await,
                Way::Etcd(etcd) => etcd.batch(cells).await,
            }
        };
        timeout(limit, batch).await.unwrap_or_else(|_| Err(timed_out(limit, Outcome::Unknown)))
    }

    /// All that went over it so far.
    pub(super) fn traffic(&self) -> Traffic {
        match &self.way {
            Way::Quoring(http) => http.traffic,
            Way::Etcd(etcd) => etcd.traffic,
        }
    }
}

fn timed_out(limit: Duration, outcome: Outcome) -> Failure {
    Failure { cause: Cause::TimedOut, outcome, detail: format!("no answer within {limit:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_their_numbers() {
        assert_eq!(key_name(0), "k000000000000");
        assert_eq!(key_name(1_234_567), "k000001234567");
        assert!(MAX_KEYS < 10_u64.pow(KEY_DIGITS as u32));
    }

    #[test]
    fn values_are_long_enough_different_and_plain() {
        for value_bytes in [0, 1, 256, 2 << 20] {
            let values = Values::new(value_bytes, 1);
            for number in [0, 1, values.count() - 1] {
                let value = values.get(number);
                assert_eq!(value.len(), value_bytes);
                assert!(value.bytes().all(|byte| ALPHABET.contains(&byte)));
            }
        }
        let values = Values::new(256, 1);
        assert_ne!(values.get(0), values.get(1));
        assert_ne!(values.get(0), Values::new(256, 2).get(0));
    }
}
