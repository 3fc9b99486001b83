//! One RBAC rule: what it allows. Source: Kubernetes `pkg/apis/rbac/v1/evaluation_helpers.go`.

use coracle_meta::Value;

use crate::authorize::Attributes;

/// A `PolicyRule`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub verbs: Vec<String>,
    pub api_groups: Vec<String>,
    pub resources: Vec<String>,
    pub resource_names: Vec<String>,
    pub non_resource_urls: Vec<String>,
}

impl Rule {
    pub fn from_value(value: &Value) -> Rule {
        Rule {
            verbs: strings(value.get("verbs")),
            api_groups: strings(value.get("apiGroups")),
            resources: strings(value.get("resources")),
            resource_names: strings(value.get("resourceNames")),
            non_resource_urls: strings(value.get("nonResourceURLs")),
        }
    }

    /// The rules of a role; none where the member is missing.
    pub fn all(role: &Value) -> Vec<Rule> {
        role.list_at(&["rules"]).iter().map(Rule::from_value).collect()
    }

    pub fn to_value(&self) -> Value {
        let lists = [
            ("verbs", &self.verbs),
            ("apiGroups", &self.api_groups),
            ("resources", &self.resources),
            ("resourceNames", &self.resource_names),
            ("nonResourceURLs", &self.non_resource_urls),
        ];
        let mut value = Value::map();
        for (key, list) in lists.into_iter().filter(|(key, list)| *key == "verbs" || !list.is_empty()) {
            value.set(&[key], list.iter().map(Value::string).collect::<Vec<_>>());
        }
        value
    }

    pub fn allows(&self, asked: &Attributes<'_>) -> bool {
        if !has(&self.verbs, asked.verb) {
            return false;
        }
        if !asked.is_resource() {
            return self.non_resource_urls.iter().any(|pattern| url_matches(pattern, asked.path));
        }
        has(&self.api_groups, asked.group)
            && self.allows_resource(asked.resource, asked.subresource)
            && (self.resource_names.is_empty() || self.resource_names.iter().any(|name| name == asked.name))
    }

    fn allows_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|pattern| match pattern.split_once('/') {
            _ if pattern == "*" => true,
            None => subresource.is_empty() && pattern == resource,
            Some(("*", own)) => !subresource.is_empty() && own == subresource,
            Some((own, own_subresource)) => {
                own == resource && own_subresource == subresource && !subresource.is_empty()
            }
        })
    }
}

pub(crate) fn strings(value: &Value) -> Vec<String> {
    let items = value.as_list().unwrap_or_default();
    items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

/// A pattern is a path, `*`, or a path that ends in `*`.
pub(crate) fn url_matches(pattern: &str, path: &str) -> bool {
    pattern == "*" || pattern == path || pattern.strip_suffix('*').is_some_and(|start| path.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_meta::{Resource, User};

    fn rule(verbs: &str, groups: &str, resources: &str) -> Rule {
        let list = |text: &str| text.split(',').map(str::to_owned).collect();
        Rule { verbs: list(verbs), api_groups: list(groups), resources: list(resources), ..Rule::default() }
    }

    #[test]
    fn resources_and_subresources_are_matched_apart() {
        let user = User::new("x", &[]);
        let pods = Resource::new("", "pods");
        for (resources, subresource, allowed) in [
            ("pods", "", true),
            ("pods", "log", false),
            ("pods/log", "log", true),
            ("pods/log", "", false),
            ("*/log", "log", true),
            ("*", "log", true),
            ("secrets", "", false),
        ] {
            let asked = Attributes { subresource, ..Attributes::of(&user, "get", &pods) };
            assert_eq!(rule("get,list", "", resources).allows(&asked), allowed, "{resources} {subresource}");
        }
    }

    #[test]
    fn a_named_rule_needs_the_name() {
        let user = User::new("x", &[]);
        let pods = Resource::new("", "pods");
        let named = Rule { resource_names: vec!["a".into()], ..rule("get", "", "pods") };
        assert!(named.allows(&Attributes { name: "a", ..Attributes::of(&user, "get", &pods) }));
        assert!(!named.allows(&Attributes::of(&user, "get", &pods)));
    }

    #[test]
    fn url_patterns_end_in_a_star() {
        assert!(url_matches("/healthz/*", "/healthz/etcd"));
        assert!(!url_matches("/healthz", "/healthz/etcd"));
    }
}
