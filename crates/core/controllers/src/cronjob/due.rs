//! Which scheduled time counts now when several have passed, and when to look again.

use jiff::{SignedDuration, Timestamp};

use super::schedule::Schedule;

/// Beyond this many missed times it is told.
const MISSED_MAX: i64 = 100;

#[derive(Debug, PartialEq)]
pub enum Due {
    Nothing,
    At { time: Timestamp, too_many: bool },
    Invalid(&'static str),
}

/// The latest scheduled time after `earliest`, or within the deadline, that has come.
pub fn find(schedule: &Schedule, earliest: Timestamp, deadline: Option<i64>, now: Timestamp) -> Due {
    let bound = deadline.and_then(|deadline| now.checked_sub(SignedDuration::from_secs(deadline)).ok());
    let earliest = bound.map_or(earliest, |bound| bound.max(earliest));
    let never = "time difference between two schedules is less than 1 second";
    let Some(first) = schedule.next(earliest) else { return Due::Invalid(never) };
    if now < first {
        return Due::Nothing;
    }
    let Some(second) = schedule.next(first).filter(|second| now >= *second) else {
        return Due::At { time: first, too_many: false };
    };
    let between = second.duration_since(first).as_secs();
    if between < 1 {
        return Due::Invalid(never);
    }
    let missed = now.duration_since(first).as_secs() / between + 1;
    let start = first.checked_add(SignedDuration::from_secs((missed - 2) * between)).unwrap_or(first);
    match last_until(schedule, start, now) {
        Some(time) => Due::At { time, too_many: missed > MISSED_MAX },
        None => Due::Nothing,
    }
}

fn last_until(schedule: &Schedule, start: Timestamp, now: Timestamp) -> Option<Timestamp> {
    let mut last = None;
    let mut next = schedule.next(start);
    while let Some(time) = next.filter(|time| *time <= now) {
        last = Some(time);
        next = schedule.next(time);
    }
    last
}

/// The first scheduled time that is still to come.
pub fn next(schedule: &Schedule, earliest: Timestamp, now: Timestamp) -> Option<Timestamp> {
    let from = match find(schedule, earliest, None, now) {
        Due::At { time, .. } => time,
        Due::Nothing if schedule.next(earliest).is_some_and(|first| now < first) => earliest,
        _ => now,
    };
    schedule.next(from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;

    fn at(text: &str) -> Timestamp {
        format!("2026-01-01T{text}Z").parse().unwrap()
    }

    #[test]
    fn only_the_latest_missed_time_counts() {
        let hourly = Schedule::parse("@hourly", TimeZone::UTC).unwrap();
        let minutely = Schedule::parse("* * * * *", TimeZone::UTC).unwrap();
        let hit = |text: &str, too_many: bool| Due::At { time: at(text), too_many };
        let cases = [
            (&hourly, "00:10:00", None, "00:50:00", Due::Nothing),
            (&hourly, "00:10:00", None, "01:00:00", hit("01:00:00", false)),
            (&hourly, "00:10:00", None, "05:30:00", hit("05:00:00", false)),
            (&hourly, "00:10:00", Some(60), "05:30:00", Due::Nothing),
            (&minutely, "00:00:00", None, "03:00:30", hit("03:00:00", true)),
            (&minutely, "00:00:00", Some(200), "03:00:30", hit("03:00:00", false)),
        ];
        for (schedule, earliest, deadline, now, expected) in cases {
            assert_eq!(find(schedule, at(earliest), deadline, at(now)), expected, "{earliest} {now}");
        }
        assert_eq!(next(&hourly, at("00:10:00"), at("05:30:00")), Some(at("06:00:00")));
    }
}
