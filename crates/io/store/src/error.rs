//! Why a store cannot be opened or written.

use std::io;

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("data directory {0} is in use by another process")]
    InUse(String),
    #[error("opening data directory {path}")]
    Folder {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("the data was written by a newer version (format {found}, this one reads up to {known}): use that version")]
    Newer { found: u32, known: u32 },
    #[error("file {file} is damaged at offset {offset}: {why}; restore the data directory from a backup")]
    Damaged { file: String, offset: u64, why: &'static str },
    #[error("file {file} is missing: restore the data directory from a backup")]
    Missing { file: String },
    #[error("reading {file}")]
    Read {
        file: String,
        #[source]
        source: io::Error,
    },
    #[error("writing {file}")]
    Write {
        file: String,
        #[source]
        source: io::Error,
    },
    #[error("starting the log's thread")]
    Thread(#[source] io::Error),
}

impl OpenError {
    pub(crate) fn read(file: &str) -> impl FnOnce(io::Error) -> OpenError {
        move |source| OpenError::Read { file: file.to_owned(), source }
    }

    pub(crate) fn write(file: &str) -> impl FnOnce(io::Error) -> OpenError {
        move |source| OpenError::Write { file: file.to_owned(), source }
    }

    pub(crate) fn damaged(file: &str, offset: usize, why: &'static str) -> OpenError {
        OpenError::Damaged { file: file.to_owned(), offset: offset as u64, why }
    }
}
