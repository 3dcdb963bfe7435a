//! Aligned tables for stdout.

use std::io::{self, Write};

use unicode_width::UnicodeWidthStr as _;

use crate::report::printable;

/// Is how the cells of a column stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Is a table that fits in memory; plans are streamed instead.
#[derive(Debug, Clone)]
pub struct Table<const N: usize> {
    columns: [Align; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// Makes an empty table.
    pub const fn new(columns: [Align; N]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row; control characters in it are escaped.
    pub fn row<T: Into<String>>(&mut self, cells: [T; N]) {
        self.rows.push(cells.map(|cell| printable(&cell.into()).into_owned()));
    }

    /// Writes the rows, two blanks between columns, none at a line's end.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let width = |column: usize| self.rows.iter().map(|row| row[column].width()).max().unwrap_or(0);
        let widths: [usize; N] = std::array::from_fn(width);
        for row in &self.rows {
            let mut line = String::new();
            for (index, cell) in row.iter().enumerate() {
                let blanks = widths[index] - cell.width();
                if index > 0 {
                    line.push_str("  ");
                }
                match self.columns[index] {
                    Align::Left => line.extend([cell.as_str(), &" ".repeat(blanks)]),
                    Align::Right => line.extend([&" ".repeat(blanks), cell.as_str()]),
                }
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
