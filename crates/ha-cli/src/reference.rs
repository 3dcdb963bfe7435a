//! The reference in `docs/cli`, made from a command's own definition.

use std::fmt::Write as _;

use clap::{Arg, Command};

use crate::environment::Variable;
use crate::exit::ExitCode;

/// Returns the page of a command: what it is, its flags, its subcommands, the variables and the exit codes. `usage` is
/// what to type, a line each; `codes` is what exit codes mean beside what they mean everywhere.
pub fn page(command: &mut Command, usage: &str, environment: &[Variable], codes: &[(ExitCode, &str)]) -> String {
    command.build();
    let name = command.get_name().to_owned();
    let mut page =
        format!("<!-- Made from the command's own definition by `UPDATE_DOCS=1 cargo test -p {name}`. -->\n\n");
    let _ = write!(page, "# {name}\n\n{}\n\n", about(command));
    let _ = write!(page, "```\n{usage}\n```\n");
    flags(&mut page, command, "##");
    subcommands(&mut page, command, &name);
    page.push_str("\n## Environment\n\n| variable | meaning |\n| --- | --- |\n");
    for variable in environment {
        let _ = writeln!(page, "| `{}` | {} |", variable.name, variable.about);
    }
    page.push_str("\n## Exit codes\n\n| code | meaning |\n| --- | --- |\n");
    for code in ExitCode::ALL {
        let more = codes.iter().filter(|(of, _)| of == code).map(|(_, more)| format!("; {more}"));
        let _ = writeln!(page, "| {} | {}{} |", code.code(), code.about(), more.collect::<String>());
    }
    page
}

fn subcommands(page: &mut String, command: &Command, words: &str) {
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        let words = format!("{words} {}", subcommand.get_name());
        let _ = write!(page, "\n## {words}\n\n{}\n", about(subcommand));
        flags(page, subcommand, "###");
        subcommands(page, subcommand, &words);
    }
}

fn about(command: &Command) -> String {
    let text = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    text.split("\n\n").map(ended).collect::<Vec<_>>().join("\n\n")
}

/// Writes the visible flags of a command, a table per heading, in the order of their definition.
fn flags(page: &mut String, command: &Command, level: &str) {
    let shown = |argument: &&Arg| {
        let id = argument.get_id().as_str();
        !argument.is_hide_set() && id != "help" && id != "version"
    };
    let arguments: Vec<&Arg> = command.get_arguments().filter(shown).collect();
    let mut headings: Vec<&str> = Vec::new();
    for argument in &arguments {
        let heading = argument.get_help_heading().unwrap_or("Flags");
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    for heading in headings {
        let _ = write!(page, "\n{level} {heading}\n\n| flag | default | meaning |\n| --- | --- | --- |\n");
        let in_it = |argument: &&&Arg| argument.get_help_heading().unwrap_or("Flags") == heading;
        for argument in arguments.iter().filter(in_it) {
            let _ = writeln!(page, "| {} | {} | {} |", spelling(argument), default(argument), meaning(argument));
        }
    }
}

fn spelling(argument: &Arg) -> String {
    let value = argument.get_value_names().and_then(|names| names.first()).map(|name| name.to_string());
    let Some(long) = argument.get_long() else {
        let many = argument.get_num_args().is_some_and(|range| range.max_values() > 1);
        let dots = if many { "…" } else { "" };
        return format!("`{}{dots}`", value.unwrap_or_default());
    };
    let short = argument.get_short().map_or_else(String::new, |short| format!("`-{short}`, "));
    let value = match value {
        Some(_) if is_switch(argument) => String::new(),
        Some(name) if argument.is_require_equals_set() => format!("[={name}]"),
        Some(name) => format!(" {name}"),
        None => String::new(),
    };
    format!("{short}`--{long}{value}`")
}

fn is_switch(argument: &Arg) -> bool {
    argument.is_hide_default_value_set() || !argument.get_action().takes_values()
}

fn default(argument: &Arg) -> String {
    if argument.is_required_set() {
        return "required".to_owned();
    }
    let values = argument.get_default_values();
    let values: Vec<_> = values.iter().map(|value| value.to_string_lossy()).collect();
    match values.join(", ") {
        none if none.is_empty() => {
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            let said = help.split_once(" [default: ").and_then(|(_, rest)| rest.strip_suffix(']'));
            said.unwrap_or_default().to_owned()
        }
        value if is_switch(argument) => value.replace("false", "off"),
        value => format!("`{value}`"),
    }
}

fn meaning(argument: &Arg) -> String {
    let text = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
    let mut paragraphs: Vec<String> = Vec::new();
    for paragraph in text.split("\n\n") {
        let paragraph = paragraph.replace('\n', " ");
        let plain = paragraph.split_once(" [default: ").map_or(paragraph.as_str(), |(head, _)| head);
        paragraphs.push(ended(plain));
    }
    let choices = argument.get_possible_values();
    if argument.get_long().is_some() && !choices.is_empty() && !is_switch(argument) {
        let choices = choices.iter().map(|choice| match choice.get_help() {
            Some(help) => format!("`{}`: {}", choice.get_name(), first_lower(&help.to_string())),
            None => format!("`{}`", choice.get_name()),
        });
        paragraphs.push(ended(&choices.collect::<Vec<_>>().join("; ")));
    }
    paragraphs.join(" ").replace('|', "\\|").replace('<', "&lt;")
}

fn ended(text: &str) -> String {
    if text.ends_with('.') { text.to_owned() } else { format!("{text}.") }
}

fn first_lower(text: &str) -> String {
    let mut characters = text.chars();
    match (characters.next(), characters.clone().next()) {
        // A name such as QEMU stays as it is.
        (Some(first), Some(second)) if !second.is_uppercase() => first.to_lowercase().chain(characters).collect(),
        _ => text.to_owned(),
    }
}
