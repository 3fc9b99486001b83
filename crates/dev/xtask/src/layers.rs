//! The folder is the law: a crate may use crates of lower layers, and of its own layer only those named here.
//! The test reads the manifests, so an edge that goes up or sideways never reaches main.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// From the lowest to the highest; `dev` stands above all, and nothing may depend on it outside tests.
const LAYERS: [&str; 6] = ["base", "api", "core", "io", "app", "dev"];

/// Crates that others of the same layer may use, and why.
const SHARED_IN_LAYER: [(&str, &str); 16] = [
    ("rt", "tasks, time and chance, for everything in base"),
    ("telemetry", "metrics and logs, for everything in base"),
    ("meta", "the words of the vocabulary"),
    ("schema", "field facts, which kinds and merge read"),
    ("kinds", "rules per kind, read by documents and defaults"),
    ("reconcile", "the frame of controllers and the scheduler"),
    ("mvcc", "pure index, usable by any decision"),
    ("linux", "all unsafe code"),
    ("proto", "generated stubs"),
    ("cache", "the watch cache and the store's trait"),
    ("client", "the API as its callers see it"),
    ("image", "layers, which the runtime stacks"),
    ("config", "settings, read by node and command"),
    ("node", "wiring, started by the command"),
    ("testkit", "fakes for tests"),
    ("xtask", "developer commands"),
];

/// A workspace crate as its manifest tells it.
#[derive(Debug)]
struct Manifest {
    layer: String,
    /// Workspace crates in `[dependencies]` and `[build-dependencies]`.
    uses: Vec<String>,
}

/// What breaks the law, a line each.
pub fn violations(root: &Path) -> std::io::Result<Vec<String>> {
    let manifests = read_manifests(root)?;
    let mut found = Vec::new();
    for (name, manifest) in &manifests {
        for used in &manifest.uses {
            let Some(target) = manifests.get(used) else {
                found.push(format!("{name} uses {used}, which is no crate of the workspace"));
                continue;
            };
            let (from, to) = (rank(&manifest.layer), rank(&target.layer));
            let shared = SHARED_IN_LAYER.iter().any(|(shared, _)| shared == used);
            if from < to || (from == to && !shared) {
                found.push(format!("{}/{name} must not use {}/{used}", manifest.layer, target.layer));
            }
        }
    }
    Ok(found)
}

fn rank(layer: &str) -> usize {
    LAYERS.iter().position(|known| *known == layer).unwrap_or(LAYERS.len())
}

fn read_manifests(root: &Path) -> std::io::Result<BTreeMap<String, Manifest>> {
    let mut manifests = BTreeMap::new();
    for layer in LAYERS {
        for entry in std::fs::read_dir(root.join("crates").join(layer))? {
            let path: PathBuf = entry?.path();
            let Ok(text) = std::fs::read_to_string(path.join("Cargo.toml")) else { continue };
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            manifests.insert(name, Manifest { layer: layer.into(), uses: uses(&text) });
        }
    }
    Ok(manifests)
}

fn uses(manifest: &str) -> Vec<String> {
    let mut counted = false;
    let mut found = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            counted = matches!(line.trim(), "[dependencies]" | "[build-dependencies]");
        } else if let (true, Some(rest)) = (counted, line.strip_prefix("coracle-")) {
            found.push(rest.split(['.', ' ', '=']).next().unwrap_or_default().to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crate_keeps_to_its_layer() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
        assert_eq!(violations(&root).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn only_shipped_dependencies_count() {
        let manifest =
            "[dependencies]\ncoracle-meta.workspace = true\n[dev-dependencies]\ncoracle-testkit.workspace = true\n";
        assert_eq!(uses(manifest), ["meta"]);
    }
}
