//! A real etcd for a test: on free ports, in a folder of its own, gone with the value.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use coracle_store::{Etcd, EtcdOptions};

use crate::Folder;

pub struct Server {
    process: Child,
    endpoint: String,
    _folder: Folder,
}

impl Server {
    /// Fails where there is no etcd: a suite that was skipped proves nothing.
    pub async fn start() -> Server {
        let folder = Folder::new();
        let (client, peer) = (free_address(), free_address());
        let process = Command::new("etcd")
            .args(["--data-dir", &folder.0.display().to_string(), "--name", "test"])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("test={peer}"), "--unsafe-no-fsync", "--log-level", "error"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("this test needs etcd in PATH (Debian: etcd-server)");
        Server { process, endpoint: client, _folder: folder }
    }

    pub async fn connect(&self) -> Etcd {
        let options = EtcdOptions { endpoints: vec![self.endpoint.clone()], ..EtcdOptions::default() };
        for _ in 0..200 {
            match Etcd::connect(&options).await {
                Ok(etcd) => return etcd,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        panic!("etcd does not answer at {}", self.endpoint)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}
