//! `cargo xtask gen-schema`: makes `crates/api/schema/src/table.txt` again from what it is made of: the v1.36
//! definitions in PyPI's kubernetes-validate (types, list types, patch strategies, kinds), the k8s-pb crate (protobuf
//! field numbers), both pinned by hash, and `overrides.json` for what no package carries. It exists so that the table
//! can be checked, and remade for the next version, by anybody.

mod definitions;
mod fetch;
mod protobuf;
mod write;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

/// Facts kept by hand, read from the Go types' tags and from `generated.proto`.
#[derive(Deserialize)]
struct Overrides {
    /// Type, then presence letter, then fields: where it differs from what shape and `required` suggest.
    presence: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    /// Type, then field, then its path of field numbers: what k8s-pb does not have yet.
    protobuf: BTreeMap<String, BTreeMap<String, String>>,
    /// Type, then field, then the values that are allowed.
    values: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    /// Definitions that OpenAPI does not show.
    types: BTreeMap<String, definitions::Definition>,
}

pub fn run(root: &Path) -> anyhow::Result<()> {
    let home = root.join("crates/api/schema");
    let text = std::fs::read_to_string(home.join("overrides.json")).context("reading overrides.json")?;
    let overrides: Overrides = serde_json::from_str(&text).context("parsing overrides.json")?;
    let scratch = root.join("target/gen-schema");
    let mut definitions = definitions::parse(&fetch::definitions(&scratch)?)?;
    definitions.extend(overrides.types.clone());
    let messages = protobuf::parse(&fetch::protobuf_sources(&scratch)?)?;
    let table = write::table(&definitions, &messages, &overrides)?;
    let target = home.join("src/table.txt");
    std::fs::write(&target, table).with_context(|| format!("writing {}", target.display()))
}
