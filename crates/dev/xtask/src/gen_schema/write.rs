//! Joins the sources and writes the table; the format is described in `crates/api/schema/src/table.rs`.

use std::collections::HashMap;
use std::fmt::Write;

use anyhow::{Context, bail};

use super::Overrides;
use super::definitions::{Definition, Definitions, Property};
use super::protobuf::{Message, Messages, key, plain};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const CRD: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1";

const SCHEMA: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

/// Types whose JSON is not an object with fields: their shapes have a letter.
fn special(definition: &str) -> Option<char> {
    let (package, name) = definition.rsplit_once('.').unwrap_or_default();
    Some(match (package, name) {
        ("io.k8s.apimachinery.pkg.api.resource", "Quantity") => 'q',
        ("io.k8s.apimachinery.pkg.util.intstr", "IntOrString") => 'n',
        (META, "Time") => 't',
        (META, "MicroTime") => 'u',
        (META, "Duration") => 'd',
        (META, "FieldsV1" | "Patch") | ("io.k8s.apimachinery.pkg.runtime", "RawExtension") | (CRD, "JSON") => 'a',
        (CRD, "JSONSchemaPropsOrBool") => 'B',
        (CRD, "JSONSchemaPropsOrArray") => 'A',
        (CRD, "JSONSchemaPropsOrStringArray") => 'S',
        _ => return None,
    })
}

struct Joined<'a> {
    definitions: &'a Definitions,
    messages: &'a Messages,
    overrides: &'a Overrides,
    numbers: HashMap<&'a str, usize>,
}

pub fn table(definitions: &Definitions, messages: &Messages, overrides: &Overrides) -> anyhow::Result<String> {
    let names = definitions.keys().filter(|name| special(name).is_none());
    let numbers = names.enumerate().map(|(number, name)| (name.as_str(), number)).collect();
    let joined = Joined { definitions, messages, overrides, numbers };
    let mut out = String::from("Facts of Kubernetes v1.36 (Apache-2.0), written by `cargo xtask gen-schema`.\n");
    let mut missing = Vec::new();
    for (name, definition) in definitions.iter().filter(|(name, _)| special(name).is_none()) {
        joined.write_type(&mut out, name, definition, &mut missing)?;
    }
    if !missing.is_empty() {
        bail!("no protobuf number for:\n{}", missing.join("\n"));
    }
    Ok(out)
}

impl Joined<'_> {
    fn write_type(
        &self,
        out: &mut String,
        name: &str,
        definition: &Definition,
        missing: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        write!(out, "T {name}")?;
        if definition.map_type.as_deref() == Some("atomic") {
            out.push_str(" g");
        }
        for kind in &definition.kinds {
            write!(out, " {}/{}/{}", kind.group, kind.version, kind.kind)?;
        }
        out.push('\n');
        for (field, property) in &definition.properties {
            let shape = self.shape(property).with_context(|| format!("{name}.{field}"))?;
            let required = definition.required.contains(field);
            write!(out, "F {field} {shape}{}", facts(property, required))?;
            self.write_presence(out, name, field, (&shape, required))?;
            self.write_values(out, name, field)?;
            match self.path(name, field) {
                Some(path) => write!(out, "{path}")?,
                None if is_type_meta(field) || name == "io.k8s.apimachinery.pkg.version.Info" => {}
                None => missing.push(format!("{name} {field}")),
            }
            out.push('\n');
        }
        Ok(())
    }

    fn shape(&self, property: &Property) -> anyhow::Result<String> {
        if let Some(target) = property.target() {
            let number = self.numbers.get(target).map(|number| format!("#{number}"));
            let letter = special(target).map(|letter| match letter {
                'A' | 'B' | 'S' => format!("{letter}{}", self.numbers[SCHEMA]),
                letter => letter.into(),
            });
            return letter.or(number).with_context(|| format!("unknown definition {target}"));
        }
        let element =
            |inner: &Option<Box<Property>>| inner.as_deref().map_or(Ok("s".into()), |inner| self.shape(inner));
        Ok(match (property.types.name(), property.format.as_deref()) {
            ("string", Some("byte")) => "y".into(),
            ("string", _) => "s".into(),
            ("boolean", _) => "b".into(),
            ("integer", Some("int32")) => "i".into(),
            ("integer", _) => "l".into(),
            ("number", _) => "f".into(),
            ("array", _) => format!("[{}", element(&property.items)?),
            ("object", _) => format!("{{{}", element(&property.values)?),
            (other, _) => bail!("type {other:?}"),
        })
    }

    fn write_presence(
        &self,
        out: &mut String,
        name: &str,
        field: &str,
        (shape, required): (&str, bool),
    ) -> std::fmt::Result {
        let usual = match shape.as_bytes().first() {
            _ if required => "a",
            Some(b's' | b'y' | b'[' | b'{') => "v",
            _ => "p",
        };
        let known = self.overrides.presence.get(name);
        let known = known.and_then(|by| by.iter().find(|(_, fields)| fields.iter().any(|known| known == field)));
        match known.map_or(usual, |(letter, _)| letter.as_str()) {
            "p" => Ok(()),
            letter => write!(out, " {letter}"),
        }
    }

    fn write_values(&self, out: &mut String, name: &str, field: &str) -> std::fmt::Result {
        match self.overrides.values.get(name).and_then(|fields| fields.get(field)) {
            Some(values) => write!(out, " e:{}", values.join(",")),
            None => Ok(()),
        }
    }

    /// The field's numbers, and `w` where its list is wrapped in a message.
    fn path(&self, name: &str, field: &str) -> Option<String> {
        if let Some(path) = self.overrides.protobuf.get(name).and_then(|fields| fields.get(field)) {
            return Some(format!(" {path}"));
        }
        let message = self.messages.get(&key(name))?;
        if let Some(number) = message.fields.get(&plain(field)) {
            let wrapped = number.message.as_deref().is_some_and(is_wrapper);
            return Some(format!(" {}{}", number.tag, if wrapped { " w" } else { "" }));
        }
        self.inlined(name, message, field).map(|path| format!(" {path}"))
    }

    /// Looks for the field in those messages that JSON shows no member for.
    fn inlined(&self, name: &str, message: &Message, field: &str) -> Option<String> {
        let shown = &self.definitions.get(name)?.properties;
        message.fields.iter().find_map(|(outer, number)| {
            if shown.keys().any(|shown| plain(shown) == *outer) {
                return None;
            }
            let inner = self.messages.get(number.message.as_deref()?)?;
            if let Some(found) = inner.fields.get(&plain(field)) {
                return Some(format!("{}.{}", number.tag, found.tag));
            }
            self.inlined(name, inner, field).map(|rest| format!("{}.{rest}", number.tag))
        })
    }
}

fn is_wrapper(message: &str) -> bool {
    message.ends_with(".extravalue") || message.ends_with(".verbs")
}

fn is_type_meta(field: &str) -> bool {
    matches!(field, "kind" | "apiVersion")
}

fn facts(property: &Property, required: bool) -> String {
    let mut out = String::new();
    if required {
        out.push_str(" r");
    }
    match property.list_type.as_deref() {
        Some("set") => out.push_str(" ls"),
        Some("map") => out.push_str(&format!(" lm:{}", property.list_keys.join(","))),
        _ => {}
    }
    if property.map_type.as_deref() == Some("atomic") {
        out.push_str(" g");
    }
    let strategy = property.patch_strategy.as_deref().unwrap_or_default();
    if strategy.split(',').any(|part| part == "merge") {
        out.push_str(" pm");
    }
    if strategy.split(',').any(|part| part == "retainKeys") {
        out.push_str(" pr");
    }
    if let Some(key) = &property.patch_key {
        out.push_str(&format!(" pk:{key}"));
    }
    out
}
