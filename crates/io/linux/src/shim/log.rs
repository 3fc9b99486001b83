//! A container's log in the format of the CRI: `TIME STREAM TAG LINE`, tag `F` for a whole line and `P` for a part of
//! a long one. Rotation happens at the write that would go over the bound.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::plan::LogPlan;

/// Longer lines are written in parts.
const LINE_BYTES_MAX: usize = 16 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Output = 0,
    Error = 1,
}

pub struct Log {
    plan: Option<LogPlan>,
    file: Option<File>,
    bytes: u64,
    partial: [Vec<u8>; 2],
}

impl Log {
    pub fn open(plan: Option<LogPlan>) -> io::Result<Log> {
        let mut log = Log { plan, file: None, bytes: 0, partial: [Vec::new(), Vec::new()] };
        log.reopen()?;
        Ok(log)
    }

    /// Continues in the file that now has the log's name.
    pub fn reopen(&mut self) -> io::Result<()> {
        let Some(plan) = &self.plan else { return Ok(()) };
        if let Some(folder) = plan.path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o640).open(&plan.path)?;
        self.bytes = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Takes what a container wrote. A disk that refuses it loses the lines, never the container.
    pub fn write(&mut self, stream: Stream, data: &[u8]) {
        let mut ready = Vec::with_capacity(data.len() + 64);
        let mut rest = data;
        let partial = &mut self.partial[stream as usize];
        while !rest.is_empty() {
            let room = LINE_BYTES_MAX - partial.len();
            let window = &rest[..rest.len().min(room)];
            match window.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    line(&mut ready, stream, 'F', &[partial, &window[..end]]);
                    partial.clear();
                    rest = &rest[end + 1..];
                }
                None => {
                    partial.extend_from_slice(window);
                    rest = &rest[window.len()..];
                    if partial.len() == LINE_BYTES_MAX {
                        line(&mut ready, stream, 'P', &[partial]);
                        partial.clear();
                    }
                }
            }
        }
        self.append(&ready);
    }

    /// Writes lines that were never ended, as parts: what was not written is not read back.
    pub fn finish(&mut self) {
        let mut ready = Vec::new();
        for (index, stream) in [Stream::Output, Stream::Error].into_iter().enumerate() {
            let partial = std::mem::take(&mut self.partial[index]);
            if !partial.is_empty() {
                line(&mut ready, stream, 'P', &[&partial]);
            }
        }
        self.append(&ready);
        self.file = None;
    }

    fn append(&mut self, ready: &[u8]) {
        if ready.is_empty() {
            return;
        }
        let bound = self.plan.as_ref().map_or(0, |plan| plan.bytes_max);
        if bound > 0 && self.bytes > 0 && self.bytes + ready.len() as u64 > bound {
            let _ = self.rotate();
        }
        if let Some(file) = &mut self.file
            && file.write_all(ready).is_ok()
        {
            self.bytes += ready.len() as u64;
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        let Some(plan) = self.plan.clone() else { return Ok(()) };
        let stamp: String = timestamp(SystemTime::now()).chars().filter(char::is_ascii_digit).take(20).collect();
        let mut name = plan.path.clone().into_os_string();
        name.push(format!(".{stamp}"));
        fs::rename(&plan.path, name)?;
        remove_oldest(&plan);
        self.reopen()
    }
}

fn remove_oldest(plan: &LogPlan) {
    let (Some(folder), Some(name)) = (plan.path.parent(), plan.path.file_name()) else { return };
    let prefix = format!("{}.", name.to_string_lossy());
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut old: Vec<_> =
        entries.map(|entry| entry.file_name()).filter(|file| file.to_string_lossy().starts_with(&prefix)).collect();
    old.sort();
    let keep = plan.files_max.saturating_sub(1) as usize;
    for file in old.iter().take(old.len().saturating_sub(keep)) {
        let _ = fs::remove_file(Path::new(folder).join(file));
    }
}

fn line(into: &mut Vec<u8>, stream: Stream, tag: char, parts: &[&[u8]]) {
    let name = if stream == Stream::Output { "stdout" } else { "stderr" };
    let _ = write!(into, "{} {name} {tag} ", timestamp(SystemTime::now()));
    for part in parts {
        into.extend_from_slice(part);
    }
    into.push(b'\n');
}

/// RFC 3339 in UTC with nine digits.
fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, second) = ((since.as_secs() / 86_400) as i64, since.as_secs() % 86_400);
    // Days to a civil date, by eras of 400 years that begin in March.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", since.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_cri_wants_them() {
        let at = |seconds, nanos| timestamp(UNIX_EPOCH + Duration::new(seconds, nanos));
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(at(951_827_696, 5), "2000-02-29T12:34:56.000000005Z");
        assert_eq!(at(1_795_391_999, 0), "2026-11-22T23:59:59.000000000Z");
    }

    #[test]
    fn long_lines_are_written_in_parts_and_logs_rotate() {
        let folder = std::env::temp_dir().join(format!("coracle-log-{}", std::process::id()));
        let plan = LogPlan { path: folder.join("0.log"), bytes_max: 40_000, files_max: 2 };
        let mut log = Log::open(Some(plan)).unwrap();
        log.write(Stream::Output, &[b'x'; 20_000]);
        log.write(Stream::Output, b"end\n");
        let text = fs::read_to_string(folder.join("0.log")).unwrap();
        let tags: Vec<_> = text.lines().map(|line| line.split(' ').nth(2).unwrap()).collect();
        assert_eq!(tags, ["P", "F"]);
        for _ in 0..10 {
            log.write(Stream::Error, &[b'y'; 15_000]);
            log.write(Stream::Error, b"\n");
        }
        log.finish();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        fs::remove_dir_all(folder).unwrap();
    }
}
