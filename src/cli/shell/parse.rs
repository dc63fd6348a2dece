//! One line of the shell, in either of its forms: `PUT key value`, `put:key:value`.

use crate::{
    cli::coordinators::Order,
    config::Address,
    ids::{GroupId, Position, WorkerId},
};

/// What a line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line<'a> {
    Empty,
    /// One name, or three.
    Get(Vec<&'a str>),
    Put {
        key: &'a str,
        value: &'a str,
        must_exist: bool,
    },
    /// One name, or three.
    Delete(Vec<&'a str>),
    List(Option<&'a str>),
    Join(Address),
    Leave(Option<WorkerId>),
    Coordinators(Order),
    Split(GroupId, Option<Position>),
    Status,
    Help,
    Exit,
}

/// Understands a line; the error says what would be right.
pub(super) fn parse(line: &str) -> Result<Line<'_>, String> {
    let line = line.trim_start();
    let end = line.find(|c: char| c.is_whitespace() || c == ':').unwrap_or(line.len());
    let (word, rest) = line.split_at(end);
    let command = word.to_ascii_uppercase();
    match rest.strip_prefix(':') {
        Some(rest) => colons(&command, rest),
        None => words(&command, rest.trim_start(), word),
    }
}

/// The form with colons: a key ends at the first colon, the value with the line.
fn colons<'a>(command: &str, rest: &'a str) -> Result<Line<'a>, String> {
    match command {
        "GET" => Ok(Line::Get(vec![rest])),
        "DELETE" => Ok(Line::Delete(vec![rest])),
        "PUT" | "SET" | "UPDATE" => match rest.split_once(':') {
            Some((key, value)) => Ok(Line::Put { key, value, must_exist: command == "UPDATE" }),
            None => Err(format!("write {}:KEY:VALUE", command.to_lowercase())),
        },
        _ => Err("with colons there are get:KEY, put:KEY:VALUE, update:KEY:VALUE and delete:KEY".to_owned()),
    }
}

fn words<'a>(command: &str, rest: &'a str, typed: &str) -> Result<Line<'a>, String> {
    let arguments: Vec<_> = rest.split_whitespace().collect();
    match (command, &arguments[..]) {
        ("", _) => Ok(Line::Empty),
        ("GET", [_] | [_, _, _]) => Ok(Line::Get(arguments)),
        ("GET", _) => Err("write GET KEY, or GET TABLE ROW COLUMN".to_owned()),
        ("DELETE", [_] | [_, _, _]) => Ok(Line::Delete(arguments)),
        ("DELETE", _) => Err("write DELETE KEY, or DELETE TABLE ROW COLUMN".to_owned()),
        ("PUT" | "SET" | "UPDATE", _) => match rest.split_once(char::is_whitespace) {
            Some((key, value)) => {
                Ok(Line::Put { key, value: value.trim_start(), must_exist: command == "UPDATE" })
            }
            None => Err(format!("write {command} KEY VALUE")),
        },
        ("LIST", []) => Ok(Line::List(None)),
        ("LIST", [table]) => Ok(Line::List(Some(table))),
        ("LIST", _) => Err("write LIST, or LIST TABLE".to_owned()),
        ("JOIN", [addr]) => addr.parse().map(Line::Join).map_err(|error| format!("'{addr}': {error}")),
        ("JOIN", _) => Err("write JOIN HOST:PORT".to_owned()),
        ("LEAVE", []) => Ok(Line::Leave(None)),
        ("LEAVE", [id]) => {
            id.parse().map(|id| Line::Leave(Some(id))).map_err(|error| format!("'{id}': {error}"))
        }
        ("LEAVE", _) => Err("write LEAVE, or LEAVE ID".to_owned()),
        ("COORDINATORS", []) => Ok(Line::Coordinators(Order::List)),
        ("COORDINATORS", [verb, which]) => coordinators(&verb.to_ascii_uppercase(), which),
        ("COORDINATORS", _) => Err(COORDINATORS.to_owned()),
        ("SPLIT", [shard]) => Ok(Line::Split(shard_id(shard)?, None)),
        ("SPLIT", [shard, at]) => {
            let at = at.parse().map_err(|error| format!("'{at}': {error}"))?;
            Ok(Line::Split(shard_id(shard)?, Some(at)))
        }
        ("SPLIT", _) => Err("write SPLIT SHARD, or SPLIT SHARD POSITION".to_owned()),
        ("STATUS", []) => Ok(Line::Status),
        ("HELP" | "?", _) => Ok(Line::Help),
        ("EXIT" | "QUIT", []) => Ok(Line::Exit),
        ("STATUS" | "EXIT" | "QUIT", _) => Err(format!("{command} takes nothing behind it")),
        _ => Err(format!("'{typed}' is no command; HELP lists them")),
    }
}

const COORDINATORS: &str = "write COORDINATORS, COORDINATORS ADD HOST:PORT, or COORDINATORS REMOVE ID";

fn coordinators<'a>(verb: &str, which: &str) -> Result<Line<'a>, String> {
    let order = match verb {
        "ADD" => Order::Add { addr: which.parse().map_err(|error| format!("'{which}': {error}"))? },
        "REMOVE" => Order::Remove { which: which.to_owned() },
        _ => return Err(COORDINATORS.to_owned()),
    };
    Ok(Line::Coordinators(order))
}

fn shard_id(text: &str) -> Result<GroupId, String> {
    text.parse().map(GroupId).map_err(|_| format!("'{text}': a shard is a number; STATUS lists them"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put<'a>(key: &'a str, value: &'a str, must_exist: bool) -> Result<Line<'a>, String> {
        Ok(Line::Put { key, value, must_exist })
    }

    #[test]
    fn every_command_is_understood() {
        for (line, expected) in [
            ("", Ok(Line::Empty)),
            ("  \t", Ok(Line::Empty)),
            ("get k", Ok(Line::Get(vec!["k"]))),
            ("  GET  t r c ", Ok(Line::Get(vec!["t", "r", "c"]))),
            ("Delete k", Ok(Line::Delete(vec!["k"]))),
            ("PUT k v", put("k", "v", false)),
            ("SET k  a b  c ", put("k", "a b  c ", false)),
            ("PUT k ", put("k", "", false)),
            ("UPDATE k a:b", put("k", "a:b", true)),
            ("PUT a:b c", put("a:b", "c", false)),
            ("LIST", Ok(Line::List(None))),
            ("list t", Ok(Line::List(Some("t")))),
            ("JOIN h:1", Ok(Line::Join("h:1".parse().unwrap()))),
            ("LEAVE", Ok(Line::Leave(None))),
            ("leave abcde", Ok(Line::Leave(Some("abcde".parse().unwrap())))),
            ("COORDINATORS", Ok(Line::Coordinators(Order::List))),
            ("coordinators add h:1", Ok(Line::Coordinators(Order::Add { addr: "h:1".parse().unwrap() }))),
            ("Coordinators remove 4", Ok(Line::Coordinators(Order::Remove { which: "4".to_owned() }))),
            ("SPLIT 3", Ok(Line::Split(GroupId(3), None))),
            ("split 3 00000000000000ff", Ok(Line::Split(GroupId(3), Some(Position(255))))),
            ("status", Ok(Line::Status)),
            ("help", Ok(Line::Help)),
            ("EXIT", Ok(Line::Exit)),
            ("quit", Ok(Line::Exit)),
        ] {
            assert_eq!(parse(line), expected, "{line}");
        }
    }

    #[test]
    fn with_colons_the_value_is_what_follows_the_key() {
        for (line, expected) in [
            ("get:k", Ok(Line::Get(vec!["k"]))),
            ("GET:a b:c", Ok(Line::Get(vec!["a b:c"]))),
            ("delete:k", Ok(Line::Delete(vec!["k"]))),
            ("put:key:a:b", put("key", "a:b", false)),
            ("set:k: v ", put("k", " v ", false)),
            ("update:k:", put("k", "", true)),
        ] {
            assert_eq!(parse(line), expected, "{line}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_by_what_is_right() {
        for (line, error) in [
            ("PUT", "write PUT KEY VALUE"),
            ("update k", "write UPDATE KEY VALUE"),
            ("put:k", "write put:KEY:VALUE"),
            ("GET", "write GET KEY, or GET TABLE ROW COLUMN"),
            ("GET t r", "write GET KEY, or GET TABLE ROW COLUMN"),
            ("DELETE a b c d", "write DELETE KEY, or DELETE TABLE ROW COLUMN"),
            ("LIST a b", "write LIST, or LIST TABLE"),
            ("JOIN", "write JOIN HOST:PORT"),
            ("JOIN 8001", "'8001': must be HOST:PORT, such as 127.0.0.1:7001"),
            ("LEAVE ä", "'ä': a worker id is 1 to 64 characters of A-Z a-z 0-9 . _ -"),
            ("COORDINATORS ADD 8001", "'8001': must be HOST:PORT, such as 127.0.0.1:7001"),
            (
                "COORDINATORS DROP 1",
                "write COORDINATORS, COORDINATORS ADD HOST:PORT, or COORDINATORS REMOVE ID",
            ),
            ("SPLIT", "write SPLIT SHARD, or SPLIT SHARD POSITION"),
            ("SPLIT x", "'x': a shard is a number; STATUS lists them"),
            ("SPLIT 3 ff", "'ff': a position of the ring is 16 hex digits, such as 8000000000000000"),
            ("EXIT now", "EXIT takes nothing behind it"),
            ("FETCH k", "'FETCH' is no command; HELP lists them"),
            ("join:h:1", "with colons there are get:KEY, put:KEY:VALUE, update:KEY:VALUE and delete:KEY"),
        ] {
            assert_eq!(parse(line), Err(error.to_owned()), "{line}");
        }
    }
}
