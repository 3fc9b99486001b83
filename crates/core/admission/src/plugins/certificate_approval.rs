//! Who approves or denies a certificate request must be allowed to approve for its signer, not only to write the
//! request's approval. Source: Kubernetes `plugin/pkg/admission/certificates/approval`.

use coracle_meta::Value;

use crate::plugin::{Context, Plugin, Request, Verdict};
use crate::signers;

pub struct CertificateApproval;

impl Plugin for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn validate(&self, request: &Request<'_>, _: &Value, context: &Context<'_>) -> Verdict {
        let Some(old) = request.old.filter(|_| signers::is_part(request, "approval")) else { return Verdict::Admit };
        // The old object counts: whoever approves cannot choose another signer along the way.
        signers::require(request, context, "approve", old.str_at(&["spec", "signerName"]))
    }
}
