//! The roles and bindings that a new cluster starts with. They stand in `bootstrap.txt`, a line each:
//! `role NAMESPACE NAME [to=LABEL] [from=LABEL]`, below it indented `allow VERBS GROUPS RESOURCES [NAMES]` and
//! `path VERBS URLS`, and `bind NAMESPACE NAME KIND/ROLE SUBJECT…`; `-` is none and `core` the group without a name.
//! A line that begins with `if=GATE` counts where that feature gate is on.

use coracle_meta::{Resource, Value};

use crate::rule::Rule;

static TABLE: &str = include_str!("bootstrap.txt");

const AGGREGATE: &str = "rbac.authorization.k8s.io/aggregate-to-";

/// An object to be created at first start, without metadata that the server fills in.
pub struct Seed {
    pub resource: Resource,
    pub namespace: String,
    pub object: Value,
}

/// Every default role and binding, given which feature gates are on.
pub fn objects(is_on: impl Fn(&str) -> bool) -> Vec<Seed> {
    let mut seeds: Vec<Seed> = Vec::new();
    for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (gate, words) = gated(&words);
        if !gate.is_none_or(&is_on) {
            continue;
        }
        match words {
            ["role", namespace, name, rest @ ..] => seeds.push(role(namespace, name, rest)),
            ["bind", namespace, name, role, subjects @ ..] => seeds.push(binding((namespace, name), role, subjects)),
            _ => {
                let (Some(rule), Some(seed)) = (rule(words), seeds.last_mut()) else { continue };
                if let Value::List(rules) = seed.object.ensure(&["rules"]) {
                    rules.push(rule.to_value());
                }
            }
        }
    }
    aggregate(&mut seeds);
    seeds
}

/// The gate that a line needs, and the line without it.
fn gated<'a, 'line>(words: &'a [&'line str]) -> (Option<&'line str>, &'a [&'line str]) {
    match words.split_first() {
        Some((first, rest)) if first.starts_with("if=") => (first.strip_prefix("if="), rest),
        _ => (None, words),
    }
}

/// The rules of one default ClusterRole that need no gate.
pub fn rules_of(role: &str) -> Vec<Rule> {
    let lines = TABLE.lines().skip_while(|line| line.strip_prefix("role - ").is_none_or(|name| name != role));
    let below = lines.skip(1).take_while(|line| line.starts_with(' '));
    below.filter_map(|line| rule(&line.split_whitespace().collect::<Vec<_>>())).collect()
}

fn role(namespace: &str, name: &str, rest: &[&str]) -> Seed {
    let mut seed = start(namespace, name, "Role", "roles");
    seed.object.set(&["rules"], Vec::new());
    for word in rest {
        if let Some(to) = word.strip_prefix("to=") {
            seed.object.set(&["metadata", "labels", &format!("{AGGREGATE}{to}")], "true");
        }
        if let Some(from) = word.strip_prefix("from=") {
            let mut selector = Value::map();
            selector.set(&["matchLabels", &format!("{AGGREGATE}{from}")], "true");
            seed.object.set(&["aggregationRule", "clusterRoleSelectors"], vec![selector]);
        }
    }
    seed
}

fn binding((namespace, name): (&str, &str), role: &str, subjects: &[&str]) -> Seed {
    let mut seed = start(namespace, name, "RoleBinding", "rolebindings");
    let (kind, role) = role.split_once('/').unwrap_or(("ClusterRole", role));
    seed.object.set(&["roleRef", "apiGroup"], "rbac.authorization.k8s.io");
    seed.object.set(&["roleRef", "kind"], kind);
    seed.object.set(&["roleRef", "name"], role);
    let subjects: Vec<Value> = subjects.iter().filter_map(|text| subject(text)).collect();
    if !subjects.is_empty() {
        seed.object.set(&["subjects"], subjects);
    }
    seed
}

fn subject(text: &str) -> Option<Value> {
    let mut subject = Value::map();
    match text.split_once('/')? {
        ("sa", account) => {
            let (namespace, name) = account.split_once('/')?;
            subject.set(&["kind"], "ServiceAccount");
            subject.set(&["name"], name);
            subject.set(&["namespace"], namespace);
        }
        (kind, name) => {
            subject.set(&["kind"], if kind == "user" { "User" } else { "Group" });
            subject.set(&["apiGroup"], "rbac.authorization.k8s.io");
            subject.set(&["name"], name);
        }
    }
    Some(subject)
}

fn start(namespace: &str, name: &str, kind: &str, plural: &'static str) -> Seed {
    let namespace = if namespace == "-" { "" } else { namespace };
    let (kind, plural) = match (namespace, plural) {
        ("", "roles") => (format!("Cluster{kind}"), "clusterroles"),
        ("", _) => (format!("Cluster{kind}"), "clusterrolebindings"),
        _ => (kind.to_owned(), plural),
    };
    let mut object = Value::map();
    object.set(&["apiVersion"], "rbac.authorization.k8s.io/v1");
    object.set(&["kind"], kind);
    object.set(&["metadata", "name"], name);
    if !namespace.is_empty() {
        object.set(&["metadata", "namespace"], namespace);
    }
    object.set(&["metadata", "annotations", "rbac.authorization.kubernetes.io/autoupdate"], "true");
    object.set(&["metadata", "labels", "kubernetes.io/bootstrapping"], "rbac-defaults");
    Seed { resource: Resource::new("rbac.authorization.k8s.io", plural), namespace: namespace.into(), object }
}

fn rule(words: &[&str]) -> Option<Rule> {
    let list = |word: &str| word.split(',').filter(|item| *item != "-").map(str::to_owned).collect::<Vec<_>>();
    let groups =
        |word: &str| word.split(',').map(|group| if group == "core" { "" } else { group }.to_owned()).collect();
    match words {
        ["allow", verbs, api_groups, resources, names @ ..] => Some(Rule {
            verbs: list(verbs),
            api_groups: groups(api_groups),
            resources: list(resources),
            resource_names: names.first().map(|names| list(names)).unwrap_or_default(),
            ..Rule::default()
        }),
        ["path", verbs, urls] => Some(Rule { verbs: list(verbs), non_resource_urls: list(urls), ..Rule::default() }),
        _ => None,
    }
}

/// Fills the roles that gather others' rules, twice because `admin` gathers `edit`, which gathers `view`; afterwards
/// the aggregation controller keeps them.
fn aggregate(seeds: &mut [Seed]) {
    for _ in 0..3 {
        for index in 0..seeds.len() {
            let selectors = seeds[index].object.list_at(&["aggregationRule", "clusterRoleSelectors"]);
            let labels = selectors.iter().filter_map(|selector| selector.at(&["matchLabels"]).as_map()?.keys().next());
            let Some(label) = labels.map(str::to_owned).next() else { continue };
            let mut rules: Vec<Value> = Vec::new();
            let sources =
                seeds.iter().filter(|seed| seed.object.at(&["metadata", "labels", &label]).as_str().is_some());
            for rule in sources.flat_map(|seed| seed.object.list_at(&["rules"])) {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
            seeds[index].object.set(&["rules"], rules);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_reads_whole() {
        let seeds = objects(|_| true);
        let rules: usize = seeds.iter().map(|seed| seed.object.list_at(&["rules"]).len()).sum();
        assert!(seeds.len() > 130 && rules > 350, "{} {rules}", seeds.len());
        let indented = TABLE.lines().filter(|line| line.starts_with(' '));
        assert!(
            indented
                .map(|line| line.split_whitespace().collect::<Vec<_>>())
                .all(|words| rule(gated(&words).1).is_some())
        );
    }

    #[test]
    fn what_needs_a_gate_is_there_where_it_is_on() {
        let named = |is_on: bool| -> Vec<String> {
            let about = |seed: &&Seed| {
                let text = String::from_utf8(seed.object.to_json()).unwrap();
                text.contains("podgroup") || text.contains("workloads")
            };
            objects(|gate| is_on && gate == "GenericWorkload")
                .iter()
                .filter(about)
                .map(|seed| seed.object.str_at(&["metadata", "name"]).to_owned())
                .collect()
        };
        assert_eq!(named(false), [""; 0]);
        assert_eq!(
            named(true),
            [
                "admin",
                "edit",
                "system:aggregate-to-edit",
                "system:aggregate-to-view",
                "system:kube-scheduler",
                "view",
                "system:controller:podgroup-protection-controller",
                "system:controller:podgroup-protection-controller",
            ]
        );
    }

    #[test]
    fn admin_gathers_what_view_and_edit_may() {
        let seeds = objects(|_| false);
        let admin = seeds.iter().find(|seed| seed.object.str_at(&["metadata", "name"]) == "admin").unwrap();
        let rules = Rule::all(&admin.object);
        assert!(rules.iter().any(|rule| rule.resources.contains(&"endpointslices".to_owned())));
        assert!(rules.iter().any(|rule| rule.resources.contains(&"pods/exec".to_owned())));
    }
}
