//! Which objects a list or watch picks.

use coracle_meta::object::Selectable;
use coracle_meta::{FieldSelector, LabelSelector, Object, Status};

use crate::call::{Call, Served};
use crate::encode::served_tree;
use crate::verbs::read::check_numbers;

pub struct Selector {
    served: Served,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selector {
    pub fn read(call: &Call, served: Served) -> Result<Selector, Status> {
        check_numbers(call, &["limit", "timeoutSeconds"])?;
        let bad = |error: &dyn std::fmt::Display| Status::bad_request(error.to_string());
        let text = |key: &str| call.query.get(key).unwrap_or_default();
        let labels = LabelSelector::parse(text("labelSelector")).map_err(|error| bad(&error))?;
        let fields = FieldSelector::parse(text("fieldSelector")).map_err(|error| bad(&error))?;
        let selector = Selector { served, labels, fields };
        selector.check_fields()?;
        Ok(selector)
    }

    fn check_fields(&self) -> Result<(), Status> {
        let nothing = coracle_meta::Value::map();
        let known = self.served.kind.selectable_fields(&nothing);
        let unknown = |field: &str| !known.iter().any(|(name, _)| *name == field) && field != "metadata.namespace";
        match self.fields.requirements.iter().find(|requirement| unknown(&requirement.field)) {
            None => Ok(()),
            Some(requirement) => {
                let (field, kind) = (&requirement.field, self.served.kind);
                let has_own = known.iter().any(|(name, _)| !name.starts_with("metadata."));
                Err(Status::bad_request(match (has_own, kind.kind) {
                    (_, "Job") => format!("field label {field:?} not supported for Job"),
                    (true, _) => format!("field label not supported: {field}"),
                    (false, _) => format!(
                        "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                    ),
                }))
            }
        }
    }

    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    pub fn matches(&self, object: &Object) -> bool {
        if !self.labels.matches(&object.meta.labels) {
            return false;
        }
        if self.fields.is_everything() {
            return true;
        }
        let of_meta = |field: &str| match field {
            "metadata.name" => Some(object.meta.name.as_str()),
            "metadata.namespace" => Some(object.meta.namespace.as_str()),
            _ => None,
        };
        let is_meta = |field: &str| matches!(field, "metadata.name" | "metadata.namespace");
        if self.fields.requirements.iter().all(|requirement| is_meta(&requirement.field)) {
            return self.fields.matches(of_meta);
        }
        let made;
        let fields = match self.served.is_storage_form() {
            true => object.selectable(|| self.fields_of(object)),
            false => {
                made = self.fields_of(object);
                &made
            }
        };
        self.fields.matches(|wanted| {
            let found = fields.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.as_str());
            found.or_else(|| of_meta(wanted))
        })
    }

    /// None of an object that cannot be read.
    fn fields_of(&self, object: &Object) -> Selectable {
        let kind = self.served.kind;
        let fields = match self.served.is_storage_form() {
            true => kind.selectable_fields_of(&object.bytes).ok(),
            false => served_tree(self.served, object).ok().map(|value| kind.selectable_fields(&value)),
        };
        fields.unwrap_or_default().into()
    }
}
