//! Manifests given at the start: applied in the order of their files, then watched until they are rolled out.

use std::path::{Path, PathBuf};
use std::time::Duration;

use coracle_client::{Client, ClientError, Discovered, ObjectPath, Patch, WriteOptions};
use serde_json::Value;

const MANAGER: &str = "coracle";
/// How often a roll-out is looked at. It ends with the command, so it costs an idle cluster nothing.
const LOOK_EVERY: Duration = Duration::from_millis(50);

#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("reading {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is not YAML", path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: Box<serde_saphyr::Error>,
    },
    #[error("{}: document {index} has no {field}", path.display())]
    Incomplete { path: PathBuf, index: usize, field: &'static str },
    #[error("asking what the server offers")]
    Discovery(#[source] Box<ClientError>),
    #[error("no kind {kind:?} in version {api_version:?}; see `kubectl api-resources`")]
    UnknownKind { api_version: String, kind: String },
    #[error("applying {subject}")]
    Apply {
        subject: String,
        #[source]
        source: Box<ClientError>,
    },
}

/// One object of a manifest, and where the server keeps it.
pub struct Applied {
    pub kind: String,
    pub name: String,
    path: ObjectPath,
}

/// Applies every document of the files, and of the `.yaml`, `.yml` and `.json` files of folders.
pub async fn apply(client: &Client, sources: &[PathBuf]) -> Result<Vec<Applied>, ManifestError> {
    let mut applied = Vec::new();
    let mut offered: Vec<Discovered> = Vec::new();
    for file in files(sources)? {
        for (index, document) in documents(&file)?.into_iter().enumerate() {
            if offered.is_empty() || find(&offered, &document).is_none() {
                offered = client.discover().await.map_err(|source| ManifestError::Discovery(Box::new(source)))?.0;
            }
            applied.push(apply_one(client, &offered, &file, index, &document).await?);
        }
    }
    Ok(applied)
}

/// Looks until the object is as far as it says it can get; tells in a few words how far it is at each change.
pub async fn rolled_out(client: &Client, object: &Applied, mut tell: impl FnMut(&str)) -> Result<(), ManifestError> {
    let mut told = String::new();
    loop {
        let found = client.get(&object.path).await.map_err(|source| failed(object, source))?;
        let progress = progress(&object.kind, &found);
        if progress.text != told {
            tell(&progress.text);
            told = progress.text;
        }
        if progress.done {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

struct Progress {
    done: bool,
    text: String,
}

/// How far an object is, by the rules of `kubectl rollout status`; kinds that do not roll out are done at once.
fn progress(kind: &str, object: &Value) -> Progress {
    let number = |path: &str| object.pointer(path).and_then(Value::as_i64).unwrap_or(0);
    let seen = number("/status/observedGeneration") >= number("/metadata/generation");
    let wanted = object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    let of = |have: i64, wanted: i64, current: bool| Progress {
        done: seen && current && have >= wanted,
        text: format!("{have} of {wanted} ready"),
    };
    match kind {
        "Deployment" => of(
            number("/status/availableReplicas"),
            wanted,
            number("/status/updatedReplicas") >= wanted && number("/status/replicas") <= wanted,
        ),
        "StatefulSet" => of(number("/status/readyReplicas"), wanted, number("/status/updatedReplicas") >= wanted),
        "ReplicaSet" | "ReplicationController" => of(number("/status/readyReplicas"), wanted, true),
        "DaemonSet" => {
            let wanted = number("/status/desiredNumberScheduled");
            of(number("/status/numberAvailable"), wanted, number("/status/updatedNumberScheduled") >= wanted)
        }
        "Pod" => {
            let phase = object.pointer("/status/phase").and_then(Value::as_str).unwrap_or("Pending");
            let ready = object.pointer("/status/conditions").and_then(Value::as_array).is_some_and(|conditions| {
                conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
            });
            Progress { done: ready || phase == "Succeeded", text: phase.to_owned() }
        }
        _ => Progress { done: true, text: "applied".into() },
    }
}

async fn apply_one(
    client: &Client,
    offered: &[Discovered],
    file: &Path,
    index: usize,
    document: &Value,
) -> Result<Applied, ManifestError> {
    let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let need =
        |pointer, field| text(pointer).ok_or_else(|| ManifestError::Incomplete { path: file.into(), index, field });
    let kind = need("/kind", "kind")?;
    let name = need("/metadata/name", "metadata.name")?;
    let api_version = need("/apiVersion", "apiVersion")?;
    let found = find(offered, document)
        .ok_or_else(|| ManifestError::UnknownKind { api_version: api_version.clone(), kind: kind.clone() })?;
    let namespace = match found.namespaced {
        true => text("/metadata/namespace").unwrap_or_else(|| "default".into()),
        false => String::new(),
    };
    let applied = Applied { kind, path: ObjectPath::new(found.resource.clone(), &namespace, &name), name };
    let options = WriteOptions { field_manager: MANAGER.into(), force: true, ..WriteOptions::default() };
    client
        .patch(&applied.path, &Patch::Apply(document.clone()), &options)
        .await
        .map_err(|source| failed(&applied, source))?;
    Ok(applied)
}

fn failed(object: &Applied, source: ClientError) -> ManifestError {
    ManifestError::Apply { subject: format!("{} {:?}", object.kind, object.name), source: Box::new(source) }
}

fn find<'a>(offered: &'a [Discovered], document: &Value) -> Option<&'a Discovered> {
    offered.iter().find(|offer| {
        document["kind"] == offer.kind.kind.as_ref() && document["apiVersion"] == offer.kind.api_version()
    })
}

fn files(sources: &[PathBuf]) -> Result<Vec<PathBuf>, ManifestError> {
    let mut files = Vec::new();
    for source in sources {
        if !source.is_dir() {
            files.push(source.clone());
            continue;
        }
        let read = |error| ManifestError::Read { path: source.clone(), source: error };
        let mut inside: Vec<PathBuf> = std::fs::read_dir(source)
            .map_err(read)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                path.extension().is_some_and(|suffix| suffix == "yaml" || suffix == "yml" || suffix == "json")
            })
            .collect();
        inside.sort();
        files.extend(inside);
    }
    Ok(files)
}

/// The documents of a file, lists taken apart, empty ones left out.
fn documents(file: &Path) -> Result<Vec<Value>, ManifestError> {
    let text = std::fs::read_to_string(file).map_err(|source| ManifestError::Read { path: file.into(), source })?;
    let parsed: Vec<Value> = serde_saphyr::from_multiple(&text)
        .map_err(|source| ManifestError::Parse { path: file.into(), source: Box::new(source) })?;
    Ok(parsed.into_iter().flat_map(unfold).collect())
}

fn unfold(document: Value) -> Vec<Value> {
    match document {
        Value::Null => Vec::new(),
        Value::Object(mut list) if list.get("kind").is_some_and(|kind| kind == "List") => {
            let items = list.remove("items");
            items.and_then(|items| items.as_array().cloned()).unwrap_or_default()
        }
        other => vec![other],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_deployment_is_done_when_all_its_new_pods_are_available() {
        let at = |available: i64, total: i64| {
            json!({
                "metadata": {"generation": 2},
                "spec": {"replicas": 3},
                "status": {"observedGeneration": 2, "replicas": total, "updatedReplicas": 3, "availableReplicas": available},
            })
        };
        assert!(!progress("Deployment", &at(2, 3)).done);
        assert!(!progress("Deployment", &at(3, 4)).done);
        assert!(progress("Deployment", &at(3, 3)).done);
    }

    #[test]
    fn lists_are_taken_apart_and_empty_documents_left_out() {
        let path = std::env::temp_dir().join(format!("coracle-manifest-{}.yaml", std::process::id()));
        std::fs::write(&path, "---\nkind: List\nitems: [{kind: A}, {kind: B}]\n---\n---\nkind: C\n").unwrap();
        let found = documents(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(found, [json!({"kind": "A"}), json!({"kind": "B"}), json!({"kind": "C"})]);
    }
}
