//! The checker accepts what is linearizable and rejects what is not: a checker that accepts all
//! would make every test above it worthless.

use proptest::prelude::*;

use super::checker::{Entry, Op, Outcome, Value, Verdict, check};

fn entry(called: u64, returned: u64, op: Op, outcome: Outcome) -> Entry {
    Entry { op, outcome, called, returned }
}

fn put(called: u64, returned: u64, value: Value) -> Entry {
    entry(called, returned, Op::Put(value), Outcome::Written)
}

fn get(called: u64, returned: u64, value: Option<Value>) -> Entry {
    entry(called, returned, Op::Get, Outcome::Got(value))
}

fn delete(called: u64, returned: u64, existed: bool) -> Entry {
    entry(called, returned, Op::Delete, Outcome::Deleted(existed))
}

fn swap(called: u64, returned: u64, expected: Option<Value>, new: Value, held: bool) -> Entry {
    entry(called, returned, Op::Swap { expected, new }, Outcome::Swapped(held))
}

fn unknown(called: u64, op: Op) -> Entry {
    entry(called, 0, op, Outcome::Unknown)
}

#[track_caller]
fn accepts(history: &[Entry]) {
    assert_eq!(check(history), Verdict::Linearizable, "{history:?}");
}

#[track_caller]
fn rejects(history: &[Entry]) {
    assert!(matches!(check(history), Verdict::NotLinearizable { .. }), "{history:?}");
}

#[test]
fn one_after_the_other() {
    accepts(&[]);
    accepts(&[get(1, 2, None), put(3, 4, 1), get(5, 6, Some(1)), delete(7, 8, true), get(9, 10, None)]);
    rejects(&[get(1, 2, Some(1))]);
    rejects(&[put(1, 2, 1), get(3, 4, None)]);
    rejects(&[put(1, 2, 1), delete(3, 4, false)]);
    rejects(&[delete(1, 2, true)]);
}

#[test]
fn a_lost_write_is_seen() {
    rejects(&[put(1, 2, 1), put(3, 4, 2), get(5, 6, Some(1))]);
    rejects(&[put(1, 2, 1), put(3, 4, 2), get(5, 6, None)]);
}

#[test]
fn a_stale_read_is_seen() {
    // Two readers beside one long write: once it was seen, it stays seen.
    accepts(&[put(1, 2, 1), put(3, 10, 2), get(4, 5, Some(1)), get(6, 7, Some(2))]);
    rejects(&[put(1, 2, 1), put(3, 10, 2), get(4, 5, Some(2)), get(6, 7, Some(1))]);
}

#[test]
fn what_overlaps_may_be_in_any_order() {
    for first in [1, 2] {
        accepts(&[put(1, 10, 1), put(2, 9, 2), get(11, 12, Some(first))]);
    }
    rejects(&[put(1, 10, 1), put(2, 9, 2), get(11, 12, Some(1)), get(13, 14, Some(2))]);
}

#[test]
fn a_write_comes_back_only_by_another_write() {
    // The put-back: an old value that shows again after a newer one was read.
    rejects(&[put(1, 2, 1), put(3, 4, 2), get(5, 6, Some(2)), get(7, 8, Some(1))]);
    // And a delete that did not last.
    rejects(&[put(1, 2, 1), delete(3, 4, true), get(5, 6, Some(1))]);
}

#[test]
fn an_unknown_write_may_happen_at_any_time_or_never() {
    let lost = unknown(1, Op::Put(7));
    accepts(&[lost, get(2, 3, None), get(4, 5, None)]);
    accepts(&[lost, get(2, 3, None), get(4, 5, Some(7))]);
    accepts(&[lost, put(2, 3, 1), get(4, 5, Some(1)), get(6, 7, Some(7))]);
    rejects(&[lost, get(2, 3, Some(7)), get(4, 5, None)]);
    // It happens once.
    rejects(&[lost, get(2, 3, Some(7)), put(4, 5, 1), get(6, 7, Some(1)), get(8, 9, Some(7))]);
    // And not before it was asked for.
    rejects(&[get(1, 2, Some(7)), unknown(3, Op::Put(7))]);
    accepts(&[put(1, 2, 1), unknown(3, Op::Delete), get(4, 5, Some(1)), get(6, 7, None)]);
    rejects(&[put(1, 2, 1), unknown(3, Op::Delete), get(4, 5, None), get(6, 7, Some(1))]);
}

#[test]
fn many_unknown_writes_that_nobody_saw_are_judged_as_few() {
    let mut history: Vec<Entry> = (0..40)
        .map(|number| match number % 3 {
            0 => unknown(number, Op::Delete),
            1 => unknown(number, Op::Put(1000 + number)),
            _ => unknown(number, Op::Swap { expected: Some(7), new: 1000 + number }),
        })
        .collect();
    history.extend([
        put(50, 60, 7),
        swap(61, 70, Some(7), 8, false),
        get(71, 80, Some(7)),
        delete(81, 90, false),
    ]);
    // Something was written over the 7 before the swap, so the 7 cannot be back after it.
    rejects(&history);
    history.retain(|entry| entry.outcome != Outcome::Got(Some(7)));
    accepts(&history);
}

#[test]
fn conditions_are_judged_at_one_moment() {
    accepts(&[swap(1, 2, None, 1, true), swap(3, 4, Some(1), 2, true), get(5, 6, Some(2))]);
    rejects(&[swap(1, 2, None, 1, true), swap(3, 4, None, 2, true)]);
    // Of two that expect the same, one wins.
    accepts(&[put(1, 2, 1), swap(3, 6, Some(1), 2, true), swap(4, 5, Some(1), 3, false)]);
    rejects(&[put(1, 2, 1), swap(3, 6, Some(1), 2, true), swap(4, 5, Some(1), 3, true)]);
    rejects(&[put(1, 2, 1), swap(3, 4, Some(1), 2, false)]);
    // An unknown one happens only where its condition holds.
    accepts(&[put(1, 2, 1), unknown(3, Op::Swap { expected: Some(1), new: 2 }), get(4, 5, Some(2))]);
    rejects(&[put(1, 2, 1), unknown(3, Op::Swap { expected: Some(9), new: 2 }), get(4, 5, Some(2))]);
}

#[test]
fn an_answer_to_another_question_is_rejected() {
    rejects(&[entry(1, 2, Op::Get, Outcome::Written)]);
    rejects(&[entry(1, 2, Op::Put(1), Outcome::Deleted(true))]);
}

/// A history of a real register: every operation takes effect at a moment within its span.
fn real(operations: usize) -> impl Strategy<Value = Vec<Entry>> {
    let op = (0..4u8, 1..40u64, 0..40u64, 0..40u64, any::<bool>());
    prop::collection::vec(op, 1..operations).prop_map(|ops| {
        let mut state = None;
        let mut history = Vec::new();
        for (index, (kind, value, before, after, told)) in ops.into_iter().enumerate() {
            // Distinct moments of effect, in this order, with spans that reach over their neighbours'.
            let moment = 100 + index as u64 * 10;
            let value = value * 1_000 + index as u64;
            let (op, outcome) = match kind {
                0 => (Op::Get, Outcome::Got(state)),
                1 => {
                    state = Some(value);
                    (Op::Put(value), Outcome::Written)
                }
                2 => {
                    let existed = state.take().is_some();
                    (Op::Delete, Outcome::Deleted(existed))
                }
                _ => {
                    let expected = state;
                    state = Some(value);
                    (Op::Swap { expected, new: value }, Outcome::Swapped(true))
                }
            };
            let outcome = if told || kind == 0 { outcome } else { Outcome::Unknown };
            // Even and odd moments: no call coincides with a return.
            let (called, returned) = ((moment - before) * 2, (moment + after) * 2 + 1);
            history.push(Entry { op, outcome, called, returned });
        }
        history
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    // Checking is exponential in the calls that overlap, and those here overlap at random: a longer
    // history would now and then take minutes.
    #[test]
    fn a_real_register_is_accepted(history in real(16)) {
        prop_assert_eq!(check(&history), Verdict::Linearizable);
    }

    #[test]
    fn a_value_that_was_never_written_is_rejected(history in real(16), at in 0..100_000u64) {
        let mut history = history;
        history.push(get(at * 2, at * 2 + 1, Some(u64::MAX)));
        let rejected = matches!(check(&history), Verdict::NotLinearizable { .. });
        prop_assert!(rejected);
    }
}
