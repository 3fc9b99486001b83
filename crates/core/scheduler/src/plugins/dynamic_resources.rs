//! Claims to devices. None is allocated here, so no pod has one that could be given up: what remains of the plugin is its
//! word in the message of every pod that no node can take.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::framework::{Nomination, Plugin, Point, PostFilter};
use crate::preemption::Attempt;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Args {
    #[serde(rename = "filterTimeout")]
    _filter_timeout: Option<String>,
}

pub struct DynamicResources;

impl DynamicResources {
    pub fn make(args: Option<&Value>) -> Result<Arc<dyn Plugin>, String> {
        super::read::<Args>(args)?;
        Ok(Arc::new(DynamicResources))
    }
}

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        "DynamicResources"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PostFilter]
    }

    /// Where an earlier plugin refused every node for good, kube-scheduler has not looked at the pod's claims by now: it
    /// calls them not found, and does not try to make room.
    fn post_filter(&self, attempt: &mut Attempt<'_>) -> Option<PostFilter> {
        let unseen = attempt.class.rejection().is_some_and(|(_, status)| !status.resolvable);
        Some(match unseen {
            true => PostFilter::Stuck { message: "not found".into() },
            false => {
                let message = "no new claims to deallocate".into();
                PostFilter::Helpless { message, nomination: Nomination::Keep }
            }
        })
    }
}
