//! Turns what clap says about a command line into one clear sentence and a hint.

use std::error::Error as _;
use std::io::{self, IsTerminal as _, Write as _};

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::environment;
use crate::failure::{Failure, FailureKind};
use crate::summary::ignore_closed;
use crate::value::ValueError;

const WORD: &str = "a subcommand comes first, the value of a switch follows a '=': --dry-run=false";

/// Prints help or the version on stdout; a closed stdout is no error.
pub fn show(text: &clap::Error) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let styled = text.render();
    let colour = environment::colour(stdout.is_terminal());
    let text = if colour { styled.ansi().to_string() } else { styled.to_string() };
    ignore_closed(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

/// Makes the failure of an error that is neither help nor version. `program` is what to ask for help, with the subcommand.
pub fn refusal(error: &clap::Error, program: &str) -> Failure {
    let flag = word(error, ContextKind::InvalidArg).map(|text| bare(&text).to_owned());
    let value = word(error, ContextKind::InvalidValue);
    let help = format!("{program} --help");
    let usage = |message: String| Failure::new(FailureKind::Usage, message);
    match (error.kind(), flag, value) {
        (ErrorKind::UnknownArgument, Some(flag), _) => {
            let failure = usage(format!("unknown argument: {flag}"));
            if let Some(near) = word(error, ContextKind::SuggestedArg) {
                return failure.hint(format!("did you mean {}?", bare(&near)));
            }
            if flag.starts_with('-') {
                return failure.hint(help);
            }
            failure.hint(WORD)
        }
        (ErrorKind::ArgumentConflict, None, _) => {
            let name = word(error, ContextKind::InvalidSubcommand).unwrap_or_default();
            usage(format!("unexpected word: {name}")).hint(WORD)
        }
        (ErrorKind::InvalidSubcommand, ..) => {
            let name = word(error, ContextKind::InvalidSubcommand).unwrap_or_default();
            usage(format!("unknown subcommand: {name}")).hint(help)
        }
        (ErrorKind::MissingRequiredArgument, Some(flags), _) => {
            usage(format!("required but missing: {flags}")).hint(help)
        }
        (ErrorKind::ArgumentConflict, Some(flag), _) => {
            let other = word(error, ContextKind::PriorArg).map(|text| bare(&text).to_owned());
            usage(format!("{flag} cannot go with {}", other.unwrap_or_else(|| "the others".to_owned()))).hint(help)
        }
        (ErrorKind::InvalidValue, Some(flag), Some(value)) if value.is_empty() => {
            usage(format!("a value is missing for {flag}")).hint(expected(error).unwrap_or(help))
        }
        (ErrorKind::InvalidValue, Some(flag), Some(value)) => {
            let expected = expected(error).map_or_else(String::new, |words| format!(": {words}"));
            usage(format!("invalid value for {flag}: {value:?}{expected}")).hint(help)
        }
        (ErrorKind::ValueValidation, Some(flag), Some(value)) => {
            let source = error.source();
            let cause = source.map_or_else(String::new, |cause| format!(": {cause}"));
            let failure = usage(format!("invalid value for {flag}: {value:?}{cause}"));
            let better =
                source.and_then(|cause| cause.downcast_ref::<ValueError>()).and_then(|cause| cause.hint(&flag));
            failure.hint(better.unwrap_or(help))
        }
        (ErrorKind::WrongNumberOfValues | ErrorKind::TooFewValues | ErrorKind::NoEquals, Some(flag), _) => {
            usage(format!("a value is missing for {flag}")).hint(help)
        }
        (ErrorKind::TooManyValues, Some(flag), Some(value)) => {
            usage(format!("{flag} takes no value: {value:?}")).hint(help)
        }
        (ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand, ..) => {
            usage("a subcommand is missing".to_owned()).hint(help)
        }
        (ErrorKind::InvalidUtf8, ..) => usage("a value is not UTF-8; only paths may be".to_owned()).hint(help),
        _ => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            usage(first.trim_start_matches("error: ").to_owned()).hint(help)
        }
    }
}

fn expected(error: &clap::Error) -> Option<String> {
    let words = word(error, ContextKind::ValidValue).filter(|words| !words.is_empty())?;
    Some(format!("expected one of {words}"))
}

/// Returns a value of the error's context; several are joined.
fn word(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(without_password(text)),
        ContextValue::Strings(texts) => {
            let names = texts.iter().map(|text| if kind == ContextKind::InvalidArg { bare(text) } else { text });
            Some(names.collect::<Vec<_>>().join(", "))
        }
        _ => None,
    }
}

/// Hides a word that looks like a DSN, which a mistyped flag leaves behind: its password is never shown.
fn without_password(word: &str) -> String {
    match word.split_once('@') {
        Some((user, host)) if user.contains(':') => format!("…@{host}"),
        _ => word.to_owned(),
    }
}

/// Leaves `--src` of `--src <DIR>` and of `--dry-run[=<BOOL>]`, `PATH` of `[PATH]...`.
fn bare(flag: &str) -> &str {
    if let Some(name) = flag.strip_prefix(['[', '<']) {
        return name.trim_end_matches([']', '>', '.']);
    }
    match flag.find([' ', '[']) {
        Some(end) if flag.starts_with('-') && !flag.contains(", ") => &flag[..end],
        _ => flag,
    }
}
