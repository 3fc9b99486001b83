//! ClusterRoleBindings: who has a role everywhere.

use coracle_meta::names;

use super::binding;
use crate::column::{AGE, Column, NAME, text};
use crate::kind::Scope;
use crate::rules::Rules;

const COLUMNS: &[Column] = &[
    NAME,
    text("Role", |object, _| binding::role(object).into()),
    AGE,
    text("Users", |object, _| binding::subjects(object, "User").into()).wide(),
    text("Groups", |object, _| binding::subjects(object, "Group").into()).wide(),
    text("ServiceAccounts", |object, _| binding::subjects(object, "ServiceAccount").into()).wide(),
];

pub const RULES: Rules = Rules {
    default: binding::default,
    name: names::path_segment,
    validate: |object, errors| binding::validate(object, Scope::Cluster, errors),
    validate_update: binding::validate_update,
    columns: COLUMNS,
    ..Rules::STANDARD
};
