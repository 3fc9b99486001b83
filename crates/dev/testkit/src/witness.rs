//! What controllers tell and write in the cases of a test binary, noted as facts where a file is named for them: a test
//! can then compare all of it with all that Kubernetes' controllers tell and write.

use std::collections::BTreeSet;
use std::io::Write as _;

use coracle_reconcile::{Controller, Key, Outcome, Plan, View, Write};
use jiff::Timestamp;
use serde_json::Value;

/// Names the file that facts are appended to, one a line.
pub const FACTS_FILE: &str = "CORACLE_FACTS";

/// Decisions under a witness.
pub trait Witness: Controller {
    /// `reconcile`, noted.
    fn decide(&self, view: &dyn View, key: &Key, last: &Outcome, now: Timestamp) -> Plan {
        let plan = self.reconcile(view, key, last, now);
        if let Some(path) = std::env::var_os(FACTS_FILE) {
            let mut text = String::new();
            for fact in facts(self.name(), &plan) {
                text.push_str(&fact);
                text.push('\n');
            }
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            file.and_then(|mut file| file.write_all(text.as_bytes())).expect("the file of facts can be written");
        }
        plan
    }
}

impl<C: Controller + ?Sized> Witness for C {}

/// `CONTROLLER event REASON`, `CONTROLLER condition RESOURCE TYPE` and `CONTROLLER status RESOURCE FIELD`.
pub fn facts(controller: &str, plan: &Plan) -> BTreeSet<String> {
    let mut facts: BTreeSet<String> =
        plan.events.iter().map(|event| format!("{controller} event {}", event.reason)).collect();
    for write in &plan.writes {
        let (resource, object) = match write {
            Write::Create { resource, object, .. } | Write::Replace { resource, object, .. } => (resource, object),
            Write::Patch { resource, patch, .. } => (resource, patch),
            Write::Delete { .. } => continue,
        };
        for (field, value) in object["status"].as_object().into_iter().flatten() {
            facts.insert(format!("{controller} status {} {field}", resource.plural));
            let conditions = value.as_array().filter(|_| field == "conditions").into_iter().flatten();
            for kind in conditions.filter_map(|condition| condition.get("type").and_then(Value::as_str)) {
                facts.insert(format!("{controller} condition {} {kind}", resource.plural));
            }
        }
    }
    facts
}
