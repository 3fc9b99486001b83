//! What the runtime says of itself.

use coracle_proto::cri;
use tonic::Status;

use crate::EmbeddedRuntime;

impl EmbeddedRuntime {
    pub async fn version(&self) -> Result<cri::VersionResponse, Status> {
        Ok(cri::VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "coracle".into(),
            runtime_version: env!("CARGO_PKG_VERSION").into(),
            runtime_api_version: "v1".into(),
        })
    }

    pub async fn status(&self) -> Result<cri::StatusResponse, Status> {
        let condition = |kind: &str, problem: Option<(&str, String)>| {
            let (reason, message) = problem.unwrap_or_default();
            let status = reason.is_empty();
            cri::RuntimeCondition { r#type: kind.into(), status, reason: reason.into(), message }
        };
        let network = self.options.network.ready().await.err().map(|message| ("NetworkPluginNotReady", message));
        let conditions = vec![condition("RuntimeReady", None), condition("NetworkReady", network)];
        let features = cri::RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: false };
        let handler = |name: &str| cri::RuntimeHandler { name: name.into(), features: Some(features) };
        Ok(cri::StatusResponse {
            status: Some(cri::RuntimeStatus { conditions }),
            runtime_handlers: vec![handler(""), handler("coracle")],
            features: Some(cri::RuntimeFeatures { supplemental_groups_policy: true, ..Default::default() }),
            ..Default::default()
        })
    }

    pub async fn runtime_config(&self) -> Result<cri::RuntimeConfigResponse, Status> {
        let linux = cri::LinuxRuntimeConfiguration { cgroup_driver: cri::CgroupDriver::Cgroupfs as i32 };
        Ok(cri::RuntimeConfigResponse { linux: Some(linux) })
    }
}
