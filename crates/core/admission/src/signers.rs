//! Rights over signers of certificates: by the signer's name, or by its domain. Source: Kubernetes
//! `plugin/pkg/admission/certificates` and `pkg/certauthorization`.

use coracle_meta::Resource;

use crate::plugin::{Answer, Ask, Context, Operation, Request, Verdict, forbidden};

const GROUP: &str = "certificates.k8s.io";
const SIGNERS: Resource = Resource::new(GROUP, "signers");

/// Whether this is an update of that part of a certificate request.
pub fn is_part(request: &Request<'_>, part: &str) -> bool {
    request.operation == Operation::Update
        && request.resource.group == GROUP
        && request.resource.plural == "certificatesigningrequests"
        && request.subresource == part
}

/// Admits who may do this for the signer, asking first for its name, then for all of its domain.
pub fn require(request: &Request<'_>, context: &Context<'_>, verb: &'static str, signer: &str) -> Verdict {
    let domain = signer.split('/').next().unwrap_or_default();
    let names = [signer.to_owned(), format!("{domain}/*")];
    if context.answers.iter().any(|answer| matches!(answer, Answer::Permitted(true))) {
        return Verdict::Admit;
    }
    match names.into_iter().nth(context.answers.len()) {
        Some(name) => Verdict::Ask(Ask::Permit { verb, resource: SIGNERS, name }),
        None => {
            let quoted = coracle_meta::field::quote(signer);
            forbidden(request, format!("user not permitted to {verb} requests with signerName {quoted}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use coracle_meta::{Gates, User, Value};

    use super::*;
    use crate::PLUGINS;
    use crate::plugin::Nothing;

    fn decided(plugin: &str, part: &str, answers: &[Answer]) -> String {
        let old = Value::from_json(br#"{"spec":{"signerName":"example.com/web"}}"#).unwrap();
        let new = Value::from_json(br#"{"spec":{"signerName":"x/y"},"status":{"certificate":"eA=="}}"#).unwrap();
        let (resource, user) = (Resource::new(GROUP, "certificatesigningrequests"), User::new("eve", &[]));
        let request = Request {
            operation: Operation::Update,
            resource: &resource,
            subresource: part,
            namespace: "",
            name: "r",
            user: &user,
            old: Some(&old),
        };
        let context = Context { facts: &Nothing, answers, suffix: "", gates: Gates::default() };
        let found = PLUGINS.iter().find(|known| known.name() == plugin).unwrap();
        match found.validate(&request, &new, &context) {
            Verdict::Admit | Verdict::Mutate => "admitted".into(),
            Verdict::Deny(status) => status.message,
            Verdict::Ask(Ask::Permit { verb, name, .. }) => format!("{verb} {name}?"),
            Verdict::Ask(other) => format!("{other:?}"),
        }
    }

    #[test]
    fn only_who_may_use_a_signer_approves_and_signs_for_it() {
        let (no, yes) = (Answer::Permitted(false), Answer::Permitted(true));
        for (plugin, part, verb) in
            [("CertificateApproval", "approval", "approve"), ("CertificateSigning", "status", "sign")]
        {
            assert_eq!(decided(plugin, part, &[]), format!("{verb} example.com/web?"));
            assert_eq!(decided(plugin, part, std::slice::from_ref(&no)), format!("{verb} example.com/*?"));
            assert_eq!(decided(plugin, part, &[no.clone(), yes.clone()]), "admitted");
            assert_eq!(
                decided(plugin, part, &[no.clone(), no.clone()]),
                format!(
                    "certificatesigningrequests.certificates.k8s.io \"r\" is forbidden: user not permitted to {verb} \
                     requests with signerName \"example.com/web\""
                )
            );
            assert_eq!(decided(plugin, "", &[]), "admitted");
        }
    }
}
