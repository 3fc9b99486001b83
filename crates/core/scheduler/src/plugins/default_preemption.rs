//! A pod that fits nowhere makes room by evicting pods of less importance.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::framework::{Plugin, Point, PostFilter};
use crate::preemption::{Attempt, Extent};

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Args {
    min_candidate_nodes_percentage: i64,
    min_candidate_nodes_absolute: i64,
}

impl Default for Args {
    fn default() -> Args {
        Args { min_candidate_nodes_percentage: 10, min_candidate_nodes_absolute: 100 }
    }
}

pub struct DefaultPreemption {
    extent: Extent,
}

impl DefaultPreemption {
    pub fn make(args: Option<&Value>) -> Result<Arc<dyn Plugin>, String> {
        let Args { min_candidate_nodes_percentage: percent, min_candidate_nodes_absolute: least } = super::read(args)?;
        if !(0..=100).contains(&percent) {
            return Err("minCandidateNodesPercentage: not in valid range [0, 100]".into());
        }
        if least < 0 {
            return Err("minCandidateNodesAbsolute: not in valid range [0, inf)".into());
        }
        if percent == 0 && least == 0 {
            return Err(
                "minCandidateNodesPercentage and minCandidateNodesAbsolute: both cannot be zero at the same time"
                    .into(),
            );
        }
        Ok(Arc::new(DefaultPreemption { extent: Extent { percent, least } }))
    }
}

impl Plugin for DefaultPreemption {
    fn name(&self) -> &'static str {
        "DefaultPreemption"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PostFilter, Point::PreEnqueue]
    }

    fn post_filter(&self, attempt: &mut Attempt<'_>) -> Option<PostFilter> {
        Some(match attempt.preempt(self.extent) {
            PostFilter::Helpless { message, nomination } => {
                PostFilter::Helpless { message: format!("preemption: {message}"), nomination }
            }
            other => other,
        })
    }
}
