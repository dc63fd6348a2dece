//! gRPC's frame and protobuf, as far as [`super::etcd`] needs them: see there.

use bytes::{BufMut as _, Bytes, BytesMut};

/// Before a message: whether it is compressed (0: no), and its length.
pub(super) const FRAME_BYTES: usize = 5;

/// Tags: the field's number, and how it is encoded (0: a number, 2: bytes with their length).
pub(super) const KEY: u8 = 1 << 3 | 2;
pub(super) const PUT_VALUE: u8 = 2 << 3 | 2;
pub(super) const RANGE_END: u8 = 2 << 3 | 2;
pub(super) const RANGE_LIMIT: u8 = 3 << 3;
pub(super) const RANGE_RESPONSE_KVS: u64 = 2 << 3 | 2;
const TXN_SUCCESS: u8 = 2 << 3 | 2;
pub(super) const TXN_RESPONSE_RESPONSES: u64 = 3 << 3 | 2;
const REQUEST_OP_PUT: u8 = 2 << 3 | 2;

pub(super) fn begin(message: &mut BytesMut) {
    message.clear();
    message.put_bytes(0, FRAME_BYTES);
}

pub(super) fn finish(message: &mut BytesMut) -> Bytes {
    let length = u32::try_from(message.len() - FRAME_BYTES).unwrap_or(u32::MAX);
    message[1..FRAME_BYTES].copy_from_slice(&length.to_be_bytes());
    message.split().freeze()
}

/// A `RequestOp` of a `TxnRequest`, to be done if all its comparisons hold, of which there are none.
pub(super) fn push_put_op(message: &mut BytesMut, key: &[u8], value: &[u8]) {
    let put_bytes = field_bytes(key.len()) + field_bytes(value.len());
    message.put_u8(TXN_SUCCESS);
    push_varint(message, field_bytes(put_bytes) as u64);
    message.put_u8(REQUEST_OP_PUT);
    push_varint(message, put_bytes as u64);
    push_bytes(message, KEY, key);
    push_bytes(message, PUT_VALUE, value);
}

/// What so many bytes take as a field of their own.
fn field_bytes(bytes: usize) -> usize {
    let varint_bytes = (usize::BITS - bytes.max(1).leading_zeros()).div_ceil(7) as usize;
    1 + varint_bytes + bytes
}

pub(super) fn push_bytes(message: &mut BytesMut, tag: u8, bytes: &[u8]) {
    message.put_u8(tag);
    push_varint(message, bytes.len() as u64);
    message.put_slice(bytes);
}

pub(super) fn push_varint(message: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        message.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    message.put_u8(value as u8);
}

/// How often a field stands in a message; `None` if it is none.
pub(super) fn count_fields(mut message: &[u8], tag: u64) -> Option<u64> {
    let mut count = 0;
    while !message.is_empty() {
        let found = take_varint(&mut message)?;
        count += u64::from(found == tag);
        let length = match found & 7 {
            0 => {
                take_varint(&mut message)?;
                0
            }
            1 => 8,
            2 => usize::try_from(take_varint(&mut message)?).ok()?,
            5 => 4,
            _ => return None,
        };
        message = message.get(length..)?;
    }
    Some(count)
}

fn take_varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What protoc makes of `key: "k" value: <300 bytes>`.
    #[test]
    fn a_put_is_encoded_as_protobuf_does() {
        let mut message = BytesMut::new();
        begin(&mut message);
        push_bytes(&mut message, KEY, b"k");
        push_bytes(&mut message, PUT_VALUE, &[b'v'; 300]);
        let bytes = finish(&mut message);
        assert_eq!(bytes[..5], [0, 0, 0, 1, 50]);
        assert_eq!(bytes[5..11], [0x0A, 1, b'k', 0x12, 0xAC, 0x02]);
        assert_eq!(bytes.len(), 5 + 3 + 3 + 300);
    }

    /// What protoc makes of `success { request_put { key: "k" value: <300 bytes> } }`.
    #[test]
    fn an_operation_of_a_transaction_is_encoded_as_protobuf_does() {
        let mut message = BytesMut::new();
        push_put_op(&mut message, b"k", &[b'v'; 300]);
        assert_eq!(message[..6], [0x12, 0xB5, 0x02, 0x12, 0xB2, 0x02]);
        assert_eq!(message[6..12], [0x0A, 1, b'k', 0x12, 0xAC, 0x02]);
        assert_eq!(message.len(), 3 + 0x135);
        assert_eq!([0, 127, 128, 16_383, 16_384].map(|bytes| field_bytes(bytes) - bytes), [2, 2, 3, 3, 4]);
    }

    #[test]
    fn keys_found_are_counted() {
        // header { cluster_id: 300 } kvs { key: "a" } kvs {} more: true count: 2
        let message = [0x0A, 3, 0x08, 0xAC, 0x02, 0x12, 3, 0x0A, 1, b'a', 0x12, 0, 0x18, 1, 0x20, 2];
        assert_eq!(count_fields(&message, RANGE_RESPONSE_KVS), Some(2));
        assert_eq!(count_fields(&[], RANGE_RESPONSE_KVS), Some(0));
        for end in [1, 3, 6, 8, 9, 13] {
            assert_eq!(count_fields(&message[..end], RANGE_RESPONSE_KVS), None, "{end}");
        }
        assert_eq!(count_fields(&[0xFF; 20], RANGE_RESPONSE_KVS), None);
    }
}
