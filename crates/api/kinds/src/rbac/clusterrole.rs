//! ClusterRoles: what may be done anywhere, some of them made of others by label.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, names};

use super::rule;
use crate::column;
use crate::kind::Scope;
use crate::rules::Rules;
use crate::shapes::selector;

pub const RULES: Rules = Rules { name: names::path_segment, validate, columns: column::STANDARD, ..Rules::STANDARD };

fn validate(role: &Value, errors: &mut ErrorList) {
    rule::validate(role, Scope::Cluster, errors);
    let aggregation = role.get("aggregationRule");
    if aggregation.is_null() {
        return;
    }
    let path = Path::new("aggregationRule.clusterRoleSelectors");
    let selectors = aggregation.list_at(&["clusterRoleSelectors"]);
    if selectors.is_empty() {
        errors.required(&path, "at least one clusterRoleSelector required if aggregationRule is non-nil");
    }
    for (index, picked) in selectors.iter().enumerate() {
        selector::validate(picked, &path.index(index), errors);
    }
}
