//! One process per data directory.

use std::fs::File;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::up::StartError;

/// Held as long as the process works on the data; the kernel lets go of it with the process.
pub struct Lock {
    _file: File,
}

impl Lock {
    /// `None` where another process holds it.
    pub fn take(path: &Path) -> Result<Option<Lock>, StartError> {
        let failed = |source| StartError::File { path: path.into(), source };
        let file = File::options().create(true).truncate(false).write(true).open(path).map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(failed(error.into())),
        }
    }
}
