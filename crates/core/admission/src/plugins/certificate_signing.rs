//! Who puts a certificate into a request must be allowed to sign for its signer. Source: Kubernetes
//! `plugin/pkg/admission/certificates/signing`.

use coracle_meta::Value;

use crate::plugin::{Context, Plugin, Request, Verdict};
use crate::signers;

pub struct CertificateSigning;

impl Plugin for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn validate(&self, request: &Request<'_>, object: &Value, context: &Context<'_>) -> Verdict {
        let Some(old) = request.old.filter(|_| signers::is_part(request, "status")) else { return Verdict::Admit };
        let same = |key: &str| old.at(&["status", key]) == object.at(&["status", key]);
        if same("certificate") && same("conditions") {
            return Verdict::Admit;
        }
        signers::require(request, context, "sign", old.str_at(&["spec", "signerName"]))
    }
}
