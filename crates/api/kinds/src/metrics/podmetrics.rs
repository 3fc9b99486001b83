//! PodMetrics: what the containers of a pod use.

use coracle_meta::Value;
use coracle_meta::quantity::Quantity;

use super::{NAME, WINDOW, column};
use crate::column::Column;
use crate::rules::Rules;

const COLUMNS: &[Column] = &[
    NAME,
    column("cpu", "quantity", |pod, _| together(pod, "cpu")),
    column("memory", "quantity", |pod, _| together(pod, "memory")),
    WINDOW,
];

pub const RULES: Rules = Rules { columns: COLUMNS, ..Rules::STANDARD };

/// What all containers use together.
fn together(pod: &Value, resource: &str) -> Value {
    let containers = pod.list_at(&["containers"]).iter();
    let amounts = containers.filter_map(|one| Quantity::from_value(one.at(&["usage", resource])).ok());
    Value::string(amounts.fold(Quantity::ZERO, Quantity::plus).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_tells_the_sum_of_the_containers() {
        let json = br#"{"containers":[{"usage":{"cpu":"1500u","memory":"1Ki"}},{"usage":{"cpu":"1","memory":"3Ki"}}]}"#;
        let pod = Value::from_json(json).unwrap();
        assert_eq!(together(&pod, "cpu"), Value::string("1001500u"));
        assert_eq!(together(&pod, "memory"), Value::string("4Ki"));
    }
}
