//! The command of workers that join.

use quoring::{
    coordinator::command::Command,
    ids::{NodeId, Opening, StoreId},
};
use uuid::Uuid;

use super::{super::Words, Coordinators};

impl Coordinators {
    pub(super) fn join(&mut self, words: &mut Words<'_>) -> String {
        let id = words.next();
        let command = Command::Join {
            id: id.parse().unwrap(),
            store: StoreId(Uuid::from_u128(words.named_number("store").unwrap_or(1).into())),
            addr: words.named("addr").map_or_else(|| format!("{id}:8000"), str::to_owned),
            zone: words.named("zone").map(str::to_owned),
            node: words.named_number("node").map(NodeId),
            replace: words.named("replace") == Some("yes"),
            opening: Opening {
                id: words.named_number("opening").unwrap_or(1),
                height: words.named_number("height").unwrap_or(1),
            },
        };
        self.apply(&command)
    }
}
