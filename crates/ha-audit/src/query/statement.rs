//! Questions as values: their text and what is bound to it.

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use crate::database::{Dialect, Value};

/// Is a SELECT in the making. Text of others never becomes part of the SQL: it is bound.
#[derive(Debug, Clone, Default)]
pub(super) struct Statement {
    sql: String,
    values: Vec<Value>,
}

impl Statement {
    pub(super) fn new(sql: &str) -> Self {
        Self { sql: sql.to_owned(), values: Vec::new() }
    }

    /// Adds text, after a blank.
    pub(super) fn push(mut self, sql: &str) -> Self {
        self.sql.push(' ');
        self.sql.push_str(sql);
        self
    }

    /// Binds the next placeholder.
    pub(super) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Adds text with one placeholder and its value, when there is a value.
    pub(super) fn push_if<T: Into<Value>>(self, sql: &str, value: Option<T>) -> Self {
        match value {
            Some(value) => self.push(sql).bind(value),
            None => self,
        }
    }

    /// Adds another statement's text and values.
    pub(super) fn append(mut self, other: Self) -> Self {
        self.sql.push_str(&other.sql);
        self.values.extend(other.values);
        self
    }

    pub(super) fn into_parts(self) -> (SqlStr, Vec<Value>) {
        (AssertSqlSafe(self.sql).into_sql_str(), self.values)
    }
}

/// Is the columns of a run in the order of [`crate::database::iteration_row`].
pub(super) const ITERATION: &str = "SELECT id, run_id, sync_pair, direction, src, dest, \
    CAST(started_at AS CHAR), CAST(ended_at AS CHAR), status, dry_run, files_created, files_updated, files_deleted, \
    files_skipped, files_failed, total_bytes_transferred, skip_reasons, error_message, lease_transitions \
    FROM sync_iterations";

/// Is the columns of an operation, times as text.
pub(super) const OPERATION: &str = "id, iteration_id, seq, operation, filepath, size_before, size_after, md5_before, \
    md5_after, CAST(started_at AS CHAR) AS started, CAST(ended_at AS CHAR) AS ended, status, error_message, reason, \
    direction";

/// Returns the table of operations to look in for a path, and the order of what is found.
///
/// On MySQL the index has the beginning of each path, so it could not serve an ORDER BY: all of a large folder would be
/// sorted for a few rows. Its own order is nearly the same: paths with the same [`indexed`] part are in the order of
/// their rows.
pub(super) fn by_path(dialect: Dialect) -> (&'static str, &'static str) {
    match dialect {
        Dialect::Sqlite => ("sync_operations", "ORDER BY filepath"),
        Dialect::Mysql => ("sync_operations FORCE INDEX (idx_filepath)", ""),
    }
}

/// Letters of a path that the index of MySQL has.
const INDEXED: usize = 191;

/// Returns the part of a path that its place in the index is told by, when other paths may have the same.
pub(super) fn indexed(dialect: Dialect, path: &str) -> Option<&str> {
    match dialect {
        Dialect::Sqlite => None,
        Dialect::Mysql => {
            let (last, letter) = path.char_indices().nth(INDEXED - 1)?;
            path.get(..last + letter.len_utf8())
        }
    }
}

/// Returns the comparison of a path with a pattern, in which letters match either case.
pub(super) fn like(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Sqlite => "filepath LIKE ? ESCAPE '|'",
        Dialect::Mysql => "filepath COLLATE utf8mb4_general_ci LIKE ? ESCAPE '|'",
    }
}

/// Returns the least text that is greater than every text that begins with `prefix`; none when there is none.
pub(super) fn after_prefix(prefix: &str) -> Option<String> {
    let mut characters: Vec<char> = prefix.chars().collect();
    while let Some(last) = characters.pop() {
        let next = (u32::from(last) + 1..=0x0010_ffff).find_map(char::from_u32);
        if let Some(next) = next {
            characters.push(next);
            return Some(characters.into_iter().collect());
        }
    }
    None
}

/// Writes a text as a pattern of LIKE that finds it anywhere; the escape character is `|`.
pub(super) fn anywhere(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 2);
    pattern.push('%');
    for character in text.chars() {
        if matches!(character, '%' | '_' | '|') {
            pattern.push('|');
        }
        pattern.push(character);
    }
    pattern.push('%');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_where_the_next_text_begins() {
        assert_eq!(after_prefix("photos/").as_deref(), Some("photos0"));
        assert_eq!(after_prefix("a\u{d7ff}").as_deref(), Some("a\u{e000}"));
        assert_eq!(after_prefix("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(after_prefix("\u{10ffff}"), None);
        assert_eq!(after_prefix(""), None);
    }

    #[test]
    fn long_paths_may_share_what_the_index_has() {
        assert_eq!(indexed(Dialect::Mysql, &"ü".repeat(190)), None);
        assert_eq!(indexed(Dialect::Mysql, &"ü".repeat(191)), Some("ü".repeat(191).as_str()));
        assert_eq!(
            indexed(Dialect::Mysql, &format!("{}ab", "ü".repeat(190))),
            Some(format!("{}a", "ü".repeat(190)).as_str())
        );
        assert_eq!(indexed(Dialect::Sqlite, &"a".repeat(300)), None);
    }

    #[test]
    fn patterns_take_every_character_as_it_is() {
        assert_eq!(anywhere("50%_|x"), "%50|%|_||x%");
    }
}
