//! What a request is about, read from its method, path and query alone. Source: Kubernetes
//! `apiserver/pkg/endpoints/request/requestinfo.go`.

use http::Method;

use crate::query::Query;

/// A request's subject. With an empty `resource` it is about its path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    pub verb: &'static str,
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
    /// What follows the subresource: the path handed on by the proxy subresources.
    pub rest: String,
    pub path: String,
}

impl RequestInfo {
    pub fn read(method: &Method, path: &str, query: &Query) -> RequestInfo {
        let mut info = RequestInfo { path: path.to_owned(), verb: lower(method), ..RequestInfo::default() };
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
            ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
            _ => return info,
        };
        info.group = group.to_owned();
        info.version = version.to_owned();
        info.verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        };
        info.locate(rest);
        info.refine(method, query);
        info
    }

    pub fn is_resource(&self) -> bool {
        !self.resource.is_empty()
    }

    fn locate(&mut self, parts: &[&str]) {
        let parts = match parts {
            ["watch", rest @ ..] if !rest.is_empty() => {
                self.verb = "watch";
                rest
            }
            parts => parts,
        };
        let parts = match parts {
            ["namespaces", namespace, rest @ ..] => {
                self.namespace = decoded(namespace);
                // A namespace's own subresources are about the namespace object.
                match rest {
                    [] | ["status" | "finalize", ..] if self.group.is_empty() => parts,
                    rest => rest,
                }
            }
            parts => parts,
        };
        let part = |index: usize| parts.get(index).map(|text| decoded(text)).unwrap_or_default();
        (self.resource, self.name, self.subresource) = (part(0), part(1), part(2));
        self.rest = parts.get(3..).unwrap_or_default().join("/");
    }

    fn refine(&mut self, method: &Method, query: &Query) {
        if self.name.is_empty() && self.verb == "get" {
            self.verb = if query.flag("watch") { "watch" } else { "list" };
        }
        if self.name.is_empty() && *method == Method::DELETE {
            self.verb = "deletecollection";
        }
        // A list or watch of one name is authorised as one of that name.
        if self.name.is_empty()
            && matches!(self.verb, "list" | "watch" | "deletecollection")
            && let Some(selector) = query.get("fieldSelector")
            && let Ok(selector) = coracle_meta::FieldSelector::parse(selector)
            && let Some(name) = selector.exact("metadata.name")
        {
            self.name = name.to_owned();
        }
    }
}

fn lower(method: &Method) -> &'static str {
    match *method {
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::HEAD => "head",
        Method::OPTIONS => "options",
        _ => "get",
    }
}

fn decoded(text: &str) -> String {
    crate::query::percent_decode(text, crate::query::Plus::Literal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_verbs_and_resources() {
        let table = [
            (Method::GET, "/api/v1/pods", "list", "", "pods", "", ""),
            (Method::GET, "/api/v1/namespaces/a/pods/b", "get", "a", "pods", "b", ""),
            (Method::GET, "/api/v1/namespaces/a", "get", "a", "namespaces", "a", ""),
            (Method::PUT, "/api/v1/namespaces/a/finalize", "update", "a", "namespaces", "a", "finalize"),
            (Method::POST, "/apis/apps/v1/namespaces/a/deployments", "create", "a", "deployments", "", ""),
            (
                Method::PATCH,
                "/apis/apps/v1/namespaces/a/deployments/d/scale",
                "patch",
                "a",
                "deployments",
                "d",
                "scale",
            ),
            (Method::DELETE, "/api/v1/namespaces/a/pods", "deletecollection", "a", "pods", "", ""),
            (Method::GET, "/api/v1/watch/pods", "watch", "", "pods", "", ""),
            (Method::GET, "/healthz", "get", "", "", "", ""),
            (Method::GET, "/apis/apps/v1", "get", "", "", "", ""),
        ];
        for (method, path, verb, namespace, resource, name, subresource) in table {
            let info = RequestInfo::read(&method, path, &Query::parse(""));
            let seen = (info.verb, &*info.namespace, &*info.resource, &*info.name, &*info.subresource);
            assert_eq!(seen, (verb, namespace, resource, name, subresource), "{path}");
        }
    }

    #[test]
    fn a_watch_is_told_by_its_query() {
        let query = Query::parse("watch=1&fieldSelector=metadata.name%3Dx");
        let info = RequestInfo::read(&Method::GET, "/api/v1/pods", &query);
        assert_eq!((info.verb, &*info.name), ("watch", "x"));
    }
}
