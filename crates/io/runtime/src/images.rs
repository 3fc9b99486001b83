//! The CRI's image service over the image store.

use std::collections::BTreeSet;

use coracle_image::{Image, Reference};
use coracle_linux::plan::MountSource;
use coracle_proto::cri;
use tonic::Status;

use crate::stats::folder_usage;
use crate::{EmbeddedRuntime, internal, state};

impl EmbeddedRuntime {
    pub async fn list_images(&self, filter: Option<cri::ImageFilter>) -> Result<Vec<cri::Image>, Status> {
        let wanted = filter.and_then(|filter| filter.image).map(|spec| spec.image).unwrap_or_default();
        if !wanted.is_empty() {
            let image = self.options.images.get(&wanted).map_err(internal)?;
            return Ok(image.iter().map(|image| listed(image)).collect());
        }
        Ok(self.options.images.list().map_err(internal)?.iter().map(|image| listed(image)).collect())
    }

    /// An image that is not here is no error: the answer is empty.
    pub async fn image_status(&self, reference: &str) -> Result<cri::ImageStatusResponse, Status> {
        let image = self.options.images.get(reference).map_err(internal)?;
        if image.is_none() {
            Reference::parse(reference).map_err(|error| Status::invalid_argument(error.to_string()))?;
        }
        Ok(cri::ImageStatusResponse { image: image.as_deref().map(listed), ..Default::default() })
    }

    pub async fn pull_image(&self, request: cri::PullImageRequest) -> Result<cri::PullImageResponse, Status> {
        let name = request.image.map(|spec| spec.image).unwrap_or_default();
        let reference = Reference::parse(&name).map_err(|error| Status::invalid_argument(error.to_string()))?;
        // A built-in image is nowhere else.
        if let Some(image) = self.options.images.get(&name).map_err(internal)?.filter(|image| image.pinned) {
            return Ok(cri::PullImageResponse { image_ref: image.id.clone() });
        }
        Err(Status::unimplemented(format!(
            "failed to pull and unpack image {:?}: pulling from registries is not supported; import it instead",
            reference.to_string()
        )))
    }

    pub async fn remove_image(&self, reference: &str) -> Result<(), Status> {
        self.options.images.remove(reference).map_err(internal)?;
        self.collect_image_garbage().await.map(drop)
    }

    /// Deletes layers that neither an image nor a container needs; gives the bytes freed.
    pub async fn collect_image_garbage(&self) -> Result<u64, Status> {
        let dirs: Vec<_> = self.state.lock().containers.values().map(|container| container.dir.clone()).collect();
        let mut in_use = BTreeSet::new();
        for dir in dirs {
            let plan: coracle_linux::plan::ContainerPlan =
                coracle_linux::plan::read(&dir.join(coracle_linux::plan::CONTAINER_PLAN)).map_err(internal)?;
            let mounted = plan.mounts.iter().flat_map(|mount| match &mount.source {
                MountSource::Image { layers, .. } => layers.as_slice(),
                _ => &[],
            });
            let names = plan.root.lower.iter().chain(mounted).filter_map(|layer| layer.file_name());
            in_use.extend(names.map(|name| format!("sha256:{}", name.to_string_lossy())));
        }
        self.options.images.collect(&in_use).map_err(internal)
    }

    pub async fn image_fs_info(&self) -> Result<cri::ImageFsInfoResponse, Status> {
        let now = self.now();
        let (bytes, layers) = self.options.images.usage().map_err(internal)?;
        let images = cri::FilesystemUsage {
            timestamp: now,
            fs_id: Some(cri::FilesystemIdentifier {
                mountpoint: self.options.images.dir().to_string_lossy().into_owned(),
            }),
            used_bytes: Some(cri::UInt64Value { value: bytes }),
            inodes_used: Some(cri::UInt64Value { value: layers }),
        };
        let containers = folder_usage(now, &self.options.data_dir.join(state::CONTAINERS));
        Ok(cri::ImageFsInfoResponse { image_filesystems: vec![images], container_filesystems: vec![containers] })
    }
}

fn listed(image: &Image) -> cri::Image {
    let user = image.config.user.split(':').next().unwrap_or_default();
    let uid = if user.is_empty() { Some(0) } else { user.parse().ok() };
    cri::Image {
        id: image.id.clone(),
        repo_tags: image.tags.clone(),
        repo_digests: image.digests.clone(),
        size: image.size_bytes,
        uid: uid.map(|value| cri::Int64Value { value }),
        username: if uid.is_some() { String::new() } else { user.to_owned() },
        spec: Some(cri::ImageSpec { image: image.id.clone(), ..Default::default() }),
        pinned: image.pinned,
    }
}
