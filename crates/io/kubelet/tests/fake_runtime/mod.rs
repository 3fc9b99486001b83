//! A container runtime made of maps: what it is asked to do is noted, what it is asked to run runs until told to end.

use async_trait::async_trait;
use coracle_kubelet::{Duplex, ExecRequest, Runtime, RuntimeError, Streams};
use coracle_proto::cri;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tonic::Status;

pub struct FakeRuntime {
    state: Mutex<State>,
    hints: broadcast::Sender<String>,
}

#[derive(Default)]
struct State {
    calls: Vec<String>,
    next: u64,
    sandboxes: Vec<cri::PodSandboxStatus>,
    containers: Vec<(String, cri::ContainerStatus, cri::ContainerConfig)>,
}

impl Default for FakeRuntime {
    fn default() -> FakeRuntime {
        FakeRuntime { state: Mutex::default(), hints: broadcast::Sender::new(64) }
    }
}

impl FakeRuntime {
    /// Everything that changed something, in order.
    pub fn calls(&self) -> Vec<String> {
        self.state.lock().calls.clone()
    }

    pub fn is_empty(&self) -> bool {
        let state = self.state.lock();
        state.sandboxes.is_empty() && state.containers.is_empty()
    }

    pub fn exit(&self, name: &str, code: i32) {
        self.end(|status| status.metadata.as_ref().is_some_and(|metadata| metadata.name == name), code);
    }

    pub fn env(&self, name: &str, key: &str) -> Option<String> {
        let state = self.state.lock();
        let (_, _, config) = state
            .containers
            .iter()
            .rev()
            .find(|(_, status, _)| status.metadata.as_ref().is_some_and(|metadata| metadata.name == name))?;
        let pair = config.envs.iter().find(|pair| pair.key == key)?;
        Some(String::from_utf8_lossy(&pair.value).into_owned())
    }

    fn end(&self, is: impl Fn(&cri::ContainerStatus) -> bool, code: i32) {
        let mut state = self.state.lock();
        let running = cri::ContainerState::ContainerRunning as i32;
        for (_, status, _) in state.containers.iter_mut().filter(|(_, status, _)| is(status) && status.state == running)
        {
            status.state = cri::ContainerState::ContainerExited as i32;
            status.exit_code = code;
            status.finished_at = now();
            let _ = self.hints.send(status.labels["io.kubernetes.pod.uid"].clone());
        }
    }

    fn call(&self, text: String) -> parking_lot::MutexGuard<'_, State> {
        let mut state = self.state.lock();
        state.calls.push(text);
        state.next += 1;
        state
    }
}

fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap()
}

fn missing() -> Status {
    Status::not_found("no such thing")
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn version(&self) -> Result<cri::VersionResponse, RuntimeError> {
        Ok(cri::VersionResponse::default())
    }

    async fn status(&self) -> Result<cri::StatusResponse, RuntimeError> {
        Ok(cri::StatusResponse::default())
    }

    async fn run_pod_sandbox(
        &self,
        request: cri::RunPodSandboxRequest,
    ) -> Result<cri::RunPodSandboxResponse, RuntimeError> {
        let mut state = self.call("sandbox".to_owned());
        let config = request.config.unwrap();
        let id = format!("s{}", state.next);
        let ip = "10.0.0.1".to_owned();
        state.sandboxes.push(cri::PodSandboxStatus {
            id: id.clone(),
            metadata: config.metadata,
            labels: config.labels,
            created_at: now(),
            network: Some(cri::PodSandboxNetworkStatus { ip, additional_ips: Vec::new() }),
            ..Default::default()
        });
        Ok(cri::RunPodSandboxResponse { pod_sandbox_id: id })
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let mut state = self.call(format!("stop-sandbox {id}"));
        let sandbox = state.sandboxes.iter_mut().find(|sandbox| sandbox.id == id).ok_or_else(missing)?;
        sandbox.state = cri::PodSandboxState::SandboxNotready as i32;
        Ok(())
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let mut state = self.call(format!("remove-sandbox {id}"));
        state.sandboxes.retain(|sandbox| sandbox.id != id);
        state.containers.retain(|(sandbox, _, _)| sandbox != id);
        Ok(())
    }

    async fn pod_sandbox_status(&self, id: &str) -> Result<cri::PodSandboxStatus, RuntimeError> {
        self.state.lock().sandboxes.iter().find(|sandbox| sandbox.id == id).cloned().ok_or_else(missing)
    }

    async fn list_pod_sandbox(&self, filter: cri::PodSandboxFilter) -> Result<Vec<cri::PodSandbox>, RuntimeError> {
        let state = self.state.lock();
        let fits = |sandbox: &&cri::PodSandboxStatus| {
            filter.label_selector.iter().all(|(key, value)| sandbox.labels.get(key) == Some(value))
        };
        let shown = state.sandboxes.iter().filter(fits).map(|sandbox| cri::PodSandbox {
            id: sandbox.id.clone(),
            labels: sandbox.labels.clone(),
            ..Default::default()
        });
        Ok(shown.collect())
    }

    async fn create_container(&self, request: cri::CreateContainerRequest) -> Result<String, RuntimeError> {
        let config = request.config.unwrap();
        let mut state = self.call(format!("create {}", config.metadata.as_ref().unwrap().name));
        let id = format!("c{}", state.next);
        let status = cri::ContainerStatus {
            id: id.clone(),
            metadata: config.metadata.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            image: config.image.clone(),
            created_at: now(),
            ..Default::default()
        };
        state.containers.push((request.pod_sandbox_id, status, config));
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<(), RuntimeError> {
        let mut state = self.call(format!("start {id}"));
        let (_, status, _) = state.containers.iter_mut().find(|(_, status, _)| status.id == id).ok_or_else(missing)?;
        status.state = cri::ContainerState::ContainerRunning as i32;
        status.started_at = now();
        Ok(())
    }

    async fn stop_container(&self, id: &str, timeout_seconds: i64) -> Result<(), RuntimeError> {
        drop(self.call(format!("stop {id} {timeout_seconds}")));
        self.end(|status| status.id == id, 143);
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        self.call(format!("remove {id}")).containers.retain(|(_, status, _)| status.id != id);
        Ok(())
    }

    async fn container_status(&self, id: &str) -> Result<cri::ContainerStatus, RuntimeError> {
        let state = self.state.lock();
        let found = state.containers.iter().find(|(_, status, _)| status.id == id);
        found.map(|(_, status, _)| status.clone()).ok_or_else(missing)
    }

    async fn list_containers(&self, filter: cri::ContainerFilter) -> Result<Vec<cri::Container>, RuntimeError> {
        let state = self.state.lock();
        let fits = |(_, status, _): &&(String, cri::ContainerStatus, cri::ContainerConfig)| {
            filter.label_selector.iter().all(|(key, value)| status.labels.get(key) == Some(value))
        };
        let shown = state.containers.iter().filter(fits).map(|(sandbox, status, _)| cri::Container {
            id: status.id.clone(),
            pod_sandbox_id: sandbox.clone(),
            labels: status.labels.clone(),
            ..Default::default()
        });
        Ok(shown.collect())
    }

    async fn update_container_resources(
        &self,
        id: &str,
        resources: cri::LinuxContainerResources,
    ) -> Result<(), RuntimeError> {
        drop(self.call(format!("resize {id} {}", resources.cpu_shares)));
        Ok(())
    }

    async fn update_pod_sandbox_resources(&self, _: &str, _: cri::LinuxContainerResources) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn exec_sync(&self, request: cri::ExecSyncRequest) -> Result<cri::ExecSyncResponse, RuntimeError> {
        drop(self.call(format!("exec {}", request.cmd.join(" "))));
        Ok(cri::ExecSyncResponse::default())
    }

    async fn list_pod_sandbox_stats(&self) -> Result<Vec<cri::PodSandboxStats>, RuntimeError> {
        Ok(Vec::new())
    }

    async fn list_images(&self) -> Result<Vec<cri::Image>, RuntimeError> {
        Ok(Vec::new())
    }

    async fn image_status(&self, image: cri::ImageSpec) -> Result<Option<cri::Image>, RuntimeError> {
        Ok(Some(cri::Image { id: image.image, ..Default::default() }))
    }

    async fn pull_image(&self, _: cri::PullImageRequest) -> Result<String, RuntimeError> {
        Err(Status::not_found("no such image"))
    }

    async fn remove_image(&self, _: cri::ImageSpec) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn exec(&self, _: ExecRequest) -> Result<Streams, RuntimeError> {
        Err(Status::unimplemented("exec"))
    }

    async fn attach(&self, _: &str) -> Result<Streams, RuntimeError> {
        Err(Status::unimplemented("attach"))
    }

    async fn port_forward(&self, _: &str, _: u16) -> Result<Box<dyn Duplex>, RuntimeError> {
        Err(Status::unimplemented("port_forward"))
    }

    async fn events(&self) -> Result<BoxStream<'static, cri::ContainerEventResponse>, RuntimeError> {
        let hints = futures_util::stream::unfold(self.hints.subscribe(), |mut hints| async move {
            let uid = hints.recv().await.ok()?;
            let metadata = cri::PodSandboxMetadata { uid, ..Default::default() };
            let sandbox = cri::PodSandboxStatus { metadata: Some(metadata), ..Default::default() };
            Some((cri::ContainerEventResponse { pod_sandbox_status: Some(sandbox), ..Default::default() }, hints))
        });
        Ok(hints.boxed())
    }
}
