//! Field numbers out of k8s-pb's generated sources, which are regular enough to be read line by line: a `#[prost(…)]`
//! line, then the field it stands over.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Context;

/// Messages by [`key`].
pub type Messages = HashMap<String, Message>;

#[derive(Debug, Default)]
pub struct Message {
    /// By [`plain`] name.
    pub fields: HashMap<String, Number>,
}

#[derive(Debug)]
pub struct Number {
    pub tag: u32,
    /// The [`key`] of the message that the field holds.
    pub message: Option<String>,
}

/// What a definition and a message of the same type have in common, however they spell it.
pub fn key(definition: &str) -> String {
    plain(definition.trim_start_matches("io.k8s."))
}

/// A field's or type's name without case, underscores and hyphens.
pub fn plain(name: &str) -> String {
    name.trim_start_matches("r#").chars().filter(|c| !matches!(c, '_' | '-')).flat_map(char::to_lowercase).collect()
}

pub fn parse(sources: &Path) -> anyhow::Result<Messages> {
    let mut messages = Messages::new();
    walk(sources, &mut Vec::new(), &mut messages)?;
    Ok(messages)
}

fn walk(folder: &Path, path: &mut Vec<String>, messages: &mut Messages) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            path.push(entry.file_name().to_string_lossy().into_owned());
            walk(&entry.path(), path, messages)?;
            path.pop();
        } else if entry.file_name() == "mod.rs" {
            parse_file(&std::fs::read_to_string(entry.path())?, path, messages);
        }
    }
    Ok(())
}

fn parse_file(text: &str, path: &[String], messages: &mut Messages) {
    let mut name = String::new();
    let mut tag = None;
    let mut field = String::new();
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("pub struct ") {
            name = plain(&format!("{}.{}", path.join("."), rest.trim_end_matches(['{', '}', ' '])));
            messages.entry(name.clone()).or_default();
        } else if line.starts_with("#[prost(") {
            tag = line.split("tag = \"").nth(1).and_then(|rest| rest.split('"').next()).and_then(|t| t.parse().ok());
        } else if let Some(number) = tag {
            field.push_str(line);
            if line.ends_with(',') && field.matches('<').count() == field.matches('>').count() {
                let (name_of_field, kind) = field.trim_start_matches("pub ").split_once(':').unwrap_or_default();
                let number = Number { tag: number, message: message_key(kind, path) };
                messages.entry(name.clone()).or_default().fields.insert(plain(name_of_field), number);
                (tag, field) = (None, String::new());
            }
        }
    }
}

/// `::core::option::Option<super::super::v1::ObjectMeta>` seen from the module `path`.
fn message_key(kind: &str, path: &[String]) -> Option<String> {
    let inner = kind.trim_end_matches([',', '>']).rsplit(['<', ' ', ',']).next()?;
    if inner.starts_with("::") || !inner.rsplit("::").next()?.starts_with(char::is_uppercase) {
        return None;
    }
    let up = inner.matches("super::").count();
    let base = path.get(..path.len().checked_sub(up)?)?.join(".");
    Some(plain(&format!("{base}.{}", inner.replace("super::", "").replace("::", "."))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_the_messages_they_hold_are_found() {
        let text = "pub struct Volume {\n #[prost(message, optional, tag = \"2\")]\n pub volume_source: \
                    ::core::option::Option<super::v2::Source>,\n}";
        let mut messages = Messages::new();
        parse_file(text, &["api".into(), "core".into(), "v1".into()], &mut messages);
        let number = &messages["api.core.v1.volume"].fields["volumesource"];
        assert_eq!((number.tag, number.message.as_deref()), (2, Some("api.core.v2.source")));
    }
}
