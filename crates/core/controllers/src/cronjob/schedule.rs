//! Cron schedules as robfig/cron reads them: five fields, names, steps, `@hourly` and its like, `@every`, and a time
//! zone in front. A minute that a clock change skips is skipped; one that it repeats counts twice.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};

/// Within this many years a schedule has a next time, or it has none.
const YEARS_MAX: i16 = 5;

/// When something is to happen, again and again.
#[derive(Clone, Debug)]
pub struct Schedule {
    rule: Rule,
    zone: TimeZone,
}

#[derive(Clone, Debug)]
enum Rule {
    Every(Duration),
    Fields(Fields),
}

#[derive(Clone, Debug)]
struct Fields {
    minute: Set,
    hour: Set,
    day: Set,
    month: Set,
    weekday: Set,
}

/// Numbers as bits; `any` when the field is a plain `*` or `?`.
#[derive(Clone, Copy, Debug, Default)]
struct Set {
    bits: u64,
    any: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    #[error("provided bad location {0}")]
    Zone(String),
    #[error("expected exactly 5 fields, found {found}: [{text}]")]
    FieldCount { found: usize, text: String },
    #[error("unrecognized descriptor: {0}")]
    Descriptor(String),
    #[error("failed to parse duration {0}")]
    Duration(String),
    #[error("failed to parse field: {0}")]
    Field(String),
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Schedule {
    /// Reads a schedule in `zone` unless it names one itself (`TZ=` or `CRON_TZ=`).
    pub fn parse(text: &str, zone: TimeZone) -> Result<Schedule, ScheduleError> {
        let prefixed = text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ="));
        let (zone, text) = match prefixed.map(|rest| rest.split_once(' ').unwrap_or((rest, ""))) {
            Some((name, rest)) => (TimeZone::get(name).map_err(|_| ScheduleError::Zone(name.to_owned()))?, rest.trim()),
            None => (zone, text),
        };
        let rule = if text.starts_with('@') { descriptor(text)? } else { Rule::Fields(fields(text)?) };
        Ok(Schedule { rule, zone })
    }

    /// The first time after `time`.
    pub fn next(&self, time: Timestamp) -> Option<Timestamp> {
        match &self.rule {
            Rule::Every(delay) => Timestamp::from_second(time.as_second()).ok()?.checked_add(*delay).ok(),
            Rule::Fields(fields) => fields.next(time, &self.zone),
        }
    }
}

fn descriptor(text: &str) -> Result<Rule, ScheduleError> {
    if let Some(delay) = text.strip_prefix("@every ") {
        let delay = go_duration(delay).ok_or_else(|| ScheduleError::Duration(text.to_owned()))?;
        return Ok(Rule::Every(Duration::from_secs(delay.as_secs().max(1))));
    }
    let same = match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => return Err(ScheduleError::Descriptor(text.to_owned())),
    };
    fields(same).map(Rule::Fields)
}

/// `1h30m`, `90s`, `1.5h`.
fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut seconds = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let number = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (value, after) = rest.split_at(number);
        let unit = after.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let scale = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        seconds += value.parse::<f64>().ok()? * scale;
        rest = after;
    }
    Duration::try_from_secs_f64(seconds).ok()
}

fn fields(text: &str) -> Result<Fields, ScheduleError> {
    let parts: Vec<&str> = text.split_whitespace().collect();
    let [minute, hour, day, month, weekday] = parts[..] else {
        return Err(ScheduleError::FieldCount { found: parts.len(), text: parts.join(" ") });
    };
    Ok(Fields {
        minute: set(minute, 0, 59, &[])?,
        hour: set(hour, 0, 23, &[])?,
        day: set(day, 1, 31, &[])?,
        month: set(month, 1, 12, &MONTHS)?,
        weekday: set(weekday, 0, 6, &WEEKDAYS)?,
    })
}

fn set(text: &str, min: u32, max: u32, names: &[&str]) -> Result<Set, ScheduleError> {
    let mut set = Set::default();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let one = range(part, min, max, names).ok_or_else(|| ScheduleError::Field(part.to_owned()))?;
        set = Set { bits: set.bits | one.bits, any: set.any || one.any };
    }
    if set.bits == 0 { Err(ScheduleError::Field(text.to_owned())) } else { Ok(set) }
}

/// `*`, `a`, `a-b`, each with `/step`; `a/step` runs to the end.
fn range(text: &str, min: u32, max: u32, names: &[&str]) -> Option<Set> {
    let number = |text: &str| -> Option<u32> {
        let named = names.iter().position(|name| name.eq_ignore_ascii_case(text));
        named.map(|at| at as u32 + min).or_else(|| text.parse().ok())
    };
    let (span, step) = match text.split_once('/') {
        Some((span, step)) => (span, Some(step.parse::<u32>().ok().filter(|step| *step > 0)?)),
        None => (text, None),
    };
    let any = span == "*" || span == "?";
    let (first, last) = match span.split_once('-') {
        _ if any => (min, max),
        Some((first, last)) => (number(first)?, number(last)?),
        None if step.is_some() => (number(span)?, max),
        None => (number(span)?, number(span)?),
    };
    let step = step.unwrap_or(1);
    if first < min || last > max || first > last {
        return None;
    }
    let bits = (first..=last).step_by(step as usize).fold(0, |bits, value| bits | 1 << value);
    Some(Set { bits, any: any && step == 1 })
}

impl Set {
    fn has(self, value: i8) -> bool {
        self.bits >> value.clamp(0, 63) & 1 == 1
    }
}

impl Fields {
    fn next(&self, time: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut at = Timestamp::from_second((time.as_second().div_euclid(60) + 1) * 60).ok()?.to_zoned(zone.clone());
        let last_year = at.year() + YEARS_MAX;
        while at.year() <= last_year {
            at = if !self.month.has(at.month()) {
                at.date().first_of_month().checked_add(1.month()).ok()?.to_zoned(zone.clone()).ok()?
            } else if !self.has_day(&at) {
                at.date().tomorrow().ok()?.to_zoned(zone.clone()).ok()?
            } else if !self.hour.has(at.hour()) {
                let passed = i64::from(at.minute()) * 60 + i64::from(at.second());
                at.checked_add((3600 - passed).seconds()).ok()?
            } else if !self.minute.has(at.minute()) {
                at.checked_add((60 - i64::from(at.second())).seconds()).ok()?
            } else {
                return Some(at.timestamp());
            };
        }
        None
    }

    /// Where both day fields are given, either will do.
    fn has_day(&self, at: &Zoned) -> bool {
        let (day, weekday) = (self.day.has(at.day()), self.weekday.has(at.weekday().to_sunday_zero_offset()));
        if self.day.any || self.weekday.any { day && weekday } else { day || weekday }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, zone: &str, after: &str) -> String {
        let schedule = Schedule::parse(schedule, TimeZone::get(zone).unwrap()).unwrap();
        schedule.next(after.parse().unwrap()).map_or("never".into(), |time| time.to_string())
    }

    #[test]
    fn schedules_come_due_as_robfig_has_them() {
        let cases = [
            ("*/15 * * * *", "UTC", "2026-01-01T00:00:00Z", "2026-01-01T00:15:00Z"),
            ("0 * * * *", "UTC", "2026-01-01T00:59:59.5Z", "2026-01-01T01:00:00Z"),
            ("@hourly", "UTC", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"),
            ("@every 90s", "UTC", "2026-01-01T00:00:00.5Z", "2026-01-01T00:01:30Z"),
            ("30 4 1,15 * 5", "UTC", "2026-01-01T05:00:00Z", "2026-01-02T04:30:00Z"),
            ("0 0 */2 * 1", "UTC", "2026-01-01T05:00:00Z", "2026-01-03T00:00:00Z"),
            ("0 12 * * MON-FRI", "UTC", "2026-01-02T12:00:00Z", "2026-01-05T12:00:00Z"),
            ("5/20 * * * *", "UTC", "2026-01-01T00:26:00Z", "2026-01-01T00:45:00Z"),
            ("0 0 29 feb ?", "UTC", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 31 2 *", "UTC", "2026-01-01T00:00:00Z", "never"),
            ("0 9 * * *", "Europe/Berlin", "2026-07-01T08:00:00Z", "2026-07-02T07:00:00Z"),
            ("TZ=Asia/Kolkata 30 0 * * *", "UTC", "2026-01-01T00:00:00Z", "2026-01-01T19:00:00Z"),
            ("30 2 * * *", "America/New_York", "2026-03-08T05:00:00Z", "2026-03-09T06:30:00Z"),
        ];
        for (schedule, zone, after, expected) in cases {
            assert_eq!(next(schedule, zone, after), expected, "{schedule}");
        }
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for text in ["", "* * * *", "60 * * * *", "* * * * 7", "@often", "*/0 * * * *", "5-1 * * * *", "a * * * *"] {
            assert!(Schedule::parse(text, TimeZone::UTC).is_err(), "{text}");
        }
    }
}
