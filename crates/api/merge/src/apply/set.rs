//! Sets of fields as managedFields hold them (`FieldsV1`), and their algebra. Source: structured-merge-diff's
//! `fieldpath/set.go`.

use std::collections::BTreeMap;

use coracle_meta::{Map, Value};

use super::element::Element;

/// A tree of paths. A path may be in the set, lead to paths that are, or both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    nodes: BTreeMap<Element, Node>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    pub is_member: bool,
    pub below: Set,
}

impl Node {
    fn is_empty(&self) -> bool {
        !self.is_member && self.below.is_empty()
    }
}

impl Set {
    /// The set of paths whose steps are fields.
    pub fn of_fields(paths: &[&[&str]]) -> Set {
        let mut set = Set::default();
        for path in paths {
            set.insert(&path.iter().map(|name| Element::field(name)).collect::<Vec<_>>());
        }
        set
    }

    /// Nothing owns the whole object: the empty path is not added.
    pub fn insert(&mut self, path: &[Element]) {
        let Some((first, rest)) = path.split_first() else { return };
        if !self.nodes.contains_key(first) {
            self.nodes.insert(first.clone(), Node::default());
        }
        let node = self.nodes.get_mut(first).expect("made above");
        match rest.is_empty() {
            true => node.is_member = true,
            false => node.below.insert(rest),
        }
    }

    pub fn node(&self, element: &Element) -> Option<&Node> {
        self.nodes.get(element)
    }

    pub fn contains(&self, path: &[Element]) -> bool {
        match path {
            [] => false,
            [last] => self.nodes.get(last).is_some_and(|node| node.is_member),
            [first, rest @ ..] => self.nodes.get(first).is_some_and(|node| node.below.contains(rest)),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.values().all(Node::is_empty)
    }

    pub fn union(mut self, other: &Set) -> Set {
        for (element, node) in &other.nodes {
            let mine = self.nodes.entry(element.clone()).or_default();
            mine.is_member |= node.is_member;
            mine.below = std::mem::take(&mut mine.below).union(&node.below);
        }
        self
    }

    pub fn intersection(&self, other: &Set) -> Set {
        self.map(|element, node| {
            let against = other.nodes.get(element)?;
            let is_member = node.is_member && against.is_member;
            Some(Node { is_member, below: node.below.intersection(&against.below) })
        })
    }

    /// What is in this set and not in `other`, path by path: a parent does not stand for its children.
    pub fn difference(&self, other: &Set) -> Set {
        self.map(|element, node| {
            let Some(against) = other.nodes.get(element) else { return Some(node.clone()) };
            let is_member = node.is_member && !against.is_member;
            Some(Node { is_member, below: node.below.difference(&against.below) })
        })
    }

    /// As [`Set::difference`], but what `other` holds takes all below it along.
    pub fn without(&self, other: &Set) -> Set {
        self.map(|element, node| match other.nodes.get(element) {
            None => Some(node.clone()),
            Some(against) if against.is_member => None,
            Some(against) => Some(Node { is_member: node.is_member, below: node.below.without(&against.below) }),
        })
    }

    /// The set with each node replaced; nodes without members are dropped.
    pub fn map(&self, change: impl Fn(&Element, &Node) -> Option<Node>) -> Set {
        let nodes = self.nodes.iter().filter_map(|(element, node)| {
            let node = change(element, node).filter(|node| !node.is_empty())?;
            Some((element.clone(), node))
        });
        Set { nodes: nodes.collect() }
    }

    /// Calls with every path in the set: of each map or list its members first, then what is below.
    pub fn each(&self, visit: &mut dyn FnMut(&[Element])) {
        self.each_below(&mut Vec::new(), visit);
    }

    fn each_below(&self, path: &mut Vec<Element>, visit: &mut dyn FnMut(&[Element])) {
        for (element, _) in self.nodes.iter().filter(|(_, node)| node.is_member) {
            path.push(element.clone());
            visit(path);
            path.pop();
        }
        for (element, node) in &self.nodes {
            path.push(element.clone());
            node.below.each_below(path, visit);
            path.pop();
        }
    }

    /// As `fieldsV1` has it.
    pub fn encode(&self) -> Value {
        let mut map = Map::default();
        for (element, node) in self.nodes.iter().filter(|(_, node)| !node.is_empty()) {
            let mut below = node.below.encode();
            if node.is_member && !below.is_empty() {
                let Value::Map(inner) = below else { unreachable!("sets are written as maps") };
                let own = [(".", Value::map())].into_iter();
                below = Value::Map(own.chain(inner.iter().map(|(key, value)| (key, value.clone()))).collect());
            }
            map.push(element.encode(), below);
        }
        Value::Map(map)
    }

    pub fn decode(value: &Value) -> Result<Set, String> {
        let mut set = Set::default();
        for (key, below) in value.entries_at(&[]).filter(|(key, _)| *key != ".") {
            let Some(element) = Element::decode(key)? else { continue };
            let is_leaf = below.entries_at(&[]).all(|(key, _)| key == ".");
            let is_member = is_leaf || below.as_map().is_some_and(|map| map.contains("."));
            set.nodes.insert(element, Node { is_member, below: Set::decode(below)? });
        }
        Ok(set)
    }
}

/// A path as messages show it, `.spec.containers[name="a"].image`.
pub fn path_text(path: &[Element]) -> String {
    path.iter().map(Element::to_string).collect()
}
