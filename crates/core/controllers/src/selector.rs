//! Label selectors over an object's labels.

use coracle_meta::object::Projection;
use serde_json::Value;

/// A parsed `meta/v1 LabelSelector`, or a plain map of labels.
#[derive(Clone, Debug, Default)]
pub struct Selector {
    rules: Vec<Rule>,
    nothing: bool,
}

#[derive(Clone, Debug)]
struct Rule {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl Selector {
    /// Null selects nothing, an empty selector everything; one that is not valid selects nothing.
    pub fn parse(value: &Value) -> Selector {
        let mut selector = Selector { rules: Vec::new(), nothing: value.is_null() };
        selector.add_labels(&value["matchLabels"]);
        for expression in value["matchExpressions"].as_array().into_iter().flatten() {
            let operator = match expression["operator"].as_str() {
                Some("In") => Operator::In,
                Some("NotIn") => Operator::NotIn,
                Some("Exists") => Operator::Exists,
                Some("DoesNotExist") => Operator::DoesNotExist,
                _ => return Selector { rules: Vec::new(), nothing: true },
            };
            let values = expression["values"].as_array().into_iter().flatten();
            let values = values.filter_map(|value| value.as_str().map(Into::into)).collect();
            let key = expression["key"].as_str().unwrap_or_default().into();
            selector.rules.push(Rule { key, operator, values });
        }
        selector
    }

    /// A map of labels that must all be there; null or empty selects nothing.
    pub fn labels(value: &Value) -> Selector {
        let nothing = value.as_object().is_none_or(|labels| labels.is_empty());
        let mut selector = Selector { rules: Vec::new(), nothing };
        selector.add_labels(value);
        selector
    }

    fn add_labels(&mut self, labels: &Value) {
        for (key, value) in labels.as_object().into_iter().flatten() {
            let values = vec![value.as_str().unwrap_or_default().to_owned()];
            self.rules.push(Rule { key: key.clone(), operator: Operator::In, values });
        }
    }

    pub fn is_everything(&self) -> bool {
        self.rules.is_empty() && !self.nothing
    }

    pub fn matches(&self, meta: &Projection) -> bool {
        !self.nothing && self.rules.iter().all(|rule| rule.matches(meta.label(&rule.key)))
    }
}

impl Rule {
    fn matches(&self, label: Option<&str>) -> bool {
        let listed = label.is_some_and(|label| self.values.iter().any(|value| value == label));
        match self.operator {
            Operator::In => listed,
            Operator::NotIn => !listed,
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn expressions_select_as_upstream_does() {
        let meta = Projection { labels: [("a".into(), "1".into())].into(), ..Projection::default() };
        let cases = [
            (json!({}), true),
            (Value::Null, false),
            (json!({"matchLabels": {"a": "1"}}), true),
            (json!({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}), false),
            (json!({"matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["1"]}]}), true),
            (json!({"matchExpressions": [{"key": "b", "operator": "DoesNotExist"}]}), true),
            (json!({"matchExpressions": [{"key": "a", "operator": "Exists"}]}), true),
        ];
        for (selector, expected) in cases {
            assert_eq!(Selector::parse(&selector).matches(&meta), expected, "{selector}");
        }
    }
}
