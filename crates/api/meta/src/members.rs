//! A JSON object by its members: those that nobody changes stay the text they are, and are written as such.

use std::fmt;

use compact_str::CompactString;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::Value;

/// The members in their order.
pub struct Members<'a>(Vec<(CompactString, Text<'a>)>);

enum Text<'a> {
    Kept(&'a str),
    Made(Vec<u8>),
}

impl<'a> Members<'a> {
    pub fn read(json: &'a [u8]) -> Result<Members<'a>, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// A member as it was read; empty where it is missing.
    pub fn text(&self, name: &str) -> &'a str {
        let found = self.0.iter().find(|(member, _)| member == name);
        found.map_or("", |(_, text)| match text {
            Text::Kept(text) => text,
            Text::Made(_) => "",
        })
    }

    /// A member as it was read, as a tree; null where it is missing.
    pub fn value(&self, name: &str) -> Result<Value, serde_json::Error> {
        match self.text(name) {
            "" => Ok(Value::Null),
            text => Value::from_json(text.as_bytes()),
        }
    }

    /// Takes a member out and answers its text as it was read; empty where it was missing.
    pub fn remove(&mut self, name: &str) -> &'a str {
        let text = self.text(name);
        self.0.retain(|(member, _)| member != name);
        text
    }

    /// Puts a member in front, unless there is one already.
    pub fn lead_with(&mut self, name: &str, json: &[u8]) {
        if !self.0.iter().any(|(member, _)| member == name) {
            self.0.insert(0, (CompactString::new(name), Text::Made(json.to_vec())));
        }
    }

    /// Replaces a member's JSON, or adds it at the end.
    pub fn set(&mut self, name: &str, json: Vec<u8>) {
        match self.0.iter_mut().find(|(member, _)| member == name) {
            Some((_, text)) => *text = Text::Made(json),
            None => self.0.push((CompactString::new(name), Text::Made(json))),
        }
    }

    /// Without room to grow, unless a name has to be escaped: what is made here is often held for long.
    pub fn to_json(&self) -> Vec<u8> {
        let text = |text: &Text<'_>| match text {
            Text::Kept(text) => text.len(),
            Text::Made(json) => json.len(),
        };
        let room = self.0.iter().map(|(name, member)| name.len() + text(member) + 4).sum::<usize>() + 1;
        let mut out = Vec::with_capacity(room.max(2));
        for (index, (name, text)) in self.0.iter().enumerate() {
            out.push(if index == 0 { b'{' } else { b',' });
            serde_json::to_writer(&mut out, name.as_str()).expect("text always has a JSON form");
            out.push(b':');
            out.extend_from_slice(match text {
                Text::Kept(text) => text.as_bytes(),
                Text::Made(json) => json,
            });
        }
        if self.0.is_empty() {
            out.push(b'{');
        }
        out.push(b'}');
        out
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members<'a>, D::Error> {
        deserializer.deserialize_map(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Members<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = Vec::with_capacity(8);
        while let Some((name, text)) = map.next_entry::<CompactString, &'de RawValue>()? {
            members.push((name, Text::Kept(text.get())));
        }
        Ok(Members(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_changes_stays_as_it_was_written() {
        let json = br#"{"kind":"P", "a\"b":[1, 2],"spec":{ "x":1 },"status":null}"#;
        let mut members = Members::read(json).unwrap();
        assert_eq!((members.text("spec"), members.text("none")), (r#"{ "x":1 }"#, ""));
        assert_eq!(members.value("spec").unwrap().int_at(&["x"]), Some(1));
        members.set("status", b"{}".to_vec());
        members.set("more", b"7".to_vec());
        let written = String::from_utf8(members.to_json()).unwrap();
        assert_eq!(written, r#"{"kind":"P","a\"b":[1, 2],"spec":{ "x":1 },"status":{},"more":7}"#);
    }

    #[test]
    fn members_come_and_go_and_nothing_is_held_in_vain() {
        let mut members = Members::read(br#"{"kind":"P","managed":[{}],"spec":{}}"#).unwrap();
        assert_eq!((members.remove("managed"), members.remove("none")), ("[{}]", ""));
        members.lead_with("kind", b"7");
        members.lead_with("apiVersion", br#""v1""#);
        let written = members.to_json();
        assert_eq!(written, br#"{"apiVersion":"v1","kind":"P","spec":{}}"#);
        assert_eq!(written.capacity(), written.len());
    }

    #[test]
    fn nothing_but_an_object_has_members() {
        assert_eq!(Members::read(b"{}").unwrap().to_json(), b"{}");
        assert!(Members::read(b"[1]").is_err() && Members::read(br#"{"a":1"#).is_err());
    }
}
