//! What a clean run must make of two trees and of what they last agreed on, said again and simply: by whole trees,
//! without a baseline file, a scan or a plan.

use std::collections::BTreeMap;

use crate::world::{Node, Tree, What};

/// Is a tree as a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    Directory(BTreeMap<String, Item>),
    /// A file or link, and when it changed.
    Leaf(What, i128),
}

impl Item {
    fn is_directory(&self) -> bool {
        matches!(self, Self::Directory(_))
    }
}

pub(crate) fn grow(tree: &Tree) -> BTreeMap<String, Item> {
    let mut root = BTreeMap::new();
    for (path, Node { what, mtime, .. }) in tree {
        let mut level = &mut root;
        let mut parts: Vec<&str> = path.split('/').collect();
        let name = parts.pop().unwrap();
        for part in parts {
            let Some(Item::Directory(below)) = level.get_mut(part) else { panic!("{path} has no directory") };
            level = below;
        }
        let item = match what {
            What::Directory => Item::Directory(BTreeMap::new()),
            leaf => Item::Leaf(leaf.clone(), *mtime),
        };
        level.insert(name.to_owned(), item);
    }
    root
}

/// Tells whether the content is the same; times do not count.
fn same(one: &Item, other: &Item) -> bool {
    match (one, other) {
        (Item::Directory(one), Item::Directory(other)) => {
            one.len() == other.len()
                && one.iter().all(|(name, item)| other.get(name).is_some_and(|found| same(item, found)))
        }
        (Item::Leaf(one, _), Item::Leaf(other, _)) => one == other,
        _ => false,
    }
}

/// Tells whether a directory has nothing but what was agreed, or less.
fn is_part(now: &BTreeMap<String, Item>, before: &BTreeMap<String, Item>) -> bool {
    now.iter().all(|(name, item)| match (item, before.get(name)) {
        (Item::Directory(now), Some(Item::Directory(before))) => is_part(now, before),
        (Item::Leaf(..), Some(before)) => same(item, before),
        _ => false,
    })
}

/// Is which of two that both changed is to win.
pub(crate) type Judge<'j> = &'j dyn Fn((&What, i128), (&What, i128)) -> Winner;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Winner {
    A,
    B,
    /// A tie that the content decides.
    Either,
}

/// What a path may be after the run: nothing, or one of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expected {
    Directory(BTreeMap<String, Expected>),
    OneOf(Vec<What>),
}

pub(crate) fn merge(
    a: &BTreeMap<String, Item>,
    b: &BTreeMap<String, Item>,
    base: &BTreeMap<String, Item>,
    judge: Judge<'_>,
) -> BTreeMap<String, Expected> {
    let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
    names.sort();
    names.dedup();
    let empty = BTreeMap::new();
    let mut merged = BTreeMap::new();
    for name in names {
        let (a, b, base) = (a.get(name), b.get(name), base.get(name));
        let before = match base {
            Some(Item::Directory(before)) => before,
            _ => &empty,
        };
        let expected = match (a, b) {
            (Some(Item::Directory(a)), Some(Item::Directory(b))) => {
                Some(Expected::Directory(merge(a, b, before, judge)))
            }
            (Some(Item::Directory(one)), None) | (None, Some(Item::Directory(one))) => {
                // One side has deleted it, or never had it.
                let left = match a.is_some() {
                    true => merge(one, &empty, before, judge),
                    false => merge(&empty, one, before, judge),
                };
                let was = base.is_some_and(Item::is_directory);
                (!was || !left.is_empty()).then_some(Expected::Directory(left))
            }
            (Some(Item::Leaf(what, _)), None) | (None, Some(Item::Leaf(what, _))) => {
                let unchanged = base.is_some_and(|base| matches!(base, Item::Leaf(was, _) if was == what));
                (!unchanged).then(|| Expected::OneOf(vec![what.clone()]))
            }
            (Some(Item::Directory(inner)), Some(leaf @ Item::Leaf(what, _)))
            | (Some(leaf @ Item::Leaf(what, _)), Some(Item::Directory(inner))) => match base {
                // The directory is as it was, so the file in its place is the change.
                Some(Item::Directory(before)) if is_part(inner, before) => Some(Expected::OneOf(vec![what.clone()])),
                // The file is as it was, or both are new: the directory stays with all that is in it.
                _ => {
                    let _ = leaf;
                    Some(Expected::Directory(whole(inner)))
                }
            },
            (Some(Item::Leaf(one, a_time)), Some(Item::Leaf(other, b_time))) => {
                let is = |what: &What| base.is_some_and(|base| matches!(base, Item::Leaf(was, _) if was == what));
                Some(Expected::OneOf(match () {
                    () if one == other => vec![one.clone()],
                    () if is(one) => vec![other.clone()],
                    () if is(other) => vec![one.clone()],
                    () => match judge((one, *a_time), (other, *b_time)) {
                        Winner::A => vec![one.clone()],
                        Winner::B => vec![other.clone()],
                        Winner::Either => vec![one.clone(), other.clone()],
                    },
                }))
            }
            (None, None) => None,
        };
        if let Some(expected) = expected {
            merged.insert(name.clone(), expected);
        }
    }
    merged
}

fn whole(items: &BTreeMap<String, Item>) -> BTreeMap<String, Expected> {
    items
        .iter()
        .map(|(name, item)| {
            let expected = match item {
                Item::Directory(below) => Expected::Directory(whole(below)),
                Item::Leaf(what, _) => Expected::OneOf(vec![what.clone()]),
            };
            (name.clone(), expected)
        })
        .collect()
}

/// Says how a tree is not as expected.
pub(crate) fn differences(
    expected: &BTreeMap<String, Expected>,
    found: &BTreeMap<String, Item>,
    below: &str,
) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, expected) in expected {
        let path = format!("{below}{name}");
        match (expected, found.get(name)) {
            (Expected::Directory(expected), Some(Item::Directory(found))) => {
                lines.extend(differences(expected, found, &format!("{path}/")));
            }
            (Expected::OneOf(possible), Some(Item::Leaf(what, _))) if possible.contains(what) => {}
            (expected, found) => lines.push(format!("{path}: expected {expected:?}, found {found:?}")),
        }
    }
    for name in found.keys().filter(|name| !expected.contains_key(*name)) {
        lines.push(format!("{below}{name}: expected nothing, found {:?}", found[name]));
    }
    lines
}
