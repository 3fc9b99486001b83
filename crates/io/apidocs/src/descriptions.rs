//! What the types and fields are for, in Kubernetes' words; unpacked when a document is made and dropped with it.

use std::collections::HashMap;
use std::io::Read;

static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.z"));

const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this \
                    from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: \
                    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should \
                           convert recognized schemas to the latest internal value, and may reject unrecognized values. \
                           More info: https://git.k8s.io/community/contributors/devel/sig-architecture/\
                           api-conventions.md#resources";

/// Descriptions by type and field.
pub struct Descriptions {
    types: HashMap<String, Described>,
}

#[derive(Default)]
struct Described {
    text: String,
    fields: HashMap<String, String>,
}

impl Descriptions {
    pub fn unpack() -> Descriptions {
        let mut text = String::new();
        flate2::read::ZlibDecoder::new(PACKED).read_to_string(&mut text).expect("the build packed UTF-8 text");
        let mut types: HashMap<String, Described> = HashMap::new();
        let mut open = String::new();
        for line in text.lines() {
            let (head, text) = line.split_once('\t').unwrap_or_default();
            match head.split_at_checked(2) {
                Some(("T ", name)) => {
                    name.clone_into(&mut open);
                    types.entry(open.clone()).or_default().text = unescape(text);
                }
                Some(("F ", field)) => {
                    let described = types.entry(open.clone()).or_default();
                    described.fields.insert(field.to_owned(), unescape(text));
                }
                _ => {}
            }
        }
        Descriptions { types }
    }

    /// What the type is for; empty where nothing is known.
    pub fn of_type(&self, name: &str) -> &str {
        self.types.get(name).map_or("", |described| &described.text)
    }

    /// What the field is for.
    pub fn of_field(&self, name: &str, field: &str) -> &str {
        let known = self.types.get(name).and_then(|described| described.fields.get(field));
        match (known, field) {
            (Some(text), _) => text,
            (None, "kind") => KIND,
            (None, "apiVersion") => API_VERSION,
            _ => "",
        }
    }
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => out.push(if characters.next() == Some('n') { '\n' } else { '\\' }),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_fields_are_described() {
        let descriptions = Descriptions::unpack();
        let spec = "io.k8s.api.apps.v1.DeploymentSpec";
        assert!(descriptions.of_type(spec).starts_with("DeploymentSpec is the specification"));
        assert!(descriptions.of_field(spec, "minReadySeconds").starts_with("Minimum number of seconds"));
        assert!(descriptions.of_field("io.k8s.api.core.v1.Pod", "kind").starts_with("Kind is a string value"));
    }
}
