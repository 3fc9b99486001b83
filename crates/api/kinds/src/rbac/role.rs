//! Roles: what may be done in a namespace.

use coracle_meta::names;

use super::rule;
use crate::column;
use crate::kind::Scope;
use crate::rules::Rules;

pub const RULES: Rules = Rules {
    name: names::path_segment,
    validate: |role, errors| rule::validate(role, Scope::Namespaced, errors),
    columns: column::STANDARD,
    ..Rules::STANDARD
};
