//! Clients, servers and messages of the gRPC protocols that Coracle speaks, generated from `protos/`. It knows no
//! behaviour: whoever implements or calls a service does so elsewhere.

/// The container runtime interface, `runtime.v1`, of Kubernetes 1.36.
#[allow(clippy::all, deprecated, rustdoc::all)]
pub mod cri {
    tonic::include_proto!("runtime.v1");
}

/// etcd's v3 API, `etcdserverpb`, as far as an API server uses it.
#[allow(clippy::all, rustdoc::all)]
pub mod etcd {
    tonic::include_proto!("etcdserverpb");
}
