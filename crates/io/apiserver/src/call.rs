//! One request on its way: who asks, what for, and what to warn of.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::Bytes;
use coracle_kinds::Kind;
use coracle_meta::{Status, User};
use http::header::HeaderValue;
use parking_lot::Mutex;

use crate::answer::Response;
use crate::caller::Caller;
use crate::query::Query;
use crate::request::RequestInfo;
use crate::server::Server;

const WARNINGS_MAX: usize = 20;

pub struct Call {
    pub user: Arc<User>,
    pub info: RequestInfo,
    pub query: Query,
    pub head: http::request::Parts,
    pub body: Bytes,
    /// Where the caller is, as the proxying doors tell it on.
    pub address: IpAddr,
    warnings: Mutex<Vec<String>>,
}

/// The kind a request is about, in the version it speaks.
#[derive(Clone, Copy)]
pub struct Served {
    pub kind: &'static Kind,
    pub version: &'static str,
}

impl Served {
    /// The kind in the version it is stored in.
    pub fn stored(group: &str, plural: &str) -> Option<Served> {
        let kind = coracle_kinds::find_named(group, plural)?;
        Some(Served { kind, version: kind.storage?.version })
    }

    pub fn api_version(&self) -> String {
        self.kind.api_version(self.version)
    }

    /// Whether objects rest in the form this version shows them in.
    pub fn is_storage_form(&self) -> bool {
        self.kind.storage.is_some_and(|storage| storage.group == self.kind.group && storage.version == self.version)
    }
}

impl Call {
    /// Reads the request and settles who asks; a refusal comes with the call, so that it is counted like any other.
    #[expect(clippy::result_large_err, reason = "the call is needed to answer the failure, and moves once")]
    pub fn new(server: &Arc<Server>, caller: Caller, request: http::Request<Bytes>) -> Result<Call, (Call, Status)> {
        let (head, body) = request.into_parts();
        let query = Query::parse(head.uri.query().unwrap_or_default());
        let info = RequestInfo::read(&head.method, head.uri.path(), &query);
        let found = server.user(&caller, &head.headers);
        let (user, failed) = match found {
            Ok(user) => (user, None),
            Err(status) => (Arc::new(User::anonymous()), Some(status)),
        };
        let address = match caller {
            Caller::Socket { address, .. } => address,
            Caller::Local(_) => Ipv4Addr::LOCALHOST.into(),
        };
        let call = Call { user, info, query, head, body, address, warnings: Mutex::default() };
        match failed {
            None => Ok(call),
            Some(status) => Err((call, status)),
        }
    }

    /// Tells the client something that did not stop the request.
    pub fn warn(&self, text: impl Into<String>) {
        let mut warnings = self.warnings.lock();
        let text = text.into();
        if warnings.len() < WARNINGS_MAX && !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    pub fn header(&self, name: &str) -> &str {
        self.head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub fn is_dry_run(&self) -> bool {
        self.query.all("dryRun").any(|value| value == "All")
    }

    /// Puts what every answer carries on this one.
    pub fn finish(&self, mut response: Response) -> Response {
        let headers = response.headers_mut();
        headers.insert("cache-control", HeaderValue::from_static("no-cache, private"));
        for text in self.warnings.lock().iter() {
            let quoted = text.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
            if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
                headers.append("warning", value);
            }
        }
        response
    }
}
