//! ValidatingWebhookConfigurations: whom to ask before a write.

use coracle_meta::Value;

use super::webhook;
use crate::column::{AGE, Column, NAME, count, integer};
use crate::rules::{Lifecycle, Rules};

const COLUMNS: &[Column] = &[NAME, integer("Webhooks", |object, _| count(object, &["webhooks"])), AGE];

pub const RULES: Rules =
    Rules { default, validate: webhook::validate, columns: COLUMNS, lifecycle: Lifecycle::COUNTED, ..Rules::STANDARD };

fn default(object: &mut Value, _: &str) {
    for webhook in object.list_at_mut(&["webhooks"]) {
        webhook::default(webhook);
    }
}
