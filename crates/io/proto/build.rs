//! Compiles the protocol files to Rust, without `protoc`: protox reads them, tonic's generator writes clients and
//! servers. A new protocol is one file in `protos/` and one `mod` line in `src/lib.rs`.

use std::error::Error;
use std::fs;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=protos");
    let mut files = Vec::new();
    for entry in fs::read_dir("protos")? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    files.sort();
    let descriptors = protox::compile(&files, ["protos"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
