//! The walks over two objects: how they differ, and the one merged into the other. Source: structured-merge-diff's
//! `typed/compare.go` and `merge.go`.

use coracle_meta::{Map, Value};

use super::element::Element;
use super::place::{Form, Place, Types};
use super::set::Set;

/// How two objects differ; no path is in two of the sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    pub removed: Set,
    pub modified: Set,
    pub added: Set,
}

/// A list's elements with what tells them apart.
type Named<'v> = &'v [(Element, &'v Value)];

fn all<'v>(list: Named<'v>, name: &Element) -> Vec<&'v Value> {
    list.iter().filter(|(other, _)| other == name).map(|(_, value)| *value).collect()
}

impl Comparison {
    pub fn without(self, fields: &Set) -> Comparison {
        Comparison {
            removed: self.removed.without(fields),
            modified: self.modified.without(fields),
            added: self.added.without(fields),
        }
    }

    /// What the second object says that the first did not.
    pub fn changed(&self) -> Set {
        self.modified.clone().union(&self.added)
    }

    pub fn is_same(&self) -> bool {
        self.removed.is_empty() && self.modified.is_empty() && self.added.is_empty()
    }
}

impl<'a> Types<'a> {
    pub fn compare(self, form: Form<'a>, old: &Value, new: &Value) -> Result<Comparison, String> {
        let mut out = Comparison::default();
        self.difference(form, (Some(old), Some(new)), &mut Vec::new(), &mut out)?;
        Ok(out)
    }

    fn difference(
        self,
        form: Form<'a>,
        (old, new): (Option<&Value>, Option<&Value>),
        path: &mut Vec<Element>,
        out: &mut Comparison,
    ) -> Result<(), String> {
        match (old, new) {
            (None, _) => out.added.insert(path),
            (_, None) => out.removed.insert(path),
            (Some(old), Some(new)) if old == new => return Ok(()),
            _ => {}
        }
        match form {
            _ if is_void(old) && is_void(new) => leaf(old, new, path, out),
            Form::Leaf => leaf(old, new, path, out),
            Form::List { keys, element } => {
                let left = self.named(keys, element, list(old))?;
                let right = self.named(keys, element, list(new))?;
                self.list_difference(element, (&left, &right), path, out)?;
            }
            Form::Struct(_) | Form::Map(_) => {
                let (left, right) = (map(old), map(new));
                for key in union_keys(left, right) {
                    if key == "managedFields" && matches!(&path[..], [Element::Field(name)] if name == "metadata") {
                        continue;
                    }
                    let pair = (left.and_then(|map| map.get(key)), right.and_then(|map| map.get(key)));
                    let place = self.member(form, key).unwrap_or(Place::Deduced);
                    path.push(Element::field(key));
                    self.difference(self.pair_form(place, pair), pair, path, out)?;
                    path.pop();
                }
            }
        }
        Ok(())
    }

    /// Elements of one name that stand several times are compared as one.
    fn list_difference(
        self,
        element: Place<'a>,
        (left, right): (Named<'_>, Named<'_>),
        path: &mut Vec<Element>,
        out: &mut Comparison,
    ) -> Result<(), String> {
        let mut seen: Vec<&Element> = Vec::new();
        for (name, _) in left.iter().chain(right) {
            if seen.contains(&name) {
                continue;
            }
            seen.push(name);
            let (olds, news) = (all(left, name), all(right, name));
            path.push(name.clone());
            let (old, new) = match (olds.len() > 1, news.len() > 1) {
                (false, false) => (olds.first().copied(), news.first().copied()),
                (true, true) => {
                    if olds != news {
                        out.modified.insert(path);
                    }
                    (None, None)
                }
                (true, false) => {
                    out.removed.insert(path);
                    (None, news.first().copied())
                }
                (false, true) => {
                    out.added.insert(path);
                    (olds.first().copied(), None)
                }
            };
            if old.is_some() || new.is_some() {
                self.difference(self.pair_form(element, (old, new)), (old, new), path, out)?;
            }
            path.pop();
        }
        Ok(())
    }

    fn pair_form(self, place: Place<'a>, (old, new): (Option<&Value>, Option<&Value>)) -> Form<'a> {
        let sample = match (old, new) {
            (Some(Value::Map(_)), Some(other)) | (Some(other), Some(Value::Map(_))) => other,
            (Some(only), _) | (None, Some(only)) => only,
            (None, None) => &Value::Null,
        };
        self.form(place, sample)
    }

    fn named<'v>(
        self,
        keys: &[compact_str::CompactString],
        element: Place<'a>,
        items: &'v [Value],
    ) -> Result<Vec<(Element, &'v Value)>, String> {
        let name = |(index, item): (usize, &'v Value)| match self.element(keys, element, item) {
            Ok(name) => Ok((name, item)),
            Err(why) => Err(format!("element {index}: {why}")),
        };
        items.iter().enumerate().map(name).collect()
    }

    /// `old` with all that `new` says; nothing is taken out.
    pub fn merged(self, form: Form<'a>, old: Option<&Value>, new: Option<&Value>) -> Result<Option<Value>, String> {
        match form {
            _ if is_void(old) && is_void(new) => Ok(new.or(old).cloned()),
            Form::Leaf => Ok(new.or(old).cloned()),
            Form::List { keys, element } => {
                let left = self.named(keys, element, list(old))?;
                let right = self.named(keys, element, list(new))?;
                let items = self.merged_items(element, &left, &right)?;
                Ok((!items.is_empty()).then_some(Value::List(items)))
            }
            Form::Struct(_) | Form::Map(_) => {
                let (left, right) = (map(old), map(new));
                let mut out = Map::default();
                for key in union_keys(left, right) {
                    let pair = (left.and_then(|map| map.get(key)), right.and_then(|map| map.get(key)));
                    let place = self.member(form, key).unwrap_or(Place::Deduced);
                    if let Some(value) = self.merged(self.pair_form(place, pair), pair.0, pair.1)? {
                        out.push(key.into(), value);
                    }
                }
                Ok((!out.is_empty()).then_some(Value::Map(out)))
            }
        }
    }

    /// Elements in the order of the new list, with the old list's own where they stood among those that both have.
    fn merged_items(
        self,
        element: Place<'a>,
        old: &[(Element, &Value)],
        new: &[(Element, &Value)],
    ) -> Result<Vec<Value>, String> {
        let find = |list: &'_ [(Element, &'_ Value)], name: &Element| list.iter().position(|(other, _)| other == name);
        let in_old = |name: &Element| find(old, name).map(|at| old[at].1);
        let in_new = |name: &Element| find(new, name).is_some();
        let mut shared = new.iter().map(|(name, _)| name).filter(|name| in_old(name).is_some());
        let mut next = shared.next();
        let mut done: Vec<&Element> = Vec::new();
        let mut out = Vec::with_capacity(old.len().max(new.len()));
        let mut add = |left: Option<&Value>, right: Option<&Value>| -> Result<(), String> {
            out.extend(self.merged(self.pair_form(element, (left, right)), left, right)?);
            Ok(())
        };
        let (mut left, mut right) = (0, 0);
        while left < old.len() || right < new.len() {
            if let (Some((name, value)), Some((wanted, given))) = (old.get(left), new.get(right)) {
                if name == wanted {
                    done.push(wanted);
                    add(Some(value), Some(given))?;
                    (left, right) = (left + 1, right + 1);
                    next = shared.next();
                    continue;
                }
                if in_new(name) && next.is_some_and(|next| next != name) {
                    left += 1;
                    continue;
                }
            }
            if let Some((name, value)) = old.get(left) {
                if !in_new(name) {
                    add(Some(value), None)?;
                    left += 1;
                    continue;
                }
                if done.contains(&name) {
                    left += 1;
                }
            }
            if let Some((name, given)) = new.get(right) {
                done.push(name);
                add(in_old(name), Some(given))?;
                right += 1;
                if next == Some(name) {
                    next = shared.next();
                }
            }
        }
        Ok(out)
    }
}

fn leaf(old: Option<&Value>, new: Option<&Value>, path: &[Element], out: &mut Comparison) {
    if let (Some(old), Some(new)) = (old, new)
        && old != new
    {
        out.modified.insert(path);
    }
}

/// Nothing, null, or an empty map or list.
fn is_void(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::List(items)) => items.is_empty(),
        Some(Value::Map(map)) => map.is_empty(),
        Some(_) => false,
    }
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_list).unwrap_or_default()
}

fn map(value: Option<&Value>) -> Option<&Map> {
    value.and_then(Value::as_map)
}

fn union_keys<'v>(left: Option<&'v Map>, right: Option<&'v Map>) -> impl Iterator<Item = &'v str> {
    let of = |map: Option<&'v Map>| map.into_iter().flat_map(Map::keys);
    of(left).chain(of(right).filter(move |key| left.is_none_or(|left| !left.contains(key))))
}
