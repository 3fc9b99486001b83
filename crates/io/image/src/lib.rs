//! Images: taken from archives, from a registry or from a program on this machine, verified, unpacked once per layer
//! and offered as folders to mount. It knows the image formats and registries; it knows nothing of pods or containers.

pub mod archive;
pub mod config;
pub mod reference;
pub mod store;
pub mod unpack;
pub mod users;

pub use config::ImageConfig;
pub use reference::Reference;
pub use store::{Image, Store};

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what}")]
    Io {
        what: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{what} is not valid JSON")]
    Json {
        what: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("couldn't parse image name {reference:?}: {reason}")]
    Reference { reference: String, reason: &'static str },
    #[error("{0} is neither an OCI layout nor a docker archive")]
    NotAnArchive(PathBuf),
    #[error("{what} is missing from the image")]
    Missing { what: String },
    #[error("content of {what} has digest {found}, not {expected}")]
    Digest { what: String, expected: String, found: String },
    #[error("{0} is not supported")]
    Unsupported(String),
    #[error("unpacking {path}: {reason}")]
    Unpack { path: String, reason: String },
}

pub type Result<T> = std::result::Result<T, Error>;

pub(crate) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for std::io::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io { what: what(), source })
    }
}

impl<T> Context<T> for rustix::io::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io { what: what(), source: source.into() })
    }
}

impl<T> Context<T> for serde_json::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Json { what: what(), source })
    }
}
