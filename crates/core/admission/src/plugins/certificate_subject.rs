//! Nobody gets a client certificate of the group that may do everything by asking for one.

use base64::Engine;
use coracle_meta::Value;

use crate::plugin::{Context, Plugin, Request, Verdict, forbidden};

pub struct CertificateSubjectRestriction;

impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn validate(&self, request: &Request<'_>, object: &Value, _: &Context<'_>) -> Verdict {
        let is_request = request.resource.plural == "certificatesigningrequests" && request.subresource.is_empty();
        let signer = object.str_at(&["spec", "signerName"]);
        if !is_request || !request.creates() || signer != "kubernetes.io/kube-apiserver-client" {
            return Verdict::Admit;
        }
        let pem = base64::engine::general_purpose::STANDARD.decode(object.str_at(&["spec", "request"]));
        let body = pem.ok().and_then(|pem| String::from_utf8(pem).ok()).unwrap_or_default();
        let lines: String = body.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = base64::engine::general_purpose::STANDARD.decode(lines).unwrap_or_default();
        // An attribute's value stands in the request as it is written, whatever its string type.
        if der.windows(14).any(|window| window == b"system:masters") {
            return forbidden(
                request,
                "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed",
            );
        }
        Verdict::Admit
    }
}
