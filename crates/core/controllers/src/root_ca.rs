//! Every namespace has the authority that clients of the API server trust, as ConfigMap `kube-root-ca.crt`.

use coracle_meta::Resource;
use coracle_reconcile::{Controller, Key, Outcome, Plan, View, Watch, Write};
use jiff::Timestamp;
use serde_json::json;

use crate::namespace::NAMESPACES;
use crate::shape::Item;

const CONFIG_MAPS: Resource = Resource::new("", "configmaps");
const NAME: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
/// The text that upstream gives the annotation, which its conformance suite reads.
const ABOUT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints \
                     such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across \
                     distributions of Kubernetes clusters.";

/// Keys are namespaces.
pub struct RootCaPublisher {
    pub certificate: String,
}

impl Controller for RootCaPublisher {
    fn name(&self) -> &'static str {
        "root-ca-certificate-publisher-controller"
    }

    fn component(&self) -> &'static str {
        "root-ca-cert-publisher"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch::itself(NAMESPACES),
            Watch {
                resource: CONFIG_MAPS,
                keys: |_, map| match map.meta.name.as_str() {
                    NAME => vec![Key::new("", map.meta.namespace.clone())],
                    _ => Vec::new(),
                },
            },
        ]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, _last: &Outcome, _now: Timestamp) -> Plan {
        let namespace = Item::get(view, &NAMESPACES, key).filter(|namespace| !namespace.meta().is_deleting());
        if namespace.is_none() {
            return Plan::default();
        }
        let write = match Item::get(view, &CONFIG_MAPS, &Key::new(key.name.clone(), NAME)) {
            Some(map) if *map.at("/data") != json!({"ca.crt": self.certificate}) => {
                let mut data = map.at("/data").clone();
                for (_, value) in data.as_object_mut().into_iter().flatten() {
                    *value = serde_json::Value::Null;
                }
                data["ca.crt"] = json!(self.certificate);
                Some(map.patch(&CONFIG_MAPS, None, json!({"data": data})))
            }
            Some(map) if map.annotation(DESCRIPTION).is_none_or(str::is_empty) => {
                Some(map.patch(&CONFIG_MAPS, None, json!({"metadata": {"annotations": {DESCRIPTION: ABOUT}}})))
            }
            Some(_) => None,
            None => {
                let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": {"name": NAME, "namespace": key.name, "annotations": {DESCRIPTION: ABOUT}},
                    "data": {"ca.crt": self.certificate}});
                Some(Write::Create { resource: CONFIG_MAPS, namespace: key.name.clone(), object })
            }
        };
        Plan { writes: write.into_iter().collect(), ..Plan::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_testkit::FakeView;

    #[test]
    fn a_changed_certificate_is_restored() {
        let view = FakeView::new().with(NAMESPACES, json!({"metadata": {"name": "n"}}));
        let publisher = RootCaPublisher { certificate: "PEM".into() };
        view.settle(&publisher, &Key::new("", "n"), Timestamp::UNIX_EPOCH);
        let mut map = view.json(&CONFIG_MAPS, "n", NAME);
        map["data"] = json!({"ca.crt": "other", "more": "x"});
        map["metadata"]["annotations"][DESCRIPTION] = json!("told in other words");
        view.put(&CONFIG_MAPS, map);
        view.settle(&publisher, &Key::new("", "n"), Timestamp::UNIX_EPOCH);
        let mut map = view.json(&CONFIG_MAPS, "n", NAME);
        assert_eq!(map["data"], json!({"ca.crt": "PEM"}));
        assert_eq!(map["metadata"]["annotations"][DESCRIPTION], "told in other words");
        map["metadata"]["annotations"] = json!({});
        view.put(&CONFIG_MAPS, map);
        view.settle(&publisher, &Key::new("", "n"), Timestamp::UNIX_EPOCH);
        assert_eq!(view.json(&CONFIG_MAPS, "n", NAME)["metadata"]["annotations"][DESCRIPTION], ABOUT);
    }
}
