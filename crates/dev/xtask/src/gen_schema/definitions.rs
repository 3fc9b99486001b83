//! Kubernetes' OpenAPI definitions, as far as the table needs them.

use std::collections::BTreeMap;

use anyhow::Context;
use serde::Deserialize;

pub type Definitions = BTreeMap<String, Definition>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Definition {
    pub properties: BTreeMap<String, Property>,
    pub required: Vec<String>,
    #[serde(rename = "x-kubernetes-group-version-kind")]
    pub kinds: Vec<Kind>,
    #[serde(rename = "x-kubernetes-map-type")]
    pub map_type: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Kind {
    pub group: String,
    pub version: String,
    pub kind: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Property {
    #[serde(rename = "type")]
    pub types: Types,
    pub format: Option<String>,
    #[serde(rename = "$ref")]
    pub reference: Option<String>,
    pub items: Option<Box<Property>>,
    #[serde(rename = "additionalProperties")]
    pub values: Option<Box<Property>>,
    #[serde(rename = "x-kubernetes-list-type")]
    pub list_type: Option<String>,
    #[serde(rename = "x-kubernetes-list-map-keys")]
    pub list_keys: Vec<String>,
    #[serde(rename = "x-kubernetes-map-type")]
    pub map_type: Option<String>,
    #[serde(rename = "x-kubernetes-patch-strategy")]
    pub patch_strategy: Option<String>,
    #[serde(rename = "x-kubernetes-patch-merge-key")]
    pub patch_key: Option<String>,
}

/// `"string"` or `["string", "null"]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(untagged)]
pub enum Types {
    #[default]
    None,
    One(String),
    Several(Vec<String>),
}

impl Types {
    pub fn name(&self) -> &str {
        match self {
            Types::None => "",
            Types::One(name) => name,
            Types::Several(names) => names.iter().find(|name| *name != "null").map_or("", String::as_str),
        }
    }
}

impl Property {
    /// The definition that the property refers to.
    pub fn target(&self) -> Option<&str> {
        self.reference.as_deref().map(|path| path.rsplit('/').next().unwrap_or(path))
    }
}

pub fn parse(text: &str) -> anyhow::Result<Definitions> {
    #[derive(Deserialize)]
    struct File {
        #[serde(rename = "$defs")]
        definitions: Definitions,
    }
    let file: File = serde_json::from_str(text).context("parsing the definitions")?;
    Ok(file.definitions)
}
