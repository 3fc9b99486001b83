//! The administrator's kubeconfig: written to a file of its own, or merged as a context into the one the calling user
//! has, owned by that user even under sudo.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::files::write_private;
use crate::pki::KeyPairPem;

/// How to reach a cluster as somebody.
pub struct Access<'a> {
    /// Names the cluster, the user and the context.
    pub context: &'a str,
    pub server: String,
    pub ca: &'a str,
    pub user: &'a KeyPairPem,
}

#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    #[error("{}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is not a kubeconfig; move it away or give --kubeconfig FILE", path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: Box<serde_saphyr::Error>,
    },
    #[error("writing {} as YAML", path.display())]
    Encode {
        path: PathBuf,
        #[source]
        source: Box<serde_saphyr::ser::Error>,
    },
}

/// Writes a kubeconfig that holds this access alone, 0600.
pub fn write(path: &Path, access: &Access<'_>) -> Result<(), KubeconfigError> {
    save(path, &with_access(json!({}), access))
}

/// Adds this access to the kubeconfig at `path` and makes it current.
pub fn merge(path: &Path, access: &Access<'_>) -> Result<(), KubeconfigError> {
    save(path, &with_access(load(path)?, access))
}

/// Takes the context out again, as far as it is there.
pub fn forget(path: &Path, context: &str) -> Result<(), KubeconfigError> {
    if !path.exists() {
        return Ok(());
    }
    let mut config = load(path)?;
    for list in ["clusters", "users", "contexts"] {
        if let Some(entries) = config[list].as_array_mut() {
            entries.retain(|entry| entry["name"] != context);
        }
    }
    if config["current-context"] == context {
        config["current-context"] = json!("");
    }
    save(path, &config)
}

/// The kubeconfig that the calling user's kubectl reads: the first of KUBECONFIG, or ~/.kube/config; under sudo the
/// home of the user who called it.
pub fn of_caller() -> PathBuf {
    if let Some(list) = std::env::var_os("KUBECONFIG")
        && let Some(first) = std::env::split_paths(&list).find(|path| !path.as_os_str().is_empty())
    {
        return first;
    }
    caller().home.join(".kube/config")
}

struct Caller {
    home: PathBuf,
    /// Set under sudo.
    owner: Option<(u32, u32)>,
}

fn caller() -> Caller {
    let id = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    if let (Some(uid), Some(gid)) = (id("SUDO_UID"), id("SUDO_GID"))
        && let Some(home) = home_of(uid)
    {
        return Caller { home, owner: Some((uid, gid)) };
    }
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_else(|| PathBuf::from("/root"));
    Caller { home, owner: None }
}

/// The home of a user by the sixth field of /etc/passwd.
fn home_of(uid: u32) -> Option<PathBuf> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = passwd.lines().find(|line| line.split(':').nth(2) == Some(&uid.to_string()))?;
    line.split(':').nth(5).map(PathBuf::from)
}

fn load(path: &Path) -> Result<Value, KubeconfigError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(source) => return Err(KubeconfigError::File { path: path.into(), source }),
    };
    if text.trim().is_empty() {
        return Ok(json!({}));
    }
    serde_saphyr::from_str(&text)
        .map_err(|source| KubeconfigError::Parse { path: path.into(), source: Box::new(source) })
}

fn with_access(mut config: Value, access: &Access<'_>) -> Value {
    let encode = |text: &str| STANDARD.encode(text);
    config["apiVersion"] = json!("v1");
    config["kind"] = json!("Config");
    put(
        &mut config["clusters"],
        access.context,
        "cluster",
        json!({
            "server": access.server,
            "certificate-authority-data": encode(access.ca),
        }),
    );
    put(
        &mut config["users"],
        access.context,
        "user",
        json!({
            "client-certificate-data": encode(&access.user.certificate),
            "client-key-data": encode(&access.user.key),
        }),
    );
    put(
        &mut config["contexts"],
        access.context,
        "context",
        json!({
            "cluster": access.context,
            "user": access.context,
        }),
    );
    config["current-context"] = json!(access.context);
    config
}

/// Replaces or adds the entry `name` of a kubeconfig list.
fn put(list: &mut Value, name: &str, member: &str, content: Value) {
    if !list.is_array() {
        *list = json!([]);
    }
    let entries = list.as_array_mut().expect("made a list above");
    entries.retain(|entry| entry["name"] != name);
    entries.push(json!({"name": name, member: content}));
}

fn save(path: &Path, config: &Value) -> Result<(), KubeconfigError> {
    let text = serde_saphyr::to_string(config)
        .map_err(|source| KubeconfigError::Encode { path: path.into(), source: Box::new(source) })?;
    let io = |source| KubeconfigError::File { path: path.into(), source };
    let caller = caller();
    let owned = caller.owner.filter(|_| path.starts_with(&caller.home));
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists()) {
        std::fs::create_dir_all(folder).map_err(io)?;
        own(folder, owned).map_err(io)?;
    }
    write_private(path, text.as_bytes()).map_err(io)?;
    own(path, owned).map_err(io)
}

fn own(path: &Path, owner: Option<(u32, u32)>) -> std::io::Result<()> {
    owner.map_or(Ok(()), |(uid, gid)| chown(path, Some(uid), Some(gid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access<'a>(user: &'a KeyPairPem, server: &str) -> Access<'a> {
        Access { context: "coracle", server: server.into(), ca: "ca", user }
    }

    #[test]
    fn merging_keeps_what_others_wrote() {
        let user = KeyPairPem { certificate: "c".into(), key: "k".into() };
        let path = std::env::temp_dir().join(format!("coracle-kubeconfig-{}", std::process::id()));
        std::fs::write(&path, "clusters: [{name: other, cluster: {server: x}}]\ncurrent-context: other\n").unwrap();
        merge(&path, &access(&user, "https://one")).unwrap();
        merge(&path, &access(&user, "https://two")).unwrap();
        let merged = load(&path).unwrap();
        forget(&path, "coracle").unwrap();
        let left = load(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let names: Vec<_> = merged["clusters"].as_array().unwrap().iter().map(|entry| entry["name"].clone()).collect();
        assert_eq!(names, ["other", "coracle"]);
        assert_eq!(merged["clusters"][1]["cluster"]["server"], "https://two");
        assert_eq!(left["clusters"].as_array().unwrap().len(), 1);
    }
}
