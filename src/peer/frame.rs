//! Frames on the wire: `length u32 | kind u8 | id u64 | body`, integers little-endian, the length
//! counting what follows it. A request's body begins with its method.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The longest frame, bytes: the most that one answer may read (64 MiB) with room for what is around.
pub const MAX_FRAME_BYTES: usize = 96 << 20;

const _: () = assert!(MAX_FRAME_BYTES >= crate::command::MAX_READ_BYTES + crate::command::MAX_BATCH_BYTES);

/// Bytes before a request's body: length, kind, id, method.
const REQUEST_HEADER_BYTES: usize = 4 + KIND_AND_ID_BYTES + 1;
const KIND_AND_ID_BYTES: usize = 1 + 8;

/// One message between two nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A call.
    Request {
        /// Chosen by the caller, unique among its calls on this connection.
        id: u64,
        /// What is called.
        method: u8,
        /// Its arguments.
        body: Bytes,
    },
    /// The answer to a call.
    Response {
        /// The call's id.
        id: u64,
        /// The answer.
        body: Bytes,
    },
    /// The call was not taken: too many were waiting. It had no effect.
    Busy {
        /// The call's id.
        id: u64,
    },
    /// The call was taken and will get no answer: the node is stopping, or gave up on it.
    Dropped {
        /// The call's id.
        id: u64,
    },
    /// Asks whether the other side still listens; answered before any call.
    Ping,
    /// The answer to it.
    Pong,
    /// This node is stopping: no more calls, please; those on their way are still answered.
    Goodbye,
    /// The answer to it: none will come behind this.
    Parted,
    /// How high the sender's store stands (`super::heights`).
    Height(u64),
}

const REQUEST: u8 = 0;
const RESPONSE: u8 = 1;
const BUSY: u8 = 2;
const DROPPED: u8 = 3;
const PING: u8 = 4;
const PONG: u8 = 5;
const GOODBYE: u8 = 6;
const PARTED: u8 = 7;
const HEIGHT: u8 = 8;

/// Why bytes are no frame; the connection is of no more use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed frame: {0}")]
pub struct Malformed(&'static str);

impl Frame {
    /// The body that may be written on its own, without copying it behind the header.
    pub fn body(&self) -> &[u8] {
        match self {
            Frame::Request { body, .. } | Frame::Response { body, .. } => body,
            Frame::Busy { .. }
            | Frame::Dropped { .. }
            | Frame::Ping
            | Frame::Pong
            | Frame::Goodbye
            | Frame::Parted
            | Frame::Height(_) => &[],
        }
    }

    /// Bytes on the wire.
    pub fn len(&self) -> usize {
        self.body().len() + REQUEST_HEADER_BYTES
    }

    /// Never: a frame has a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Writes everything before the body.
    pub fn put_header(&self, out: &mut BytesMut) {
        let (kind, id, method) = match self {
            Frame::Request { id, method, .. } => (REQUEST, *id, Some(*method)),
            Frame::Response { id, .. } => (RESPONSE, *id, None),
            Frame::Busy { id } => (BUSY, *id, None),
            Frame::Dropped { id } => (DROPPED, *id, None),
            Frame::Ping => (PING, 0, None),
            Frame::Pong => (PONG, 0, None),
            Frame::Goodbye => (GOODBYE, 0, None),
            Frame::Parted => (PARTED, 0, None),
            // In the place of an id.
            Frame::Height(height) => (HEIGHT, *height, None),
        };
        let length = KIND_AND_ID_BYTES + usize::from(method.is_some()) + self.body().len();
        out.put_u32_le(u32::try_from(length).expect("senders keep bodies below MAX_FRAME_BYTES"));
        out.put_u8(kind);
        out.put_u64_le(id);
        out.extend(method);
    }

    /// Takes the first whole frame off `input`; its body shares the input's memory.
    pub fn take(input: &mut BytesMut) -> Result<Option<Frame>, Malformed> {
        let Some(length) = input.first_chunk::<4>().map(|b| u32::from_le_bytes(*b) as usize) else {
            return Ok(None);
        };
        if !(KIND_AND_ID_BYTES..=MAX_FRAME_BYTES).contains(&length) {
            return Err(Malformed("length"));
        }
        if input.len() < 4 + length {
            input.reserve(4 + length - input.len());
            return Ok(None);
        }
        input.advance(4);
        let mut body = input.split_to(length).freeze();
        let kind = body.get_u8();
        let id = body.get_u64_le();
        match kind {
            REQUEST if body.is_empty() => Err(Malformed("request without a method")),
            REQUEST => {
                let method = body.get_u8();
                Ok(Some(Frame::Request { id, method, body }))
            }
            RESPONSE => Ok(Some(Frame::Response { id, body })),
            BUSY => Ok(Some(Frame::Busy { id })),
            DROPPED => Ok(Some(Frame::Dropped { id })),
            PING => Ok(Some(Frame::Ping)),
            PONG => Ok(Some(Frame::Pong)),
            GOODBYE => Ok(Some(Frame::Goodbye)),
            PARTED => Ok(Some(Frame::Parted)),
            HEIGHT => Ok(Some(Frame::Height(id))),
            _ => Err(Malformed("kind")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(frame: &Frame) -> BytesMut {
        let mut out = BytesMut::new();
        frame.put_header(&mut out);
        out.extend_from_slice(frame.body());
        out
    }

    #[test]
    fn frames_survive_the_wire_in_any_pieces() {
        let frames = [
            Frame::Request { id: 1, method: 7, body: Bytes::from_static(b"hello") },
            Frame::Request { id: u64::MAX, method: 0, body: Bytes::new() },
            Frame::Response { id: 3, body: Bytes::from(vec![9; 70_000]) },
            Frame::Busy { id: 4 },
            Frame::Dropped { id: 5 },
            Frame::Ping,
            Frame::Pong,
            Frame::Goodbye,
            Frame::Parted,
            Frame::Height(6),
        ];
        let wire: Vec<u8> = frames.iter().flat_map(|f| encode(f).to_vec()).collect();
        for piece in [1, 3, 17, 4096, wire.len()] {
            let mut input = BytesMut::new();
            let mut seen = Vec::new();
            for bytes in wire.chunks(piece) {
                input.extend_from_slice(bytes);
                while let Some(frame) = Frame::take(&mut input).unwrap() {
                    seen.push(frame);
                }
            }
            assert_eq!(seen, frames, "in pieces of {piece}");
        }
    }

    #[test]
    fn nonsense_is_refused_before_memory_is_spent_on_it() {
        for (bytes, why) in [
            (&[0xff, 0xff, 0xff, 0xff][..], "length"),
            (&[8, 0, 0, 0][..], "length"),
            (&[9, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0][..], "kind"),
            (&[9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], "request without a method"),
        ] {
            assert_eq!(Frame::take(&mut BytesMut::from(bytes)), Err(Malformed(why)));
        }
    }
}
