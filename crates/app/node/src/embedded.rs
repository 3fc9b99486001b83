//! Joins the embedded runtime to the kubelet, and the pod network to the runtime: the same calls under each other's
//! names.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coracle_kubelet::runtime::{Duplex, ExecRequest, Runtime, RuntimeError, Streams};
use coracle_podnet::{PodNetwork, PortMapping, Transport};
use coracle_proto::cri;
use coracle_rt::Scope;
use coracle_runtime::{EmbeddedRuntime, ExecOptions, NetworkAttach, NetworkRequest, Resize};

type NetworkError = Box<dyn std::error::Error + Send + Sync>;
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, unfold};
use tokio::sync::{broadcast, mpsc, oneshot};
use tonic::Status;

/// Sizes of a terminal that may wait to be passed on.
const RESIZES_MAX: usize = 4;

pub struct Embedded {
    pub runtime: Arc<EmbeddedRuntime>,
    pub scope: Scope,
}

impl Embedded {
    fn streams(&self, streams: coracle_runtime::Streams) -> Streams {
        let coracle_runtime::Streams { stdin, stdout, stderr, resize, exit, kill } = streams;
        let (sizes, mut wanted) = mpsc::channel::<(u16, u16)>(RESIZES_MAX);
        let (done, exited) = oneshot::channel();
        self.scope.spawn_until_cancelled("streams", async move {
            // Holding `kill` keeps the process alive; it goes when the process or its caller has gone.
            let _kill = kill;
            let resizes = async {
                while let Some((columns, rows)) = wanted.recv().await {
                    let _ = resize.send(Resize { columns, rows }).await;
                }
            };
            let code = tokio::select! {
                code = exit => code,
                () = async { resizes.await; std::future::pending::<()>().await } => return,
            };
            // A process whose end was not seen has failed, as far as its caller can know.
            let _ = done.send(code.ok().and_then(Result::ok).unwrap_or(-1));
        });
        Streams { stdin, stdout: Some(stdout), stderr, resize: sizes, exit: exited }
    }
}

#[async_trait]
impl Runtime for Embedded {
    async fn version(&self) -> Result<cri::VersionResponse, RuntimeError> {
        self.runtime.version().await
    }

    async fn status(&self) -> Result<cri::StatusResponse, RuntimeError> {
        self.runtime.status().await
    }

    fn warm(&self) {
        self.runtime.warm();
    }

    async fn run_pod_sandbox(
        &self,
        request: cri::RunPodSandboxRequest,
    ) -> Result<cri::RunPodSandboxResponse, RuntimeError> {
        self.runtime.run_pod_sandbox(request).await
    }

    async fn stop_pod_sandbox(&self, sandbox_id: &str) -> Result<(), RuntimeError> {
        self.runtime.stop_pod_sandbox(sandbox_id).await
    }

    async fn remove_pod_sandbox(&self, sandbox_id: &str) -> Result<(), RuntimeError> {
        self.runtime.remove_pod_sandbox(sandbox_id).await
    }

    async fn pod_sandbox_status(&self, sandbox_id: &str) -> Result<cri::PodSandboxStatus, RuntimeError> {
        let response = self.runtime.pod_sandbox_status(sandbox_id).await?;
        response.status.ok_or_else(|| Status::not_found(format!("sandbox {sandbox_id} has no status")))
    }

    async fn list_pod_sandbox(&self, filter: cri::PodSandboxFilter) -> Result<Vec<cri::PodSandbox>, RuntimeError> {
        self.runtime.list_pod_sandbox(Some(filter)).await
    }

    async fn create_container(&self, request: cri::CreateContainerRequest) -> Result<String, RuntimeError> {
        Ok(self.runtime.create_container(request).await?.container_id)
    }

    async fn start_container(&self, container_id: &str) -> Result<(), RuntimeError> {
        self.runtime.start_container(container_id).await
    }

    async fn stop_container(&self, container_id: &str, timeout_seconds: i64) -> Result<(), RuntimeError> {
        self.runtime.stop_container(container_id, seconds(timeout_seconds)).await
    }

    async fn remove_container(&self, container_id: &str) -> Result<(), RuntimeError> {
        self.runtime.remove_container(container_id).await
    }

    async fn container_status(&self, container_id: &str) -> Result<cri::ContainerStatus, RuntimeError> {
        let response = self.runtime.container_status(container_id).await?;
        response.status.ok_or_else(|| Status::not_found(format!("container {container_id} has no status")))
    }

    async fn list_containers(&self, filter: cri::ContainerFilter) -> Result<Vec<cri::Container>, RuntimeError> {
        self.runtime.list_containers(Some(filter)).await
    }

    async fn exec_sync(&self, request: cri::ExecSyncRequest) -> Result<cri::ExecSyncResponse, RuntimeError> {
        self.runtime.exec_sync(&request.container_id, request.cmd, seconds(request.timeout)).await
    }

    async fn list_pod_sandbox_stats(&self) -> Result<Vec<cri::PodSandboxStats>, RuntimeError> {
        self.runtime.list_pod_sandbox_stats().await
    }

    async fn list_images(&self) -> Result<Vec<cri::Image>, RuntimeError> {
        self.runtime.list_images(None).await
    }

    async fn image_status(&self, image: cri::ImageSpec) -> Result<Option<cri::Image>, RuntimeError> {
        Ok(self.runtime.image_status(&image.image).await?.image)
    }

    async fn pull_image(&self, request: cri::PullImageRequest) -> Result<String, RuntimeError> {
        Ok(self.runtime.pull_image(request).await?.image_ref)
    }

    async fn remove_image(&self, image: cri::ImageSpec) -> Result<(), RuntimeError> {
        self.runtime.remove_image(&image.image).await
    }

    async fn exec(&self, request: ExecRequest) -> Result<Streams, RuntimeError> {
        let options = ExecOptions { cmd: request.cmd, tty: request.tty, stdin: request.stdin };
        Ok(self.streams(self.runtime.exec(&request.container_id, options).await?))
    }

    async fn attach(&self, container_id: &str) -> Result<Streams, RuntimeError> {
        Ok(self.streams(self.runtime.attach(container_id, true).await?))
    }

    async fn update_container_resources(
        &self,
        container_id: &str,
        resources: cri::LinuxContainerResources,
    ) -> Result<(), RuntimeError> {
        self.runtime.update_container_resources(container_id, &resources).await
    }

    async fn update_pod_sandbox_resources(
        &self,
        sandbox_id: &str,
        resources: cri::LinuxContainerResources,
    ) -> Result<(), RuntimeError> {
        self.runtime.update_pod_sandbox_resources(sandbox_id, &resources).await
    }

    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<Box<dyn Duplex>, RuntimeError> {
        Ok(Box::new(self.runtime.port_forward(sandbox_id, port).await?))
    }

    async fn events(&self) -> Result<BoxStream<'static, cri::ContainerEventResponse>, RuntimeError> {
        let stream = unfold(self.runtime.events(), |mut events| async move {
            loop {
                match events.recv().await {
                    Ok(event) => return Some((event, events)),
                    // The kubelet looks at everything again by itself; what was missed needs no name.
                    Err(broadcast::error::RecvError::Lagged(_)) => continue,
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        });
        Ok(stream.boxed())
    }
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(count.max(0).unsigned_abs())
}

/// The pod network as the runtime asks for it. Its calls block for about a millisecond.
pub struct Network(pub Arc<PodNetwork>);

#[async_trait]
impl NetworkAttach for Network {
    async fn attach(&self, request: &NetworkRequest) -> Result<Vec<IpAddr>, NetworkError> {
        let (network, netns, sandbox) = (self.0.clone(), request.netns.clone(), request.sandbox_id.clone());
        let ports = request.port_mappings.iter().map(port_mapping).collect::<Result<Vec<_>, _>>()?;
        Ok(tokio::task::spawn_blocking(move || network.attach(&netns, &sandbox, &ports)).await??)
    }

    async fn detach(&self, request: &NetworkRequest) -> Result<(), NetworkError> {
        let (network, sandbox) = (self.0.clone(), request.sandbox_id.clone());
        Ok(tokio::task::spawn_blocking(move || network.detach(&sandbox)).await??)
    }
}

/// An unspecified address of the host stands for all of them.
fn port_mapping(asked: &cri::PortMapping) -> Result<PortMapping, NetworkError> {
    let host_address = match asked.host_ip.as_str() {
        "" => None,
        text => Some(text.parse::<IpAddr>()?).filter(|address| !address.is_unspecified()),
    };
    Ok(PortMapping {
        transport: match asked.protocol() {
            cri::Protocol::Tcp => Transport::Tcp,
            cri::Protocol::Udp => Transport::Udp,
            cri::Protocol::Sctp => Transport::Sctp,
        },
        host_address,
        host_port: u16::try_from(asked.host_port)?,
        pod_port: u16::try_from(asked.container_port)?,
    })
}
