//! Reading the master of a pseudo-terminal up to the very last word.

use rustix::io::{Errno, Result};

/// Reads by `read`, and once more where that tells the end (EIO). The kernel looks for input first and for the end after
/// it; the last process with the terminal may write and go between the two looks. After it has gone nothing can follow,
/// so that a second look sees all there is.
pub fn read_to_the_end<T>(mut read: impl FnMut() -> Result<T>) -> Result<T> {
    match read() {
        Err(Errno::IO) => read(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_came_with_the_end_are_heard() {
        let mut looks = [Err(Errno::IO), Ok("bye"), Err(Errno::IO), Err(Errno::IO)].into_iter();
        let mut read = || read_to_the_end(|| looks.next().unwrap_or(Err(Errno::BADF)));
        assert_eq!(read(), Ok("bye"));
        assert_eq!(read(), Err(Errno::IO));
        assert_eq!(read(), Err(Errno::BADF));
    }
}
