//! Types as JSON schemas, in the two dialects that differ in how they refer to each other.

use std::collections::BTreeSet;

use coracle_schema::{AnyForm, Field, ListType, Presence, Schema, Shape, Type, TypeId, UnknownMembers};
use serde_json::{Map, Value, json};

use crate::descriptions::Descriptions;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    V2,
    V3,
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
pub const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

pub struct Writer<'a> {
    pub schema: &'a Schema,
    pub descriptions: &'a Descriptions,
    pub dialect: Dialect,
}

impl Writer<'_> {
    /// `#/definitions/NAME` or `#/components/schemas/NAME`.
    pub fn reference(&self, name: &str) -> Value {
        match self.dialect {
            Dialect::V2 => json!({ "$ref": format!("#/definitions/{name}") }),
            Dialect::V3 => json!({ "$ref": format!("#/components/schemas/{name}") }),
        }
    }

    /// Definitions of these types and of all they hold.
    pub fn definitions(&self, roots: impl IntoIterator<Item = TypeId>) -> Map<String, Value> {
        let mut found = BTreeSet::new();
        let mut open: Vec<TypeId> = roots.into_iter().collect();
        while let Some(id) = open.pop() {
            if found.insert(id) {
                open.extend(self.schema.get(id).fields().iter().flat_map(|field| held(&field.shape)));
            }
        }
        let mut out = self.scalars();
        for id in found {
            let made = self.schema.get(id);
            out.insert(made.name.to_string(), self.definition(made));
        }
        out.sort_keys();
        out
    }

    /// The named types that are no messages.
    fn scalars(&self) -> Map<String, Value> {
        let one_of = |other: &str| match self.dialect {
            Dialect::V2 => json!({ "type": "string" }),
            Dialect::V3 => json!({ "oneOf": [{ "type": "string" }, { "type": other }] }),
        };
        let mut int_or_string = one_of("integer");
        int_or_string["format"] = "int-or-string".into();
        let time = json!({ "type": "string", "format": "date-time" });
        let all = [
            (QUANTITY.to_owned(), one_of("number")),
            (INT_OR_STRING.to_owned(), int_or_string),
            (format!("{META}.Time"), time.clone()),
            (format!("{META}.MicroTime"), time),
            (PATCH.to_owned(), json!({ "type": "object" })),
        ];
        let describe = |(name, mut value): (String, Value)| {
            put_text(&mut value, "description", self.descriptions.of_type(&name));
            (name, value)
        };
        all.into_iter().map(describe).collect()
    }

    fn definition(&self, made: &Type) -> Value {
        let mut out = json!({ "type": "object" });
        put_text(&mut out, "description", self.descriptions.of_type(&made.name));
        if !made.fields().is_empty() {
            let properties = made.fields().iter().map(|field| (field.name.to_string(), self.property(made, field)));
            out["properties"] = Value::Object(properties.collect());
        }
        let required: Vec<&str> =
            made.fields().iter().filter(|field| field.required).map(|field| field.name.as_str()).collect();
        if !required.is_empty() {
            out["required"] = required.into();
        }
        if made.unknown == UnknownMembers::Preserve {
            out["x-kubernetes-preserve-unknown-fields"] = true.into();
        }
        if made.atomic {
            out["x-kubernetes-map-type"] = "atomic".into();
        }
        if !made.kinds.is_empty() {
            let kinds = made.kinds.iter().map(
                |kind| json!({ "group": kind.group.as_ref(), "kind": kind.kind.as_ref(), "version": kind.version.as_ref() }),
            );
            out["x-kubernetes-group-version-kind"] = kinds.collect();
        }
        out
    }

    fn property(&self, made: &Type, field: &Field) -> Value {
        let mut out = self.shape(&field.shape);
        if let (Dialect::V3, Some(_)) = (self.dialect, out.get("$ref")) {
            out = json!({ "allOf": [out] });
        }
        put_text(&mut out, "description", self.descriptions.of_field(&made.name, &field.name));
        if !field.values.is_empty() {
            let values: Vec<&str> = field.values.iter().map(|value| value.as_str()).collect();
            let place = if out.get("items").is_some() { &mut out["items"] } else { &mut out };
            place["enum"] = values.into();
        }
        if self.dialect == Dialect::V3
            && field.presence == Presence::Always
            && let Some(zero) = default(&field.shape)
        {
            out["default"] = zero;
        }
        extensions(made, field, &mut out);
        out
    }

    fn shape(&self, shape: &Shape) -> Value {
        match shape {
            Shape::String | Shape::Duration => json!({ "type": "string" }),
            Shape::Bool => json!({ "type": "boolean" }),
            Shape::Int32 => json!({ "type": "integer", "format": "int32" }),
            Shape::Int64 => json!({ "type": "integer", "format": "int64" }),
            Shape::Float => json!({ "type": "number", "format": "double" }),
            Shape::Bytes => json!({ "type": "string", "format": "byte" }),
            Shape::Quantity => self.reference(QUANTITY),
            Shape::IntOrString => self.reference(INT_OR_STRING),
            Shape::Time => self.reference(&format!("{META}.Time")),
            Shape::MicroTime => self.reference(&format!("{META}.MicroTime")),
            Shape::Any(AnyForm::Raw) => json!({ "type": "object" }),
            Shape::Any(_) => json!({}),
            Shape::Message(id) => self.reference(&self.schema.get(*id).name),
            Shape::List(element) => json!({ "type": "array", "items": self.shape(element) }),
            Shape::Map(element) => json!({ "type": "object", "additionalProperties": self.shape(element) }),
        }
    }
}

fn held(shape: &Shape) -> Option<TypeId> {
    match shape {
        Shape::Any(AnyForm::SchemaOrBool(id) | AnyForm::SchemaOrArray(id) | AnyForm::SchemaOrStrings(id)) => Some(*id),
        _ => shape.message(),
    }
}

/// What OpenAPI v3 gives as the default of a Go value that is always there.
fn default(shape: &Shape) -> Option<Value> {
    match shape {
        Shape::String => Some("".into()),
        Shape::Bool => Some(false.into()),
        Shape::Int32 | Shape::Int64 | Shape::Float => Some(0.into()),
        Shape::Message(_) => Some(json!({})),
        _ => None,
    }
}

fn extensions(made: &Type, field: &Field, out: &mut Value) {
    let is_list_kind = field.name == "items" && made.name.ends_with("List");
    if let Shape::List(_) = field.shape {
        match &field.list {
            ListType::Set => out["x-kubernetes-list-type"] = "set".into(),
            ListType::Map(keys) => {
                let keys: Vec<&str> = keys.iter().map(|key| key.as_str()).collect();
                out["x-kubernetes-list-map-keys"] = keys.into();
                out["x-kubernetes-list-type"] = "map".into();
            }
            ListType::Atomic if is_list_kind => {}
            ListType::Atomic => out["x-kubernetes-list-type"] = "atomic".into(),
        }
    }
    if field.atomic {
        out["x-kubernetes-map-type"] = "atomic".into();
    }
    let strategies = [(field.patch.merge, "merge"), (field.patch.retain_keys, "retainKeys")];
    let strategies: Vec<&str> = strategies.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
    put_text(out, "x-kubernetes-patch-strategy", &strategies.join(","));
    put_text(out, "x-kubernetes-patch-merge-key", &field.patch.merge_key);
}

fn put_text(out: &mut Value, key: &str, text: &str) {
    if !text.is_empty() {
        out[key] = text.into();
    }
}
