//! Reads YAML into a tree that still knows its lines. The only module that knows the parser.

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use crate::problem::Problem;

/// Is a value of the document and where it begins.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) value: Value,
    /// Counted from 1.
    pub(crate) line: usize,
}

#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// A plain `~`, `null` or nothing at all.
    Nothing,
    /// Any other scalar; a number and a boolean are texts until a field says otherwise.
    Text {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    /// In the order of the document. A key may occur twice: that is the reader's to say.
    Map(Vec<Entry>),
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) line: usize,
    pub(crate) value: Node,
}

/// Deeper than any inventory, and shallow enough for the stack.
const DEEPEST: usize = 32;

/// Reads the one document of a text.
pub(crate) fn read(text: &str) -> Result<Node, Problem> {
    let mut events = Events { parser: Parser::new_from_str(text), line: 1 };
    let root = loop {
        match events.next()? {
            (Event::StreamStart | Event::DocumentStart(_), _) => {}
            (Event::StreamEnd, _) => return Err(Problem::new(1, "", "the inventory is empty")),
            (event, span) => break events.node(event, span, 0)?,
        }
    };
    loop {
        match events.next()? {
            (Event::StreamEnd, _) => return Ok(root),
            (Event::DocumentStart(_), span) => {
                return Err(Problem::new(span.start.line(), "", "a second document begins here; an inventory is one"));
            }
            _ => {}
        }
    }
}

struct Events<'text> {
    parser: Parser<'text, saphyr_parser::StrInput<'text>>,
    line: usize,
}

impl<'text> Events<'text> {
    fn next(&mut self) -> Result<(Event<'text>, Span), Problem> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => {
                self.line = span.start.line();
                Ok((event, span))
            }
            Some(Err(error)) => {
                Err(Problem::new(error.marker().line(), "", &format!("this is not YAML: {}", error.info())))
            }
            None => Err(Problem::new(self.line, "", "this is not YAML: it ends early")),
        }
    }

    fn node(&mut self, event: Event<'text>, span: Span, depth: usize) -> Result<Node, Problem> {
        let line = span.start.line();
        if depth > DEEPEST {
            return Err(Problem::new(line, "", &format!("nested deeper than {DEEPEST} levels")));
        }
        let value = match event {
            Event::Scalar(text, style, _, _) => {
                let plain = style == ScalarStyle::Plain;
                match &*text {
                    "" | "~" | "null" if plain => Value::Nothing,
                    _ => Value::Text { text: text.into_owned(), plain },
                }
            }
            Event::SequenceStart(..) => {
                let mut nodes = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break Value::List(nodes),
                        (event, span) => nodes.push(self.node(event, span, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(..) => {
                let mut entries = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    if matches!(event, Event::MappingEnd) {
                        break Value::Map(entries);
                    }
                    let key = self.node(event, span, depth + 1)?;
                    let Value::Text { text, .. } = key.value else {
                        return Err(Problem::new(key.line, "", "a key must be a word"));
                    };
                    let (event, span) = self.next()?;
                    entries.push(Entry { key: text, line: key.line, value: self.node(event, span, depth + 1)? });
                }
            }
            Event::Alias(_) => return Err(Problem::new(line, "", "aliases are not read here: write the value again")),
            _ => return Err(Problem::new(line, "", "this is not YAML: a value is missing")),
        };
        Ok(Node { value, line })
    }
}
