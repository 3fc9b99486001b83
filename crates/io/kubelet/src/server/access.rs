//! Who may call: the API server by its certificate, and whoever else shows a certificate of the client CA or a token,
//! as far as the API server says that they may do this to the node. Source: Kubernetes `pkg/kubelet/server/auth.go`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use coracle_client::{Client, ClientError, ResourceRef, WriteOptions};
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{Method, StatusCode};
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};

use super::{Answer, text};

const TOKEN_KEPT: Duration = Duration::from_secs(120);
const ALLOWED_KEPT: Duration = Duration::from_secs(300);
const DENIED_KEPT: Duration = Duration::from_secs(30);
/// Answers kept of either kind; when there are more, all are asked for anew.
const KEPT_MAX: usize = 1000;

/// As a certificate or a token says.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
}

pub(super) struct Access {
    client: Client,
    node: String,
    /// Names of certificates that are asked nothing further.
    trusted: Vec<String>,
    tokens: Mutex<BTreeMap<String, (Instant, Option<User>)>>,
    verdicts: Mutex<BTreeMap<Question, (Instant, bool)>>,
}

/// User, verb and subresource of the node.
type Question = (User, &'static str, &'static str);

impl Access {
    pub fn new(client: Client, node: &str, trusted: &[String]) -> Access {
        let (node, trusted) = (node.to_owned(), trusted.to_vec());
        Access { client, node, trusted, tokens: Mutex::default(), verdicts: Mutex::default() }
    }

    /// Lets a request of who showed this certificate pass, or answers it.
    pub async fn check(&self, shown: Option<&User>, head: &Parts) -> Result<(), Answer> {
        if shown.is_some_and(|user| self.trusted.contains(&user.name)) {
            return Ok(());
        }
        let unauthorized = || text(StatusCode::UNAUTHORIZED, "Unauthorized");
        let user = match shown {
            Some(user) => user.clone(),
            None => self.user_of(bearer(head).ok_or_else(unauthorized)?).await.ok_or_else(unauthorized)?,
        };
        let (verb, parts) = (verb(&head.method), subresources(head.uri.path()));
        for part in parts {
            match self.allows((user.clone(), verb, part)).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(component = "kubelet", %error, user = user.name, "asking whether a caller may");
                    let what = format!("(user={}, verb={verb}, resource=nodes, subresource={part})", user.name);
                    return Err(text(StatusCode::INTERNAL_SERVER_ERROR, &format!("Authorization error {what}")));
                }
            }
        }
        let what = format!("user={}, verb={verb}, resource=nodes, subresource(s)=[{}]", user.name, parts.join(" "));
        Err(text(StatusCode::FORBIDDEN, &format!("Forbidden ({what})")))
    }

    async fn user_of(&self, token: String) -> Option<User> {
        if let Some(known) = recall(&self.tokens, &token, |_| TOKEN_KEPT) {
            return known;
        }
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
        let answer = self.ask("authentication.k8s.io", "tokenreviews", &review).await.ok()?;
        let user = (answer["status"]["authenticated"] == true).then(|| named(&answer["status"]["user"]));
        keep(&self.tokens, token, user.clone());
        user
    }

    async fn allows(&self, question: Question) -> Result<bool, ClientError> {
        let life = |allowed: &bool| if *allowed { ALLOWED_KEPT } else { DENIED_KEPT };
        if let Some(known) = recall(&self.verdicts, &question, life) {
            return Ok(known);
        }
        let (user, verb, part) = &question;
        let attributes =
            json!({"verb": verb, "version": "v1", "resource": "nodes", "subresource": part, "name": self.node});
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
            "user": user.name, "uid": user.uid, "groups": user.groups, "resourceAttributes": attributes}});
        let answer = self.ask("authorization.k8s.io", "subjectaccessreviews", &review).await?;
        let allowed = answer["status"]["allowed"] == true;
        keep(&self.verdicts, question, allowed);
        Ok(allowed)
    }

    async fn ask(&self, group: &'static str, plural: &'static str, review: &Value) -> Result<Value, ClientError> {
        self.client.create(&ResourceRef::new(group, "v1", plural), "", review, &WriteOptions::default()).await
    }
}

/// The user of a certificate that the CA has vouched for: its common name, in the groups of its organisations.
pub(super) fn of_certificate(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization().filter_map(|group| Some(group.as_str().ok()?.to_owned())).collect();
    Some(User { name, uid: String::new(), groups })
}

fn recall<K: Ord, V: Clone>(
    kept: &Mutex<BTreeMap<K, (Instant, V)>>,
    key: &K,
    life: impl Fn(&V) -> Duration,
) -> Option<V> {
    let kept = kept.lock();
    let (at, value) = kept.get(key)?;
    (at.elapsed() < life(value)).then(|| value.clone())
}

fn keep<K: Ord, V>(kept: &Mutex<BTreeMap<K, (Instant, V)>>, key: K, value: V) {
    let mut kept = kept.lock();
    if kept.len() >= KEPT_MAX {
        kept.clear();
    }
    kept.insert(key, (Instant::now(), value));
}

fn named(user: &Value) -> User {
    let text = |key: &str| user[key].as_str().unwrap_or_default().to_owned();
    let groups = user["groups"].as_array().into_iter().flatten();
    let groups = groups.filter_map(|group| Some(group.as_str()?.to_owned())).collect();
    User { name: text("username"), uid: text("uid"), groups }
}

fn bearer(head: &Parts) -> Option<String> {
    let (scheme, token) = head.headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    Some(token.trim().to_owned()).filter(|token| scheme.eq_ignore_ascii_case("bearer") && !token.is_empty())
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::GET => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

/// Of which one must be allowed.
fn subresources(path: &str) -> &'static [&'static str] {
    match path.split('/').nth(1).unwrap_or_default() {
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "checkpoint" => &["checkpoint"],
        "statusz" => &["statusz"],
        "flagz" => &["configz"],
        "pods" | "runningpods" => &["pods", "proxy"],
        "healthz" => &["healthz", "proxy"],
        "configz" => &["configz", "proxy"],
        _ => &["proxy"],
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use bytes::Bytes;
    use coracle_client::{Body, BodyError, Transport};
    use http_body_util::{BodyExt, Full};

    use super::*;

    /// Knows the token `good` as `scraper`, whom it lets read metrics and nothing else.
    #[derive(Default)]
    struct Api(AtomicUsize);

    #[async_trait]
    impl Transport for Api {
        async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, BodyError> {
            self.0.fetch_add(1, Ordering::SeqCst);
            let asked: Value = serde_json::from_slice(request.body())?;
            let spec = &asked["spec"];
            let status = match asked["kind"].as_str() {
                Some("TokenReview") if spec["token"] == "good" => {
                    json!({"authenticated": true, "user": {"username": "scraper", "groups": ["g"]}})
                }
                Some("TokenReview") => json!({"authenticated": false}),
                _ => {
                    let attributes = &spec["resourceAttributes"];
                    assert_eq!((&attributes["resource"], &attributes["name"]), (&json!("nodes"), &json!("n")));
                    let known = spec["user"] == "scraper" && spec["groups"] == json!(["g"]);
                    json!({"allowed": known && attributes["subresource"] == "metrics" && attributes["verb"] == "get"})
                }
            };
            let body = Full::new(Bytes::from(json!({"status": status}).to_string()));
            Ok(http::Response::new(body.map_err(|never| match never {}).boxed_unsync()))
        }
    }

    fn head(path: &str, token: &str) -> Parts {
        let mut request = http::Request::get(path);
        if !token.is_empty() {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        request.body(()).unwrap().into_parts().0
    }

    #[tokio::test]
    async fn a_caller_may_what_the_api_server_says_and_is_asked_about_once() {
        let api = Arc::new(Api::default());
        let access = Access::new(Client::new(api.clone()), "n", &["api".to_owned()]);
        let code = async |shown: Option<&User>, path: &str, token: &str| {
            access.check(shown, &head(path, token)).await.map_or_else(|answer| answer.status().as_u16(), |()| 200)
        };
        let api_server = User { name: "api".into(), ..User::default() };
        assert_eq!(code(Some(&api_server), "/exec/a/b/c", "").await, 200);
        assert_eq!(api.0.load(Ordering::SeqCst), 0);
        assert_eq!(code(None, "/metrics/resource", "").await, 401);
        assert_eq!(code(None, "/metrics/resource", "bad").await, 401);
        let before = api.0.load(Ordering::SeqCst);
        for _ in 0..3 {
            assert_eq!(code(None, "/metrics/resource", "good").await, 200);
        }
        assert_eq!(api.0.load(Ordering::SeqCst), before + 2);
        assert_eq!(code(None, "/stats/summary", "good").await, 403);
        let stranger = User { name: "stranger".into(), ..User::default() };
        assert_eq!(code(Some(&stranger), "/pods", "good").await, 403);
    }

    #[test]
    fn paths_are_parts_of_the_node() {
        assert_eq!(subresources("/metrics/resource"), ["metrics"]);
        assert_eq!(subresources("/pods"), ["pods", "proxy"]);
        assert_eq!(subresources("/containerLogs/a/b/c"), ["proxy"]);
    }
}
