//! Times as Kubernetes writes them: RFC 3339 to the second for `Time`, to the microsecond for `MicroTime`, and ages as
//! tables show them. Time comes in as an argument; there is no clock here.

use jiff::Timestamp;

/// `2026-01-02T03:04:05Z`.
pub fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `2026-01-02T03:04:05.123456Z`.
pub fn micros(time: Timestamp) -> String {
    format!("{}.{:06}Z", time.strftime("%Y-%m-%dT%H:%M:%S"), time.subsec_nanosecond().unsigned_abs() / 1000)
}

/// Any RFC 3339 time; `None` for other text.
pub fn parse(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// An age as `kubectl get` shows it: `45s`, `5m30s`, `3h`, `2d4h`, `1y20d`. Source: `apimachinery/pkg/util/duration`.
pub fn human_duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let pair = |whole: i64, unit: &str, rest: i64, rest_unit: &str| match rest {
        0 => format!("{whole}{unit}"),
        _ => format!("{whole}{unit}{rest}{rest_unit}"),
    };
    match hours {
        _ if seconds < -1 => "<invalid>".into(),
        _ if seconds < 0 => "0s".into(),
        _ if seconds < 120 => format!("{seconds}s"),
        _ if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        0..8 => pair(hours, "h", minutes % 60, "m"),
        8..48 => format!("{hours}h"),
        48..192 => pair(hours / 24, "d", hours % 24, "h"),
        192..17520 => format!("{}d", hours / 24),
        17520..70080 => pair(hours / 8760, "y", hours / 24 % 365, "d"),
        _ => format!("{}y", hours / 8760),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_go_writes_them() {
        let time = parse("2026-01-02T03:04:05.1234567+01:00").unwrap();
        assert_eq!(seconds(time), "2026-01-02T02:04:05Z");
        assert_eq!(micros(time), "2026-01-02T02:04:05.123456Z");
        assert_eq!(micros(parse("2026-01-02T03:04:05Z").unwrap()), "2026-01-02T03:04:05.000000Z");
    }

    #[test]
    fn ages_get_coarser() {
        let cases = [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (330, "5m30s"),
            (600, "10m"),
            (10799, "179m"),
            (10800, "3h"),
            (11000, "3h3m"),
            (28800, "8h"),
            (172800, "2d"),
            (176400, "2d1h"),
            (691200, "8d"),
            (63072000, "2y"),
            (-5, "<invalid>"),
        ];
        for (given, shown) in cases {
            assert_eq!(human_duration(given), shown, "{given}");
        }
    }
}
