//! What the kubelet asks of a container runtime: the calls of CRI v1 that it needs, and streams as streams. The embedded
//! runtime answers them in-process, others over their socket; the kubelet cannot tell.

use async_trait::async_trait;
use coracle_proto::cri;
use futures_util::stream::BoxStream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};

pub type RuntimeError = tonic::Status;

#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    async fn version(&self) -> Result<cri::VersionResponse, RuntimeError>;
    async fn status(&self) -> Result<cri::StatusResponse, RuntimeError>;

    async fn run_pod_sandbox(
        &self,
        request: cri::RunPodSandboxRequest,
    ) -> Result<cri::RunPodSandboxResponse, RuntimeError>;
    async fn stop_pod_sandbox(&self, sandbox_id: &str) -> Result<(), RuntimeError>;
    async fn remove_pod_sandbox(&self, sandbox_id: &str) -> Result<(), RuntimeError>;
    async fn pod_sandbox_status(&self, sandbox_id: &str) -> Result<cri::PodSandboxStatus, RuntimeError>;
    async fn list_pod_sandbox(&self, filter: cri::PodSandboxFilter) -> Result<Vec<cri::PodSandbox>, RuntimeError>;

    /// The id of the new container.
    async fn create_container(&self, request: cri::CreateContainerRequest) -> Result<String, RuntimeError>;
    async fn start_container(&self, container_id: &str) -> Result<(), RuntimeError>;
    /// Asks the container to end and kills it after the timeout; resolves once it has ended.
    async fn stop_container(&self, container_id: &str, timeout_seconds: i64) -> Result<(), RuntimeError>;
    async fn remove_container(&self, container_id: &str) -> Result<(), RuntimeError>;
    async fn container_status(&self, container_id: &str) -> Result<cri::ContainerStatus, RuntimeError>;
    async fn list_containers(&self, filter: cri::ContainerFilter) -> Result<Vec<cri::Container>, RuntimeError>;
    /// Changes the limits of a running container.
    async fn update_container_resources(
        &self,
        container_id: &str,
        resources: cri::LinuxContainerResources,
    ) -> Result<(), RuntimeError>;
    /// Changes what all containers of a sandbox may use together.
    async fn update_pod_sandbox_resources(
        &self,
        sandbox_id: &str,
        resources: cri::LinuxContainerResources,
    ) -> Result<(), RuntimeError>;
    /// A timeout of 0 is none; one that passes is `DeadlineExceeded`.
    async fn exec_sync(&self, request: cri::ExecSyncRequest) -> Result<cri::ExecSyncResponse, RuntimeError>;
    /// What sandboxes and their containers use.
    async fn list_pod_sandbox_stats(&self) -> Result<Vec<cri::PodSandboxStats>, RuntimeError>;

    async fn list_images(&self) -> Result<Vec<cri::Image>, RuntimeError>;
    /// Absent where the image is not there.
    async fn image_status(&self, image: cri::ImageSpec) -> Result<Option<cri::Image>, RuntimeError>;
    /// The reference of the pulled image.
    async fn pull_image(&self, request: cri::PullImageRequest) -> Result<String, RuntimeError>;
    async fn remove_image(&self, image: cri::ImageSpec) -> Result<(), RuntimeError>;

    async fn exec(&self, request: ExecRequest) -> Result<Streams, RuntimeError>;
    async fn attach(&self, container_id: &str) -> Result<Streams, RuntimeError>;
    /// A connection to a port of the sandbox's loopback.
    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<Box<dyn Duplex>, RuntimeError>;

    /// Called when a pod appears that may come to this node: what makes the start that follows cheaper may be done now,
    /// in the background.
    fn warm(&self) {}

    /// Hints that something has changed. Losing some loses nothing: the kubelet looks again by itself.
    async fn events(&self) -> Result<BoxStream<'static, cri::ContainerEventResponse>, RuntimeError>;
}

/// A process to run in a container, with its streams at hand.
#[derive(Clone, Debug, Default)]
pub struct ExecRequest {
    pub container_id: String,
    pub cmd: Vec<String>,
    pub tty: bool,
    /// Whether anything will be written; without, the process reads the end of file at once.
    pub stdin: bool,
}

/// The streams of a process. Those it does not have are absent; with a terminal there is no stderr.
pub struct Streams {
    /// Closing it is the end of file.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Columns and rows of the terminal.
    pub resize: mpsc::Sender<(u16, u16)>,
    /// The exit code of the process. Of `attach` it tells when the container has ended.
    pub exit: oneshot::Receiver<i32>,
}

/// Both directions of a connection.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}
