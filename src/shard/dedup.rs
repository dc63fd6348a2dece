//! Remembered answers: a repeat of a request gets the answer that was given first.
//!
//! Bounded in age, count and bytes; where a bound is reached, the oldest answers go first, and a
//! repeat that comes so late is a new request. The newest answer is always kept, so the bytes may
//! exceed their bound by one answer.
//!
//! An answer is remembered row by row: after a split a request comes again in two parts, each with
//! some of the rows that the shard was first asked to change together.
//!
//! Invariant: sequence numbers are given out in entry order, entry times do not go back, and only
//! the oldest are removed; so the numbers in use have no gap, and age follows them.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    Shard, keys,
    meta::Meta,
    view::{Fatal, State, View},
};
use crate::command::{At, Command, Reply, Retry, Written};

/// How long an answer is remembered, milliseconds of entry time (docs/API.md: ten minutes).
pub(super) const ANSWER_AGE_MS: u64 = 10 * 60 * 1000;
/// The most answers that a shard remembers.
pub(super) const MAX_ANSWERS: u64 = 100_000;
/// The most bytes of answers that a shard remembers.
pub(super) const MAX_ANSWERS_BYTES: u64 = 64 << 20;
/// The most answers forgotten for their age by one command: bounds what a command costs, and is
/// more than the one answer that it may add.
pub(super) const FORGET_MAX: usize = 16;

#[derive(Serialize, Deserialize)]
pub(super) struct Remembered {
    sequence: u64,
    fingerprint: u128,
    /// Each row of the request, by the hash of its name, and what became of it.
    rows: Vec<(u64, Written)>,
}

/// What is known of a request that was seen before.
pub(super) enum Known {
    /// Its answer.
    All(Reply),
    /// What became of some of its writes.
    Some(Vec<Option<Written>>),
}

/// What was remembered under a request's retry key.
pub(super) enum First {
    Answer(Remembered),
    /// It was another request's.
    Mismatch,
}

impl First {
    /// What it says about a command.
    pub(super) fn of<B>(&self, command: &Command<impl AsRef<str>, B>) -> Known {
        let First::Answer(remembered) = self else { return Known::All(Reply::RetryMismatch) };
        let hashes = || command.writes.iter().map(|write| hash(write.row.as_ref()));
        if hashes().eq(remembered.rows.iter().map(|(row, _)| *row)) {
            return Known::All(Reply::Done(
                remembered.rows.iter().map(|(_, written)| written.clone()).collect(),
            ));
        }
        // Only looked up, so that its order does not matter.
        let rows: HashMap<u64, &Written> =
            remembered.rows.iter().map(|(row, written)| (*row, written)).collect();
        let answers: Vec<Option<Written>> = hashes().map(|row| rows.get(&row).copied().cloned()).collect();
        match answers.iter().cloned().collect() {
            Some(written) => Known::All(Reply::Done(written)),
            None => Known::Some(answers),
        }
    }
}

/// Tells the rows of one request apart.
fn hash(row: &str) -> u64 {
    xxh3_64(row.as_bytes())
}

#[derive(Serialize, Deserialize)]
struct Place {
    retry_key: u128,
    at: At,
    bytes: u64,
}

/// What was remembered of this request.
pub(super) fn find(
    state: &(impl View + ?Sized),
    shard: Shard,
    retry: &Retry,
    now: At,
) -> Result<Option<First>, Fatal> {
    let Some(bytes) = state.get(&keys::answer(shard.group, retry.key))? else { return Ok(None) };
    let remembered: Remembered = decode(&bytes)?;
    let order = keys::answer_order(shard.group, remembered.sequence);
    let Some(place) = state.get(&order)? else { return Ok(None) };
    let place: Place = decode(&place)?;
    Ok(if is_old(place.at, now) {
        None
    } else if remembered.fingerprint != retry.fingerprint {
        Some(First::Mismatch)
    } else {
        Some(First::Answer(remembered))
    })
}

/// Remembers what became of a request's rows, beside those that `first` has, and forgets older
/// answers where a bound asks for it.
pub(super) fn remember<'r>(
    state: &mut (impl State + ?Sized),
    shard: Shard,
    meta: &mut Meta,
    retry: &Retry,
    first: Option<First>,
    written: impl Iterator<Item = (&'r str, &'r Written)>,
    now: At,
) -> Result<(), Fatal> {
    let sequence = meta.next_answer;
    let mut rows: Vec<(u64, Written)> = written.map(|(row, written)| (hash(row), written.clone())).collect();
    if let Some(First::Answer(first)) = first {
        let new: std::collections::BTreeSet<u64> = rows.iter().map(|(row, _)| *row).collect();
        rows.extend(first.rows.into_iter().filter(|(row, _)| !new.contains(row)));
    }
    let remembered = Remembered { sequence, fingerprint: retry.fingerprint, rows };
    let value = encode(&remembered)?;
    let place = Place { retry_key: retry.key, at: now, bytes: value.len() as u64 };
    meta.next_answer += 1;
    meta.answers_bytes += place.bytes;
    meta.next_forget = meta.next_forget.min(At(now.0.saturating_add(ANSWER_AGE_MS)));
    state.put(keys::answer_order(shard.group, sequence), encode(&place)?.into());
    state.put(keys::answer(shard.group, retry.key), value.into());
    while meta.next_answer - meta.first_answer > MAX_ANSWERS
        || (meta.answers_bytes > MAX_ANSWERS_BYTES && meta.first_answer < sequence)
    {
        forget_oldest(state, shard, meta)?;
    }
    Ok(())
}

/// Forgets what is too old, a bounded number at a time.
pub(super) fn forget_old(
    state: &mut (impl State + ?Sized),
    shard: Shard,
    meta: &mut Meta,
    now: At,
) -> Result<(), Fatal> {
    if now < meta.next_forget {
        return Ok(());
    }
    for _ in 0..FORGET_MAX {
        let Some(oldest) = oldest(state, shard, meta)? else {
            meta.next_forget = At(u64::MAX);
            return Ok(());
        };
        if !is_old(oldest.at, now) {
            meta.next_forget = At(oldest.at.0.saturating_add(ANSWER_AGE_MS));
            return Ok(());
        }
        forget_oldest(state, shard, meta)?;
    }
    Ok(())
}

fn oldest(state: &(impl View + ?Sized), shard: Shard, meta: &Meta) -> Result<Option<Place>, Fatal> {
    if meta.first_answer == meta.next_answer {
        return Ok(None);
    }
    match state.get(&keys::answer_order(shard.group, meta.first_answer))? {
        Some(bytes) => decode(&bytes).map(Some),
        None => Err(Fatal(format!("the remembered answer {} is missing", meta.first_answer))),
    }
}

fn forget_oldest(state: &mut (impl State + ?Sized), shard: Shard, meta: &mut Meta) -> Result<(), Fatal> {
    let Some(place) = oldest(state, shard, meta)? else { return Ok(()) };
    let key = keys::answer(shard.group, place.retry_key);
    // The same retry key may have come again after its answer was too old.
    if let Some(bytes) = state.get(&key)?
        && decode::<Remembered>(&bytes)?.sequence == meta.first_answer
    {
        state.delete(key);
    }
    state.delete(keys::answer_order(shard.group, meta.first_answer));
    meta.first_answer += 1;
    meta.answers_bytes = meta.answers_bytes.saturating_sub(place.bytes);
    Ok(())
}

fn is_old(at: At, now: At) -> bool {
    at.0.saturating_add(ANSWER_AGE_MS) <= now.0
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, Fatal> {
    postcard::to_extend(value, vec![FORMAT]).map_err(|e| Fatal(format!("encode a remembered answer: {e}")))
}

fn decode<'b, T: Deserialize<'b>>(bytes: &'b [u8]) -> Result<T, Fatal> {
    match bytes.split_first() {
        Some((&FORMAT, rest)) => postcard::from_bytes(rest)
            .map_err(|e| Fatal(format!("the store holds an answer that cannot be read: {e}"))),
        _ => Err(Fatal(format!(
            "the store holds an answer that is not of format {FORMAT}: it was written by a newer version"
        ))),
    }
}

const FORMAT: u8 = 1;
