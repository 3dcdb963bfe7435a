//! What is wrong with an inventory, and where.

use std::fmt;

/// Is one thing that is wrong with an inventory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The line of the file, counted from 1.
    pub line: usize,
    /// The path of the field, like `pairs[2].capacity`; empty for the document itself.
    pub field: String,
    /// What is wrong: lower case, no full stop.
    pub message: String,
}

impl Problem {
    pub(crate) fn new(line: usize, field: &str, message: &str) -> Self {
        Self { line, field: field.to_owned(), message: message.to_owned() }
    }
}

/// Writes `12: pairs[2].capacity: …`; the caller puts the file and a colon before it.
impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.field {
            "" => write!(formatter, "{}: {}", self.line, self.message),
            field => write!(formatter, "{}: {field}: {}", self.line, self.message),
        }
    }
}
