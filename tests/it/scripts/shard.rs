//! The shard machine's scripts.
//!
//! ```text
//! partitioner NAME          before everything else; xxh3 if not said
//! at MS                     the time stamped on what follows, and the readers' clock
//! apply [retry=KEY/FINGERPRINT] OP ; OP | OP ; OP      `|` parts writes, `;` parts operations:
//!     put TABLE ROW COLUMN VALUE [type=TYPE] [ttl=MS] [if=CONDITION]
//!     get TABLE ROW COLUMN, delete TABLE ROW COLUMN, delete-row TABLE ROW, each [if=CONDITION]
//!     CONDITION: exists, absent, 3,7 (one of these versions), !3,7 (none of these)
//! cell TABLE ROW COLUMN, row TABLE ROW, has TABLE, tables [after=] [limit=]
//! scan TABLE [prefix=] [from=] [to=] [after=POSITION:ROW] [column=] [limit=] [max_bytes=] [values=no]
//! shard GROUP               whom what follows is asked of; 1 if not said
//! arc START END             the arc that lists and scans are asked of, in hex; the ring if not said
//! split CHILD AT            parts the shard at a position, in hex
//! trim GROUP                removes what the shard has here, as when its replica is moved away
//! state                     how many keys of each kind there are, and whether upkeep is wanted
//! ```
//!
//! In names, `\0` is a zero byte and `_` alone an empty text.

use std::{collections::BTreeMap, fmt::Write as _};

use bytes::Bytes;
use quoring::{
    command::{
        Action, Answer, At, Cell, Command, Condition, OpResult, Query, Reply, Retry, RowOp, Scan, Split,
        Value, Write, Written,
    },
    config::Partitioner,
    ids::{GroupId, Position, Span},
    shard::{
        self, machine, query,
        view::{Overlay, Writes},
    },
};

use super::Words;

struct Shard {
    keys: BTreeMap<Vec<u8>, Bytes>,
    partitioner: Partitioner,
    group: GroupId,
    asked: Span,
    at: At,
}

#[test]
fn shard() {
    let start = || Shard {
        keys: BTreeMap::new(),
        partitioner: Partitioner::Xxh3,
        group: GroupId(1),
        asked: Span::RING,
        at: At(0),
    };
    super::run("shard", start, Shard::command);
}

impl Shard {
    fn command(&mut self, line: &str) -> String {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "partitioner" => {
                self.partitioner = match rest {
                    "xxh3" => Partitioner::Xxh3,
                    "md5" => Partitioner::Md5,
                    "crc32" => Partitioner::Crc32,
                    "ordered" => Partitioner::Ordered,
                    _ => panic!("{line}"),
                };
                String::new()
            }
            "at" => {
                self.at = At(rest.parse().unwrap());
                String::new()
            }
            "shard" => {
                self.group = GroupId(rest.parse().unwrap());
                String::new()
            }
            "arc" => {
                let (start, end) = rest.split_once(' ').unwrap();
                self.asked = Span { start: position(start), end: position(end) };
                String::new()
            }
            "split" => self.split(rest),
            "trim" => self.trim(GroupId(rest.parse().unwrap())),
            "apply" => self.apply(rest),
            "state" => self.state(),
            _ => self.ask(line),
        }
    }

    fn shard(&self) -> shard::Shard {
        self.of(self.group)
    }

    fn of(&self, group: GroupId) -> shard::Shard {
        shard::Shard { group, partitioner: self.partitioner }
    }

    fn split(&mut self, line: &str) -> String {
        let (child, at) = line.split_once(' ').unwrap();
        let split = Split { child: GroupId(child.parse().unwrap()), at: position(at), arc: Span::RING };
        let mut state = Overlay::new(&self.keys);
        let done = shard::split(&mut state, self.shard(), &split, self.at).unwrap();
        let writes = state.into_writes();
        self.write_down(writes);
        let show = |group| match shard::arc(&self.keys, self.of(group)).unwrap() {
            Some(arc) => format!("{group} from {} to {}", arc.start, arc.last()),
            None => format!("{group} has never been split"),
        };
        if done {
            format!("{}, {}", show(self.group), show(split.child))
        } else {
            "nothing to split".to_owned()
        }
    }

    fn trim(&mut self, group: GroupId) -> String {
        let arc = shard::arc(&self.keys, self.of(group)).unwrap().unwrap();
        let before = self.keys.len();
        self.keys.retain(|key, _| !shard::keys::run(key, group, arc).0);
        format!("{} keys", before - self.keys.len())
    }

    fn write_down(&mut self, writes: Writes) {
        for (key, value) in writes.0 {
            match value {
                Some(value) => self.keys.insert(key, value),
                None => self.keys.remove(&key),
            };
        }
    }

    fn apply(&mut self, line: &str) -> String {
        let (retry, line) = match line.strip_prefix("retry=") {
            Some(rest) => {
                let (retry, line) = rest.split_once(' ').unwrap();
                let (key, fingerprint) = retry.split_once('/').unwrap();
                let retry = Retry { key: key.parse().unwrap(), fingerprint: fingerprint.parse().unwrap() };
                (Some(retry), line)
            }
            None => (None, line),
        };
        let writes = match line {
            "nothing" => Vec::new(),
            _ => line.split(" | ").map(write).collect(),
        };
        let command = Command { writes, retry };
        let (reply, writes) = machine::apply(&self.keys, self.shard(), &command, self.at).unwrap();
        self.write_down(writes);
        show_reply(&reply)
    }

    fn ask(&self, line: &str) -> String {
        let mut words = Words::new(line);
        let query = match words.next() {
            "cell" => {
                Query::Cell { table: name(words.next()), row: name(words.next()), column: name(words.next()) }
            }
            "row" => Query::Row { table: name(words.next()), row: name(words.next()) },
            "has" => Query::HasTable { table: name(words.next()) },
            "tables" => Query::Tables {
                after: words.named("after").map(name),
                limit: words.named_number("limit").unwrap_or(100) as u32,
            },
            "scan" => Query::Scan(Scan {
                table: name(words.next()),
                prefix: words.named("prefix").map(name).unwrap_or_default(),
                from: words.named("from").map(name),
                to: words.named("to").map(name),
                after: words.named("after").map(|after| {
                    let (position, row) = after.split_once(':').unwrap();
                    (u64::from_str_radix(position, 16).unwrap(), name(row))
                }),
                column: words.named("column").map(name),
                values: words.named("values") != Some("no"),
                limit: words.named_number("limit").unwrap_or(100) as u32,
                max_bytes: words.named_number("max_bytes").unwrap_or(1 << 20) as u32,
            }),
            _ => panic!("no such command: {line}"),
        };
        match query::answer(&self.keys, self.shard(), self.asked, &query, self.at).unwrap() {
            Some(answer) => show_answer(&answer),
            None => "not here".to_owned(),
        }
    }

    fn state(&self) -> String {
        let count = |kind: u8| self.keys.keys().filter(|key| key[0] == kind).count();
        format!(
            "cells {}, expiring {}, answers {}, wants upkeep: {}",
            count(2),
            count(3),
            count(4),
            machine::wants_upkeep(&self.keys, self.shard(), self.at).unwrap()
        )
    }
}

fn position(hex: &str) -> Position {
    Position(u64::from_str_radix(hex, 16).unwrap())
}

fn name(word: &str) -> String {
    if word == "_" { String::new() } else { word.replace("\\0", "\0") }
}

fn write(text: &str) -> Write {
    let mut of_row = None;
    let ops = text
        .split(" ; ")
        .map(|op| {
            let mut words = Words::new(op);
            let verb = words.next();
            let table = name(words.next());
            let row = name(words.next());
            assert_eq!(*of_row.get_or_insert(row.clone()), row, "a write is of one row: {text}");
            let action = match verb {
                "put" => Action::Put {
                    column: name(words.next()),
                    value: Value {
                        bytes: name(words.next()).into(),
                        content_type: words.named("type").map(str::to_owned),
                        ttl_ms: words.named_number("ttl"),
                    },
                },
                "get" => Action::Get { column: name(words.next()) },
                "delete" => Action::Delete { column: name(words.next()) },
                "delete-row" => Action::DeleteRow,
                _ => panic!("no such operation: {op}"),
            };
            let versions = |list: &str| list.split(',').map(|version| version.parse().unwrap()).collect();
            let condition = match words.named("if") {
                None => Condition::Always,
                Some("exists") => Condition::Exists,
                Some("absent") => Condition::Absent,
                Some(list) => match list.strip_prefix('!') {
                    Some(list) => Condition::VersionNotIn(versions(list)),
                    None => Condition::VersionIn(versions(list)),
                },
            };
            RowOp { table, action, condition }
        })
        .collect();
    Write { row: of_row.unwrap(), ops }
}

fn show_reply(reply: &Reply) -> String {
    let written = match reply {
        Reply::Done(written) => written,
        Reply::RetryMismatch => return "the retry key was used with another request".to_owned(),
        Reply::NotHere => return "not here".to_owned(),
        Reply::Split(_) => panic!("no command's reply"),
    };
    let mut shown = String::new();
    for written in written {
        match written {
            Written::Applied { version, results } => {
                let results: Vec<String> = results.iter().map(show_result).collect();
                writeln!(shown, "version {version}: {}", results.join(", ")).unwrap();
            }
            Written::Failed { op, current } => {
                let current = current.map_or("nothing".to_owned(), |version| format!("version {version}"));
                writeln!(shown, "operation {op} failed, there is {current}").unwrap();
            }
            Written::TooLarge => writeln!(shown, "too large").unwrap(),
        }
    }
    if shown.is_empty() { "nothing asked".to_owned() } else { shown }
}

fn show_result(result: &OpResult) -> String {
    match result {
        OpResult::Put => "put".to_owned(),
        OpResult::Deleted(cells) => format!("deleted {cells}"),
        OpResult::Got(None) => "got nothing".to_owned(),
        OpResult::Got(Some(cell)) => format!("got {}", show_cell(cell)),
    }
}

fn show_cell(cell: &Cell) -> String {
    let mut shown = format!("{:?} version {} of {}", cell.bytes, cell.version, cell.written_at.0);
    if let Some(expires_at) = cell.expires_at {
        write!(shown, " until {}", expires_at.0).unwrap();
    }
    if let Some(content_type) = &cell.content_type {
        write!(shown, " {content_type}").unwrap();
    }
    shown.split_off(1)
}

fn show_columns(columns: &[(String, Cell)]) -> String {
    let columns: Vec<String> =
        columns.iter().map(|(column, cell)| format!("{column:?}: {}", show_cell(cell))).collect();
    columns.join(", ")
}

fn show_answer(answer: &Answer) -> String {
    match answer {
        Answer::Cell(cell) => show_cell(cell),
        Answer::Row(columns) => show_columns(columns),
        Answer::Missing(missing) => format!("the {missing:?} is missing").to_lowercase(),
        Answer::TooLarge => "too large".to_owned(),
        Answer::HasTable(has) => if *has { "yes" } else { "no" }.to_owned(),
        Answer::Tables(tables) => format!("{tables:?}"),
        Answer::Rows { rows, next } => {
            let mut shown = String::new();
            for row in rows {
                writeln!(shown, "{:016x} {:?} {}", row.position, row.row, show_columns(&row.columns))
                    .unwrap();
            }
            match next {
                Some((position, row)) => {
                    writeln!(shown, "more behind {position:016x}:{}", row.escape_debug()).unwrap()
                }
                None => writeln!(shown, "no more").unwrap(),
            }
            shown
        }
    }
}
