//! A container of a pod as the runtime is asked for it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use coracle_podlife::container_hash;
use coracle_proto::cri;
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::env::{Sources, environment, expand};
use crate::names::hosts_file;
use crate::node_context::{NodeContext, uid_of};
use crate::observe::{
    CONTAINER_HASH, CONTAINER_NAME, CONTAINER_RESOURCES, GRACE_PERIOD, RESTART_COUNT, TERMINATION_PATH,
    TERMINATION_POLICY,
};
use crate::resources::linux_resources;
use crate::sandbox::identity;
use crate::security::container_security;
use crate::volumes;

const HOSTS_PATH: &str = "/etc/hosts";

/// One start of a container.
pub(crate) struct Start<'a> {
    pub node: &'a NodeContext,
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub attempt: u32,
    pub pod_ips: &'a [String],
    pub image: &'a cri::Image,
    /// The ids of the images that are mounted, by volume.
    pub volume_images: &'a BTreeMap<String, String>,
    /// The container whose processes an ephemeral container looks at.
    pub target_id: Option<String>,
}

impl Start<'_> {
    /// The whole description; the message of an error is what the waiting state shows.
    pub fn config(&self) -> Result<cri::ContainerConfig, String> {
        let sources = Sources {
            view: self.node.view.as_ref(),
            pod: self.pod,
            node_ip: &self.node.options.node_ip,
            pod_ips: self.pod_ips,
            allocatable: &self.node.allocatable,
        };
        let environment = environment(&sources, self.container)?;
        let lookup = |name: &str| environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        let expand_all = |list: &Option<Vec<String>>| list.iter().flatten().map(|text| expand(text, lookup)).collect();
        let container = self.container;
        let user_image = container.image.clone().unwrap_or_default();
        let mut labels: std::collections::HashMap<String, String> = identity(self.pod).into_iter().collect();
        labels.insert(CONTAINER_NAME.to_owned(), container.name.clone());
        Ok(cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: container.name.clone(), attempt: self.attempt }),
            image: Some(cri::ImageSpec {
                image: self.image.id.clone(),
                user_specified_image: user_image,
                ..Default::default()
            }),
            command: expand_all(&container.command),
            args: expand_all(&container.args),
            working_dir: container.working_dir.clone().unwrap_or_default(),
            envs: key_values(&environment),
            mounts: self.mounts(lookup)?,
            labels,
            annotations: self.annotations(),
            log_path: format!("{}/{}.log", container.name, self.attempt),
            stdin: container.stdin == Some(true),
            stdin_once: container.stdin_once == Some(true),
            tty: container.tty == Some(true),
            linux: Some(cri::LinuxContainerConfig {
                resources: Some(linux_resources(self.pod, container, self.node.memory_bytes)),
                security_context: Some(container_security(
                    self.pod,
                    container,
                    &self.node.options.seccomp_dir,
                    self.target_id.clone(),
                )),
            }),
            ..Default::default()
        })
    }

    fn annotations(&self) -> std::collections::HashMap<String, String> {
        let container = self.container;
        let policy = container.termination_message_policy.clone().unwrap_or_else(|| "File".to_owned());
        let resources = serde_json::to_string(&container.resources.clone().unwrap_or_default()).unwrap_or_default();
        let grace = self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
        [
            (GRACE_PERIOD, grace.to_string()),
            (CONTAINER_HASH, container_hash(container)),
            (CONTAINER_RESOURCES, resources),
            (RESTART_COUNT, self.attempt.to_string()),
            (TERMINATION_PATH, self.termination_path().to_owned()),
            (TERMINATION_POLICY, policy),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
    }

    fn mounts(&self, lookup: impl Fn(&str) -> Option<String> + Copy) -> Result<Vec<cri::Mount>, String> {
        let mut mounts = Vec::new();
        for (place, mount) in self.container.volume_mounts.iter().flatten().enumerate() {
            let expanded = mount.sub_path_expr.as_deref().map(|expression| expand(expression, lookup));
            let sub_path = expanded.or_else(|| mount.sub_path.clone()).unwrap_or_default();
            if let Some(image) = self.volume_images.get(&mount.name) {
                mounts.push(image_mount(&mount.mount_path, image, sub_path));
                continue;
            }
            let host_path = volumes::mount_source(
                self.node,
                self.pod,
                mount,
                &volumes::SubPath { path: sub_path, container: &self.container.name, place },
            )?;
            mounts.push(cri::Mount {
                container_path: absolute(&mount.mount_path),
                host_path,
                readonly: mount.read_only == Some(true) || volumes::is_read_only(self.pod, &mount.name),
                propagation: match mount.mount_propagation.as_deref() {
                    Some("HostToContainer") => cri::MountPropagation::PropagationHostToContainer as i32,
                    Some("Bidirectional") => cri::MountPropagation::PropagationBidirectional as i32,
                    _ => cri::MountPropagation::PropagationPrivate as i32,
                },
                ..Default::default()
            });
        }
        let taken = |mounts: &[cri::Mount], path: &str| mounts.iter().any(|mount| mount.container_path == path);
        if !taken(&mounts, HOSTS_PATH) {
            mounts.push(self.hosts_mount()?);
        }
        let termination = absolute(self.termination_path());
        if !termination.is_empty() && !taken(&mounts, &termination) {
            mounts.push(self.termination_mount(termination)?);
        }
        Ok(mounts)
    }

    /// Written anew with every start: the addresses may be others.
    fn hosts_mount(&self) -> Result<cri::Mount, String> {
        let path = self.node.pod_dir(uid_of(self.pod)).join("etc-hosts");
        let text = hosts_file(self.pod, &self.node.options, self.pod_ips);
        if fs::read_to_string(&path).ok().as_deref() != Some(&text) {
            write_file(&path, text.as_bytes(), 0o644)?;
        }
        let readonly = self
            .container
            .security_context
            .as_ref()
            .is_some_and(|context| context.read_only_root_filesystem == Some(true));
        Ok(cri::Mount {
            container_path: HOSTS_PATH.to_owned(),
            host_path: path.to_string_lossy().into_owned(),
            readonly,
            ..Default::default()
        })
    }

    fn termination_mount(&self, container_path: String) -> Result<cri::Mount, String> {
        let dir = self.node.pod_dir(uid_of(self.pod)).join("containers").join(&self.container.name);
        let path = dir.join(self.attempt.to_string());
        write_file(&path, b"", 0o666)?;
        Ok(cri::Mount { container_path, host_path: path.to_string_lossy().into_owned(), ..Default::default() })
    }

    fn termination_path(&self) -> &str {
        self.container.termination_message_path.as_deref().unwrap_or("/dev/termination-log")
    }
}

/// The runtime mounts images by itself, to be read only.
fn image_mount(container_path: &str, image: &str, sub_path: String) -> cri::Mount {
    cri::Mount {
        container_path: absolute(container_path),
        readonly: true,
        image: Some(cri::ImageSpec { image: image.to_owned(), ..Default::default() }),
        image_sub_path: sub_path,
        ..Default::default()
    }
}

fn key_values(environment: &[(String, String)]) -> Vec<cri::KeyValue> {
    let pair = |(key, value): &(String, String)| cri::KeyValue { key: key.clone(), value: value.clone().into() };
    environment.iter().map(pair).collect()
}

/// A relative path is meant from the root.
fn absolute(path: &str) -> String {
    if path.is_empty() || path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

fn write_file(path: &std::path::Path, content: &[u8], mode: u32) -> Result<(), String> {
    let fail = |error: std::io::Error| format!("failed to write {}: {error}", path.display());
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(fail)?;
    }
    fs::write(path, content).map_err(fail)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(fail)
}
