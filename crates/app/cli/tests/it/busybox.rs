//! An image with a shell: the machine's static busybox, packed as `docker save` would.

use std::path::Path;
use std::process::Command;

use sha2::{Digest, Sha256};

/// What the tests' pods call.
const APPLETS: [&str; 39] = [
    "awk", "base64", "cat", "chroot", "cp", "cut", "date", "df", "env", "false", "fold", "grep", "head", "hostname",
    "id", "ip", "ls", "mkdir", "mount", "nslookup", "ps", "pwd", "rm", "seq", "sh", "sleep", "sort", "stat", "stty",
    "tail", "tar", "test", "touch", "tr", "true", "tty", "unshare", "wc", "wget",
];

/// Writes an archive with the image `test.local/busybox:v1`.
pub fn archive(path: &Path) {
    let found = Command::new("sh").args(["-c", "command -v busybox"]).output().unwrap();
    let binary = std::fs::read(String::from_utf8_lossy(&found.stdout).trim()).expect("busybox-static is installed");
    let layer = layer(&binary);
    let diff_id = format!("sha256:{:x}", Sha256::digest(&layer));
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Env": ["PATH=/usr/bin:/bin"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    });
    let manifest =
        serde_json::json!([{"Config": "config.json", "RepoTags": ["test.local/busybox:v1"], "Layers": ["layer.tar"]}]);
    let mut archive = tar::Builder::new(std::fs::File::create(path).unwrap());
    for (name, bytes) in [
        ("config.json", config.to_string().into_bytes()),
        ("manifest.json", manifest.to_string().into_bytes()),
        ("layer.tar", layer),
    ] {
        archive.append_data(&mut header(0o644, bytes.len()), name, bytes.as_slice()).unwrap();
    }
    archive.finish().unwrap();
}

fn layer(binary: &[u8]) -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    for (name, mode) in [("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777)] {
        let mut header = header(mode, 0);
        header.set_entry_type(tar::EntryType::Directory);
        layer.append_data(&mut header, name, &[][..]).unwrap();
    }
    let passwd = b"root:x:0:0:root:/root:/bin/sh\n";
    let group = b"root:x:0:\n";
    layer.append_data(&mut header(0o644, passwd.len()), "etc/passwd", &passwd[..]).unwrap();
    layer.append_data(&mut header(0o644, group.len()), "etc/group", &group[..]).unwrap();
    layer.append_data(&mut header(0o755, binary.len()), "bin/busybox", binary).unwrap();
    for applet in APPLETS {
        let mut header = header(0o777, 0);
        header.set_entry_type(tar::EntryType::Symlink);
        layer.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
    }
    layer.into_inner().unwrap()
}

fn header(mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_uid(0);
    header.set_gid(0);
    header
}
