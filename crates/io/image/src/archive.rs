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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::Write;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use tar::{Builder, EntryType, Header};

    use super::*;

    struct Temporary(PathBuf);

    impl Drop for Temporary {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn temporary(name: &str) -> Temporary {
        let path = std::env::temp_dir().join(format!("coracle-image-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Temporary(path)
    }

    /// Entries as kind, name, content or target.
    fn tar(entries: &[(EntryType, &str, &[u8])]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (kind, name, content) in entries {
            let mut header = Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(if *kind == EntryType::Directory { 0o750 } else { 0o640 });
            header.set_uid(12);
            header.set_gid(34);
            header.set_mtime(1_000_000);
            // Written raw, as a hostile archive would be.
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            if matches!(kind, EntryType::Symlink | EntryType::Link) {
                header.set_link_name(std::str::from_utf8(content).unwrap()).unwrap();
                header.set_size(0);
                header.set_cksum();
                builder.append(&header, &[][..]).unwrap();
            } else {
                header.set_size(content.len() as u64);
                header.set_cksum();
                builder.append(&header, *content).unwrap();
            }
        }
        builder.into_inner().unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn configuration(layers: &[&[u8]]) -> Vec<u8> {
        let diff_ids: Vec<String> = layers.iter().map(|layer| unpack::digest(layer)).collect();
        serde_json::to_vec(&serde_json::json!({
            "architecture": "amd64", "os": "linux",
            "config": {"Entrypoint": ["/run"], "Cmd": null, "User": "web", "Env": ["A=1"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }))
        .unwrap()
    }

    fn store_and_archive(name: &str, bytes: &[u8]) -> (Temporary, Store, PathBuf) {
        let folder = temporary(name);
        let store = Store::open(folder.0.join("images")).unwrap();
        let archive = folder.0.join("archive.tar");
        fs::write(&archive, bytes).unwrap();
        (folder, store, archive)
    }

    fn docker_archive(layers: &[&[u8]], stored: &[&[u8]]) -> Vec<u8> {
        let names: Vec<String> = (0..layers.len()).map(|n| format!("{n}/layer.tar")).collect();
        let manifest =
            serde_json::to_vec(&serde_json::json!([{"Config": "c.json", "RepoTags": ["web:1"], "Layers": names}]))
                .unwrap();
        let config = configuration(layers);
        let mut entries: Vec<(EntryType, &str, &[u8])> =
            vec![(EntryType::Regular, "c.json", &config), (EntryType::Regular, "manifest.json", &manifest)];
        entries.extend(names.iter().zip(stored).map(|(name, layer)| (EntryType::Regular, name.as_str(), *layer)));
        tar(&entries)
    }

    #[test]
    fn docker_archives_become_overlay_layers() {
        let lower = tar(&[
            (EntryType::Directory, "etc/", b""),
            (EntryType::Regular, "etc/passwd", b"web:x:7:8::/home:/bin/sh\n"),
            (EntryType::Regular, "deep/in/here", b"text"),
            (EntryType::Symlink, "link", b"/etc/passwd"),
            (EntryType::Link, "second", b"etc/passwd"),
        ]);
        let upper = tar(&[(EntryType::Regular, "deep/.wh.in", b""), (EntryType::Regular, "etc/.wh..wh..opq", b"")]);
        let bytes = gzip(&docker_archive(&[&lower, &upper], &[&lower, &gzip(&upper)]));
        let (_folder, store, archive) = store_and_archive("docker", &bytes);
        let image = store.import(&archive).unwrap().remove(0);
        assert_eq!(image.tags, ["docker.io/library/web:1"]);
        assert_eq!((image.config.entrypoint.as_slice(), image.config.cmd.len()), (&["/run".to_owned()][..], 0));
        let layers = store.layers(&image);
        assert!(fs::symlink_metadata(layers[0].join("deep/in")).unwrap().file_type().is_char_device());
        let file = fs::metadata(layers[1].join("etc/passwd")).unwrap();
        assert_eq!(
            (file.uid(), file.gid(), file.mode() & 0o777, file.mtime(), file.nlink()),
            (12, 34, 0o640, 1_000_000, 2)
        );
        assert_eq!(fs::metadata(layers[1].join("etc")).unwrap().mode() & 0o777, 0o750);
        assert_eq!(fs::read_link(layers[1].join("link")).unwrap(), Path::new("/etc/passwd"));
        assert_eq!(store.identity(&image, "").unwrap().uid, 0);
        assert_eq!(store.get("web:1").unwrap().unwrap().id, image.id);
        store.remove("web:1").unwrap();
        assert!(store.collect(&BTreeSet::new()).unwrap() > 0);
        assert!(store.list().unwrap().is_empty() && !layers[1].exists());
    }

    #[test]
    fn oci_layouts_are_imported_and_verified() {
        let layer = tar(&[(EntryType::Regular, "file", b"content")]);
        let (packed, config) = (gzip(&layer), configuration(&[&layer]));
        let describe = |bytes: &[u8]| serde_json::json!({"digest": unpack::digest(bytes), "size": bytes.len()});
        let manifest =
            serde_json::json!({"schemaVersion": 2, "config": describe(&config), "layers": [describe(&packed)]});
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let mut entry = describe(&manifest);
        entry["annotations"] = serde_json::json!({"io.containerd.image.name": "localhost:5000/a:2"});
        let index = serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "manifests": [entry]})).unwrap();
        let name = |bytes: &[u8]| format!("blobs/sha256/{}", &unpack::digest(bytes)[7..]);
        let names = [name(&manifest), name(&config), name(&packed)];
        let build = |manifest: &[u8]| {
            tar(&[
                (EntryType::Regular, "index.json", &index),
                (EntryType::Regular, &names[0], manifest),
                (EntryType::Regular, &names[1], &config),
                (EntryType::Regular, &names[2], &packed),
            ])
        };
        let (folder, store, archive) = store_and_archive("oci", &build(&manifest));
        let image = store.import(&archive).unwrap().remove(0);
        assert_eq!(image.digests, [format!("localhost:5000/a@{}", unpack::digest(&manifest))]);
        assert_eq!(fs::read(store.layers(&image)[0].join("file")).unwrap(), b"content");
        let mut forged = manifest.clone();
        forged.push(b' ');
        fs::write(&archive, build(&forged)).unwrap();
        assert!(matches!(store.import(&archive), Err(Error::Digest { .. })));
        fs::write(&archive, b"no archive at all").unwrap();
        assert!(matches!(store.import(&archive), Err(Error::NotAnArchive(_))));
        drop(folder);
    }

    #[test]
    fn hostile_layers_reach_nothing_outside() {
        let outside = temporary("outside");
        let target = outside.0.to_str().unwrap().to_owned();
        let escapes: [&[(EntryType, &str, &[u8])]; 2] = [
            &[(EntryType::Symlink, "out", target.as_bytes()), (EntryType::Regular, "out/file", b"x")],
            &[(EntryType::Regular, "../../../escaped", b"x")],
        ];
        for (number, entries) in escapes.iter().enumerate() {
            let layer = tar(entries);
            let bytes = docker_archive(&[&layer], &[&layer]);
            let (folder, store, archive) = store_and_archive(&format!("hostile{number}"), &bytes);
            let _ = store.import(&archive);
            assert_eq!(fs::read_dir(&outside.0).unwrap().count(), 0);
            assert!(!folder.0.join("escaped").exists() && !folder.0.join("images/escaped").exists());
        }
    }

    #[test]
    fn a_layer_that_is_not_what_the_configuration_says_is_refused() {
        let (promised, given) = (tar(&[(EntryType::Regular, "a", b"1")]), tar(&[(EntryType::Regular, "a", b"2")]));
        let (_folder, store, archive) = store_and_archive("forged", &docker_archive(&[&promised], &[&given]));
        assert!(matches!(store.import(&archive), Err(Error::Digest { .. })));
        assert!(store.list().unwrap().is_empty());
    }
}
