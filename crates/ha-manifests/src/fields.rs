//! Takes a document apart by the tables of [`crate::shape`], and gathers every problem on the way.

use std::collections::BTreeMap;

use crate::document::{Entry, Node, Value};
use crate::problem::Problem;
use crate::shape::{Kind, Need, Shape};

/// Is a value with its place, for problems that are seen later.
#[derive(Debug, Clone)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) line: usize,
    pub(crate) field: String,
}

/// Is an object whose known fields were found.
#[derive(Debug)]
pub(crate) struct Object<'node> {
    fields: BTreeMap<&'static str, &'node Entry>,
    shape: &'static Shape,
    pub(crate) path: String,
    pub(crate) line: usize,
}

/// Gathers problems.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    pub(crate) problems: Vec<Problem>,
}

impl Reader {
    pub(crate) fn problem(&mut self, line: usize, field: &str, message: &str) {
        self.problems.push(Problem::new(line, field, message));
    }

    /// Tells of a value that is wrong in the light of others.
    pub(crate) fn refuse<T>(&mut self, at: &At<T>, message: &str) {
        self.problem(at.line, &at.field, message);
    }

    /// Finds the fields of an object; says which are unknown, doubled or missing.
    pub(crate) fn object<'node>(
        &mut self,
        node: &'node Node,
        path: &str,
        shape: &'static Shape,
    ) -> Option<Object<'node>> {
        let Value::Map(entries) = &node.value else {
            self.problem(node.line, path, &format!("expected fields like `{}: …`", shape.fields[0].name));
            return None;
        };
        let mut fields: BTreeMap<&'static str, &Entry> = BTreeMap::new();
        for entry in entries {
            let place = join(path, &entry.key);
            let Some(known) = shape.fields.iter().find(|field| field.name == entry.key) else {
                let near = nearest(&entry.key, shape.fields.iter().map(|field| field.name));
                let near = near.map_or_else(String::new, |name| format!("; did you mean {name}?"));
                self.problem(entry.line, &place, &format!("unknown field{near}"));
                continue;
            };
            match fields.get(known.name) {
                Some(first) => self.problem(entry.line, &place, &format!("is there already, in line {}", first.line)),
                None => {
                    fields.insert(known.name, entry);
                }
            }
        }
        for field in shape.fields {
            if matches!(field.need, Need::Required) && !fields.contains_key(field.name) {
                self.problem(node.line, &join(path, field.name), "is missing");
            }
        }
        Some(Object { fields, shape, path: path.to_owned(), line: node.line })
    }

    /// Reads a field of text; its default when it is not there, nothing when it has none or is wrong.
    pub(crate) fn text<T>(
        &mut self,
        object: &Object<'_>,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<At<T>> {
        let field = join(&object.path, name);
        match object.fields.get(name) {
            Some(entry) => self.scalar(&entry.value, &field, parse),
            None => {
                let value = parse(object.default(name)?).ok()?;
                Some(At { value, line: object.line, field })
            }
        }
    }

    /// Reads a number within the limits of its table.
    pub(crate) fn number(&mut self, object: &Object<'_>, name: &str) -> Option<At<u32>> {
        let field = object.shape.fields.iter().find(|field| field.name == name)?;
        let Kind::Number(least, greatest) = field.kind else { return None };
        let expected = || format!("expected a number from {least} to {greatest}");
        let parse = |text: &str| {
            let number: u32 = text.parse().map_err(|_| expected())?;
            if (least..=greatest).contains(&number) { Ok(number) } else { Err(expected()) }
        };
        let path = join(&object.path, name);
        match object.fields.get(name).map(|entry| &entry.value) {
            None => self.text(object, name, parse),
            Some(Node { value: Value::Text { text, plain: true }, line }) => match parse(text) {
                Ok(value) => Some(At { value, line: *line, field: path }),
                Err(why) => {
                    self.problem(*line, &path, &why);
                    None
                }
            },
            Some(other) => {
                self.problem(other.line, &path, &expected());
                None
            }
        }
    }

    /// Reads a scalar that is a text.
    fn scalar<T>(&mut self, node: &Node, field: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<At<T>> {
        let read = match &node.value {
            Value::Text { text, plain: true } if text.parse::<f64>().is_ok() => {
                Err(format!("expected a text, which a number is when it is in quotes: \"{text}\""))
            }
            Value::Text { text, .. } => parse(text),
            Value::Nothing => Err("has no value".to_owned()),
            Value::List(_) | Value::Map(_) => Err("expected a single value".to_owned()),
        };
        match read {
            Ok(value) => Some(At { value, line: node.line, field: field.to_owned() }),
            Err(why) => {
                self.problem(node.line, field, &why);
                None
            }
        }
    }

    /// Returns the items of a list, each with its path.
    pub(crate) fn items<'node>(&mut self, object: &Object<'node>, name: &str) -> Vec<(String, &'node Node)> {
        let Some(entry) = object.fields.get(name) else { return Vec::new() };
        let path = join(&object.path, name);
        let Value::List(items) = &entry.value.value else {
            self.problem(entry.line, &path, "expected a list");
            return Vec::new();
        };
        items.iter().enumerate().map(|(at, item)| (format!("{path}[{at}]"), item)).collect()
    }

    /// Reads a list of texts.
    pub(crate) fn texts(&mut self, object: &Object<'_>, name: &str) -> Vec<At<String>> {
        let items = self.items(object, name);
        items.iter().filter_map(|(path, node)| self.scalar(node, path, |text| Ok(text.to_owned()))).collect()
    }

    /// Reads a map from names to texts; says which names are none of the known, where it is known which there are.
    pub(crate) fn each<T>(
        &mut self,
        object: &Object<'_>,
        name: &str,
        known: &[String],
        what: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> BTreeMap<String, At<T>> {
        let mut values = BTreeMap::new();
        let Some(entry) = object.fields.get(name) else { return values };
        let path = join(&object.path, name);
        let Value::Map(entries) = &entry.value.value else {
            self.problem(
                entry.line,
                &path,
                &format!(
                    "expected a value for each {what}, like `{}: …`",
                    known.first().map_or("name", String::as_str)
                ),
            );
            return values;
        };
        for entry in entries {
            let place = join(&path, &entry.key);
            // Looked at whatever its name is, so that all is told at once.
            let value = self.scalar(&entry.value, &place, &parse);
            if !known.is_empty() && !known.contains(&entry.key) {
                self.problem(entry.line, &place, &format!("no {what} of this pair; there is {}", known.join(" and ")));
            } else if values.contains_key(&entry.key) {
                self.problem(entry.line, &place, "is there twice");
            } else if let Some(value) = value {
                values.insert(entry.key.clone(), value);
            }
        }
        values
    }
}

impl<'node> Object<'node> {
    pub(crate) fn get(&self, name: &str) -> Option<&'node Node> {
        self.fields.get(name).map(|entry| &entry.value)
    }

    /// Returns a place for a problem that is about the whole field.
    pub(crate) fn at(&self, name: &str) -> At<()> {
        let line = self.fields.get(name).map_or(self.line, |entry| entry.line);
        At { value: (), line, field: join(&self.path, name) }
    }

    fn default(&self, name: &str) -> Option<&'static str> {
        let field = self.shape.fields.iter().find(|field| field.name == name)?;
        match field.need {
            Need::Default(value) => Some(value),
            Need::Required | Need::Optional => None,
        }
    }
}

pub(crate) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Returns the word that was probably meant.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_ascii_lowercase().replace(['_', '-'], "");
    let scored = known.into_iter().map(|name| (strsim::jaro_winkler(&lower, &name.to_ascii_lowercase()), name));
    scored.filter(|(score, _)| *score > 0.8).max_by(|one, other| one.0.total_cmp(&other.0)).map(|(_, name)| name)
}
