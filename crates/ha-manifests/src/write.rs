//! Writes YAML: block style, keys in the order in which they were put in, comments where they were put.
//!
//! Texts are plain only when every reader takes them for texts; else they are quoted as JSON does it, which is YAML too.

use std::fmt::Write as _;

/// Is a value to write.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Yaml {
    Text(String),
    /// Lines, written as a block: what a ConfigMap holds.
    Lines(String),
    Number(i64),
    Flag(bool),
    List(Vec<Yaml>),
    Map(Map),
}

/// Is a map, its keys in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Map(Vec<(String, &'static str, Yaml)>);

impl Map {
    /// Adds a key.
    pub(crate) fn with(self, key: &str, value: impl Into<Yaml>) -> Self {
        self.said(key, "", value)
    }

    /// Adds a key with a comment above it; the comment may have several lines.
    pub(crate) fn said(mut self, key: &str, comment: &'static str, value: impl Into<Yaml>) -> Self {
        self.0.push((key.to_owned(), comment, value.into()));
        self
    }

    /// Adds all keys of another map.
    pub(crate) fn with_all(mut self, other: Map) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Adds a key when there is a value.
    pub(crate) fn maybe(self, key: &str, value: Option<impl Into<Yaml>>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }
}

/// Begins a map with its first key.
pub(crate) fn map(key: &str, value: impl Into<Yaml>) -> Map {
    Map::default().with(key, value)
}

/// Makes a list.
pub(crate) fn list<T: Into<Yaml>>(items: impl IntoIterator<Item = T>) -> Yaml {
    Yaml::List(items.into_iter().map(Into::into).collect())
}

impl From<&str> for Yaml {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<&String> for Yaml {
    fn from(text: &String) -> Self {
        Self::Text(text.clone())
    }
}

impl From<String> for Yaml {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Yaml {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<i32> for Yaml {
    fn from(number: i32) -> Self {
        Self::Number(number.into())
    }
}

impl From<u32> for Yaml {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<bool> for Yaml {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<Map> for Yaml {
    fn from(map: Map) -> Self {
        Self::Map(map)
    }
}

/// Writes documents, separated by `---`.
pub(crate) fn documents<'a>(documents: impl IntoIterator<Item = &'a Map>) -> String {
    let mut text = String::new();
    for (number, document) in documents.into_iter().enumerate() {
        if number > 0 {
            text.push_str("---\n");
        }
        entries(&mut text, document, 0);
    }
    text
}

fn entries(text: &mut String, map: &Map, indent: usize) {
    for (key, comment, value) in &map.0 {
        for line in comment.lines() {
            let _ = writeln!(text, "{:indent$}# {line}", "");
        }
        let _ = write!(text, "{:indent$}{}:", "", scalar(key));
        nested(text, value, indent);
    }
}

/// Writes what stands behind a `key:`.
fn nested(text: &mut String, value: &Yaml, indent: usize) {
    match value {
        Yaml::Map(map) if !map.0.is_empty() => {
            text.push('\n');
            entries(text, map, indent + 2);
        }
        Yaml::List(list) if !list.is_empty() => {
            text.push('\n');
            for item in list {
                let _ = write!(text, "{:1$}-", "", indent + 2);
                match item {
                    // The first key stands behind the dash, the others below it.
                    Yaml::Map(map) if !map.0.is_empty() => {
                        let mut below = String::new();
                        entries(&mut below, map, indent + 4);
                        let _ = write!(text, " {}", below.trim_start());
                    }
                    other => nested(text, other, indent + 2),
                }
            }
        }
        Yaml::Lines(lines) => {
            text.push_str(" |\n");
            for line in lines.lines() {
                let _ = match line {
                    "" => writeln!(text),
                    line => writeln!(text, "{:1$}{line}", "", indent + 2),
                };
            }
        }
        Yaml::Map(_) => text.push_str(" {}\n"),
        Yaml::List(_) => text.push_str(" []\n"),
        Yaml::Text(value) => {
            let _ = writeln!(text, " {}", scalar(value));
        }
        Yaml::Number(number) => {
            let _ = writeln!(text, " {number}");
        }
        Yaml::Flag(flag) => {
            let _ = writeln!(text, " {flag}");
        }
    }
}

/// Returns a text as it may stand in YAML 1.1 and 1.2: Kubernetes reads the former, where `on` and `1_0` are no texts.
fn scalar(text: &str) -> String {
    let first = |byte: u8| byte.is_ascii_alphabetic() || matches!(byte, b'/' | b'$');
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.$()=+:".contains(&byte);
    // A flag may begin with two dashes: one dash and a space would begin a list, three a document.
    let flag = text.strip_prefix("--").is_some_and(|name| name.bytes().next().is_some_and(first));
    let begins = flag || text.bytes().next().is_some_and(first) || is_no_number(text);
    let word = text.to_ascii_lowercase();
    let means_other = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"].contains(&&*word);
    let colons = text.split(':').all(|part| !part.is_empty());
    if begins && colons && !means_other && text.bytes().all(rest) {
        return text.to_owned();
    }
    serde_json::Value::from(text).to_string()
}

/// Tells a path, an address, a size from what some reader takes for a number, a time or a date.
fn is_no_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let path = text.contains('/') && !text.starts_with(':');
    let size = ["m", "Mi", "Gi", "Ti", "Pi", "M", "G", "T", "P"]
        .iter()
        .any(|unit| text.strip_suffix(unit).is_some_and(digits));
    path || size || (text.split('.').count() == 4 && text.split('.').all(digits))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::document::{self, Value};

    #[test]
    fn shapes() {
        let inner = map("name", "a").with("items", list(["x", "*/15 * * * *", "on", "12"]));
        let document = map("kind", "Test")
            .said("list", "why it is\nso", list([inner, map("name", "b")]))
            .with("none", Map::default())
            .with("empty", list::<Yaml>([]))
            .with("lines", Yaml::Lines("one\n\n  two\n".to_owned()))
            .with("args", list(["--src=/mnt/a", "--exclude=*.tmp"]))
            .with("number", 5)
            .with("flag", true);
        insta::assert_snapshot!(documents([&document, &map("kind", "Other")]), @r#"
        kind: Test
        # why it is
        # so
        list:
          - name: a
            items:
              - x
              - "*/15 * * * *"
              - "on"
              - "12"
          - name: b
        none: {}
        empty: []
        lines: |
          one

            two
        args:
          - --src=/mnt/a
          - "--exclude=*.tmp"
        number: 5
        flag: true
        ---
        kind: Other
        "#);
    }

    proptest! {
        #[test]
        fn every_text_is_read_back(key in "[a-z/.]{1,9}", text in any::<String>()) {
            let written = documents([&map(&key, list([text.as_str()]))]);
            let read = document::read(&written).unwrap();
            let Value::Map(entries) = read.value else { panic!("{written}") };
            prop_assert_eq!(&entries[0].key, &key);
            let Value::List(items) = &entries[0].value.value else { panic!("{written}") };
            let Value::Text { text: back, .. } = &items[0].value else { panic!("{written}") };
            prop_assert_eq!(back, &text);
        }
    }
}
