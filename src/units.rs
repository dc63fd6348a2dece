//! Durations and sizes as people write them: an integer and a unit, nothing else. The one syntax
//! for `?ttl=`, cluster.toml and the command line.
//!
//! Not here: which values are sensible where; zero is a value like any other.

/// The units of a duration, and what each is in milliseconds.
const DURATION_UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

/// The units of a size, and what each is in bytes.
const SIZE_UNITS: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// Why a text is no duration or size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUnit {
    /// It is not a duration.
    #[error("'{0}' is no duration: write an integer and ms, s, m or h, such as 30s")]
    Duration(String),
    /// It is not a size.
    #[error("'{0}' is no size: write an integer and B, KiB, MiB or GiB, such as 8MiB")]
    Size(String),
    /// It is one, but larger than can be counted.
    #[error("'{0}' is too large")]
    TooLarge(String),
}

/// The longest text shown back in an error, in characters.
const MAX_SHOWN_CHARS: usize = 40;

/// Parses `500ms`, `30s`, `5m` or `2h` into milliseconds.
pub fn parse_duration_ms(text: &str) -> Result<u64, InvalidUnit> {
    parse(text, &DURATION_UNITS, InvalidUnit::Duration)
}

/// Parses `100B`, `64KiB`, `8MiB` or `1GiB` into bytes.
pub fn parse_size_bytes(text: &str) -> Result<u64, InvalidUnit> {
    parse(text, &SIZE_UNITS, InvalidUnit::Size)
}

/// Writes milliseconds in the largest unit that holds them exactly; [`parse_duration_ms`] reads it back.
pub fn format_duration_ms(ms: u64) -> String {
    format(ms, &DURATION_UNITS)
}

/// Writes bytes in the largest unit that holds them exactly; [`parse_size_bytes`] reads it back.
pub fn format_size_bytes(bytes: u64) -> String {
    format(bytes, &SIZE_UNITS)
}

fn parse(text: &str, units: &[(&str, u64)], invalid: fn(String) -> InvalidUnit) -> Result<u64, InvalidUnit> {
    let shown = || text.chars().take(MAX_SHOWN_CHARS).collect();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        return Err(invalid(shown()));
    };
    if number.is_empty() {
        return Err(invalid(shown()));
    }
    // Only digits are left, so the one way to fail is a number that does not fit.
    let number: u64 = number.parse().map_err(|_| InvalidUnit::TooLarge(shown()))?;
    number.checked_mul(*factor).ok_or_else(|| InvalidUnit::TooLarge(shown()))
}

fn format(amount: u64, units: &[(&str, u64)]) -> String {
    let (name, factor) = units
        .iter()
        .rev()
        .find(|(_, factor)| amount >= *factor && amount.is_multiple_of(*factor))
        .unwrap_or(&units[0]);
    format!("{}{name}", amount / factor)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_unit_counts() {
        for (text, ms) in
            [("0s", 0), ("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("2h", 7_200_000), ("007s", 7_000)]
        {
            assert_eq!(parse_duration_ms(text), Ok(ms), "{text}");
        }
        for (text, bytes) in
            [("0B", 0), ("100B", 100), ("64KiB", 65_536), ("8MiB", 8 << 20), ("1GiB", 1 << 30)]
        {
            assert_eq!(parse_size_bytes(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in
            ["", "30", "s", "30 s", " 30s", "30s ", "+30s", "-1s", "1.5s", "30S", "1d", "30sec", "٣s", "8MiB"]
        {
            assert_eq!(parse_duration_ms(text), Err(InvalidUnit::Duration(text.into())));
        }
        for text in ["", "8", "MiB", "8 MiB", "8MB", "8mib", "8K", "-8B", "8.5MiB", "1TiB", "30s"] {
            assert_eq!(parse_size_bytes(text), Err(InvalidUnit::Size(text.into())));
        }
    }

    #[test]
    fn what_cannot_be_counted_is_too_large() {
        for text in ["18446744073709551616ms", "5124095576031h"] {
            assert_eq!(parse_duration_ms(text), Err(InvalidUnit::TooLarge(text.into())));
        }
        assert_eq!(parse_duration_ms("18446744073709551615ms"), Ok(u64::MAX));
        assert_eq!(parse_size_bytes("17179869184GiB"), Err(InvalidUnit::TooLarge("17179869184GiB".into())));
    }

    #[test]
    fn a_long_text_is_cut_in_the_error() {
        let error = parse_duration_ms(&"é".repeat(10_000)).unwrap_err();
        assert_eq!(error, InvalidUnit::Duration("é".repeat(MAX_SHOWN_CHARS)));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(amount: u64) {
            prop_assert_eq!(parse_duration_ms(&format_duration_ms(amount)), Ok(amount));
            prop_assert_eq!(parse_size_bytes(&format_size_bytes(amount)), Ok(amount));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = parse_duration_ms(&text);
            let _ = parse_size_bytes(&text);
        }
    }
}
