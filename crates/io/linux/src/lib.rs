//! What only the kernel can do: processes, namespaces, mounts, cgroups, filters. It takes plans as plain data and
//! carries them out; it knows nothing of pods' meaning, images or the API. The only crate in which `unsafe` is written,
//! and in it only `sys`; `memory` is assembly, and `frugal` an allocator.

pub mod capability;
pub mod cgroup;
pub mod child;
pub mod frugal;
pub mod memory;
pub mod netlink;
pub mod netns;
pub mod plan;
pub mod rootfs;
pub mod seccomp;
pub mod shim;
pub mod sys;
pub mod terminal;
pub mod wire;
pub mod zygote;

/// What failed, in the words of the operation, and why. Crosses a pipe or a socket as its text.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what}")]
    Io {
        what: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{0}")]
    Invalid(String),
    #[error("{what}")]
    Json {
        what: String,
        #[source]
        source: serde_json::Error,
    },
}

impl Error {
    /// The error and its causes on one line, as it is sent to another process.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        text
    }
}

pub type Result<T> = std::result::Result<T, Error>;

/// Names the operation that an input/output error ended.
pub trait Context<T> {
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
