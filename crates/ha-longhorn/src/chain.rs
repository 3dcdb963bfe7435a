//! From a layer down to the lowest one, by the `Parent` of the layers' own files (volumes.md §1). Pure.

use std::collections::{BTreeMap, BTreeSet};

/// Is what is known of a layer by its file name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Whether the `.img` is there.
    pub image: bool,
    /// What its `.img.meta` says: nothing when that is absent or cannot be understood; empty for the lowest layer.
    pub parent: Option<String>,
}

/// Is why a chain does not resolve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// There is no head.
    #[error("no head: no volume-head-*.img is there")]
    NoHead,
    /// There are several heads, and nothing says which is meant.
    #[error("several heads, and volume.meta does not say which is meant: {}", .0.join(", "))]
    ManyHeads(Vec<String>),
    /// A layer has no image.
    #[error("layer without its image: {0}")]
    NoImage(String),
    /// A layer has no usable `.img.meta`, so what is below it is unknown.
    #[error("layer without a usable .meta, so what lies below it is unknown: {0}")]
    NoMeta(String),
    /// The chain comes back to a layer.
    #[error("the parents form a loop at: {0}")]
    Loop(String),
    /// A parent is no file name.
    #[error("parent of {layer} is no file name: {parent:?}")]
    BadName {
        /// The layer.
        layer: String,
        /// What its file says.
        parent: String,
    },
    /// There is no such snapshot.
    #[error("no such snapshot: {0}")]
    NoSnapshot(String),
}

/// Walks from `top` to the lowest layer and returns the names, `top` first. A missing `.meta` is an error and not the
/// end: what lies below would be lost without a word.
pub fn resolve(layers: &BTreeMap<String, Link>, top: &str) -> Result<Vec<String>, ChainError> {
    let mut chain = Vec::new();
    let mut seen = BTreeSet::new();
    let mut name = top;
    loop {
        if !seen.insert(name) {
            return Err(ChainError::Loop(name.to_owned()));
        }
        let link = layers.get(name).filter(|link| link.image);
        let Some(link) = link else { return Err(ChainError::NoImage(name.to_owned())) };
        let Some(parent) = &link.parent else { return Err(ChainError::NoMeta(name.to_owned())) };
        chain.push(name.to_owned());
        if parent.is_empty() {
            return Ok(chain);
        }
        if parent.contains(['/', '\0']) || parent == "." || parent == ".." {
            return Err(ChainError::BadName { layer: name.to_owned(), parent: parent.clone() });
        }
        name = parent;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(links: &[(&str, bool, Option<&str>)]) -> BTreeMap<String, Link> {
        let link = |(name, image, parent): &(&str, bool, Option<&str>)| {
            ((*name).to_owned(), Link { image: *image, parent: parent.map(str::to_owned) })
        };
        links.iter().map(link).collect()
    }

    #[test]
    fn chains() {
        let good = layers(&[("h", true, Some("b")), ("b", true, Some("a")), ("a", true, Some("")), ("x", true, None)]);
        assert_eq!(resolve(&good, "h").unwrap(), ["h", "b", "a"]);
        assert_eq!(resolve(&good, "b").unwrap(), ["b", "a"]);
        for (links, error) in [
            (layers(&[("h", true, Some("a")), ("a", true, None)]), ChainError::NoMeta("a".to_owned())),
            (layers(&[("h", true, Some("a")), ("a", false, Some(""))]), ChainError::NoImage("a".to_owned())),
            (layers(&[("h", true, Some("a"))]), ChainError::NoImage("a".to_owned())),
            (layers(&[("h", true, Some("a")), ("a", true, Some("h"))]), ChainError::Loop("h".to_owned())),
            (layers(&[("h", true, Some("h"))]), ChainError::Loop("h".to_owned())),
            (
                layers(&[("h", true, Some("../a"))]),
                ChainError::BadName { layer: "h".to_owned(), parent: "../a".to_owned() },
            ),
        ] {
            assert_eq!(resolve(&links, "h").unwrap_err(), error);
        }
    }
}
