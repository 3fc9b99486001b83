//! Pods that say nothing else stay five minutes on a node that is not ready or not reached.

use coracle_meta::Value;

use crate::plugin::{Context, Operation, Plugin, Request, Verdict};

pub struct DefaultTolerationSeconds;

const SECONDS: i64 = 300;
const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn mutate(&self, request: &Request<'_>, pod: &mut Value, _: &Context<'_>) -> Verdict {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        if !request.is_core("pods") || !writes {
            return Verdict::Admit;
        }
        let mut tolerations = pod.list_at(&["spec", "tolerations"]).to_vec();
        let missing: Vec<&str> = TAINTS.into_iter().filter(|taint| !tolerates(&tolerations, taint)).collect();
        if missing.is_empty() {
            return Verdict::Admit;
        }
        for taint in missing {
            let mut toleration = Value::map();
            toleration.set(&["key"], taint);
            toleration.set(&["operator"], "Exists");
            toleration.set(&["effect"], "NoExecute");
            toleration.set(&["tolerationSeconds"], SECONDS);
            tolerations.push(toleration);
        }
        pod.set(&["spec", "tolerations"], tolerations);
        Verdict::Mutate
    }
}

fn tolerates(tolerations: &[Value], taint: &str) -> bool {
    tolerations.iter().any(|toleration| {
        let (key, effect) = (toleration.str_at(&["key"]), toleration.str_at(&["effect"]));
        (key == taint || key.is_empty()) && (effect == "NoExecute" || effect.is_empty())
    })
}
