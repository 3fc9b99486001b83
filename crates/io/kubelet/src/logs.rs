//! Containers' logs as CRI writes them: `TIME STREAM P|F TEXT` lines. Reads them back whole, in part, and as they grow.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

const CHUNK_BYTES: usize = 64 << 10;
const CHECK_ALIVE: Duration = Duration::from_secs(1);

/// What of a log is wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogRequest {
    pub follow: bool,
    pub timestamps: bool,
    pub tail_lines: Option<usize>,
    pub since: Option<Timestamp>,
    pub limit_bytes: Option<usize>,
    pub stream: Option<String>,
}

/// One line; `partial` says that the text goes on in the next.
struct Line<'a> {
    time: &'a str,
    stream: &'a str,
    partial: bool,
    text: &'a [u8],
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let tag = parts.next()?;
    Some(Line { time, stream, partial: tag.first() == Some(&b'P'), text: parts.next().unwrap_or_default() })
}

/// The texts of the last lines of a log, at most so many lines and bytes; empty where there is none.
pub(crate) fn last_lines(path: &str, lines_max: usize, bytes_max: usize) -> String {
    let Ok(mut file) = File::open(path) else { return String::new() };
    let start = tail_offset(&mut file, lines_max).unwrap_or(0);
    let mut raw = Vec::new();
    if file.seek(SeekFrom::Start(start)).is_err() || file.read_to_end(&mut raw).is_err() {
        return String::new();
    }
    let mut out = Vec::new();
    for line in raw.split(|byte| *byte == b'\n').filter_map(parse) {
        out.extend_from_slice(line.text);
        if !line.partial {
            out.push(b'\n');
        }
    }
    let from = out.len().saturating_sub(bytes_max);
    String::from_utf8_lossy(&out[from..]).into_owned()
}

/// Where the last `lines_max` lines begin.
fn tail_offset(file: &mut File, lines_max: usize) -> std::io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut missing = lines_max + 1;
    let mut buffer = vec![0; CHUNK_BYTES];
    // A last line without its end counts as a line.
    if end > 0 {
        file.seek(SeekFrom::Start(end - 1))?;
        file.read_exact(&mut buffer[..1])?;
        if buffer[0] != b'\n' {
            missing -= 1;
        }
    }
    while end > 0 {
        let size = CHUNK_BYTES.min(usize::try_from(end).unwrap_or(CHUNK_BYTES));
        let start = end - size as u64;
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut buffer[..size])?;
        for place in (0..size).rev().filter(|place| buffer[*place] == b'\n') {
            missing = missing.saturating_sub(1);
            if missing == 0 {
                return Ok(start + place as u64 + 1);
            }
        }
        end = start;
    }
    Ok(0)
}

/// Tells the lines of a log one after the other; ends when nobody listens, when the limit is reached, or at the end of
/// the log, if it is not followed or `is_alive` says that nothing more will come.
pub(crate) async fn stream<F, A>(path: PathBuf, request: LogRequest, sender: mpsc::Sender<Bytes>, is_alive: A)
where
    A: Fn() -> F + Send,
    F: Future<Output = bool> + Send,
{
    let Ok(mut file) = File::open(&path) else { return };
    let start = request.tail_lines.and_then(|lines| tail_offset(&mut file, lines).ok()).unwrap_or(0);
    if file.seek(SeekFrom::Start(start)).is_err() {
        return;
    }
    let mut watch = if request.follow { Watch::new(&path).ok() } else { None };
    let mut reader = Reader { left: request.limit_bytes, request, pending: Vec::new(), inside: false };
    let (mut last_look, mut rotated) = (false, false);
    loop {
        let mut chunk = vec![0; CHUNK_BYTES];
        let size = file.read(&mut chunk).unwrap_or(0);
        if size > 0 {
            let out = reader.take(&chunk[..size]);
            if !out.is_empty() && sender.send(out.into()).await.is_err() {
                return;
            }
            if reader.left == Some(0) {
                return;
            }
            continue;
        }
        if watch.is_none() {
            return;
        }
        // The log goes on in another file of its name, once this one, which no more is written to, was read to its end.
        if rotated {
            let Ok(next) = File::open(&path) else { return };
            (file, watch, rotated) = (next, Watch::new(&path).ok(), false);
            continue;
        }
        if is_another(&file, &path) {
            rotated = true;
            continue;
        }
        let Some(watch) = &watch else { return };
        // One more look after the end was seen: the last lines may have come in between.
        if last_look || sender.is_closed() {
            return;
        }
        if !is_alive().await {
            last_look = true;
            continue;
        }
        tokio::select! {
            () = watch.changed() => {}
            () = tokio::time::sleep(CHECK_ALIVE) => {}
            () = sender.closed() => return,
        }
    }
}

/// Whether the path names another file by now.
fn is_another(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(ours), Ok(named)) => ours.ino() != named.ino(),
        _ => false,
    }
}

struct Reader {
    request: LogRequest,
    pending: Vec<u8>,
    left: Option<usize>,
    /// Whether the line before was partial.
    inside: bool,
}

impl Reader {
    fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.pending.extend_from_slice(bytes);
        let mut out = Vec::new();
        let Some(end) = self.pending.iter().rposition(|byte| *byte == b'\n') else { return out };
        let rest = self.pending.split_off(end + 1);
        let whole = std::mem::replace(&mut self.pending, rest);
        for line in whole.split(|byte| *byte == b'\n').filter_map(parse) {
            let wanted = self.request.stream.as_deref().is_none_or(|stream| stream == line.stream);
            let recent =
                self.request.since.is_none_or(|since| line.time.parse().is_ok_and(|at: Timestamp| at >= since));
            if !wanted || !recent {
                continue;
            }
            if self.request.timestamps && !self.inside {
                out.extend_from_slice(line.time.as_bytes());
                out.push(b' ');
            }
            out.extend_from_slice(line.text);
            self.inside = line.partial;
            if !line.partial {
                out.push(b'\n');
            }
        }
        if let Some(left) = &mut self.left {
            out.truncate(*left);
            *left -= out.len();
        }
        out
    }
}

/// Tells when a file grows or is put away.
struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    fn new(path: &Path) -> std::io::Result<Watch> {
        let descriptor = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(&descriptor, path, inotify::WatchFlags::MODIFY | inotify::WatchFlags::MOVE_SELF)?;
        #[expect(deprecated, reason = "its unsafe successor wants what holds here: the descriptor is owned")]
        let descriptor = AsyncFd::new(descriptor)?;
        Ok(Watch(descriptor))
    }

    async fn changed(&self) {
        let Ok(mut ready) = self.0.readable().await else { return };
        let mut buffer = [0; 4096];
        while rustix::io::read(self.0.get_ref(), &mut buffer).is_ok_and(|size| size > 0) {}
        ready.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:00.5Z stdout F one\n2026-01-01T00:00:01Z stderr P tw\n\
                       2026-01-01T00:00:01Z stderr F o\n2026-01-01T00:00:02Z stdout F three\n";

    async fn read(name: &str, request: LogRequest) -> String {
        let path = std::env::temp_dir().join(format!("coracle-log-{}-{name}", std::process::id()));
        std::fs::write(&path, LOG).unwrap();
        let (sender, mut receiver) = mpsc::channel(8);
        stream(path.clone(), request, sender, || async { false }).await;
        std::fs::remove_file(path).unwrap();
        let mut out = Vec::new();
        while let Some(part) = receiver.recv().await {
            out.extend_from_slice(&part);
        }
        String::from_utf8(out).unwrap()
    }

    #[tokio::test]
    async fn a_followed_log_goes_on_in_the_file_that_replaces_it() {
        let path = std::env::temp_dir().join(format!("coracle-log-{}-rotated", std::process::id()));
        let old = path.with_extension("old");
        std::fs::write(&path, LOG).unwrap();
        let (sender, mut receiver) = mpsc::channel(8);
        let request = LogRequest { follow: true, tail_lines: Some(1), ..LogRequest::default() };
        let reading = tokio::spawn(stream(path.clone(), request, sender, || async { true }));
        assert_eq!(receiver.recv().await.unwrap(), "three\n");
        std::fs::rename(&path, &old).unwrap();
        std::fs::write(&path, "2026-01-01T00:00:03Z stdout F four\n").unwrap();
        assert_eq!(receiver.recv().await.unwrap(), "four\n");
        drop(receiver);
        reading.await.unwrap();
        std::fs::remove_file(path).unwrap();
        std::fs::remove_file(old).unwrap();
    }

    #[tokio::test]
    async fn lines_are_joined_cut_and_dated_as_asked() {
        assert_eq!(read("all", LogRequest::default()).await, "one\ntwo\nthree\n");
        let tail = LogRequest { tail_lines: Some(1), timestamps: true, ..LogRequest::default() };
        assert_eq!(read("tail", tail).await, "2026-01-01T00:00:02Z three\n");
        let since = LogRequest { since: "2026-01-01T00:00:01Z".parse().ok(), ..LogRequest::default() };
        assert_eq!(read("since", since).await, "two\nthree\n");
        let limit = LogRequest { limit_bytes: Some(5), ..LogRequest::default() };
        assert_eq!(read("limit", limit).await, "one\nt");
        let none = LogRequest { tail_lines: Some(0), ..LogRequest::default() };
        assert_eq!(read("none", none).await, "");
    }
}
