//! How messages become bytes.

use serde::{Serialize, de::DeserializeOwned};

/// First byte of every message.
pub const MAGIC: u8 = 0x50;
/// Second byte of every message; raised when a message changes its meaning.
pub const VERSION: u8 = 1;
/// Longest message in bytes; a longer one is refused before it is decoded.
pub const MESSAGE_BYTES_MAX: usize = 32 * 1024;

/// Why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not even a header.
    #[error("message of {bytes} bytes is too short")]
    TooShort {
        /// Bytes received.
        bytes: usize,
    },
    /// Longer than [`MESSAGE_BYTES_MAX`], or cut by the socket.
    #[error("message is longer than {MESSAGE_BYTES_MAX} bytes")]
    TooLong,
    /// Some other protocol.
    #[error(
        "message begins with 0x{first:02x}, not 0x{MAGIC:02x}: the peer does not speak this protocol"
    )]
    NotOurs {
        /// The first byte.
        first: u8,
    },
    /// Another version of this protocol.
    #[error(
        "message is of version {theirs}, this side speaks {VERSION}: use the same release on both sides"
    )]
    Version {
        /// The version received.
        theirs: u8,
    },
    /// The body is not one of the messages, or bytes follow it.
    #[error("message body is malformed")]
    Malformed,
}

/// Encodes `message` with its header.
///
/// # Panics
///
/// Never for the messages of this crate, whose types all have an encoding.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    postcard::to_extend(message, vec![MAGIC, VERSION]).expect("messages have an encoding")
}

/// Decodes a message; all of `bytes` must belong to it.
///
/// # Errors
///
/// What is wrong with the bytes. The connection should be closed: whatever follows cannot be
/// understood either.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let [first, version, body @ ..] = bytes else {
        return Err(DecodeError::TooShort { bytes: bytes.len() });
    };
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(DecodeError::TooLong);
    }
    if *first != MAGIC {
        return Err(DecodeError::NotOurs { first: *first });
    }
    if *version != VERSION {
        return Err(DecodeError::Version { theirs: *version });
    }
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        _ => Err(DecodeError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Call, Request};

    fn call() -> Call {
        Call { tag: 7, request: Request::Hello }
    }

    #[test]
    fn a_message_survives_the_journey() {
        assert_eq!(decode(&encode(&call())), Ok(call()));
    }

    #[test]
    fn every_defect_is_refused_with_its_own_reason() {
        let good = encode(&call());
        let refused = |bytes: &[u8]| decode::<Call>(bytes).unwrap_err();
        assert_eq!(refused(&[]), DecodeError::TooShort { bytes: 0 });
        assert_eq!(refused(&good[..good.len() - 1]), DecodeError::Malformed);
        assert_eq!(refused(&[good.clone(), vec![0]].concat()), DecodeError::Malformed);
        assert_eq!(refused(&[&[0x51], &good[1..]].concat()), DecodeError::NotOurs { first: 0x51 });
        assert_eq!(
            refused(&[&[MAGIC, 9], &good[2..]].concat()),
            DecodeError::Version { theirs: 9 }
        );
        assert_eq!(
            refused(&[&good[..], &vec![0; MESSAGE_BYTES_MAX]].concat()),
            DecodeError::TooLong
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let framed = [vec![MAGIC, VERSION], bytes].concat();
            let _ = decode::<Call>(&framed);
            let _ = decode::<crate::FromDriver>(&framed);
        }
    }
}
