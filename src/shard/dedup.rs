//! Remembered answers: a repeat of a request gets the answer that was given first.
//!
//! Bounded in age, count and bytes; where a bound is reached, the oldest answers go first, and a
//! repeat that comes so late is a new request. The newest answer is always kept, so the bytes may
//! exceed their bound by one answer.
//!
//! Invariant: sequence numbers are given out in entry order, entry times do not go back, and only
//! the oldest are removed; so the numbers in use have no gap, and age follows them.

use serde::{Deserialize, Serialize};

use super::{
    keys,
    meta::Meta,
    view::{Fatal, Overlay, View},
};
use crate::command::{At, Reply, Retry};

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
struct Remembered {
    sequence: u64,
    fingerprint: u128,
    reply: Reply,
}

#[derive(Serialize, Deserialize)]
struct Place {
    retry_key: u128,
    at: At,
    bytes: u64,
}

/// The answer to give where this request was seen before.
pub(super) fn find(state: &(impl View + ?Sized), retry: &Retry, now: At) -> Result<Option<Reply>, Fatal> {
    let Some(bytes) = state.get(&keys::answer(retry.key))? else { return Ok(None) };
    let remembered: Remembered = decode(&bytes)?;
    let Some(place) = state.get(&keys::answer_order(remembered.sequence))? else { return Ok(None) };
    let place: Place = decode(&place)?;
    Ok(if is_old(place.at, now) {
        None
    } else if remembered.fingerprint != retry.fingerprint {
        Some(Reply::RetryMismatch)
    } else {
        Some(remembered.reply)
    })
}

/// Remembers an answer, and forgets older ones where a bound asks for it.
pub(super) fn remember<V: View + ?Sized>(
    state: &mut Overlay<'_, V>,
    meta: &mut Meta,
    retry: &Retry,
    reply: &Reply,
    now: At,
) -> Result<(), Fatal> {
    let sequence = meta.next_answer;
    let remembered = Remembered { sequence, fingerprint: retry.fingerprint, reply: reply.clone() };
    let value = encode(&remembered)?;
    let place = Place { retry_key: retry.key, at: now, bytes: value.len() as u64 };
    meta.next_answer += 1;
    meta.answers_bytes += place.bytes;
    meta.next_forget = meta.next_forget.min(At(now.0.saturating_add(ANSWER_AGE_MS)));
    state.put(keys::answer_order(sequence), encode(&place)?.into());
    state.put(keys::answer(retry.key), value.into());
    while meta.next_answer - meta.first_answer > MAX_ANSWERS
        || (meta.answers_bytes > MAX_ANSWERS_BYTES && meta.first_answer < sequence)
    {
        forget_oldest(state, meta)?;
    }
    Ok(())
}

/// Forgets what is too old, a bounded number at a time.
pub(super) fn forget_old<V: View + ?Sized>(
    state: &mut Overlay<'_, V>,
    meta: &mut Meta,
    now: At,
) -> Result<(), Fatal> {
    if now < meta.next_forget {
        return Ok(());
    }
    for _ in 0..FORGET_MAX {
        let Some(oldest) = oldest(state, meta)? else {
            meta.next_forget = At(u64::MAX);
            return Ok(());
        };
        if !is_old(oldest.at, now) {
            meta.next_forget = At(oldest.at.0.saturating_add(ANSWER_AGE_MS));
            return Ok(());
        }
        forget_oldest(state, meta)?;
    }
    Ok(())
}

fn oldest(state: &(impl View + ?Sized), meta: &Meta) -> Result<Option<Place>, Fatal> {
    if meta.first_answer == meta.next_answer {
        return Ok(None);
    }
    match state.get(&keys::answer_order(meta.first_answer))? {
        Some(bytes) => decode(&bytes).map(Some),
        None => Err(Fatal(format!("the remembered answer {} is missing", meta.first_answer))),
    }
}

fn forget_oldest<V: View + ?Sized>(state: &mut Overlay<'_, V>, meta: &mut Meta) -> Result<(), Fatal> {
    let Some(place) = oldest(state, meta)? else { return Ok(()) };
    let key = keys::answer(place.retry_key);
    // The same retry key may have come again after its answer was too old.
    if let Some(bytes) = state.get(&key)?
        && decode::<Remembered>(&bytes)?.sequence == meta.first_answer
    {
        state.delete(key);
    }
    state.delete(keys::answer_order(meta.first_answer));
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
