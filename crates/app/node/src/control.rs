//! The root-only socket of a running cluster: one JSON line asks, one JSON line answers.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use coracle_rt::Scope;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

/// What the commands ask of a running process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "ask")]
pub enum Ask {
    Status,
    /// End the pods, who have so many seconds at most, and then the process.
    Down {
        #[serde(default)]
        grace_seconds: u64,
    },
    ImageImport {
        file: std::path::PathBuf,
    },
    ImageList,
    ImageRemove {
        name: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "answer")]
pub enum Answer {
    Status { components: Vec<Component> },
    Images { images: Vec<Image> },
    Done,
    Failed { why: String },
}

/// How one component is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    pub name: String,
    pub healthy: bool,
    pub detail: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    pub names: Vec<String>,
    pub id: String,
    pub bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("opening the socket {path}")]
    Bind {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("speaking to the running coracle")]
    Speak(#[source] std::io::Error),
    #[error("the running coracle answered in words this version does not know")]
    Words(#[source] serde_json::Error),
}

const LINE_BYTES_MAX: u64 = 1 << 20;

/// Answers what is asked.
#[async_trait]
pub trait Steward: Send + Sync + 'static {
    async fn answer(&self, ask: Ask) -> Answer;
}

/// Listens at `path`, which only its owner may open.
pub fn listen(scope: &Scope, path: &Path, steward: Arc<dyn Steward>) -> Result<(), ControlError> {
    let bind = |source| ControlError::Bind { path: path.display().to_string(), source };
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).map_err(bind)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).map_err(bind)?;
    let inner = scope.clone();
    scope.spawn_until_cancelled("control socket", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let steward = steward.clone();
            inner.spawn("control request", async move {
                if let Err(error) = serve(stream, steward.as_ref()).await {
                    tracing::debug!(%error, "control request failed");
                }
            });
        }
    });
    Ok(())
}

async fn serve(stream: UnixStream, steward: &dyn Steward) -> std::io::Result<()> {
    if stream.peer_cred()?.uid() != rustix::process::geteuid().as_raw() {
        return Err(std::io::ErrorKind::PermissionDenied.into());
    }
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    BufReader::new(reader.take(LINE_BYTES_MAX)).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(ask) => steward.answer(ask).await,
        Err(error) => Answer::Failed { why: format!("not understood: {error}") },
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    writer.write_all(&text).await
}

/// Asks the process that serves `path`; `None` where none does.
pub async fn ask(path: &Path, ask: &Ask) -> Result<Option<Answer>, ControlError> {
    let Ok(stream) = UnixStream::connect(path).await else { return Ok(None) };
    let (reader, mut writer) = stream.into_split();
    let mut text = serde_json::to_vec(ask).map_err(ControlError::Words)?;
    text.push(b'\n');
    writer.write_all(&text).await.map_err(ControlError::Speak)?;
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).await.map_err(ControlError::Speak)?;
    serde_json::from_str(&line).map(Some).map_err(ControlError::Words)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOWN: Ask = Ask::Down { grace_seconds: 7 };

    struct Fixed;

    #[async_trait]
    impl Steward for Fixed {
        async fn answer(&self, ask: Ask) -> Answer {
            if ask == DOWN { Answer::Done } else { Answer::Failed { why: "no".into() } }
        }
    }

    #[tokio::test]
    async fn a_question_gets_its_answer_over_the_socket() {
        let path = std::env::temp_dir().join(format!("coracle-control-{}.sock", std::process::id()));
        let scope = Scope::root();
        listen(&scope, &path, Arc::new(Fixed)).unwrap();
        let answer = ask(&path, &DOWN).await.unwrap();
        scope.close(std::time::Duration::from_secs(5)).await;
        std::fs::remove_file(&path).unwrap();
        assert_eq!(answer, Some(Answer::Done));
        assert_eq!(ask(&path, &DOWN).await.unwrap(), None);
    }
}
