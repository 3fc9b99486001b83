//! A new node takes no pods until its conditions are known.

use coracle_meta::Value;

use crate::plugin::{Context, Plugin, Request, Verdict};

pub struct TaintNodesByCondition;

const KEY: &str = "node.kubernetes.io/not-ready";

impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn mutate(&self, request: &Request<'_>, node: &mut Value, _: &Context<'_>) -> Verdict {
        if !request.is_core("nodes") || !request.creates() {
            return Verdict::Admit;
        }
        let mut taints = node.list_at(&["spec", "taints"]).to_vec();
        let known = |taint: &Value| taint.str_at(&["key"]) == KEY && taint.str_at(&["effect"]) == "NoSchedule";
        if taints.iter().any(known) {
            return Verdict::Admit;
        }
        let mut taint = Value::map();
        taint.set(&["key"], KEY);
        taint.set(&["effect"], "NoSchedule");
        taints.push(taint);
        node.set(&["spec", "taints"], taints);
        Verdict::Mutate
    }
}
