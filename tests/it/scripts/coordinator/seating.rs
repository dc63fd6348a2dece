//! The commands of the scripts that are about the coordinator group's own members.

use quoring::{
    coordinator::{
        command::Command,
        seats::{self, Seats},
    },
    ids::{NodeId, StoreId},
};
use uuid::Uuid;

use super::{Coordinators, Words, nodes};

fn store(words: &mut Words<'_>) -> StoreId {
    StoreId(Uuid::from_u128(words.named_number("store").unwrap_or(1).into()))
}

impl Coordinators {
    pub(super) fn seat(&mut self, line: &str, words: &mut Words<'_>) -> String {
        let among = match words.named("among") {
            Some(list) => nodes(list).into_iter().collect(),
            None => {
                self.state.map().map(|map| map.coordinators.keys().copied().collect()).unwrap_or_default()
            }
        };
        let command = if line.starts_with("seat") {
            let addr = words.next().to_owned();
            Command::AddCoordinator { addr, store: store(words), among }
        } else {
            Command::RemoveCoordinator { node: NodeId(words.number()), among }
        };
        self.apply(&command)
    }

    pub(super) fn group(&mut self, words: &mut Words<'_>) -> String {
        let voters = nodes(words.next());
        let list = |words: &mut Words<'_>, name| words.named(name).map(nodes);
        self.observed.seats = Seats {
            learners: list(words, "learners").unwrap_or_default().into_iter().collect(),
            unsettled: words.named("unsettled") == Some("yes"),
            alive: list(words, "alive").unwrap_or_else(|| voters.clone()).into_iter().collect(),
            voters: voters.into_iter().collect(),
        };
        String::new()
    }

    pub(super) fn changes(&self) -> String {
        let changes = self.observed.seats.changes(self.map());
        let shown: Vec<_> = changes.iter().map(|(node, change)| format!("{node} {change:?}")).collect();
        if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
    }

    pub(super) fn may_seat(&self, words: &mut Words<'_>) -> String {
        let store = store(words);
        match seats::may_add(self.map(), &self.observed.seats, words.next(), store) {
            Ok(None) => "yes".to_owned(),
            Ok(Some(old)) => format!("yes, in the place of {old}"),
            Err(sentence) => format!("no: {sentence}"),
        }
    }
}
