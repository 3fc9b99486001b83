//! Every namespace has a service account named `default`.

use coracle_meta::Resource;
use coracle_reconcile::{Controller, Key, Outcome, Plan, View, Watch, Write};
use jiff::Timestamp;
use serde_json::json;

use crate::namespace::NAMESPACES;
use crate::shape::Item;

pub const SERVICE_ACCOUNTS: Resource = Resource::new("", "serviceaccounts");
const NAME: &str = "default";

/// Keys are namespaces.
pub struct ServiceAccount;

impl Controller for ServiceAccount {
    fn name(&self) -> &'static str {
        "serviceaccount-controller"
    }

    fn component(&self) -> &'static str {
        "service-account-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch::itself(NAMESPACES),
            Watch {
                resource: SERVICE_ACCOUNTS,
                keys: |_, account| match account.meta.name.as_str() {
                    NAME => vec![Key::new("", account.meta.namespace.clone())],
                    _ => Vec::new(),
                },
            },
        ]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, _last: &Outcome, _now: Timestamp) -> Plan {
        let namespace = Item::get(view, &NAMESPACES, key).filter(|namespace| !namespace.meta().is_deleting());
        if namespace.is_none() || view.get(&SERVICE_ACCOUNTS, &key.name, NAME).is_some() {
            return Plan::default();
        }
        let object = json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": NAME, "namespace": key.name}});
        let write = Write::Create { resource: SERVICE_ACCOUNTS, namespace: key.name.clone(), object };
        Plan { writes: vec![write], ..Plan::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_testkit::FakeView;

    #[test]
    fn a_live_namespace_gets_its_account() {
        let view = FakeView::new().with(NAMESPACES, json!({"metadata": {"name": "n"}}));
        view.settle(&ServiceAccount, &Key::new("", "n"), Timestamp::UNIX_EPOCH);
        assert_eq!(view.names(&SERVICE_ACCOUNTS), ["default"]);
    }
}
