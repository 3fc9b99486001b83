//! What is known of every type: the vocabulary of the schema table. A schema is plain data, made from the built-in
//! table or at run time for custom resources; it exists so that reading, writing, merging, applying, transcoding and
//! documenting objects all follow one description.

use std::collections::HashMap;
use std::sync::Arc;

use compact_str::CompactString;
use coracle_meta::GroupVersionKind;

/// A type's place in its [`Schema`]. Identities of one schema stay valid in every schema extended from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeId(pub u32);

/// Types, found by identity, by name and by what an object says of itself.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    types: Vec<Arc<Type>>,
    names: HashMap<CompactString, TypeId>,
    kinds: HashMap<GroupVersionKind, TypeId>,
}

/// One message: an object or a part of one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Type {
    /// As OpenAPI has it, `io.k8s.api.core.v1.Pod`.
    pub name: CompactString,
    /// The kinds whose objects have this type. Some have several: every group has `DeleteOptions`.
    pub kinds: Vec<GroupVersionKind>,
    /// Replaced as one by server-side apply (`x-kubernetes-map-type: atomic`).
    pub atomic: bool,
    /// What becomes of members that no field describes.
    pub unknown: UnknownMembers,
    fields: Vec<Field>,
    /// Field numbers and field positions, ordered by number; inlined messages first.
    tags: Vec<(u32, Tagged)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownMembers {
    #[default]
    Prune,
    /// `x-kubernetes-preserve-unknown-fields` of a custom resource.
    Preserve,
}

/// What a protobuf field number of a message leads to.
#[derive(Clone, Debug, PartialEq)]
pub enum Tagged {
    /// The position of a field in [`Type::fields`].
    Field(u16),
    /// A message whose fields JSON shows as this type's own.
    Inlined(Vec<(u32, Tagged)>),
}

/// One member of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// The JSON name.
    pub name: CompactString,
    pub shape: Shape,
    /// OpenAPI lists it as required. Reading does not enforce that: validation of a kind does.
    pub required: bool,
    pub presence: Presence,
    /// How server-side apply treats the list; says nothing where the shape is no list.
    pub list: ListType,
    /// Replaced as one by server-side apply, where the shape is a map or message.
    pub atomic: bool,
    pub patch: Patch,
    pub proto: Proto,
    /// The values that are allowed, where the table knows them.
    pub values: Vec<CompactString>,
}

/// The form of a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    String,
    Bool,
    Int32,
    Int64,
    Float,
    /// Base64 in JSON.
    Bytes,
    Quantity,
    IntOrString,
    /// RFC 3339 in whole seconds.
    Time,
    /// RFC 3339 with six digits.
    MicroTime,
    /// Go's form, `1m30s`.
    Duration,
    Any(AnyForm),
    Message(TypeId),
    List(Box<Shape>),
    /// Keys are strings.
    Map(Box<Shape>),
}

/// What stands in protobuf where JSON may be anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnyForm {
    /// The JSON text in field 1: `RawExtension`, `JSON`, `FieldsV1`.
    Raw,
    /// `JSONSchemaPropsOrBool`, with the type of the schema.
    SchemaOrBool(TypeId),
    /// `JSONSchemaPropsOrArray`.
    SchemaOrArray(TypeId),
    /// `JSONSchemaPropsOrStringArray`.
    SchemaOrStrings(TypeId),
}

/// When a field is written, following the Go type behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Presence {
    /// Written when set, also when empty: a pointer that is left out when nil.
    #[default]
    Optional,
    /// Written unless empty: `omitempty` on a value.
    NotEmpty,
    /// Always written, as the zero of its shape when unset.
    Always,
    /// Always written, as null when unset: a pointer without `omitempty`.
    AlwaysOrNull,
    /// Written when set, null being a value: `nullable` of a custom resource.
    Nullable,
}

/// `x-kubernetes-list-type`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    #[default]
    Atomic,
    Set,
    /// Elements are told apart by these members.
    Map(Vec<CompactString>),
}

/// What strategic merge patch does with a field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patch {
    /// Lists are merged instead of replaced.
    pub merge: bool,
    /// Members that the patch does not name are dropped.
    pub retain_keys: bool,
    /// The member that tells elements of a merged list apart; empty for lists of scalars.
    pub merge_key: CompactString,
}

/// Where protobuf has the field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proto {
    /// Field numbers from the message to the field, more than one where JSON shows an inlined message's fields as the
    /// message's own. Empty where protobuf has no such field (`kind`, `apiVersion`).
    pub path: Vec<u32>,
    /// The innermost list stands in a message of its own, as its field 1 (`ExtraValue`, `Verbs`).
    pub wrapped: bool,
}

impl Schema {
    pub fn get(&self, id: TypeId) -> &Type {
        &self.types[id.0 as usize]
    }

    /// The type of objects that say they are `kind`.
    pub fn kind(&self, kind: &GroupVersionKind) -> Option<TypeId> {
        self.kinds.get(kind).copied()
    }

    /// The type with this OpenAPI name.
    pub fn named(&self, name: &str) -> Option<TypeId> {
        self.names.get(name).copied()
    }

    pub fn types(&self) -> impl ExactSizeIterator<Item = (TypeId, &Type)> {
        self.types.iter().enumerate().map(|(index, made)| (TypeId(index as u32), made.as_ref()))
    }

    pub fn len(&self) -> usize {
        self.types.len()
    }

    pub fn is_empty(&self) -> bool {
        self.types.is_empty()
    }

    /// Adds a type; one of the same name is no longer found by name, but keeps its identity. A copy of a schema shares
    /// its types, so that a custom resource's schema is a cheap copy of the built-in one with types added.
    pub fn add(&mut self, made: Type) -> TypeId {
        let id = TypeId(self.types.len() as u32);
        self.names.insert(made.name.clone(), id);
        for kind in &made.kinds {
            self.kinds.insert(kind.clone(), id);
        }
        self.types.push(Arc::new(made));
        id
    }

    /// Replaces a type that was added before its own fields were known: how types that hold each other are made.
    pub fn replace(&mut self, id: TypeId, made: Type) {
        for kind in &made.kinds {
            self.kinds.insert(kind.clone(), id);
        }
        self.names.insert(made.name.clone(), id);
        self.types[id.0 as usize] = Arc::new(made);
    }
}

impl Type {
    pub fn new(name: impl AsRef<str>, kinds: Vec<GroupVersionKind>, mut fields: Vec<Field>) -> Type {
        fields.sort_by(|left, right| left.name.cmp(&right.name));
        let tags = tag_index(&fields);
        Type { name: CompactString::new(name), kinds, fields, tags, ..Type::default() }
    }

    /// All fields, ordered by name.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    pub fn field(&self, name: &str) -> Option<&Field> {
        self.position(name).map(|position| &self.fields[position])
    }

    /// Where in [`Type::fields`] the field of this name is.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.fields.binary_search_by(|field| field.name.as_str().cmp(name)).ok()
    }

    pub fn tags(&self) -> &[(u32, Tagged)] {
        &self.tags
    }

    /// The type's name in Go's error messages, `v1.PodSpec`.
    pub fn go_name(&self) -> String {
        let mut parts = self.name.rsplit('.');
        let (name, package) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if package.is_empty() { name.to_owned() } else { format!("{package}.{name}") }
    }

    /// The last part of the name, `PodSpec`.
    pub fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or_default()
    }
}

impl Field {
    /// A field that is optional and unknown to protobuf.
    pub fn new(name: impl AsRef<str>, shape: Shape) -> Field {
        Field {
            name: CompactString::new(name),
            shape,
            required: false,
            presence: Presence::default(),
            list: ListType::default(),
            atomic: false,
            patch: Patch::default(),
            proto: Proto::default(),
            values: Vec::new(),
        }
    }

    /// The type of the field, of its elements or of its values, if that is a message.
    pub fn message(&self) -> Option<TypeId> {
        self.shape.message()
    }
}

impl Shape {
    /// The message that is the shape, or that its elements or values are.
    pub fn message(&self) -> Option<TypeId> {
        match self {
            Shape::Message(id) => Some(*id),
            Shape::List(element) | Shape::Map(element) => element.message(),
            _ => None,
        }
    }
}

fn tag_index(fields: &[Field]) -> Vec<(u32, Tagged)> {
    let mut tags = Vec::new();
    for (position, field) in fields.iter().enumerate() {
        insert_tag(&mut tags, &field.proto.path, position as u16);
    }
    tags
}

fn insert_tag(tags: &mut Vec<(u32, Tagged)>, path: &[u32], position: u16) {
    let Some((first, rest)) = path.split_first() else { return };
    let place = tags.partition_point(|(tag, _)| tag < first);
    if rest.is_empty() {
        tags.insert(place, (*first, Tagged::Field(position)));
        return;
    }
    if tags.get(place).is_none_or(|(tag, _)| tag != first) {
        tags.insert(place, (*first, Tagged::Inlined(Vec::new())));
    }
    if let (_, Tagged::Inlined(inner)) = &mut tags[place] {
        insert_tag(inner, rest, position);
    }
}
