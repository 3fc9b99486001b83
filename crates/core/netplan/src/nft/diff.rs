//! The shortest way from one table to another.

use super::{Base, Chain, Key, Rule, Set, Table, Verdict};

/// One step of a batch. The batch is atomic; the order serves the kernel's rule that what is referred to exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    AddTable,
    DeleteTable,
    AddChain(String, Option<Base>),
    FlushChain(String),
    DeleteChain(String),
    AddRule(String, Rule),
    /// Without its elements.
    AddSet(String, Set),
    DeleteSet(String),
    AddElements(String, Vec<(Key, Option<Verdict>)>),
    DeleteElements(String, Vec<Key>),
}

/// The commands that make the kernel's table `new`, whatever it was.
pub fn replace(new: &Table) -> Vec<Command> {
    let mut commands = vec![Command::AddTable, Command::DeleteTable, Command::AddTable];
    commands.extend(between(&Table::new(new.family, new.name.clone()), new));
    commands
}

/// The commands that make `new` out of `old`; none when they are equal. A set of another shape or a base chain
/// elsewhere replaces the table.
pub fn diff(old: &Table, new: &Table) -> Vec<Command> {
    let reshaped = new.sets.iter().any(|(name, set)| old.sets.get(name).is_some_and(|was| !was.same_shape(set)));
    let moved = new.chains.iter().any(|(name, chain)| old.chains.get(name).is_some_and(|was| was.base != chain.base));
    if reshaped || moved { replace(new) } else { between(old, new) }
}

fn between(old: &Table, new: &Table) -> Vec<Command> {
    let mut commands = Vec::new();
    let gone_chains: Vec<&String> = old.chains.keys().filter(|name| !new.chains.contains_key(*name)).collect();
    let gone_sets = old.sets.keys().filter(|name| !new.sets.contains_key(*name));

    for (name, set) in new.sets.iter().filter(|(name, _)| !old.sets.contains_key(*name)) {
        commands.push(Command::AddSet(name.clone(), set.clone()));
    }
    for (name, chain) in new.chains.iter().filter(|(name, _)| !old.chains.contains_key(*name)) {
        commands.push(Command::AddChain(name.clone(), chain.base));
    }
    for (name, chain) in &new.chains {
        change_chain(name, old.chains.get(name), chain, &mut commands);
    }
    for (name, set) in &new.sets {
        change_elements(name, old.sets.get(name), set, &mut commands);
    }
    commands.extend(gone_chains.iter().map(|name| Command::FlushChain((*name).clone())));
    commands.extend(gone_chains.iter().map(|name| Command::DeleteChain((*name).clone())));
    commands.extend(gone_sets.map(|name| Command::DeleteSet(name.clone())));
    commands
}

fn change_chain(name: &str, old: Option<&Chain>, new: &Chain, commands: &mut Vec<Command>) {
    match old {
        Some(old) if old.rules == new.rules => return,
        Some(_) => commands.push(Command::FlushChain(name.to_owned())),
        None => {}
    }
    commands.extend(new.rules.iter().map(|rule| Command::AddRule(name.to_owned(), rule.clone())));
}

fn change_elements(name: &str, old: Option<&Set>, new: &Set, commands: &mut Vec<Command>) {
    let before = old.map(Set::elements).unwrap_or_default();
    let after = new.elements();
    let gone: Vec<Key> = before
        .iter()
        .filter(|(key, verdict)| after.get(*key) != Some(verdict))
        .map(|(key, _)| (*key).clone())
        .collect();
    let added: Vec<(Key, Option<Verdict>)> = after
        .iter()
        .filter(|(key, verdict)| before.get(*key) != Some(verdict))
        .map(|(key, verdict)| ((*key).clone(), verdict.cloned()))
        .collect();
    if !gone.is_empty() {
        commands.push(Command::DeleteElements(name.to_owned(), gone));
    }
    if !added.is_empty() {
        commands.push(Command::AddElements(name.to_owned(), added));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{Content, Datum, Expr, Family, Field};
    use super::*;

    fn table(port: u16, target: &str) -> Table {
        let mut table = Table::new(Family::Ipv4, "t");
        table.chain(target, vec![vec![Expr::Masquerade]]);
        let verdicts = BTreeMap::from([(vec![Datum::Port(port)], Verdict::Goto(target.to_owned()))]);
        let set = Set { key: vec![Field::DestinationPort], content: Content::Verdicts(verdicts) };
        table.sets.insert("ports".into(), set);
        table
    }

    #[test]
    fn equal_tables_need_nothing() {
        assert_eq!(diff(&table(1, "a"), &table(1, "a")), []);
    }

    #[test]
    fn a_moved_port_changes_elements_only() {
        let commands = diff(&table(1, "a"), &table(2, "a"));
        assert_eq!(
            commands,
            [
                Command::DeleteElements("ports".into(), vec![vec![Datum::Port(1)]]),
                Command::AddElements("ports".into(), vec![(vec![Datum::Port(2)], Some(Verdict::Goto("a".into())))]),
            ]
        );
    }

    #[test]
    fn a_chain_dies_after_its_last_reference() {
        let commands = diff(&table(1, "a"), &table(1, "b"));
        let at = |wanted: &Command| commands.iter().position(|command| command == wanted).unwrap();
        let added = at(&Command::AddChain("b".into(), None));
        let switched = at(&Command::DeleteElements("ports".into(), vec![vec![Datum::Port(1)]]));
        assert!(added < switched && switched < at(&Command::DeleteChain("a".into())));
    }

    #[test]
    fn another_shape_replaces_the_table() {
        let mut new = table(1, "a");
        new.sets.insert("ports".into(), Set { key: vec![Field::Source], content: Content::Remembered { seconds: 9 } });
        assert_eq!(diff(&table(1, "a"), &new)[..3], [Command::AddTable, Command::DeleteTable, Command::AddTable]);
    }
}
