//! Gets the two packages through their own clients, which verify them against the hashes kept here.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

const WHEEL: &str = "kubernetes_validate-1.37.0-py3-none-any.whl";
const REQUIREMENT: &str =
    "kubernetes-validate==1.37.0 --hash=sha256:85136d018a27b50ec7fc049d902bfa5193f5976807e6c0f408e3ab6fe078cad9\n";
const DEFINITIONS: &str = "kubernetes_validate/kubernetes-json-schema/v1.36.0-local/_definitions.json";

const PROTOBUF: &str = "k8s-pb-0.9.0";
const PROTOBUF_HASH: &str = "43b6ba14400b62feaa58ebbbd32ce2d9a4601339b2820af393f68033b9cea620";
const PROTOBUF_MANIFEST: &str = "[package]\nname = \"inputs\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[lib]\npath = \
                                 \"lib.rs\"\n\n[dependencies]\nk8s-pb = \"=0.9.0\"\n\n[workspace]\n";

/// The text of Kubernetes' definitions.
pub fn definitions(scratch: &Path) -> anyhow::Result<String> {
    std::fs::create_dir_all(scratch)?;
    let requirements = scratch.join("requirements.txt");
    std::fs::write(&requirements, REQUIREMENT)?;
    let pip = ["-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "-r", "requirements.txt"];
    run(scratch, "python3", &pip)?;
    run(scratch, "python3", &["-m", "zipfile", "-e", WHEEL, "wheel"])?;
    let path = scratch.join("wheel").join(DEFINITIONS);
    std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

/// The folder of k8s-pb's sources.
pub fn protobuf_sources(scratch: &Path) -> anyhow::Result<PathBuf> {
    let project = scratch.join("crates");
    std::fs::create_dir_all(&project)?;
    std::fs::write(project.join("Cargo.toml"), PROTOBUF_MANIFEST)?;
    std::fs::write(project.join("lib.rs"), "")?;
    run(&project, "cargo", &["vendor", "--quiet", "--versioned-dirs"])?;
    let lock = std::fs::read_to_string(project.join("Cargo.lock"))?;
    ensure!(lock.contains(PROTOBUF_HASH), "{PROTOBUF} is not the package that the table was made from");
    Ok(project.join("vendor").join(PROTOBUF).join("src"))
}

fn run(folder: &Path, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let status = Command::new(program).args(arguments).current_dir(folder).stdout(std::process::Stdio::null()).status();
    ensure!(
        status.with_context(|| format!("running {program}"))?.success(),
        "{program} {} failed",
        arguments.join(" ")
    );
    Ok(())
}
