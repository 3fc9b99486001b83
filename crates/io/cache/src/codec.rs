//! How values rest in a store. The cache and its readers know one encoding, JSON without a resource version; a store
//! shared with other servers may hold another.

use bytes::Bytes;

#[derive(Debug, thiserror::Error)]
#[error("value of {key}: {why}")]
pub struct CodecError {
    pub key: String,
    pub why: String,
}

/// Turns values at rest into JSON objects and back. `key` is authenticated data where values are encrypted.
pub trait Codec: Send + Sync + 'static {
    fn decode(&self, key: &[u8], value: Bytes) -> Result<Bytes, CodecError>;

    fn encode(&self, key: &[u8], value: Bytes) -> Result<Bytes, CodecError>;
}

/// Values rest as they are read. Nothing is copied.
pub struct Json;

impl Codec for Json {
    fn decode(&self, _: &[u8], value: Bytes) -> Result<Bytes, CodecError> {
        Ok(value)
    }

    fn encode(&self, _: &[u8], value: Bytes) -> Result<Bytes, CodecError> {
        Ok(value)
    }
}
