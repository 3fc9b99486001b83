//! A kubelet's `metrics/resource`, read: Prometheus' text format, of which the families that matter are taken.

use super::points::Reading;

/// Containers that one node is believed to run.
const CONTAINERS_MAX: usize = 10_000;

/// Reads a page that was fetched at `now` (milliseconds since 1970), which is the time of samples that tell none. `None`
/// where it says nothing about the node.
pub fn read(page: &str, now: i64) -> Option<Reading> {
    let mut reading = Reading::default();
    let mut count = 0;
    for sample in page.lines().filter_map(Sample::read) {
        let at = sample.at.unwrap_or(now);
        let point = match (sample.label("namespace"), sample.label("pod"), sample.label("container")) {
            (Some(namespace), Some(pod), Some(container)) => {
                let pod = reading.pods.entry((namespace, pod)).or_default();
                count += usize::from(!pod.contains_key(&container));
                if count > CONTAINERS_MAX {
                    break;
                }
                pod.entry(container).or_default()
            }
            _ => &mut reading.node,
        };
        match sample.name {
            "node_cpu_usage_seconds_total" | "container_cpu_usage_seconds_total" => {
                (point.cpu_nanos, point.at) = ((sample.value * 1e9) as u64, at);
            }
            "node_memory_working_set_bytes" | "container_memory_working_set_bytes" => {
                point.memory_bytes = sample.value as u64;
            }
            "container_start_time_seconds" => point.started = (sample.value * 1000.0) as i64,
            _ => {}
        }
    }
    // What has no memory or was never measured has just ended or not begun.
    reading.pods.retain(|_, containers| {
        containers.retain(|_, point| point.at > 0 && point.memory_bytes > 0);
        !containers.is_empty()
    });
    Some(reading).filter(|reading| reading.node.at > 0)
}

/// One line: `name{label="value",…} value milliseconds`.
struct Sample<'a> {
    name: &'a str,
    labels: &'a str,
    value: f64,
    at: Option<i64>,
}

impl<'a> Sample<'a> {
    fn read(line: &'a str) -> Option<Sample<'a>> {
        if line.starts_with('#') {
            return None;
        }
        let (name, labels, rest) = match line.split_once('{') {
            Some((name, rest)) => {
                let (labels, rest) = rest.rsplit_once('}')?;
                (name, labels, rest)
            }
            None => {
                let (name, rest) = line.split_once(' ')?;
                (name, "", rest)
            }
        };
        let mut numbers = rest.split_whitespace();
        let value = numbers.next()?.parse().ok()?;
        Some(Sample { name, labels, value, at: numbers.next().and_then(|at| at.parse().ok()) })
    }

    /// The names in question hold nothing that would be escaped.
    fn label(&self, wanted: &str) -> Option<String> {
        self.labels.split(',').find_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            (name.trim() == wanted).then(|| value.trim_matches('"').to_owned())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::points::Point;
    use super::*;

    #[test]
    fn pages_are_read_with_and_without_times_and_in_any_notation() {
        let page = "# HELP node_cpu_usage_seconds_total [STABLE] Cumulative cpu time\n\
                    # TYPE node_cpu_usage_seconds_total counter\n\
                    node_cpu_usage_seconds_total 1.5 1600000000123\n\
                    node_memory_working_set_bytes 1.6911616e+07 1600000000123\n\
                    container_cpu_usage_seconds_total{container=\"c\",namespace=\"n\",pod=\"p\"} 0.25 1600000000100\n\
                    container_memory_working_set_bytes{container=\"c\",namespace=\"n\",pod=\"p\"} 4096\n\
                    container_start_time_seconds{container=\"c\",namespace=\"n\",pod=\"p\"} 1.6e+09\n\
                    container_memory_working_set_bytes{container=\"ended\",namespace=\"n\",pod=\"q\"} 0\n\
                    pod_cpu_usage_seconds_total{namespace=\"n\",pod=\"p\"} 99\n\
                    resource_scrape_error 0\n";
        let reading = read(page, 5).unwrap();
        let node = Point { started: 0, at: 1_600_000_000_123, cpu_nanos: 1_500_000_000, memory_bytes: 16_911_616 };
        assert_eq!(reading.node, node);
        let wanted =
            Point { started: 1_600_000_000_000, at: 1_600_000_000_100, cpu_nanos: 250_000_000, memory_bytes: 4096 };
        assert_eq!(reading.pods.len(), 1);
        assert_eq!(reading.pods[&("n".to_owned(), "p".to_owned())]["c"], wanted);
    }

    #[test]
    fn a_page_without_the_node_is_none() {
        assert_eq!(read("resource_scrape_error 1\n", 5), None);
        assert_eq!(read("node_cpu_usage_seconds_total 2\n", 5).map(|reading| reading.node.at), Some(5));
    }
}
