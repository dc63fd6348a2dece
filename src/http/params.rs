//! The query of a URL: `name=value` pairs, percent-encoded, where `+` is a space (as every client
//! library writes it). Names that are not asked for are ignored.

use std::borrow::Cow;

use super::{
    error::Problem,
    limits::{DEFAULT_PAGE_ROWS, MAX_PAGE_ROWS, MAX_TTL_MS},
    names::{check_name, percent_decode},
};
use crate::{router::Consistency, units};

/// The parameters of a request.
pub(crate) struct Params<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Params<'a> {
    /// Splits and decodes a query, the part of a URL behind the `?`.
    pub(crate) fn parse(query: Option<&'a str>) -> Result<Self, Problem> {
        let mut pairs = Vec::new();
        for pair in query.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            pairs.push((decode(name)?, decode(value)?));
        }
        Ok(Self(pairs))
    }

    /// The one value of a parameter.
    pub(crate) fn get(&self, name: &str) -> Result<Option<&str>, Problem> {
        let mut values = self.0.iter().filter(|(given, _)| given == name).map(|(_, value)| value.as_ref());
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(Problem::invalid(format!("the parameter '{name}' is given twice"))),
            (value, None) => Ok(value),
        }
    }

    /// The value of a parameter that must be there.
    pub(crate) fn required(&self, name: &str) -> Result<&str, Problem> {
        self.get(name)?.ok_or_else(|| Problem::invalid(format!("the parameter '{name}' is missing")))
    }

    /// `ttl`: milliseconds to live.
    pub(crate) fn ttl_ms(&self) -> Result<Option<u64>, Problem> {
        self.get("ttl")?.map(parse_ttl_ms).transpose()
    }

    /// `consistency`.
    pub(crate) fn consistency(&self) -> Result<Consistency, Problem> {
        match self.get("consistency")? {
            None | Some("linearizable") => Ok(Consistency::Linearizable),
            Some("stale") => Ok(Consistency::Stale),
            Some(_) => Err(Problem::invalid("'consistency' is 'linearizable' (the default) or 'stale'")),
        }
    }

    /// `limit`: rows in a page, `None` where it is not given.
    pub(crate) fn limit(&self) -> Result<Option<u32>, Problem> {
        let Some(text) = self.get("limit")? else { return Ok(None) };
        match text.parse::<u32>() {
            Ok(limit) if (1..=MAX_PAGE_ROWS).contains(&limit) && text.bytes().all(|b| b.is_ascii_digit()) => {
                Ok(Some(limit))
            }
            _ => Err(Problem::invalid(format!(
                "'limit' is 1 to {MAX_PAGE_ROWS}; without it, it is {DEFAULT_PAGE_ROWS}"
            ))),
        }
    }

    /// A parameter that is a bound of names: a name, or empty, which is as if not given.
    pub(crate) fn bound(&self, name: &str) -> Result<Option<&str>, Problem> {
        let bound = self.get(name)?.filter(|value| !value.is_empty());
        if let Some(value) = bound {
            check_name(value)?;
        }
        Ok(bound)
    }
}

/// A time to live, in milliseconds.
pub(crate) fn parse_ttl_ms(text: &str) -> Result<u64, Problem> {
    match units::parse_duration_ms(text) {
        Ok(0) => {
            Err(Problem::invalid("a 'ttl' of nothing would expire at once; to remove a value, use DELETE"))
        }
        Ok(ms) if ms > MAX_TTL_MS => {
            Err(Problem::invalid("a 'ttl' is at most 100 years; leave it out to keep the value for ever"))
        }
        Ok(ms) => Ok(ms),
        Err(error) => Err(Problem::invalid(format!("'ttl': {error}"))),
    }
}

fn decode(text: &str) -> Result<Cow<'_, str>, Problem> {
    let invalid = || Problem::invalid("the query is not percent-encoded UTF-8; encode a '%' as %25");
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        Ok(Cow::Owned(percent_decode(&spaced).ok_or_else(invalid)?.into_owned()))
    } else {
        percent_decode(text).ok_or_else(invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_decoded_and_others_ignored() {
        let params = Params::parse(Some("a=1%262&&b=x+y%2Bz&c&d=&e=f=g&%61b=z")).unwrap();
        for (name, value) in [("a", "1&2"), ("b", "x y+z"), ("c", ""), ("d", ""), ("e", "f=g"), ("ab", "z")] {
            assert_eq!(params.get(name).unwrap(), Some(value), "{name}");
        }
        assert_eq!(params.get("A").unwrap(), None);
        assert!(params.required("nothing").is_err());
        assert_eq!(Params::parse(None).unwrap().get("a").unwrap(), None);
    }

    #[test]
    fn a_parameter_given_twice_or_badly_encoded_is_refused() {
        assert!(Params::parse(Some("a=1&a=1")).unwrap().get("a").is_err());
        for query in ["a=%", "%zz=1", "a=%ff"] {
            assert!(Params::parse(Some(query)).is_err(), "{query}");
        }
    }

    #[test]
    fn limits_are_numbers_in_bounds() {
        let limit = |text: &str| Params::parse(Some(text)).unwrap().limit();
        assert_eq!(limit("").unwrap(), None);
        assert_eq!(limit("limit=1").unwrap(), Some(1));
        assert_eq!(limit("limit=10000").unwrap(), Some(10_000));
        for bad in ["limit=", "limit=0", "limit=10001", "limit=-1", "limit=%2B5", "limit=1e3", "limit=x"] {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_ttl_is_a_duration_of_some_length() {
        let ttl = |text: &str| Params::parse(Some(text)).unwrap().ttl_ms();
        assert_eq!(ttl("").unwrap(), None);
        assert_eq!(ttl("ttl=500ms").unwrap(), Some(500));
        assert_eq!(ttl("ttl=2h").unwrap(), Some(7_200_000));
        for bad in
            ["ttl=", "ttl=30", "ttl=0s", "ttl=-1s", "ttl=1d", "ttl=999999999h", "ttl=99999999999999999999s"]
        {
            assert!(ttl(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn consistency_is_one_of_two_words() {
        let consistency = |text: &str| Params::parse(Some(text)).unwrap().consistency();
        assert_eq!(consistency("").unwrap(), Consistency::Linearizable);
        assert_eq!(consistency("consistency=stale").unwrap(), Consistency::Stale);
        assert!(consistency("consistency=Stale").is_err());
        assert!(consistency("consistency=").is_err());
    }
}
