//! Field selectors: `metadata.name=x,spec.nodeName!=y`. Which fields a kind offers is the kind's own rule.
//! Source of syntax and wording: Kubernetes `apimachinery/pkg/fields`.

use std::fmt;

use super::SelectorError;

/// All requirements must hold; none selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    pub requirements: Vec<FieldRequirement>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldRequirement {
    pub field: String,
    /// Whether the field must equal the value; otherwise it must differ.
    pub equal: bool,
    pub value: String,
}

impl FieldSelector {
    pub fn parse(text: &str) -> Result<FieldSelector, SelectorError> {
        let mut terms = split_terms(text);
        terms.sort_unstable();
        let requirements = terms
            .into_iter()
            .filter(|term| !term.is_empty())
            .map(|term| parse_term(text, term))
            .collect::<Result<_, _>>()?;
        Ok(FieldSelector { requirements })
    }

    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether an object matches whose field `name` is `value(name)`; a missing field is empty.
    pub fn matches<'v>(&self, value: impl Fn(&str) -> Option<&'v str>) -> bool {
        self.requirements.iter().all(|requirement| {
            (value(&requirement.field).unwrap_or_default() == requirement.value) == requirement.equal
        })
    }

    /// The one value that `field` must have, where the selector says so.
    pub fn exact(&self, field: &str) -> Option<&str> {
        let requirement =
            self.requirements.iter().find(|requirement| requirement.equal && requirement.field == field)?;
        Some(&requirement.value)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let operator = if requirement.equal { "=" } else { "!=" };
            let value = requirement.value.replace('\\', r"\\").replace(',', r"\,").replace('=', r"\=");
            write!(formatter, "{comma}{}{operator}{value}", requirement.field)?;
        }
        Ok(())
    }
}

/// Cuts at commas that no backslash escapes.
fn split_terms(text: &str) -> Vec<&str> {
    let (mut terms, mut start, mut in_slash) = (Vec::new(), 0, false);
    for (index, character) in text.char_indices() {
        match character {
            _ if in_slash => in_slash = false,
            '\\' => in_slash = true,
            ',' => {
                terms.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn parse_term(whole: &str, term: &str) -> Result<FieldRequirement, SelectorError> {
    let found = term.char_indices().find_map(|(index, _)| {
        let operator = ["!=", "==", "="].into_iter().find(|operator| term[index..].starts_with(operator))?;
        Some((&term[..index], operator, &term[index + operator.len()..]))
    });
    let Some((field, operator, value)) = found else {
        return Err(SelectorError(format!("invalid selector: '{whole}'; can't understand '{term}'")));
    };
    Ok(FieldRequirement { field: field.into(), equal: operator != "!=", value: unescape(value)? })
}

fn unescape(text: &str) -> Result<String, SelectorError> {
    let bad = |what: &str| SelectorError(format!("invalid field selector: invalid escape sequence: {what}"));
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some(escaped @ ('\\' | ',' | '=')) => out.push(escaped),
                Some(other) => return Err(bad(&format!("\\{other}"))),
                None => return Err(bad("\\")),
            },
            ',' | '=' => {
                let code = character as u32;
                return Err(SelectorError(format!("invalid field selector: unescaped character in value: {code}")));
            }
            other => out.push(other),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_read_and_matched() {
        let selector = FieldSelector::parse("metadata.name=x,spec.nodeName!=y").unwrap();
        let pod = |node: &'static str| move |field: &str| Some(if field == "metadata.name" { "x" } else { node });
        assert!(selector.matches(pod("")));
        assert!(!selector.matches(pod("y")));
        assert_eq!(selector.exact("metadata.name"), Some("x"));
        assert_eq!(selector.exact("spec.nodeName"), None);
        assert_eq!(selector.to_string(), "metadata.name=x,spec.nodeName!=y");
    }

    #[test]
    fn escapes_survive_a_round_trip() {
        let selector = FieldSelector::parse(r"a==b\,c\=d").unwrap();
        assert_eq!(selector.exact("a"), Some("b,c=d"));
        assert_eq!(FieldSelector::parse(&selector.to_string()).unwrap(), selector);
    }

    #[test]
    fn bad_terms_are_told_as_upstream_does() {
        let cases = [
            ("a", "invalid selector: 'a'; can't understand 'a'"),
            (r"a=\b", r"invalid field selector: invalid escape sequence: \b"),
            ("a=b=c", "invalid field selector: unescaped character in value: 61"),
        ];
        for (given, text) in cases {
            assert_eq!(FieldSelector::parse(given).unwrap_err().to_string(), text);
        }
    }
}
