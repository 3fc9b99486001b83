//! A real etcd for a test: on free ports, in a folder of its own, gone with the value.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use coracle_store::{Etcd, EtcdOptions};

use crate::Folder;

pub struct Server {
    process: Child,
    options: EtcdOptions,
    _folder: Folder,
}

impl Server {
    /// Fails where there is no etcd: a suite that was skipped proves nothing.
    pub fn start() -> Server {
        let endpoint = free_address("http");
        Server::run(Folder::new(), EtcdOptions { endpoints: vec![endpoint], ..EtcdOptions::default() }, &[])
    }

    /// Over TLS, with a certificate asked of the client.
    pub fn start_with_tls() -> Server {
        let folder = Folder::new();
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let (cert, key) = (folder.0.join("cert.pem"), folder.0.join("key.pem"));
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let (cert_text, key_text) = (cert.display().to_string(), key.display().to_string());
        let flags = ["--cert-file", &cert_text, "--key-file", &key_text, "--trusted-ca-file", &cert_text];
        let flags = [&flags[..], &["--client-cert-auth"]].concat();
        let options = EtcdOptions {
            endpoints: vec![free_address("https")],
            ca_file: Some(cert.clone()),
            cert_file: Some(cert),
            key_file: Some(key),
        };
        Server::run(folder, options, &flags)
    }

    fn run(folder: Folder, options: EtcdOptions, flags: &[&str]) -> Server {
        let (client, peer) = (&options.endpoints[0], free_address("http"));
        let process = Command::new("etcd")
            .args(["--data-dir", &folder.0.join("data").display().to_string(), "--name", "test"])
            .args(["--listen-client-urls", client, "--advertise-client-urls", client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("test={peer}"), "--unsafe-no-fsync", "--log-level", "error"])
            .args(flags)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("this test needs etcd in PATH (Debian: etcd-server)");
        Server { process, options, _folder: folder }
    }

    pub async fn connect(&self) -> Etcd {
        let mut last = None;
        for _ in 0..200 {
            match Etcd::connect(&self.options).await {
                Ok(etcd) => return etcd,
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("etcd does not answer: {last:?}")
    }

    pub fn without_identity(&self) -> EtcdOptions {
        EtcdOptions { cert_file: None, key_file: None, ..self.options.clone() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_address(scheme: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("{scheme}://{}", listener.local_addr().unwrap())
}
