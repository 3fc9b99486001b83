//! How far and how fast replicas may change: recommendations of late are weighed, policies bound the change within
//! their periods. Source: Kubernetes `pkg/controller/podautoscaler/horizontal.go`.

use std::time::Duration;

use jiff::SignedDuration;
use serde_json::Value;

/// How long a lower recommendation waits for a higher one where nothing else is said.
const DOWN_WINDOW_SECONDS: i64 = 300;
/// Recommendations and scalings remembered.
const REMEMBERED_MAX: usize = 1000;

/// Since some start, by a clock that nobody sets; before it where a window reaches back that far.
type Instant = SignedDuration;

pub fn instant(steady: Duration) -> Instant {
    SignedDuration::try_from(steady).unwrap_or(SignedDuration::MAX)
}

#[derive(Clone, Debug, Default)]
pub struct History {
    recommendations: Vec<(Instant, i64)>,
    /// By how much, and when.
    scalings: Vec<(Instant, i64)>,
}

pub struct Bounds {
    pub current: i64,
    pub least: i64,
    pub most: i64,
    pub now: Instant,
}

pub struct Normal {
    pub replicas: i64,
    /// Reason and message of `AbleToScale`.
    pub able: (&'static str, &'static str),
    /// Whether, and reason and message of `ScalingLimited`.
    pub limited: (bool, &'static str, &'static str),
}

const WITHIN: (&str, &str) = ("DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_FAST: (&str, &str) =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const TOO_FAST_DOWN: (&str, &str) =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
const TOO_MANY: (&str, &str) = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: (&str, &str) = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");

impl History {
    /// Before anything was recommended, what there is counts as recommended: a controller that starts anew shrinks
    /// nothing at once.
    pub fn begin(&mut self, current: i64, now: Duration) {
        if self.recommendations.is_empty() {
            self.recommendations.push((instant(now), current));
        }
    }

    pub fn scaled(&mut self, from: i64, to: i64, now: Duration) {
        if self.scalings.len() >= REMEMBERED_MAX {
            self.scalings.remove(0);
        }
        self.scalings.push((instant(now), to - from));
    }

    pub fn forget_last_scaling(&mut self) {
        self.scalings.pop();
    }

    pub fn normalize(&mut self, behavior: &Value, bounds: &Bounds, wanted: i64) -> Normal {
        let steady = self.stabilize(behavior, bounds, wanted);
        let able = if steady == wanted {
            ("ReadyForNewScale", "recommended size matches current size")
        } else if wanted >= bounds.current && !behavior.is_null() {
            let why = "recent recommendations were lower than current one, applying the lowest recent recommendation";
            ("ScaleUpStabilized", why)
        } else {
            let why = "recent recommendations were higher than current one, applying the highest recent recommendation";
            ("ScaleDownStabilized", why)
        };
        let (replicas, (reason, message)) =
            if behavior.is_null() { plain(bounds, steady) } else { self.by_policies(behavior, bounds, steady) };
        Normal { replicas, able, limited: (replicas != steady, reason, message) }
    }

    /// Within the windows, upwards the lowest recommendation counts, downwards the highest.
    fn stabilize(&mut self, behavior: &Value, bounds: &Bounds, wanted: i64) -> i64 {
        let window = |direction: &str, default: i64| {
            let seconds = behavior[direction]["stabilizationWindowSeconds"].as_i64().unwrap_or(default);
            bounds.now - SignedDuration::from_secs(seconds)
        };
        let (up, down) = (window("scaleUp", 0), window("scaleDown", DOWN_WINDOW_SECONDS));
        let oldest = up.min(down);
        self.recommendations.retain(|(at, _)| *at > oldest);
        let within = |from: Instant| self.recommendations.iter().filter(move |(at, _)| *at > from);
        let lowest = within(up).map(|(_, count)| *count).min().map_or(wanted, |lowest| lowest.min(wanted));
        let highest = within(down).map(|(_, count)| *count).max().map_or(wanted, |highest| highest.max(wanted));
        if self.recommendations.len() >= REMEMBERED_MAX {
            self.recommendations.remove(0);
        }
        self.recommendations.push((bounds.now, wanted));
        if behavior.is_null() { highest } else { bounds.current.max(lowest).min(highest) }
    }

    fn by_policies(&self, behavior: &Value, bounds: &Bounds, wanted: i64) -> (i64, (&'static str, &'static str)) {
        let current = bounds.current;
        if wanted > current {
            let limit = self.limit(&behavior["scaleUp"], bounds, Direction::Up).max(current);
            let (most, why) = if bounds.most > limit { (limit, TOO_FAST) } else { (bounds.most, TOO_MANY) };
            if wanted > most {
                return (most, why);
            }
        } else if wanted < current {
            let limit = self.limit(&behavior["scaleDown"], bounds, Direction::Down).min(current);
            let (least, why) = if bounds.least < limit { (limit, TOO_FAST_DOWN) } else { (bounds.least, TOO_FEW) };
            if wanted < least {
                return (least, why);
            }
        }
        (wanted, WITHIN)
    }

    fn limit(&self, rules: &Value, bounds: &Bounds, direction: Direction) -> i64 {
        let select = rules["selectPolicy"].as_str().unwrap_or("Max");
        let policies = rules["policies"].as_array().map(Vec::as_slice).unwrap_or_default();
        if select == "Disabled" {
            return bounds.current;
        }
        let proposals = policies.iter().map(|policy| {
            let period = SignedDuration::from_secs(policy["periodSeconds"].as_i64().unwrap_or(15));
            let recent = self.scalings.iter().filter(|(at, _)| *at > bounds.now - period);
            let start = bounds.current - recent.map(|(_, change)| change).sum::<i64>();
            let value = policy["value"].as_i64().unwrap_or(0);
            match (policy["type"] == "Percent", direction) {
                (false, Direction::Up) => start + value,
                (false, Direction::Down) => start - value,
                (true, Direction::Up) => (start as f64 * (1.0 + value as f64 / 100.0)).ceil() as i64,
                (true, Direction::Down) => (start as f64 * (1.0 - value as f64 / 100.0)) as i64,
            }
        });
        // The largest change is the highest count upwards and the lowest downwards.
        let largest = (select == "Min") != (direction == Direction::Up);
        let chosen = if largest { proposals.max() } else { proposals.min() };
        chosen.unwrap_or(match direction {
            Direction::Up => bounds.most,
            Direction::Down => bounds.least,
        })
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Up,
    Down,
}

/// Without policies, at most double at a time, but up to four.
fn plain(bounds: &Bounds, wanted: i64) -> (i64, (&'static str, &'static str)) {
    let fastest = (bounds.current * 2).max(4);
    let (most, why) = if bounds.most > fastest { (fastest, TOO_FAST) } else { (bounds.most, TOO_MANY) };
    if wanted < bounds.least {
        return (bounds.least, TOO_FEW);
    }
    if wanted > most { (most, why) } else { (wanted, WITHIN) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn bounds(current: i64, seconds: i64) -> Bounds {
        Bounds { current, least: 1, most: 100, now: SignedDuration::from_secs(seconds) }
    }

    #[test]
    fn growth_is_bounded_and_shrinking_waits() {
        let mut history = History::default();
        let up = history.normalize(&Value::Null, &bounds(3, 0), 50);
        assert_eq!((up.replicas, up.limited.1), (6, "ScaleUpLimit"));
        let down = history.normalize(&Value::Null, &bounds(6, 60), 2);
        assert_eq!((down.able.0, down.replicas > 2), ("ScaleDownStabilized", true));
        let later = history.normalize(&Value::Null, &bounds(6, 361), 2);
        assert_eq!((later.replicas, later.able.0), (2, "ReadyForNewScale"));
    }

    #[test]
    fn what_there_is_counts_as_recommended_at_first() {
        let mut history = History::default();
        history.begin(6, Duration::ZERO);
        assert_eq!(history.normalize(&Value::Null, &bounds(6, 60), 2).able.0, "ScaleDownStabilized");
        let now = json!({"scaleDown": {"stabilizationWindowSeconds": 0, "policies": []}});
        assert_eq!(history.normalize(&now, &bounds(6, 61), 2).replicas, 2);
    }

    #[test]
    fn policies_bound_the_change_within_their_periods() {
        let rules = |select: &str| {
            json!({"stabilizationWindowSeconds": 0, "selectPolicy": select, "policies": [
                {"type": "Pods", "value": 4, "periodSeconds": 60}, {"type": "Percent", "value": 10, "periodSeconds": 60}]})
        };
        for (select, current, wanted, expected) in
            [("Max", 10, 50, 14), ("Min", 10, 50, 11), ("Disabled", 10, 50, 10), ("Max", 20, 1, 16), ("Min", 20, 1, 18)]
        {
            let behavior = json!({"scaleUp": rules(select), "scaleDown": rules(select)});
            let found = History::default().normalize(&behavior, &bounds(current, 0), wanted);
            assert_eq!(found.replicas, expected, "{select} {current} {wanted}");
        }
        let mut history = History::default();
        history.scaled(10, 14, Duration::ZERO);
        let behavior = json!({"scaleUp": rules("Max"), "scaleDown": rules("Max")});
        assert_eq!(history.normalize(&behavior, &bounds(14, 30), 50).replicas, 14);
        assert_eq!(history.normalize(&behavior, &bounds(14, 61), 50).replicas, 18);
    }
}
