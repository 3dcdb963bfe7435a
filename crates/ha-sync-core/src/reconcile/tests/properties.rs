//! What holds for whatever happened on the two sides.

use super::*;

#[derive(Debug, Clone)]
enum Edit {
    Write(i128, &'static str),
    Mode(u32),
    Owner(u32),
    Attributes(u64),
    Inode,
    Become(Kind, i128, &'static str),
    Delete,
}

fn mtimes() -> impl Strategy<Value = i128> {
    let near =
        prop_oneof![Just(0), Just(1), Just(S), Just(2 * S), Just(2 * S + 1), Just(-S), Just(-9 * S), Just(9 * S)];
    (prop_oneof![Just(OLD), Just(START), Just(START + 9 * S)], near).prop_map(|(base, offset)| base + offset)
}

fn contents() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("1"), Just("2"), Just("3"), Just("22"), Just("33"), Just("")]
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![6 => Just(Kind::File), 3 => Just(Kind::Link), 2 => Just(Kind::Directory)]
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        4 => (mtimes(), contents()).prop_map(|(mtime, content)| Edit::Write(mtime, content)),
        1 => prop_oneof![Just(0o600), Just(0o4755)].prop_map(Edit::Mode),
        1 => (0..2_u32).prop_map(Edit::Owner),
        1 => (1..3_u64).prop_map(Edit::Attributes),
        1 => Just(Edit::Inode),
        1 => (kinds(), mtimes(), contents()).prop_map(|(kind, mtime, content)| Edit::Become(kind, mtime, content)),
        1 => Just(Edit::Become(Kind::Special, OLD, "")),
        3 => Just(Edit::Delete),
    ];
    proptest::collection::vec(edit, 0..3)
}

fn made(kind: Kind, mtime: i128, content: &str) -> Node {
    match kind {
        Kind::File => file(mtime, content),
        Kind::Link => link(mtime, content),
        Kind::Directory => directory(mtime),
        Kind::Special => special(mtime),
    }
}

fn edited(node: &Node, edits: &[Edit]) -> Option<Node> {
    let mut now = Some(node.clone());
    for (number, edit) in edits.iter().enumerate() {
        now = match (edit, now) {
            (Edit::Delete, _) => None,
            (Edit::Become(kind, mtime, content), _) => {
                // Later than whatever was there, and another inode.
                let mut new = made(*kind, *mtime, content).inode(10 + number as u64);
                new.entry.ctime.0 += 10 * (number as i128 + 1);
                Some(new)
            }
            (_, None) => None,
            (Edit::Write(mtime, content), Some(node)) => Some(match node.entry.kind {
                Kind::File | Kind::Link => node.write(*mtime, content),
                Kind::Directory | Kind::Special => node.write(*mtime, ""),
            }),
            (Edit::Mode(mode), Some(node)) => Some(node.mode(*mode)),
            (Edit::Owner(owner), Some(node)) => Some(node.owner(*owner)),
            (Edit::Attributes(attributes), Some(node)) if node.entry.kind != Kind::Link => {
                Some(node.attributes(*attributes))
            }
            (Edit::Attributes(_), Some(node)) => Some(node),
            (Edit::Inode, Some(node)) => Some(node.inode(100 + number as u64)),
        };
    }
    now
}

/// Is a path with a past: what was agreed, and what became of it on both sides.
#[derive(Debug, Clone)]
struct Past {
    /// What was agreed at A; B's had the same content.
    old: Option<(Node, Agreed)>,
    a: Option<Node>,
    b: Option<Node>,
}

fn pasts() -> impl Strategy<Value = Past> {
    let agreed =
        (kinds(), mtimes(), contents(), mtimes(), any::<bool>()).prop_map(|(kind, mtime, content, other, known)| {
            let (a, b) = (made(kind, mtime, content), made(kind, other, content).inode(2));
            let mut agreed = agreed(&a, &b);
            if !known && kind == Kind::File {
                agreed.content = None;
            }
            (a, b, agreed)
        });
    let with = (agreed, edits(), edits()).prop_map(|((a, b, agreed), at_a, at_b)| Past {
        a: edited(&a, &at_a),
        b: edited(&b, &at_b),
        old: Some((a, agreed)),
    });
    let node = || {
        proptest::option::of(
            (kinds(), mtimes(), contents()).prop_map(|(kind, mtime, content)| made(kind, mtime, content)),
        )
    };
    let without = (node(), node()).prop_map(|(a, b)| Past { old: None, a, b });
    prop_oneof![3 => with, 1 => without]
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let conflicts = prop_oneof![
        Just(ConflictPolicy::Newest),
        Just(ConflictPolicy::KeepBoth),
        Just(ConflictPolicy::PreferA),
        Just(ConflictPolicy::PreferB),
        Just(ConflictPolicy::Skip),
    ];
    let granularities = prop_oneof![3 => Just(1), 1 => Just(S), 1 => Just(2 * S)];
    (conflicts, granularities, any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(conflict, granularity, checksum, owners, modes, last)| Rules {
            conflict,
            granularity,
            checksum,
            owners,
            modes,
            last_start: last.then_some(Time(OLD)),
            ..rules()
        },
    )
}

impl Past {
    fn agreed(&self) -> Option<&Agreed> {
        self.old.as_ref().map(|(_, agreed)| agreed)
    }

    fn verdict(&self, rules: &Rules) -> Verdict {
        look(self.a.as_ref(), self.b.as_ref(), self.agreed(), rules).0
    }

    fn at(&self, side: Side) -> Option<&Node> {
        match side {
            Side::A => self.a.as_ref(),
            Side::B => self.b.as_ref(),
        }
    }

    /// Tells whether a side has what was agreed: type, and content or target.
    fn as_agreed(&self, side: Side) -> bool {
        match (self.at(side), &self.old) {
            (Some(now), Some((old, _))) => now.entry.kind == old.entry.kind && now.bytes == old.bytes,
            _ => false,
        }
    }

    /// Returns the path when the verdict was executed and recorded.
    fn after(&self, verdict: &Verdict, rules: &Rules) -> Self {
        let whole = |side: Side| {
            let node = self.at(side).cloned();
            Self::settled(node.clone(), node)
        };
        match verdict {
            Verdict::Nothing | Verdict::Skip(_) | Verdict::Fail(_) => self.clone(),
            Verdict::Conflict { how: ConflictPolicy::Skip, .. } => self.clone(),
            Verdict::Forget | Verdict::Delete { .. } => Self::settled(None, None),
            Verdict::Conflict { winner, .. } => whole(*winner),
            Verdict::Propagate { from, merge, .. } => {
                let node = self.at(*from).cloned();
                let mut path = Self { a: node.clone(), b: node, old: None };
                // What the other side had is merged from there.
                path.set(self, *merge, rules);
                Self::settled(path.a, path.b)
            }
            Verdict::Settle { merge, .. } => {
                let mut path = self.clone();
                path.set(self, *merge, rules);
                Self::settled(path.a, path.b)
            }
        }
    }

    fn settled(a: Option<Node>, b: Option<Node>) -> Self {
        let old = a.clone().zip(b.clone()).map(|(a, b)| (a.clone(), agreed(&a, &b)));
        Self { old, a, b }
    }

    fn set(&mut self, before: &Past, merge: Merge, rules: &Rules) {
        for side in [Side::A, Side::B] {
            let from = |source: Option<Side>| source.and_then(|source| before.at(source));
            let to = match side {
                Side::A => &mut self.a,
                Side::B => &mut self.b,
            };
            let Some(to) = to else { continue };
            if let Some(node) = from(merge.times) {
                to.entry.mtime = node.entry.mtime.floor(rules.granularity);
            }
            if let Some(node) = from(merge.mode) {
                to.entry.mode = node.entry.mode;
            }
            if let Some(node) = from(merge.owner) {
                to.entry.uid = node.entry.uid;
            }
            if let Some(node) = from(merge.attributes) {
                to.attributes = node.attributes;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Total: every past has a verdict, and the looks that it takes can be taken. From the other end it is the same,
    /// but for metadata that both sides set, of which A's hold.
    #[test]
    fn from_the_other_end_it_is_the_same(past in pasts(), rules in any_rules()) {
        let there = past.verdict(&rules);
        let back = Past {
            old: past.old.clone().map(|(old, agreed)| (old, agreed.swapped())),
            a: past.b.clone(),
            b: past.a.clone(),
        };
        let back = swapped(back.verdict(&swapped_rules(&rules)));
        let prefers = matches!(rules.conflict, ConflictPolicy::PreferA | ConflictPolicy::PreferB);
        let plain = |verdict: &Verdict| match verdict.clone() {
            Verdict::Settle { content, merge, .. } if !prefers => Verdict::Settle {
                merge: Merge { mode: None, owner: None, attributes: None, times: None },
                content,
                reason: merge.times.map(|_| Reason::SameContent),
            },
            Verdict::Propagate { from, merge, reason } if !prefers => {
                Verdict::Propagate { from, merge: Merge { times: merge.times, ..Merge::default() }, reason }
            }
            other => other,
        };
        prop_assert_eq!(plain(&there), plain(&back));
    }

    /// Without a baseline nothing is ever deleted.
    #[test]
    fn nothing_is_deleted_that_was_not_agreed(past in pasts(), rules in any_rules()) {
        let past = Past { old: None, ..past };
        let verdict = past.verdict(&rules);
        prop_assert!(!matches!(verdict, Verdict::Delete { .. } | Verdict::Forget), "{:?}", verdict);
    }

    /// Only what is as it was agreed is deleted or overwritten without a conflict.
    #[test]
    fn no_new_version_is_lost_but_in_a_conflict(past in pasts(), rules in any_rules()) {
        match past.verdict(&rules) {
            Verdict::Delete { side } => {
                prop_assert!(past.as_agreed(side) && past.at(side.other()).is_none());
            }
            Verdict::Propagate { from, .. } => {
                let other = from.other();
                let same = past.at(Side::A).zip(past.at(Side::B)).is_some_and(|(a, b)| a.bytes == b.bytes);
                prop_assert!(past.at(other).is_none() || past.as_agreed(other) || same);
            }
            Verdict::Settle { .. } | Verdict::Nothing => {
                if let Some((a, b)) = past.a.as_ref().zip(past.b.as_ref()) {
                    prop_assert_eq!(a.entry.kind, b.entry.kind);
                    prop_assert_eq!(&a.bytes, &b.bytes);
                }
            }
            Verdict::Conflict { .. } => {
                // Of two made by nobody's agreement, or changed on both sides.
                prop_assert!(past.at(Side::A).is_some() && past.at(Side::B).is_some());
            }
            Verdict::Forget | Verdict::Skip(_) | Verdict::Fail(_) => {}
        }
    }

    /// A file that changed on one side, or went there, is never passed over.
    #[test]
    fn every_change_of_one_side_goes_over(past in pasts(), rules in any_rules()) {
        let Some((old, _)) = &past.old else { return Ok(()) };
        // In the tick of the last run an untouched file may have changed, and is kept where that cannot be told.
        let rules = Rules { last_start: None, ..rules };
        for side in [Side::A, Side::B] {
            let (one, other) = (past.at(side), past.at(side.other()));
            let special = |node: Option<&Node>| node.is_some_and(|node| node.entry.kind == Kind::Special);
            let untouched = other.is_some_and(|node| past.agreed().is_some_and(|agreed| agreed.untouched(side.other(), &node.entry)));
            if !untouched || special(one) || past.as_agreed(side) {
                continue;
            }
            let verdict = past.verdict(&rules);
            match one {
                None => prop_assert_eq!(verdict, Verdict::Delete { side: side.other() }),
                Some(node) => prop_assert!(
                    matches!(verdict, Verdict::Propagate { from, .. } if from == side),
                    "{:?} became {:?}: {:?}", old, node, verdict
                ),
            }
        }
    }

    /// What was decided is final: executed and recorded, it leaves nothing to do.
    #[test]
    fn the_next_run_does_nothing(past in pasts(), rules in any_rules()) {
        let verdict = past.verdict(&rules);
        let after = past.after(&verdict, &rules);
        let again = after.verdict(&rules);
        let left = match &verdict {
            Verdict::Skip(_) | Verdict::Fail(_) | Verdict::Conflict { how: ConflictPolicy::Skip, .. } => again == verdict,
            _ => again == Verdict::Nothing,
        };
        prop_assert!(left, "{:?}, then {:?}", verdict, again);
    }
}
