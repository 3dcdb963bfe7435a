//! Relative paths as bytes, and their reversible written form.

use std::fmt;

/// Is a path below a root: bytes without a leading or trailing slash, no empty, `.` or `..` component; the root
/// itself is empty. It may be longer than PATH_MAX.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RelPath(Vec<u8>);

impl RelPath {
    /// Returns the path of the root.
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// Takes the bytes of a relative path, or nothing when they are not one.
    pub fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        let proper = |part: &[u8]| !part.is_empty() && part != b"." && part != b".." && !part.contains(&0);
        (bytes.is_empty() || bytes.split(|byte| *byte == b'/').all(proper)).then_some(Self(bytes))
    }

    /// Returns the path of `name` in this directory.
    pub fn join(&self, name: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Self(bytes)
    }

    /// Splits the path into its directory and its last component; nothing for the root.
    pub fn split(&self) -> Option<(RelPath, &[u8])> {
        if self.0.is_empty() {
            return None;
        }
        Some(match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (Self(self.0[..slash].to_vec()), &self.0[slash + 1..]),
            None => (Self::root(), &self.0[..]),
        })
    }

    /// Tells whether this is `above`, or lies below it.
    pub fn is_at_or_below(&self, above: &RelPath) -> bool {
        above.is_root()
            || self.0.strip_prefix(above.as_bytes()).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    }

    /// Tells whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the components from the root down.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|part| !part.is_empty())
    }

    /// Returns the written form of [`escape`].
    pub fn escaped(&self) -> String {
        escape(&self.0)
    }
}

impl fmt::Display for RelPath {
    /// Writes the form for a terminal: as [`escape`], and control characters as `\xNN` too, so that a name cannot
    /// break a line or move the cursor.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&printable(&self.0))
    }
}

/// Writes a name as text: valid UTF-8 stays, every other byte becomes `\xNN`, a backslash `\\` (sync.md §1).
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                other => text.push(other),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// Writes a name for a terminal: [`escape`], and control characters as `\xNN`.
pub fn printable(bytes: &[u8]) -> String {
    let escaped = escape(bytes);
    if !escaped.chars().any(char::is_control) {
        return escaped;
    }
    let mut text = String::with_capacity(escaped.len() + 8);
    for character in escaped.chars() {
        if character.is_control() {
            let mut buffer = [0; 4];
            for byte in character.encode_utf8(&mut buffer).bytes() {
                text.push_str(&format!("\\x{byte:02x}"));
            }
        } else {
            text.push(character);
        }
    }
    text
}

/// Reads back what [`escape`] or [`printable`] wrote; nothing when a backslash begins no escape.
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match tail {
            [b'\\', after @ ..] => {
                bytes.push(b'\\');
                rest = after;
            }
            [b'x', high, low, after @ ..] => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = after;
            }
            _ => return None,
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_are_as_the_reference_says() {
        assert_eq!(escape(b"plain \xc3\xa4"), "plain ä");
        assert_eq!(escape(b"a\xff\\b\n"), "a\\xff\\\\b\n");
        assert_eq!(printable(b"a\nb\x1b"), "a\\x0ab\\x1b");
    }

    #[test]
    fn paths_refuse_what_is_no_relative_path() {
        for bad in [&b"/a"[..], b"a/", b"a//b", b".", b"a/../b", b"a\0b"] {
            assert!(RelPath::from_bytes(bad.to_vec()).is_none(), "{bad:?}");
        }
        let path = RelPath::from_bytes(b"a/b/c".to_vec()).unwrap();
        let (directory, name) = path.split().unwrap();
        assert_eq!((directory.as_bytes(), name), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(directory.join(b"c"), path);
        assert_eq!(RelPath::root().join(b"x").as_bytes(), b"x");
    }

    #[test]
    fn what_is_below_a_path_begins_with_it_and_a_slash() {
        let path = |text: &str| RelPath::from_bytes(text.as_bytes().to_vec()).unwrap();
        for (below, above, expected) in [
            ("a", "", true),
            ("", "", true),
            ("a", "a", true),
            ("a/b/c", "a", true),
            ("ab", "a", false),
            ("a", "a/b", false),
            ("", "a", false),
        ] {
            assert_eq!(path(below).is_at_or_below(&path(above)), expected, "{below} {above}");
        }
    }

    proptest! {
        #[test]
        fn written_names_read_back(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(unescape(&escape(&bytes)), Some(bytes.clone()));
            prop_assert_eq!(unescape(&printable(&bytes)), Some(bytes));
        }
    }
}
