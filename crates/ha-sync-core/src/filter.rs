//! Which entries take part (sync.md §1 and §11 Filters), and the names that never do.

use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};

use crate::name::RunId;
use crate::path::RelPath;

/// Is the tool's own directory at a root.
pub const OWN_DIRECTORY: &[u8] = b".ha-sync";

/// Is the name of the ignore file at a root; it is synchronised itself.
pub const IGNORE_FILE: &[u8] = b".ha-syncignore";

/// Returns the temporary name of operation `seq` of a run.
pub fn temporary_name(run: &RunId, seq: u64) -> Vec<u8> {
    format!(".ha-sync.{run}.{seq}.tmp").into_bytes()
}

/// Reads a temporary name back; nothing when the name does not have the full pattern.
pub fn parse_temporary(name: &[u8]) -> Option<(RunId, u64)> {
    let inner = name.strip_prefix(b".ha-sync.")?.strip_suffix(b".tmp")?;
    let (run, seq) = std::str::from_utf8(inner).ok()?.split_once('.')?;
    if seq.is_empty() || !seq.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((run.parse().ok()?, seq.parse().ok()?))
}

/// Tells whether a name is an NFS client's placeholder for an open, removed file: `.nfs` and hex digits.
pub fn is_nfs_placeholder(name: &[u8]) -> bool {
    name.strip_prefix(b".nfs").is_some_and(|rest| !rest.is_empty() && rest.iter().all(u8::is_ascii_hexdigit))
}

/// Tells whether a name at a root never takes part: the tool's own directory and `lost+found`.
pub fn is_reserved_at_root(name: &[u8]) -> bool {
    name == OWN_DIRECTORY || name == b"lost+found"
}

/// Is one `--include` or `--exclude`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Whether what matches takes part.
    pub include: bool,
    /// Unanchored unless it begins with `/`; with `/` at its end it matches directories only.
    pub glob: String,
}

/// Says why a glob or an ignore file was refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FilterError {
    /// The glob has no meaning.
    #[error("invalid glob: {glob}: {reason}")]
    Glob {
        /// As it was given.
        glob: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A line of the ignore file has no meaning.
    #[error("line {line} of .ha-syncignore: invalid pattern: {text}: {reason}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// As it is there.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The ignore file is a link, a directory or a special file. Not to read it would copy what it is to keep back.
    #[error(".ha-syncignore at the source root is not a regular file")]
    NotAFile,
    /// A line is not UTF-8.
    #[error("line {line} of .ha-syncignore is not UTF-8")]
    NotUtf8 {
        /// Counted from 1.
        line: usize,
    },
}

/// Tells which entries take part: the first matching rule wins, command line in order, then the ignore file, in
/// which the last matching line wins (gitignore grammar).
#[derive(Debug, Clone, Default)]
pub struct Filter {
    rules: Option<Globs>,
    ignored: Option<Globs>,
    only: Option<RelPath>,
}

#[derive(Debug, Clone)]
struct Globs {
    set: GlobSet,
    /// Per glob: whether it includes, whether it matches directories only.
    flags: Vec<(bool, bool)>,
}

impl Globs {
    fn matching(&self, path: &Candidate<'_>, directory: bool, last: bool) -> Option<bool> {
        let found = self.set.matches_candidate(path);
        let applies = |index: &&usize| directory || !self.flags[**index].1;
        let index = if last { found.iter().rev().find(applies) } else { found.iter().find(applies) };
        index.map(|index| self.flags[*index].0)
    }
}

impl Filter {
    /// Makes a filter of command-line rules and the content of an ignore file.
    pub fn new(rules: &[Rule], ignore_file: Option<&[u8]>) -> Result<Self, FilterError> {
        let mut filter = Self::default();
        if !rules.is_empty() {
            let globs = rules.iter().map(|rule| {
                let (body, directory) = strip_directory_mark(&rule.glob);
                let pattern = match body.strip_prefix('/') {
                    Some(anchored) => anchored.to_owned(),
                    None => format!("**/{body}"),
                };
                Pattern { text: &rule.glob, line: None, glob: pattern, include: rule.include, directory }
            });
            filter.rules = Some(compile(globs)?);
        }
        if let Some(content) = ignore_file {
            // The mark that some editors put before the first line.
            let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
            let mut lines = Vec::new();
            for (index, line) in content.split(|byte| *byte == b'\n').enumerate() {
                let line = std::str::from_utf8(line).map_err(|_| FilterError::NotUtf8 { line: index + 1 })?;
                lines.extend(ignore_line(index + 1, line));
            }
            filter.ignored = Some(compile(lines.into_iter())?);
        }
        Ok(filter)
    }

    /// Leaves out everything but one path, what is below it, and the directories that lead to it.
    pub fn only(self, path: RelPath) -> Self {
        Self { only: Some(path), ..self }
    }

    /// Tells whether an entry is left out. What is below an excluded directory is not asked about.
    pub fn excludes(&self, path: &RelPath, directory: bool) -> bool {
        if let Some(only) = &self.only
            && !only.is_at_or_below(path)
            && !path.is_at_or_below(only)
        {
            return true;
        }
        if self.rules.is_none() && self.ignored.is_none() {
            return false;
        }
        let bytes = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(path.as_bytes());
        let candidate = Candidate::new(std::path::Path::new(bytes));
        let first = self.rules.as_ref().and_then(|rules| rules.matching(&candidate, directory, false));
        let include =
            first.or_else(|| self.ignored.as_ref().and_then(|lines| lines.matching(&candidate, directory, true)));
        include == Some(false)
    }

    /// Tells whether anything can be excluded at all.
    pub fn is_empty(&self) -> bool {
        self.rules.is_none() && self.ignored.is_none() && self.only.is_none()
    }
}

/// Is a rule or a line, as a glob that is matched against whole paths.
struct Pattern<'a> {
    /// As it was given.
    text: &'a str,
    /// Where in the ignore file, from 1.
    line: Option<usize>,
    glob: String,
    include: bool,
    /// Whether it matches directories only.
    directory: bool,
}

fn strip_directory_mark(glob: &str) -> (&str, bool) {
    match glob.strip_suffix('/') {
        Some(body) if !body.is_empty() => (body, true),
        _ => (glob, false),
    }
}

/// Translates one line of gitignore's grammar.
fn ignore_line(number: usize, line: &str) -> Option<Pattern<'_>> {
    let line = line.strip_suffix('\r').unwrap_or(line);
    let mut text = line.trim_end_matches(' ');
    if text.ends_with('\\') && text.len() < line.len() {
        // A backslash keeps the first of the trailing spaces.
        text = &line[..text.len() + 1];
    }
    if text.is_empty() || text.starts_with('#') {
        return None;
    }
    let (include, body) = match text.strip_prefix('!') {
        Some(body) => (true, body),
        None => (false, text),
    };
    let (body, directory) = strip_directory_mark(body);
    let glob = match body.strip_prefix('/') {
        Some(anchored) => literal_braces(anchored),
        None if body.contains('/') => literal_braces(body),
        None => format!("**/{}", literal_braces(body)),
    };
    Some(Pattern { text, line: Some(number), glob, include, directory })
}

/// Escapes braces: gitignore knows no alternates. In a class they are literal already, and so is a backslash.
fn literal_braces(body: &str) -> String {
    let mut glob = String::with_capacity(body.len());
    let mut letters = body.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '{' | '}' => glob.push('\\'),
            '\\' => {
                glob.push(letter);
                glob.extend(letters.next());
                continue;
            }
            '[' => {
                glob.push(letter);
                glob.extend(letters.next_if(|letter| matches!(letter, '!' | '^')));
                // A bracket that comes first does not end the class.
                glob.extend(letters.next_if_eq(&']'));
                for letter in letters.by_ref() {
                    glob.push(letter);
                    if letter == ']' {
                        break;
                    }
                }
                continue;
            }
            _ => {}
        }
        glob.push(letter);
    }
    glob
}

/// Writes the letters of POSIX's named classes (`[[:digit:]]`) out, which gitignore knows and the matcher does not. An
/// unknown one is returned: what it would leave out is not known.
fn named_classes(glob: &str) -> Result<String, String> {
    let mut written = String::with_capacity(glob.len());
    let mut rest = glob;
    let mut inside = false;
    while let Some(letter) = rest.chars().next() {
        let mut taken = letter.len_utf8();
        match letter {
            '\\' if !inside => taken += rest[taken..].chars().next().map_or(0, char::len_utf8),
            '[' if !inside => {
                inside = true;
                taken += usize::from(rest[taken..].starts_with(['!', '^']));
                // A bracket that comes first does not end the class.
                taken += usize::from(rest[taken..].starts_with(']'));
            }
            ']' => inside = false,
            '[' => {
                if let Some((name, after)) = rest.strip_prefix("[:").and_then(|rest| rest.split_once(":]")) {
                    written.push_str(match name {
                        "alnum" => "0-9A-Za-z",
                        "alpha" => "A-Za-z",
                        "blank" => " \t",
                        "digit" => "0-9",
                        "lower" => "a-z",
                        "space" => " \t\n\r\u{b}\u{c}",
                        "upper" => "A-Z",
                        "xdigit" => "0-9A-Fa-f",
                        other => return Err(other.to_owned()),
                    });
                    rest = after;
                    continue;
                }
            }
            _ => {}
        }
        written.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    Ok(written)
}

fn compile<'a>(patterns: impl Iterator<Item = Pattern<'a>>) -> Result<Globs, FilterError> {
    let mut set = GlobSetBuilder::new();
    let mut flags = Vec::new();
    let refused = |text: &str, line: Option<usize>, reason: String| {
        let text = text.to_owned();
        match line {
            Some(line) => FilterError::Line { line, text, reason },
            None => FilterError::Glob { glob: text, reason },
        }
    };
    for Pattern { text, line, glob, include, directory } in patterns {
        let glob = named_classes(&glob).map_err(|name| refused(text, line, format!("unknown class: [:{name}:]")))?;
        let glob = GlobBuilder::new(&glob)
            .literal_separator(true)
            .backslash_escape(true)
            .build()
            .map_err(|error| refused(text, line, error.kind().to_string()))?;
        set.add(glob);
        flags.push((include, directory));
    }
    let set = set.build().map_err(|error| refused("", None, error.kind().to_string()))?;
    Ok(Globs { set, flags })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::from_bytes(text.as_bytes().to_vec()).unwrap()
    }

    fn filter(rules: &[(&str, bool)], ignore: &str) -> Filter {
        let rules: Vec<Rule> =
            rules.iter().map(|(glob, include)| Rule { include: *include, glob: (*glob).to_owned() }).collect();
        Filter::new(&rules, Some(ignore.as_bytes())).unwrap()
    }

    #[test]
    fn the_first_rule_of_the_command_line_wins() {
        let filter = filter(&[("*.keep.tmp", true), ("*.tmp", false), ("/top", false), ("sub/x", false)], "");
        assert!(!filter.excludes(&path("a/b.keep.tmp"), false));
        assert!(filter.excludes(&path("a/b.tmp"), false));
        assert!(filter.excludes(&path("top"), true));
        assert!(!filter.excludes(&path("a/top"), true));
        assert!(filter.excludes(&path("deep/sub/x"), false));
    }

    #[test]
    fn the_ignore_file_has_gitignores_grammar() {
        let filter =
            filter(&[("forced.log", true)], "# comment\n*.log\n!wanted.log\nbuild/\n/only-top\na/b\n\\#hash\n");
        assert!(filter.excludes(&path("x/y.log"), false));
        assert!(!filter.excludes(&path("x/wanted.log"), false));
        assert!(!filter.excludes(&path("forced.log"), false));
        assert!(filter.excludes(&path("x/build"), true));
        assert!(!filter.excludes(&path("x/build"), false));
        assert!(filter.excludes(&path("only-top"), false));
        assert!(!filter.excludes(&path("x/only-top"), false));
        assert!(filter.excludes(&path("a/b"), false));
        assert!(!filter.excludes(&path("x/a/b"), false));
        assert!(filter.excludes(&path("#hash"), false));
    }

    #[test]
    fn braces_are_literal_in_the_ignore_file_and_alternates_on_the_command_line() {
        let lines = filter(&[], "{a,b}\n/x{1}/y\nopen{\n[{]z\n\\{q\\}\n[]{]w\n!}\n");
        for name in ["{a,b}", "d/{a,b}", "x{1}/y", "open{", "{z", "{q}", "]w", "{w"] {
            assert!(lines.excludes(&path(name), false), "{name}");
        }
        for name in ["a", "b", "x1/y", "z", "\\z", "q", "open"] {
            assert!(!lines.excludes(&path(name), false), "{name}");
        }
        let rule = filter(&[("{a,b}", false)], "");
        assert!(rule.excludes(&path("a"), false) && !rule.excludes(&path("{a,b}"), false));
    }

    #[test]
    fn named_classes_are_those_of_gitignore() {
        let lines = filter(&[("[^[:upper:]]?", false)], "\u{feff}first\n[[:digit:]]*.db\n[]x[:space:]]y\n");
        for name in ["first", "1.db", "d/7x.db", "]y", "xy", "\ty", "aB"] {
            assert!(lines.excludes(&path(name), false), "{name}");
        }
        for name in ["d.db", ":.db", "Ab", "[y1"] {
            assert!(!lines.excludes(&path(name), false), "{name}");
        }
        let error = Filter::new(&[], Some(b"[[:nonsense:]]")).unwrap_err();
        let said = "line 1 of .ha-syncignore: invalid pattern: [[:nonsense:]]: unknown class: [:nonsense:]";
        assert_eq!(error.to_string(), said);
    }

    #[test]
    fn one_path_alone_can_be_meant() {
        let only = filter(&[("*.tmp", false)], "").only(path("a/b"));
        assert!(!only.is_empty());
        for (name, kept) in [
            ("a", true),
            ("a/b", true),
            ("a/b/c", true),
            ("a/b/c.tmp", false),
            ("a/bc", false),
            ("a/c", false),
            ("b", false),
            ("ab", false),
        ] {
            assert_eq!(only.excludes(&path(name), name == "a"), !kept, "{name}");
        }
        assert!(!Filter::default().only(path("a")).excludes(&path("a"), false));
        assert!(Filter::default().only(path("a")).excludes(&path("b"), true));
    }

    #[test]
    fn a_refused_line_is_named() {
        for (ignore, said) in [
            ("ok\n\n[a\n", "line 3 of .ha-syncignore: invalid pattern: [a: unclosed character class; missing ']'"),
            ("!x\\\n", "line 1 of .ha-syncignore: invalid pattern: !x\\: dangling '\\'"),
            ("# x\n[z-a]\n", "line 2 of .ha-syncignore: invalid pattern: [z-a]: invalid range; 'z' > 'a'"),
        ] {
            let error = Filter::new(&[], Some(ignore.as_bytes())).unwrap_err();
            assert_eq!(error.to_string(), said);
        }
        let error = Filter::new(&[], Some(b"a\n\xff\n")).unwrap_err();
        assert_eq!(error.to_string(), "line 2 of .ha-syncignore is not UTF-8");
    }

    #[test]
    fn temporary_names_need_the_full_pattern() {
        let run: RunId = "20260413T152357Z-0123abcd".parse().unwrap();
        assert_eq!(parse_temporary(&temporary_name(&run, 7)), Some((run, 7)));
        for other in [".ha-sync.tmp", ".ha-sync.x.1.tmp", ".ha-sync.20260413T152357Z-0123abcd.tmp", ".ha-syncignore"] {
            assert_eq!(parse_temporary(other.as_bytes()), None, "{other}");
        }
        assert!(is_nfs_placeholder(b".nfs00ab"));
        assert!(!is_nfs_placeholder(b".nfs") && !is_nfs_placeholder(b".nfsx"));
    }
}
