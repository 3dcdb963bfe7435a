//! What is generated from the definition of the flags: completions, manual pages, the reference in `docs/cli`.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use clap::{Arg, Command};
use clap_complete::Shell;
use ha_cli::exit::ExitCode;
use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_cli::{environment, summary};

use crate::arguments::{self, Man};

/// Prints the completions for a shell.
pub(crate) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut arguments::command(), "ha-sync", &mut text);
    print(&String::from_utf8_lossy(&text))
}

/// Prints or writes a part of the manual.
pub(crate) fn serve(man: Man) -> Result<(), Failure> {
    match man {
        Man::Page => {
            let mut text = Vec::new();
            let page = clap_mangen::Man::new(arguments::command());
            page.render(&mut text).or_failure(FailureKind::Failed)?;
            print(&String::from_utf8_lossy(&text))
        }
        Man::Pages(directory) => pages(&directory),
        Man::Markdown => print(&reference()),
    }
}

fn pages(directory: &Path) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        let failure = Failure::from_error(FailureKind::Failed, &error);
        let directory = directory.display();
        failure.context(format!("failed to write manual pages: {directory}")).hint(format!("mkdir -p '{directory}'"))
    };
    clap_mangen::generate_to(arguments::command(), directory).map_err(failed)
}

fn print(text: &str) -> Result<(), Failure> {
    summary::print(text).or_failure(FailureKind::Failed).map_err(|failure| failure.context("failed to write to stdout"))
}

/// Returns the reference page.
fn reference() -> String {
    let mut command = arguments::command();
    command.build();
    let mut page =
        String::from("<!-- Made from the command's own definition by `UPDATE_DOCS=1 cargo test -p ha-sync`. -->\n\n");
    let _ = write!(page, "# ha-sync\n\n{}\n\n", about(&command));
    let _ = write!(page, "```\nha-sync --src <DIR> --dest <DIR> --pair <NAME> [OPTIONS]\nha-sync <COMMAND>\n```\n");
    flags(&mut page, &command, "##");
    subcommands(&mut page, &command, "ha-sync");
    page.push_str("\n## Environment\n\n| variable | meaning |\n| --- | --- |\n");
    for variable in environment::ALL {
        let _ = writeln!(page, "| `{}` | {} |", variable.name, variable.about);
    }
    page.push_str("\n## Exit codes\n\n| code | meaning |\n| --- | --- |\n");
    for code in ExitCode::ALL {
        let _ = writeln!(page, "| {} | {} |", code.code(), code.about());
    }
    page
}

/// Writes the visible subcommands of a command, and theirs after each.
fn subcommands(page: &mut String, command: &Command, program: &str) {
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        let program = format!("{program} {}", subcommand.get_name());
        let _ = write!(page, "\n## {program}\n\n{}\n", about(subcommand));
        flags(page, subcommand, "###");
        subcommands(page, subcommand, &program);
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
        let dots = if argument.get_action().takes_values() && argument.is_required_set() { "" } else { "…" };
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
    argument.is_hide_default_value_set()
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
    let first = characters.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(characters).collect()
}
