//! Durations as Kubernetes' flags take them.

use std::time::Duration;

use jiff::SignedDuration;

/// Reads `15s`, `500ms` or `1m30s`; only what is longer than nothing.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration: give one as 15s, 500ms or 1m30s");
    // A bare `P` begins the notation of ISO 8601, which Go does not read.
    let read = text.parse::<SignedDuration>().ok().filter(|_| !text.contains(['P', 'p']));
    let read = read.and_then(|read| Duration::try_from(read).ok());
    read.filter(|read| !read.is_zero()).ok_or_else(wrong)
}
