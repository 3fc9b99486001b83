//! Every built-in controller, one file each: what it watches and what it decides. Nothing here touches the world.

mod claim;
mod pods;
mod selector;
mod shape;

pub mod deployment;
pub mod replicaset;

use coracle_reconcile::Controller;

/// What controllers need to know that no object tells them.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// PEM of the authority that signs the API server's certificate, published in every namespace.
    pub root_ca: String,
}

/// The table of controllers. Their order means nothing: each runs on its own.
pub fn all(settings: &Settings) -> Vec<Box<dyn Controller>> {
    let _ = settings;
    vec![
        Box::new(deployment::Deployment),
        Box::new(replicaset::ReplicaSet),
        Box::new(replicaset::ReplicationController),
    ]
}
