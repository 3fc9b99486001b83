//! The scale subresource of built-in kinds: replicas seen and set through `autoscaling/v1 Scale`.

use coracle_meta::{LabelSelector, Value};

/// The `Scale` of a workload.
pub fn of(object: &Value) -> Value {
    let mut scale = Value::map();
    scale.set(&["kind"], "Scale");
    scale.set(&["apiVersion"], "autoscaling/v1");
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        let value = object.at(&["metadata", key]);
        if !value.is_null() {
            scale.set(&["metadata", key], value.clone());
        }
    }
    let spec = scale.ensure(&["spec"]);
    *spec = Value::map();
    let wanted = object.int_at(&["spec", "replicas"]).unwrap_or_default();
    if wanted != 0 {
        spec.set(&["replicas"], wanted);
    }
    scale.set(&["status", "replicas"], object.int_at(&["status", "replicas"]).unwrap_or_default());
    let selector = selector(object.at(&["spec", "selector"]));
    if !selector.is_empty() {
        scale.set(&["status", "selector"], selector);
    }
    scale
}

/// Puts the replicas of a `Scale` into its workload.
pub fn apply(object: &mut Value, scale: &Value) {
    object.set(&["spec", "replicas"], scale.int_at(&["spec", "replicas"]).unwrap_or_default());
}

/// Of a `LabelSelector`, or of the plain labels that a ReplicationController selects.
fn selector(selector: &Value) -> String {
    let Some(map) = selector.as_map() else { return String::new() };
    let is_plain = map.iter().all(|(_, value)| value.as_str().is_some());
    if is_plain {
        return LabelSelector::from_labels(map).to_string();
    }
    LabelSelector::from_value(selector).map(|selector| selector.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_go_both_ways() {
        let json =
            br#"{"metadata":{"name":"a"},"spec":{"replicas":2,"selector":{"matchLabels":{"x":"y"}}},"status":{}}"#;
        let mut object = Value::from_json(json).unwrap();
        let mut scale = of(&object);
        assert_eq!(scale.str_at(&["status", "selector"]), "x=y");
        assert_eq!(scale.int_at(&["spec", "replicas"]), Some(2));
        scale.set(&["spec", "replicas"], 5);
        apply(&mut object, &scale);
        assert_eq!(object.int_at(&["spec", "replicas"]), Some(5));
    }
}
