//! Requests under a service account of `kube-system`, as kube-controller-manager sends them with
//! `--use-service-account-credentials`: the token comes from a TokenRequest and is asked for anew before it expires.
//! The account is made where it is missing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use coracle_client::{
    Body, BodyError, Client, ClientError, HttpsTransport, Kubeconfig, KubeconfigError, ObjectPath, ResourceRef,
    Transport, WriteOptions,
};
use coracle_rt::Scope;
use http::{HeaderValue, Request, Response, StatusCode, header};
use serde_json::{Value, json};
use tokio::sync::Mutex;

const NAMESPACE: &str = "kube-system";
const LIFE_SECONDS: u64 = 3600;

/// Hands out clients that share connections and differ in their tokens.
pub struct Accounts {
    /// May make accounts and request tokens.
    root: Client,
    /// Carries no credentials of its own.
    bare: Arc<HttpsTransport>,
}

impl Accounts {
    /// To the server of a kubeconfig, with `root` as who asks for tokens.
    pub fn new(scope: &Scope, kubeconfig: &Kubeconfig, root: Client) -> Result<Accounts, KubeconfigError> {
        let mut bare = kubeconfig.clone();
        for user in &mut bare.users {
            user.user = Default::default();
        }
        Ok(Accounts { root, bare: Arc::new(HttpsTransport::from_kubeconfig(scope, &bare)?) })
    }

    pub fn client(&self, name: &str) -> Client {
        let (root, bare, name) = (self.root.clone(), self.bare.clone(), name.to_owned());
        Client::new(Arc::new(Account { root, bare, name, token: Mutex::default() }))
    }
}

struct Account {
    root: Client,
    bare: Arc<HttpsTransport>,
    name: String,
    token: Mutex<Option<Token>>,
}

struct Token {
    header: HeaderValue,
    until: Instant,
}

#[async_trait]
impl Transport for Account {
    async fn send(&self, mut request: Request<Bytes>) -> Result<Response<Body>, BodyError> {
        let header = self.current().await?;
        request.headers_mut().insert(header::AUTHORIZATION, header);
        let answer = self.bare.send(request).await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            // The account was made anew, or the server's keys were: the next request gets a new token.
            *self.token.lock().await = None;
        }
        Ok(answer)
    }
}

impl Account {
    async fn current(&self) -> Result<HeaderValue, BodyError> {
        let mut token = self.token.lock().await;
        if let Some(token) = token.as_ref().filter(|token| Instant::now() < token.until) {
            return Ok(token.header.clone());
        }
        let answer = match self.request().await {
            Err(ClientError::Status(status)) if status.code == 404 => {
                self.make().await?;
                self.request().await?
            }
            other => other?,
        };
        let text = answer["status"]["token"].as_str().ok_or("the server's TokenRequest has no token")?;
        let life = answer["spec"]["expirationSeconds"].as_u64().unwrap_or(LIFE_SECONDS);
        let header = HeaderValue::from_str(&format!("Bearer {text}"))?;
        *token = Some(Token { header: header.clone(), until: Instant::now() + Duration::from_secs(life / 5 * 4) });
        Ok(header)
    }

    async fn request(&self) -> Result<Value, ClientError> {
        let path = ObjectPath::new(accounts(), NAMESPACE, &self.name).subresource("token");
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"expirationSeconds": LIFE_SECONDS},
        });
        self.root.create_sub(&path, &request).await
    }

    async fn make(&self) -> Result<(), ClientError> {
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": self.name, "namespace": NAMESPACE},
        });
        match self.root.create(&accounts(), NAMESPACE, &account, &WriteOptions::default()).await {
            Err(ClientError::Status(status)) if status.is_already_exists() => Ok(()),
            other => other.map(|_| ()),
        }
    }
}

fn accounts() -> ResourceRef {
    ResourceRef::new("", "v1", "serviceaccounts")
}
