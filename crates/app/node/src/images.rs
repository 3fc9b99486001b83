//! The node's images as the commands see them, and the binary itself offered as one.

use std::path::Path;

use coracle_image::{ImageConfig, Store};

use crate::control::{Answer, Ask, Image};
use crate::paths::Paths;

/// The demo workload: the running binary, whose argument says what to do.
pub const DEMO: &str = "coracle.local/demo:v1";

pub fn open(paths: &Paths) -> Result<Store, coracle_image::Error> {
    Store::open(paths.images())
}

/// Offers a program, this one, as the demo image.
pub fn add_demo(store: &Store, program: &Path) -> Result<(), coracle_image::Error> {
    let config = ImageConfig {
        entrypoint: vec!["/coracle".into(), "demo".into()],
        cmd: vec!["serve".into()],
        env: vec!["PATH=/".into()],
        ..ImageConfig::default()
    };
    store.add_builtin(DEMO, program, config).map(|_| ())
}

/// Answers the questions about images; others fail.
pub fn answer(store: &Store, ask: &Ask) -> Answer {
    let listed = |images: Vec<std::sync::Arc<coracle_image::Image>>| Answer::Images {
        images: images
            .iter()
            .map(|image| Image { names: image.tags.clone(), id: image.id.clone(), bytes: image.size_bytes })
            .collect(),
    };
    let result = match ask {
        Ask::ImageImport { file } => store.import(file).map(listed),
        Ask::ImageList => store.list().map(listed),
        Ask::ImageRemove { name } => store.remove(name).map(|()| Answer::Done),
        Ask::Status | Ask::Down { .. } => return Answer::Failed { why: "no cluster is running".into() },
    };
    result.unwrap_or_else(|error| Answer::Failed { why: chain(&error) })
}

/// An error with its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
