//! Clocks that are far off. No safety rests on a clock, but lifetimes do: the leader of a shard dates
//! its writes, and one whose clock is hours ahead ends every lifetime at once.
//!
//! Whose clock is right nobody knows; most of them are, if any are. So a clock is held against the
//! middle one of all that are known, and a coordinator whose own is off misjudges nobody.

/// By how much a clock may differ from the others': what is kept right by NTP differs by far less, and
/// lifetimes that end by so much too early or too late have been seen before. Milliseconds.
pub const MAX_OFF_MS: u64 = 60_000;

/// The middle one of all known clocks. Offsets are milliseconds from the judge's own clock, which
/// counts as one of them.
pub fn middle(offsets_ms: impl Iterator<Item = i64>) -> i64 {
    let mut known: Vec<i64> = offsets_ms.chain([0]).collect();
    known.sort_unstable();
    let (low, high) = (known[(known.len() - 1) / 2], known[known.len() / 2]);
    // Of two in the middle, the one nearer to the judge's own.
    if low.unsigned_abs() <= high.unsigned_abs() { low } else { high }
}

/// By how much a clock is off from the middle one, if that is too much: positive ahead, negative
/// behind.
pub fn off(offset_ms: i64, middle_ms: i64) -> Option<i64> {
    let off = offset_ms.saturating_sub(middle_ms);
    (off.unsigned_abs() > MAX_OFF_MS).then_some(off)
}

/// What the owner of such a clock is told.
pub fn sentence(off_ms: i64) -> String {
    let seconds = off_ms.unsigned_abs() / 1_000;
    let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
    let way = if off_ms > 0 { "ahead of" } else { "behind" };
    format!(
        "the clock of this worker is {hours} h {minutes} min {} s {way} most others in the cluster; set it right, \
         as lifetimes of values follow it",
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    fn judged(offset: i64, others: &[i64]) -> Option<i64> {
        off(offset, middle(others.iter().copied().chain([offset])))
    }

    #[test]
    fn most_clocks_are_right() {
        assert_eq!(judged(3 * HOUR, &[]), Some(3 * HOUR), "with nobody else the judge's own is right");
        assert_eq!(judged(-HOUR, &[5, -20]), Some(-HOUR));
        assert_eq!(judged(HOUR, &[5, HOUR + 7]), Some(HOUR - 5));
        assert_eq!(judged(59_999, &[0, 0]), None);
        // The judge's own clock is off: those that agree with each other are not.
        let all = [HOUR, HOUR + 3, HOUR - 8];
        for offset in all {
            assert_eq!(judged(offset, &all), None);
        }
        assert_eq!(off(0, middle(all.into_iter())), Some(8 - HOUR));
        assert_eq!(judged(i64::MAX, &[-1, -1]), Some(i64::MAX), "no overflow");
        assert_eq!(judged(i64::MIN, &[i64::MAX, i64::MAX]), Some(i64::MIN));
    }

    #[test]
    fn it_is_told_as_a_person_says_it() {
        assert!(sentence(3 * HOUR + 61_000).contains("is 3 h 1 min 1 s ahead of most"));
        assert!(sentence(-90_500).contains("is 0 h 1 min 30 s behind most"));
    }
}
