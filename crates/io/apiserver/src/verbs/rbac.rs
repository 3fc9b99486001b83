//! Who writes a role or a binding must hold what it grants, or one of the verbs that lift that.

use coracle_access::{Attributes, Rule, escalate};
use coracle_kinds::Kind;
use coracle_meta::{Resource, Status, User, Value};

use crate::authorise::permits;
use crate::server::Server;

const GROUP: &str = "rbac.authorization.k8s.io";

pub fn may_grant(server: &Server, user: &User, kind: &Kind, new: &Value, old: Option<&Value>) -> Result<(), Status> {
    if kind.group != GROUP || user.is_in("system:masters") {
        return Ok(());
    }
    let namespace = new.str_at(&["metadata", "namespace"]);
    let name = new.str_at(&["metadata", "name"]);
    let is_role = matches!(kind.plural, "roles" | "clusterroles");
    let wanted: Vec<Rule> = match is_role {
        true if old.is_some_and(|old| {
            old.get("rules") == new.get("rules") && old.get("aggregationRule") == new.get("aggregationRule")
        }) =>
        {
            return Ok(());
        }
        true => Rule::all(new),
        false
            if old.is_some_and(|old| {
                old.get("subjects") == new.get("subjects") && old.get("roleRef") == new.get("roleRef")
            }) =>
        {
            return Ok(());
        }
        false => match server.policy.read().rules_of(namespace, new.get("roleRef")) {
            Some(rules) => rules.to_vec(),
            None => Vec::new(),
        },
    };
    let role_ref = new.get("roleRef");
    let (verb, plural, about) = match is_role {
        true => ("escalate", kind.plural, name),
        false if role_ref.str_at(&["kind"]) == "Role" => ("bind", "roles", role_ref.str_at(&["name"])),
        false => ("bind", "clusterroles", role_ref.str_at(&["name"])),
    };
    let resource = Resource::owned(GROUP, plural);
    let asked = Attributes { namespace, name: about, ..Attributes::of(user, verb, &resource) };
    if permits(server, &asked) {
        return Ok(());
    }
    let held = server.policy.read().rules_for(user, namespace);
    let missing = escalate::uncovered(&held, &wanted);
    if missing.is_empty() && !wants_all(new) {
        return Ok(());
    }
    Err(Status::forbidden(&kind.resource(), name, &escalate::refusal(user, &missing)))
}

/// A role that gathers others' rules can come to hold anything.
fn wants_all(role: &Value) -> bool {
    !role.get("aggregationRule").is_null()
}
