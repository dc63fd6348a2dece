//! An entry is a batch (D4): the commands that waited together, and the time the leader gave them.
//!
//! Format: `version u8 | at u64 | (length u32 | command)…`, integers little-endian. The commands
//! were encoded once, by the front-end that took the request; they are joined here unread.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::command::At;

const VERSION: u8 = 1;

/// Bytes before the first command.
pub const HEADER_BYTES: usize = 1 + 8;

/// Bytes that each command takes beside its own.
pub const PER_COMMAND_BYTES: usize = 4;

/// Joins commands into one entry.
pub fn join<'a>(at: At, commands: impl Iterator<Item = &'a Bytes> + Clone) -> Bytes {
    let length = commands.clone().map(|command| PER_COMMAND_BYTES + command.len()).sum::<usize>();
    let mut out = BytesMut::with_capacity(HEADER_BYTES + length);
    out.put_u8(VERSION);
    out.put_u64_le(at.0);
    for command in commands {
        out.put_u32_le(u32::try_from(command.len()).expect("a command fits a frame, far below 4 GiB"));
        out.extend_from_slice(command);
    }
    out.freeze()
}

/// An entry's bytes are not what this version writes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed batch: {0}")]
pub struct Malformed(&'static str);

/// Takes an entry apart again, without copying.
pub fn split(entry: &Bytes) -> Result<(At, Vec<Bytes>), Malformed> {
    let mut rest = entry.clone();
    if rest.len() < HEADER_BYTES {
        return Err(Malformed("shorter than its header"));
    }
    if rest.get_u8() != VERSION {
        return Err(Malformed("written by a newer version"));
    }
    let at = At(rest.get_u64_le());
    let mut commands = Vec::new();
    while rest.has_remaining() {
        if rest.len() < PER_COMMAND_BYTES {
            return Err(Malformed("cut in a length"));
        }
        let length = rest.get_u32_le() as usize;
        if rest.len() < length {
            return Err(Malformed("cut in a command"));
        }
        commands.push(rest.split_to(length));
    }
    Ok((at, commands))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_joined_comes_apart(
            at in any::<u64>(),
            commands in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20),
        ) {
            let commands: Vec<Bytes> = commands.into_iter().map(Bytes::from).collect();
            prop_assert_eq!(split(&join(At(at), commands.iter())), Ok((At(at), commands)));
        }

        #[test]
        fn a_cut_entry_is_never_taken_for_a_whole_one(cut in 0usize..30) {
            let commands = [Bytes::from_static(b"0123456789"), Bytes::from_static(b"abc")];
            let whole = join(At(1), commands.iter());
            prop_assume!(cut < whole.len() && cut != HEADER_BYTES && cut != HEADER_BYTES + 14);
            prop_assert!(split(&whole.slice(..cut)).is_err());
        }
    }
}
