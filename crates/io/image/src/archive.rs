//! Images in files: OCI layouts and docker archives, as tar, plain or compressed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tar::{Archive, EntryType};

use crate::config::{Configuration, DockerEntry, Manifest};
use crate::store::{Image, Store};
use crate::{Context, Error, Reference, Result, unpack};

/// Documents are small; a longer one is not one.
const DOCUMENT_BYTES_MAX: u64 = 16 << 20;

/// The files of an archive, spread out in a folder under numbers: names in it are never used as paths.
struct Files {
    dir: PathBuf,
    names: BTreeMap<String, PathBuf>,
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

pub fn import(store: &Store, archive: &Path) -> Result<Vec<Arc<Image>>> {
    let files = spread(store, archive)?;
    if files.names.contains_key("manifest.json") {
        return docker(store, &files);
    }
    if files.names.contains_key("index.json") {
        return oci(store, &files);
    }
    Err(Error::NotAnArchive(archive.to_owned()))
}

fn spread(store: &Store, archive: &Path) -> Result<Files> {
    let what = || format!("reading {}", archive.display());
    let file = File::open(archive).context(what)?;
    let mut files = Files { dir: store.fresh_dir()?, names: BTreeMap::new() };
    let mut links = Vec::new();
    let mut tar = Archive::new(unpack::decompress(file).context(what)?);
    let not_an_archive = |_| Error::NotAnArchive(archive.to_owned());
    for (number, entry) in tar.entries().map_err(not_an_archive)?.enumerate() {
        let mut entry = entry.map_err(not_an_archive)?;
        let name = entry.path().context(what)?.to_string_lossy().trim_start_matches("./").to_owned();
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => {
                let path = files.dir.join(number.to_string());
                let mut copy = File::create(&path).context(what)?;
                std::io::copy(&mut entry, &mut copy).context(what)?;
                files.names.insert(name, path);
            }
            EntryType::Symlink | EntryType::Link => {
                let target = entry.link_name().context(what)?.map(|link| link.to_string_lossy().into_owned());
                links.extend(target.map(|target| (name, target)));
            }
            _ => {}
        }
    }
    for (name, target) in links {
        let target = target.trim_start_matches("../");
        if let Some(path) = files.names.get(target).cloned() {
            files.names.insert(name, path);
        }
    }
    Ok(files)
}

impl Files {
    fn path(&self, name: &str) -> Result<&PathBuf> {
        self.names.get(name).ok_or_else(|| Error::Missing { what: name.to_owned() })
    }

    fn document(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.path(name)?;
        let size = fs::metadata(path).context(|| format!("reading {name}"))?.len();
        if size > DOCUMENT_BYTES_MAX {
            return Err(Error::Unsupported(format!("{name} of {size} bytes")));
        }
        fs::read(path).context(|| format!("reading {name}"))
    }

    /// A document named by its digest, verified.
    fn blob(&self, digest: &str) -> Result<Vec<u8>> {
        let bytes = self.document(&format!("blobs/{}", digest.replacen(':', "/", 1)))?;
        let found = unpack::digest(&bytes);
        if found != digest {
            return Err(Error::Digest { what: "a blob".into(), expected: digest.into(), found });
        }
        Ok(bytes)
    }

    fn open(&self, name: &str) -> Result<File> {
        File::open(self.path(name)?).context(|| format!("reading {name}"))
    }
}

fn docker(store: &Store, files: &Files) -> Result<Vec<Arc<Image>>> {
    let entries: Vec<DockerEntry> =
        serde_json::from_slice(&files.document("manifest.json")?).context(|| "manifest.json".into())?;
    let mut images = Vec::new();
    for entry in entries {
        let bytes = files.document(&entry.config)?;
        let configuration: Configuration = serde_json::from_slice(&bytes).context(|| entry.config.clone())?;
        if configuration.rootfs.diff_ids.len() != entry.layers.len() {
            return Err(Error::Missing { what: "a layer".into() });
        }
        for (diff_id, layer) in configuration.rootfs.diff_ids.iter().zip(&entry.layers) {
            store.add_layer(files.open(layer)?, diff_id)?;
        }
        let names = entry.repo_tags.iter().map(|tag| Reference::parse(tag)).collect::<Result<Vec<_>>>()?;
        images.push(store.add(&names, None, &bytes, false)?);
    }
    Ok(images)
}

fn oci(store: &Store, files: &Files) -> Result<Vec<Arc<Image>>> {
    let parse = |bytes: &[u8], what: &str| serde_json::from_slice::<Manifest>(bytes).context(|| what.to_owned());
    let index = parse(&files.document("index.json")?, "index.json")?;
    let mut images = Vec::new();
    for entry in &index.manifests {
        let mut digest = entry.digest.clone();
        let mut manifest = parse(&files.blob(&digest)?, &digest)?;
        if manifest.config.is_none() {
            let Some(ours) = manifest.for_this_machine() else { continue };
            digest = ours.digest.clone();
            manifest = parse(&files.blob(&digest)?, &digest)?;
        }
        let names = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
        let name = names.iter().find_map(|key| entry.annotations.get(*key));
        let names = name.map(|name| Reference::parse(name)).transpose()?;
        images.push(from_manifest(store, files, &manifest, (names.as_slice(), &digest))?);
    }
    Ok(images)
}

fn from_manifest(store: &Store, files: &Files, manifest: &Manifest, named: (&[Reference], &str)) -> Result<Arc<Image>> {
    let descriptor = manifest.config.as_ref().ok_or_else(|| Error::Missing { what: "a configuration".into() })?;
    let bytes = files.blob(&descriptor.digest)?;
    let configuration: Configuration = serde_json::from_slice(&bytes).context(|| descriptor.digest.clone())?;
    if configuration.rootfs.diff_ids.len() != manifest.layers.len() {
        return Err(Error::Missing { what: "a layer".into() });
    }
    for (diff_id, layer) in configuration.rootfs.diff_ids.iter().zip(&manifest.layers) {
        let source = files.open(&format!("blobs/{}", layer.digest.replacen(':', "/", 1)))?;
        store.add_layer(source, diff_id)?;
    }
    store.add(named.0, Some(named.1), &bytes, false)
}
