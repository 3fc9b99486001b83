//! Takes the descriptions of types and fields out of the sources of the k8s-openapi package, so that they need not be
//! kept here: `T NAME\tTEXT` and `F FIELD\tTEXT` lines, deflated, for `src/descriptions.rs`.

use std::collections::HashMap;
use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

type Done<T> = Result<T, Box<dyn Error>>;

fn main() -> Done<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../../../Cargo.lock");
    let mut text = String::new();
    walk(&sources()?.join("src/v1_36"), &mut text)?;
    let target = PathBuf::from(std::env::var("OUT_DIR")?).join("descriptions.z");
    let mut encoder = flate2::write::ZlibEncoder::new(std::fs::File::create(target)?, flate2::Compression::best());
    encoder.write_all(text.as_bytes())?;
    encoder.finish()?;
    Ok(())
}

/// Where cargo unpacked k8s-openapi: below its home, or where `cargo metadata` says for vendored sources. The first
/// needs no look at packages of other platforms, which a fresh machine has not downloaded.
fn sources() -> Done<PathBuf> {
    let lock = std::fs::read_to_string("../../../Cargo.lock")?;
    let entry = lock.split("name = \"k8s-openapi\"\nversion = \"").nth(1).ok_or("k8s-openapi is not locked")?;
    let folder = format!("k8s-openapi-{}", entry.split('"').next().ok_or("a version ends")?);
    let unpacked = std::fs::read_dir(cargo_home()?.join("registry/src")).into_iter().flatten().flatten();
    let mut found = unpacked.map(|registry| registry.path().join(&folder)).filter(|path| path.is_dir());
    found.next().map_or_else(ask_cargo, Ok)
}

fn cargo_home() -> Done<PathBuf> {
    match std::env::var_os("CARGO_HOME") {
        Some(home) => Ok(home.into()),
        None => Ok(PathBuf::from(std::env::var("HOME")?).join(".cargo")),
    }
}

fn ask_cargo() -> Done<PathBuf> {
    let cargo = std::env::var("CARGO")?;
    let arguments = ["metadata", "--format-version", "1", "--offline"];
    let output = Command::new(cargo).args(arguments).output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("cargo metadata: {error}: {}", String::from_utf8_lossy(&output.stderr)))?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata lists no packages")?;
    let found = packages.iter().find(|package| package["name"] == "k8s-openapi");
    let manifest = found.and_then(|package| package["manifest_path"].as_str()).ok_or("k8s-openapi is no dependency")?;
    Ok(Path::new(manifest).parent().ok_or("a manifest is in a folder")?.to_owned())
}

fn walk(folder: &Path, out: &mut String) -> Done<()> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            walk(&path, out)?;
        } else {
            take(&std::fs::read_to_string(&path)?, out);
        }
    }
    Ok(())
}

/// One file describes one definition: its doc comments, and the JSON names in its `Deserialize`.
fn take(source: &str, out: &mut String) {
    let Some(name) = source.lines().find_map(|line| line.strip_prefix("// Generated from definition ")) else { return };
    let names = json_names(source);
    let (mut doc, mut inside) = (Vec::new(), false);
    for line in source.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            doc.push(text.trim().to_owned());
        } else if line.starts_with("pub struct ") || line.starts_with("pub enum ") {
            inside = true;
            push(out, 'T', name, &doc);
        } else if inside && line == "}" {
            return;
        } else if let Some(field) = line.strip_prefix("pub ").and_then(|rest| rest.split(':').next())
            && let Some(json) = names.get(field.trim_start_matches("r#"))
        {
            push(out, 'F', json, &doc);
        }
        if !line.starts_with("///") && !line.starts_with('#') {
            doc.clear();
        }
    }
}

/// `"minReadySeconds" => Field::Key_min_ready_seconds,`
fn json_names(source: &str) -> HashMap<&str, &str> {
    let arms = source.lines().filter_map(|line| line.trim().strip_prefix('"')?.split_once("\" => Field::Key_"));
    arms.map(|(json, field)| (field.trim_end_matches(','), json)).collect()
}

fn push(out: &mut String, what: char, name: &str, doc: &[String]) {
    if !doc.is_empty() {
        let text = doc.join("\n").trim().replace('\\', "\\\\").replace('\n', "\\n");
        out.push_str(&format!("{what} {name}\t{text}\n"));
    }
}
