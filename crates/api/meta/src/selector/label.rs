//! Label selectors: the string form `a=b,c in (d,e),!f` and the `LabelSelector` object. Source of syntax, order and
//! wording: Kubernetes `apimachinery/pkg/labels` and `apis/meta/v1` helpers.

use std::collections::BTreeSet;
use std::fmt;

use super::SelectorError;
use super::lexer::{Token, scan};
use crate::field::{ErrorList, Path, quote};
use crate::{Map, Value, names};

/// Which labels an object must have. A workload without a selector selects nothing, an empty one everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    In,
    NotIn,
    Equals,
    DoubleEquals,
    NotEquals,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

impl LabelSelector {
    pub fn everything() -> LabelSelector {
        LabelSelector::default()
    }

    pub fn nothing() -> LabelSelector {
        LabelSelector { requirements: Vec::new(), nothing: true }
    }

    /// The string form, as `labelSelector` of a request has it.
    pub fn parse(text: &str) -> Result<LabelSelector, SelectorError> {
        let mut requirements = Parser { tokens: scan(text), position: 0 }.parse()?;
        requirements.sort_by(|left, right| left.key.cmp(&right.key));
        Ok(LabelSelector { requirements, nothing: false })
    }

    /// A `LabelSelector` object; null selects nothing.
    pub fn from_value(selector: &Value) -> Result<LabelSelector, SelectorError> {
        if selector.is_null() {
            return Ok(LabelSelector::nothing());
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let labels = selector.entries_at(&["matchLabels"]).map(|(key, value)| (key.to_owned(), text(value)));
        let expressions = selector.list_at(&["matchExpressions"]).iter().map(|expression| {
            let values = expression.list_at(&["values"]).iter().map(text).collect();
            (text(expression.get("key")), text(expression.get("operator")), values)
        });
        LabelSelector::from_parts(labels, expressions)
    }

    /// A map of labels, as Services and ReplicationControllers select; an empty map selects everything.
    pub fn from_labels(labels: &Map) -> LabelSelector {
        let pairs = labels.iter().map(|(key, value)| (key.to_owned(), value.as_str().unwrap_or_default().to_owned()));
        LabelSelector::from_pairs(pairs)
    }

    /// Exact labels, taken as valid.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> LabelSelector {
        let exact = |(key, value)| Requirement { key, operator: Operator::Equals, values: vec![value] };
        let mut requirements: Vec<Requirement> = pairs.into_iter().map(exact).collect();
        requirements.sort_by(|left, right| left.key.cmp(&right.key));
        LabelSelector { requirements, nothing: false }
    }

    /// The two parts of a `LabelSelector` object: exact labels, and (key, operator, values).
    pub fn from_parts(
        labels: impl IntoIterator<Item = (String, String)>,
        expressions: impl IntoIterator<Item = (String, String, Vec<String>)>,
    ) -> Result<LabelSelector, SelectorError> {
        let mut requirements = Vec::new();
        for (key, value) in labels {
            requirements.push(Requirement::new(key, Operator::Equals, vec![value])?);
        }
        for (key, operator, values) in expressions {
            let operator = match operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(SelectorError(format!("{} is not a valid label selector operator", quote(other)))),
            };
            requirements.push(Requirement::new(key, operator, values)?);
        }
        requirements.sort_by(|left, right| left.key.cmp(&right.key));
        Ok(LabelSelector { requirements, nothing: false })
    }

    /// Selects what both select.
    pub fn and(mut self, other: &LabelSelector) -> LabelSelector {
        self.nothing |= other.nothing;
        self.requirements.extend(other.requirements.iter().cloned());
        self.requirements.sort_by(|left, right| left.key.cmp(&right.key));
        self
    }

    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &[(String, String)]) -> bool {
        self.matches_with(|key| labels.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str()))
    }

    /// Whether an object is selected whose label `key` is `label(key)`.
    pub fn matches_with<'l>(&self, label: impl Fn(&str) -> Option<&'l str>) -> bool {
        !self.nothing && self.requirements.iter().all(|requirement| requirement.matches(label(&requirement.key)))
    }
}

impl Requirement {
    /// Checks key, operator and values.
    pub fn new(key: String, operator: Operator, values: Vec<String>) -> Result<Requirement, SelectorError> {
        let mut errors = ErrorList::default();
        check_key(&mut errors, &Path::new("key"), &key);
        let path = Path::new("values");
        let shown = Value::List(values.iter().map(Value::string).collect());
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                errors.invalid(&path, shown, "for 'in', 'notin' operators, values set can't be empty");
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                errors.invalid(&path, shown, "exact-match compatibility requires one single value");
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                errors.invalid(&path, shown, "values set must be empty for exists and does not exist");
            }
            Operator::GreaterThan | Operator::LessThan => {
                if values.len() != 1 {
                    errors.invalid(&path, shown, "for 'Gt', 'Lt' operators, exactly one value is required");
                }
                for (index, value) in values.iter().enumerate().filter(|(_, value)| value.parse::<i64>().is_err()) {
                    errors.invalid(&path.index(index), value, "for 'Gt', 'Lt' operators, the value must be an integer");
                }
            }
            _ => {}
        }
        for (index, value) in values.iter().enumerate() {
            let messages = names::label_value(value);
            if !messages.is_empty() {
                errors.invalid(&path.index(index).key(&key), value, messages.join("; "));
            }
        }
        if errors.is_empty() {
            Ok(Requirement { key, operator, values })
        } else {
            Err(SelectorError(errors.to_string()))
        }
    }

    /// Whether an object is meant whose label of this key is `label`.
    pub fn matches(&self, label: Option<&str>) -> bool {
        let is_listed = |value: &str| self.values.iter().any(|listed| listed == value);
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => label.is_some_and(is_listed),
            Operator::NotIn | Operator::NotEquals => !label.is_some_and(is_listed),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::GreaterThan => self.compare(label).is_some_and(|(label, bound)| label > bound),
            Operator::LessThan => self.compare(label).is_some_and(|(label, bound)| label < bound),
        }
    }

    fn compare(&self, label: Option<&str>) -> Option<(i64, i64)> {
        Some((label?.parse().ok()?, self.values.first()?.parse().ok()?))
    }
}

fn check_key(errors: &mut ErrorList, path: &Path<'_>, key: &str) {
    let messages = names::qualified_name(key);
    if !messages.is_empty() {
        errors.invalid(path, key, messages.join("; "));
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut values = self.values.clone();
        values.sort();
        let (key, values) = (&self.key, values.join(","));
        match self.operator {
            Operator::In => write!(formatter, "{key} in ({values})"),
            Operator::NotIn => write!(formatter, "{key} notin ({values})"),
            Operator::Equals => write!(formatter, "{key}={values}"),
            Operator::DoubleEquals => write!(formatter, "{key}=={values}"),
            Operator::NotEquals => write!(formatter, "{key}!={values}"),
            Operator::Exists => formatter.write_str(key),
            Operator::DoesNotExist => write!(formatter, "!{key}"),
            Operator::GreaterThan => write!(formatter, "{key}>{values}"),
            Operator::LessThan => write!(formatter, "{key}<{values}"),
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.requirements.iter().map(Requirement::to_string).collect();
        formatter.write_str(&texts.join(","))
    }
}

fn found<T>(literal: &str, expected: &str) -> Result<T, SelectorError> {
    Err(SelectorError(format!("found '{literal}', expected: {expected}")))
}

struct Parser {
    tokens: Vec<(Token, String)>,
    position: usize,
}

impl Parser {
    /// The next word; `in` and `notin` are plain words here.
    fn peek(&self) -> (Token, &str) {
        let (token, literal) = &self.tokens[self.position.min(self.tokens.len() - 1)];
        let is_word = matches!(token, Token::In | Token::NotIn);
        (if is_word { Token::Identifier } else { *token }, literal)
    }

    fn take(&mut self) -> (Token, String) {
        let (token, literal) = self.peek();
        let taken = (token, literal.to_owned());
        self.position += 1;
        taken
    }

    fn parse(&mut self) -> Result<Vec<Requirement>, SelectorError> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                (Token::Identifier | Token::Not, _) => {}
                (Token::End, _) => return Ok(requirements),
                (_, literal) => return found(literal, "!, identifier, or 'end of string'"),
            }
            let requirement = self.requirement();
            requirements
                .push(requirement.map_err(|error| SelectorError(format!("unable to parse requirement: {error}")))?);
            match self.take() {
                (Token::End, _) => return Ok(requirements),
                (Token::Comma, _) => match self.peek() {
                    (Token::Identifier | Token::Not, _) => {}
                    (_, literal) => return found(literal, "identifier after ','"),
                },
                (_, literal) => return found(&literal, "',' or 'end of string'"),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let (mut token, mut literal) = self.take();
        let negated = token == Token::Not;
        if negated {
            (token, literal) = self.take();
        }
        if token != Token::Identifier {
            return found(&literal, "identifier");
        }
        let mut errors = ErrorList::default();
        check_key(&mut errors, &Path::new("<nil>"), &literal);
        if !errors.is_empty() {
            return Err(SelectorError(errors.to_string()));
        }
        if negated {
            return Requirement::new(literal, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Requirement::new(literal, Operator::Exists, Vec::new());
        }
        let operator = self.operator()?;
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => self.exact_value()?,
        };
        Requirement::new(literal, operator, values.into_iter().collect())
    }

    fn operator(&mut self) -> Result<Operator, SelectorError> {
        let (token, literal) = self.tokens[self.position.min(self.tokens.len() - 1)].clone();
        self.position += 1;
        match token {
            Token::In => Ok(Operator::In),
            Token::NotIn => Ok(Operator::NotIn),
            Token::Equals => Ok(Operator::Equals),
            Token::DoubleEquals => Ok(Operator::DoubleEquals),
            Token::NotEquals => Ok(Operator::NotEquals),
            Token::Greater => Ok(Operator::GreaterThan),
            Token::Less => Ok(Operator::LessThan),
            _ => found(&literal, "in, notin, =, ==, !=, gt, lt"),
        }
    }

    fn values(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        let (token, literal) = self.take();
        if token != Token::Open {
            return Err(SelectorError(format!("found '{literal}' expected: '('")));
        }
        match self.peek() {
            (Token::Identifier | Token::Comma, _) => {
                let values = self.identifiers()?;
                self.position += 1;
                Ok(values)
            }
            (Token::Close, _) => {
                self.position += 1;
                Ok(BTreeSet::from([String::new()]))
            }
            (_, literal) => found(literal, "',', ')' or identifier"),
        }
    }

    /// The values in brackets, up to but not including the closing one.
    fn identifiers(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        let mut values = BTreeSet::new();
        loop {
            match self.take() {
                (Token::Identifier, literal) => {
                    values.insert(literal);
                    match self.peek() {
                        (Token::Comma, _) => {}
                        (Token::Close, _) => return Ok(values),
                        (_, literal) => return found(literal, "',' or ')'"),
                    }
                }
                (Token::Comma, _) => {
                    let next = self.peek().0;
                    if values.is_empty() || matches!(next, Token::Close | Token::Comma) {
                        values.insert(String::new());
                    }
                    if next == Token::Close {
                        return Ok(values);
                    }
                }
                (_, literal) => return found(&literal, "',', or identifier"),
            }
        }
    }

    fn exact_value(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Ok(BTreeSet::from([String::new()]));
        }
        match self.take() {
            (Token::Identifier, literal) => Ok(BTreeSet::from([literal])),
            (_, literal) => found(&literal, "identifier"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Vec<(String, String)> {
        let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
        pairs.map(|(key, value)| (key.into(), value.into())).collect()
    }

    #[test]
    fn the_string_form_selects() {
        let cases = [
            ("", "a=1", true),
            ("a=1", "a=1", true),
            ("a==1,b!=2", "a=1", true),
            ("a in (1,2),c notin (3)", "a=2,c=4", true),
            ("a in (1,2)", "b=1", false),
            ("!a", "a=1", false),
            ("a", "a=", true),
            ("a=", "a=", true),
            ("in=in", "in=in", true),
            ("a>1", "a=2", true),
            ("a<1", "a=2", false),
            (" a = 1 , b ", "a=1,b=x", true),
        ];
        for (selector, given, expected) in cases {
            assert_eq!(LabelSelector::parse(selector).unwrap().matches(&labels(given)), expected, "{selector} {given}");
        }
    }

    #[test]
    fn bad_selectors_are_told_as_upstream_does() {
        let cases = [
            ("a,", "found '', expected: identifier after ','"),
            ("=a", "found '=', expected: !, identifier, or 'end of string'"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a in 1", "unable to parse requirement: found '1' expected: '('"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            ("/a", "unable to parse requirement: <nil>: Invalid value: \"/a\": prefix part must be non-empty"),
        ];
        for (given, text) in cases {
            assert_eq!(LabelSelector::parse(given).unwrap_err().to_string(), text, "{given}");
        }
    }

    #[test]
    fn the_object_form_selects() {
        let json = br#"{"matchLabels":{"b":"2"},"matchExpressions":[{"key":"a","operator":"In","values":["y","x"]}]}"#;
        let selector = LabelSelector::from_value(&Value::from_json(json).unwrap()).unwrap();
        assert_eq!(selector.to_string(), "a in (x,y),b=2");
        assert!(selector.matches(&labels("a=x,b=2")));
        assert!(!LabelSelector::from_value(&Value::Null).unwrap().matches(&[]));
        assert!(LabelSelector::from_value(&Value::map()).unwrap().matches(&[]));
    }
}
