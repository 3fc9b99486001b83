//! The images on this machine: documents under `blobs/`, unpacked layers under `layers/`, and one index that names
//! them. Several processes may use a store: the index changes under a file lock and is read anew when it has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::config::{Configuration, RootFs};
use crate::{Context, Error, ImageConfig, Reference, Result, unpack, users};

const INDEX: &str = "index.json";

/// A stored image, ready to run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Image {
    /// Digest of its configuration.
    pub id: String,
    /// Full names with tags.
    pub tags: Vec<String>,
    /// Full names with digests.
    pub digests: Vec<String>,
    /// What its layers take on disk.
    pub size_bytes: u64,
    /// Digests of the unpacked layers, lowest first.
    pub diff_ids: Vec<String>,
    pub config: ImageConfig,
    /// Made by this program; never collected as garbage.
    #[serde(default)]
    pub pinned: bool,
}

#[derive(Default, Serialize, Deserialize)]
struct Index {
    images: BTreeMap<String, Arc<Image>>,
    layer_bytes: BTreeMap<String, u64>,
}

/// Tells one state of the index file from another.
type Version = Option<(u64, SystemTime, u64)>;

pub struct Store {
    dir: PathBuf,
    cached: Mutex<(Version, Arc<Index>)>,
}

impl Store {
    pub fn open(dir: impl Into<PathBuf>) -> Result<Store> {
        let dir = dir.into();
        for folder in ["blobs", "layers", "ingest"] {
            let folder = dir.join(folder);
            fs::create_dir_all(&folder).context(|| format!("making {}", folder.display()))?;
        }
        let store = Store { dir, cached: Mutex::new((None, Arc::default())) };
        store.index()?;
        Ok(store)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn list(&self) -> Result<Vec<Arc<Image>>> {
        Ok(self.index()?.images.values().cloned().collect())
    }

    /// By name, by name with digest, by id, or by the beginning of an id.
    pub fn get(&self, reference: &str) -> Result<Option<Arc<Image>>> {
        let index = self.index()?;
        Ok(find(&index, reference).cloned())
    }

    /// Layers of an image, topmost first, as overlayfs wants them.
    pub fn layers(&self, image: &Image) -> Vec<PathBuf> {
        image.diff_ids.iter().rev().map(|diff_id| self.layer_dir(diff_id)).collect()
    }

    /// Who `user` is in this image; `None` for an unknown name.
    pub fn identity(&self, image: &Image, user: &str) -> Option<users::Identity> {
        users::identity(&self.layers(image), user)
    }

    /// Images out of an OCI layout or docker archive, plain or compressed. Blocks.
    pub fn import(&self, archive: &Path) -> Result<Vec<Arc<Image>>> {
        crate::archive::import(self, archive)
    }

    /// An image of one program on this machine, at the path its configuration's entrypoint starts with, under a name
    /// of the caller's. Blocks.
    pub fn add_builtin(&self, name: &str, program: &Path, config: ImageConfig) -> Result<Arc<Image>> {
        let reference = Reference::parse(name)?;
        let place = config.entrypoint.first().map(|path| path.trim_start_matches('/'));
        let place = place.filter(|place| !place.is_empty() && !place.contains('/'));
        let place = place.ok_or_else(|| Error::Missing { what: "an entrypoint in the image's root".into() })?;
        let diff_id = self.program_layer(program, place)?;
        let configuration = Configuration {
            architecture: std::env::consts::ARCH.into(),
            os: "linux".into(),
            config,
            rootfs: RootFs { kind: "layers".into(), diff_ids: vec![diff_id] },
        };
        let bytes = serde_json::to_vec(&configuration).context(|| "the configuration".into())?;
        self.add(&[reference], None, &bytes, true)
    }

    /// A layer whose digest stands for the program's path, size and time: the content need not be read to know it.
    fn program_layer(&self, program: &Path, place: &str) -> Result<String> {
        let what = || format!("reading {}", program.display());
        let found = fs::metadata(program).context(what)?;
        let identity =
            format!("{place} {} {} {} {}", program.display(), found.size(), found.mtime(), found.mtime_nsec());
        let diff_id = unpack::digest(identity.as_bytes());
        let target = self.layer_dir(&diff_id);
        if target.exists() {
            return Ok(diff_id);
        }
        let fresh = self.fresh_dir()?;
        for folder in ["etc", "tmp", "proc", "sys", "dev"] {
            fs::create_dir(fresh.join(folder)).context(what)?;
        }
        fs::set_permissions(fresh.join("tmp"), fs::Permissions::from_mode(0o1777)).context(what)?;
        let passwd = "root:x:0:0:root:/:/\nnobody:x:65534:65534:nobody:/:/\n";
        fs::write(fresh.join("etc/passwd"), passwd).context(what)?;
        fs::write(fresh.join("etc/group"), "root:x:0:\nnobody:x:65534:\n").context(what)?;
        let copy = fresh.join(place);
        // Another name for the same file where that is possible: no byte is copied.
        if fs::hard_link(program, &copy).is_err() {
            fs::copy(program, &copy).context(what)?;
        }
        self.keep_layer(&fresh, &diff_id, found.size())?;
        Ok(diff_id)
    }

    /// Forgets a name, or with an id the whole image. What it left on disk goes with `collect`. Unknown names are fine.
    pub fn remove(&self, reference: &str) -> Result<()> {
        self.change(|index| {
            let Some(image) = find(index, reference).cloned() else { return };
            let by_name = Reference::parse(reference).map(|name| name.to_string()).unwrap_or_default();
            let mut left = (*image).clone();
            left.tags.retain(|tag| *tag != by_name);
            left.digests.retain(|digest| *digest != by_name);
            let by_id = image.id.trim_start_matches("sha256:").starts_with(reference.trim_start_matches("sha256:"));
            if by_id || left.tags.is_empty() {
                index.images.remove(&image.id);
            } else {
                index.images.insert(left.id.clone(), Arc::new(left));
            }
        })
    }

    /// Deletes layers and documents that no image has and that `in_use` (diff ids) does not name; gives their size.
    pub fn collect(&self, in_use: &BTreeSet<String>) -> Result<u64> {
        let mut freed = 0;
        self.change(|index| {
            let images = index.images.values();
            let kept: BTreeSet<&str> = images.flat_map(|image| image.diff_ids.iter().map(String::as_str)).collect();
            let surplus = |diff_id: &&String| !kept.contains(diff_id.as_str()) && !in_use.contains(diff_id.as_str());
            let surplus: Vec<String> = index.layer_bytes.keys().filter(surplus).cloned().collect();
            for diff_id in surplus {
                freed += index.layer_bytes.remove(&diff_id).unwrap_or(0);
                let _ = fs::remove_dir_all(self.layer_dir(&diff_id));
            }
            for entry in fs::read_dir(self.dir.join("blobs")).into_iter().flatten().flatten() {
                let id = format!("sha256:{}", entry.file_name().to_string_lossy());
                if !index.images.contains_key(&id) {
                    let _ = fs::remove_file(entry.path());
                }
            }
        })?;
        Ok(freed)
    }

    /// Bytes and files that the store takes.
    pub fn usage(&self) -> Result<(u64, u64)> {
        let index = self.index()?;
        Ok((index.layer_bytes.values().sum(), index.layer_bytes.len() as u64))
    }

    pub fn has_layer(&self, diff_id: &str) -> bool {
        self.layer_dir(diff_id).exists()
    }

    /// Unpacks a layer unless it is there, and verifies that it is what the configuration says.
    pub fn add_layer(&self, source: impl Read, diff_id: &str) -> Result<()> {
        if !crate::reference::is_digest(diff_id) {
            return Err(Error::Unsupported(format!("the layer digest {diff_id:?}")));
        }
        if self.has_layer(diff_id) {
            return Ok(());
        }
        let fresh = self.fresh_dir()?;
        let unpacked = unpack::layer(source, &fresh).and_then(|(found, bytes)| {
            if found == diff_id {
                return self.keep_layer(&fresh, diff_id, bytes);
            }
            Err(Error::Digest { what: "a layer".into(), expected: diff_id.to_owned(), found })
        });
        if unpacked.is_err() {
            let _ = fs::remove_dir_all(&fresh);
        }
        unpacked
    }

    /// Enters an image whose layers are all here. `manifest` is its manifest's digest.
    pub fn add(
        &self,
        names: &[Reference],
        manifest: Option<&str>,
        configuration: &[u8],
        pinned: bool,
    ) -> Result<Arc<Image>> {
        let id = unpack::digest(configuration);
        let parsed: Configuration =
            serde_json::from_slice(configuration).context(|| "the image's configuration".into())?;
        if let Some(missing) = parsed.rootfs.diff_ids.iter().find(|diff_id| !self.has_layer(diff_id)) {
            return Err(Error::Missing { what: format!("layer {missing}") });
        }
        let blob = self.dir.join("blobs").join(id.trim_start_matches("sha256:"));
        fs::write(&blob, configuration).context(|| format!("writing {}", blob.display()))?;
        let tagged: Vec<String> = names.iter().filter(|n| n.digest.is_none()).map(ToString::to_string).collect();
        let digested = names.iter().filter_map(|n| manifest.map(|digest| format!("{}@{digest}", n.name())));
        let mut digests: Vec<String> = digested.collect();
        digests.extend(names.iter().filter(|n| n.digest.is_some()).map(ToString::to_string));
        let mut entered = None;
        self.change(|index| {
            // A tag names one image: the one entered last.
            for image in index.images.values_mut().filter(|image| image.id != id) {
                if image.tags.iter().any(|tag| tagged.contains(tag)) {
                    Arc::make_mut(image).tags.retain(|tag| !tagged.contains(tag));
                }
            }
            index.images.retain(|_, image| !(image.pinned && image.tags.is_empty()));
            let before = index.images.get(&id);
            let joined = |old: Option<&Vec<String>>, new: &[String]| {
                let all: BTreeSet<String> = old.into_iter().flatten().chain(new).cloned().collect();
                all.into_iter().collect::<Vec<_>>()
            };
            let image = Arc::new(Image {
                tags: joined(before.map(|image| &image.tags), &tagged),
                digests: joined(before.map(|image| &image.digests), &digests),
                size_bytes: parsed.rootfs.diff_ids.iter().filter_map(|diff_id| index.layer_bytes.get(diff_id)).sum(),
                diff_ids: parsed.rootfs.diff_ids.clone(),
                config: parsed.config.clone(),
                pinned: pinned || before.is_some_and(|image| image.pinned),
                id: id.clone(),
            });
            index.images.insert(id.clone(), Arc::clone(&image));
            entered = Some(image);
        })?;
        entered.ok_or_else(|| Error::Missing { what: "the entered image".into() })
    }

    /// An empty folder in which to build; leftovers of a crash are never taken for content.
    pub(crate) fn fresh_dir(&self) -> Result<PathBuf> {
        for number in 0.. {
            let path = self.dir.join("ingest").join(format!("{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                made => return made.context(|| format!("making {}", path.display())).map(|()| path),
            }
        }
        Err(Error::Missing { what: "a free folder name".into() })
    }

    fn keep_layer(&self, fresh: &Path, diff_id: &str, bytes: u64) -> Result<()> {
        let target = self.layer_dir(diff_id);
        if let Err(source) = fs::rename(fresh, &target) {
            let _ = fs::remove_dir_all(fresh);
            if !target.exists() {
                return Err(Error::Io { what: format!("renaming to {}", target.display()), source });
            }
        }
        self.change(|index| {
            index.layer_bytes.insert(diff_id.to_owned(), bytes);
        })
    }

    fn layer_dir(&self, diff_id: &str) -> PathBuf {
        self.dir.join("layers").join(diff_id.trim_start_matches("sha256:"))
    }

    fn index(&self) -> Result<Arc<Index>> {
        let path = self.dir.join(INDEX);
        let version: Version =
            fs::metadata(&path).ok().and_then(|found| Some((found.ino(), found.modified().ok()?, found.size())));
        let mut cached = self.cached.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if cached.0 != version || version.is_none() {
            let index = match fs::read(&path) {
                Ok(bytes) => serde_json::from_slice(&bytes).context(|| path.display().to_string())?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Index::default(),
                Err(source) => return Err(Error::Io { what: format!("reading {}", path.display()), source }),
            };
            *cached = (version, Arc::new(index));
        }
        Ok(Arc::clone(&cached.1))
    }

    fn change(&self, change: impl FnOnce(&mut Index)) -> Result<()> {
        let what = || format!("writing {}", self.dir.join(INDEX).display());
        let lock = File::create(self.dir.join("lock")).context(what)?;
        flock(&lock, FlockOperation::LockExclusive).context(what)?;
        let current = self.index()?;
        let mut index = Index { images: current.images.clone(), layer_bytes: current.layer_bytes.clone() };
        change(&mut index);
        let bytes = serde_json::to_vec(&index).context(what)?;
        let beside = self.dir.join("index.new");
        fs::write(&beside, bytes).context(what)?;
        fs::rename(&beside, self.dir.join(INDEX)).context(what)
    }
}

fn find<'a>(index: &'a Index, reference: &str) -> Option<&'a Arc<Image>> {
    let hex = reference.strip_prefix("sha256:").unwrap_or(reference);
    let may_be_id = hex.len() >= 7 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    if may_be_id && let Some(image) = index.images.values().find(|image| image.id["sha256:".len()..].starts_with(hex)) {
        return Some(image);
    }
    let name = Reference::parse(reference).ok()?.to_string();
    index.images.values().find(|image| image.tags.contains(&name) || image.digests.contains(&name))
}
