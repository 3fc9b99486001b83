//! The guard against raising one's own rights: who writes a role must hold all it grants, or the verb `escalate`; who
//! binds one must hold all it grants, or the verb `bind`. Source: Kubernetes `component-helpers/auth/rbac/validation`.

use coracle_meta::User;

use crate::rule::{Rule, url_matches};

/// The rules of `wanted` that `held` does not cover. A role that is covered whole gives nothing.
pub fn uncovered(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let atoms = wanted.iter().flat_map(atoms);
    atoms.filter(|atom| !held.iter().any(|rule| covers(rule, atom))).collect()
}

/// Why the user may not grant what is missing, as Kubernetes words it.
pub fn refusal(user: &User, missing: &[Rule]) -> String {
    let groups: Vec<String> = user.groups.iter().map(|group| format!("{group:?}")).collect();
    let rules: Vec<String> = missing.iter().map(describe).collect();
    format!(
        "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        groups.join(" "),
        rules.join("\n")
    )
}

/// One rule for each combination of verb, group, resource and name.
fn atoms(rule: &Rule) -> Vec<Rule> {
    let mut atoms = Vec::new();
    for verb in &rule.verbs {
        for url in &rule.non_resource_urls {
            let urls = vec![url.clone()];
            atoms.push(Rule { verbs: vec![verb.clone()], non_resource_urls: urls, ..Rule::default() });
        }
        for (group, resource) in rule.api_groups.iter().flat_map(|group| rule.resources.iter().map(move |r| (group, r)))
        {
            let atom = Rule {
                verbs: vec![verb.clone()],
                api_groups: vec![group.clone()],
                resources: vec![resource.clone()],
                ..Rule::default()
            };
            if rule.resource_names.is_empty() {
                atoms.push(atom);
                continue;
            }
            let named = rule.resource_names.iter();
            atoms.extend(named.map(|name| Rule { resource_names: vec![name.clone()], ..atom.clone() }));
        }
    }
    atoms
}

fn covers(held: &Rule, atom: &Rule) -> bool {
    let within =
        |list: &[String], wanted: &[String]| wanted.iter().all(|item| list.iter().any(|own| own == "*" || own == item));
    if !within(&held.verbs, &atom.verbs) {
        return false;
    }
    if let [url] = atom.non_resource_urls.as_slice() {
        return held.non_resource_urls.iter().any(|pattern| url_matches(pattern, url));
    }
    let resource_covered = atom.resources.iter().all(|wanted| {
        let subresource = wanted.split_once('/').map(|(_, subresource)| format!("*/{subresource}"));
        held.resources.iter().any(|own| own == "*" || own == wanted || Some(own) == subresource.as_ref())
    });
    let names_covered = held.resource_names.is_empty()
        || (!atom.resource_names.is_empty()
            && atom.resource_names.iter().all(|name| held.resource_names.contains(name)));
    within(&held.api_groups, &atom.api_groups) && resource_covered && names_covered
}

fn describe(rule: &Rule) -> String {
    let lists = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("ResourceNames", &rule.resource_names),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("Verbs", &rule.verbs),
    ];
    let parts = lists.into_iter().filter(|(_, list)| !list.is_empty());
    let parts: Vec<String> = parts.map(|(name, list)| format!("{name}:{list:?}")).collect();
    format!("{{{}}}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &[&str], resources: &[&str], names: &[&str]) -> Rule {
        let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
        Rule {
            verbs: list(verbs),
            api_groups: vec![String::new()],
            resources: list(resources),
            resource_names: list(names),
            ..Rule::default()
        }
    }

    #[test]
    fn what_is_held_in_parts_covers_the_whole() {
        let held = [rule(&["get"], &["pods"], &[]), rule(&["list"], &["pods", "secrets"], &[])];
        assert!(uncovered(&held, &[rule(&["get", "list"], &["pods"], &[])]).is_empty());
        assert_eq!(uncovered(&held, &[rule(&["get"], &["pods", "secrets"], &[])]), [rule(&["get"], &["secrets"], &[])]);
    }

    #[test]
    fn a_named_right_does_not_cover_all_names() {
        let held = [rule(&["get"], &["pods"], &["a"])];
        assert!(uncovered(&held, &[rule(&["get"], &["pods"], &["a"])]).is_empty());
        assert_eq!(uncovered(&held, &[rule(&["get"], &["pods"], &[])]).len(), 1);
    }
}
