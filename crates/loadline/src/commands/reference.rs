//! `loadline completions`, and the text of docs/reference/cli.md: both from the definitions of the commands themselves.

use anyhow::Result;
use clap::{Arg, Command};
use std::fmt::Write as _;
use std::process::ExitCode;

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionArgs {
    /// For which shell.
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Shell {
    /// `loadline completions bash > /etc/bash_completion.d/loadline`
    Bash,
    /// `loadline completions zsh > "${fpath[1]}/_loadline"`
    Zsh,
    /// `loadline completions fish > ~/.config/fish/completions/loadline.fish`
    Fish,
}

/// Prints a completion script.
pub(crate) fn completions(args: &CompletionArgs, mut command: Command) -> Result<ExitCode> {
    let shell = match args.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "loadline", &mut script);
    super::print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the page of all commands and flags.
pub(crate) fn help_markdown(command: &Command) -> Result<ExitCode> {
    super::print(&page(command))?;
    Ok(ExitCode::SUCCESS)
}

fn page(command: &Command) -> String {
    let mut out =
        "# Commands\n\nGenerated from the definitions of the commands (`cargo xtask codegen`); do not edit.\n\n"
            .to_owned();
    let shown = || command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help");
    out.push_str("| command | what it does |\n| --- | --- |\n");
    for sub in shown() {
        let name = sub.get_name();
        let _ = writeln!(
            out,
            "| [`loadline {name}`](#loadline-{name}) | {} |",
            cell(sub.get_about().map(ToString::to_string))
        );
    }
    for sub in shown() {
        let _ = writeln!(out, "\n## loadline {}\n", sub.get_name());
        let about = sub.get_long_about().or_else(|| sub.get_about()).map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(out, "{about}\n");
        out.push_str("| argument | default | meaning |\n| --- | --- | --- |\n");
        for arg in sub.get_arguments().filter(|arg| !arg.is_hide_set() && arg.get_id() != "help") {
            let defaults: Vec<String> =
                arg.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect();
            let takes_value = arg.get_action().takes_values();
            let default = if takes_value { defaults.join(", ") } else { String::new() };
            let _ = writeln!(out, "| `{}` | {default} | {} |", usage(arg), meaning(arg));
        }
    }
    out
}

/// How an argument is written.
fn usage(arg: &Arg) -> String {
    let takes_value = arg.get_action().takes_values();
    let named: Vec<String> = arg.get_value_names().unwrap_or_default().iter().map(|name| format!("<{name}>")).collect();
    let value = if takes_value { named.join(" ") } else { String::new() };
    let flags: Vec<String> = arg
        .get_short()
        .map(|short| format!("-{short}"))
        .into_iter()
        .chain(arg.get_long().map(|long| format!("--{long}")))
        .collect();
    let words: Vec<String> = [flags.join(", "), value].into_iter().filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

fn meaning(arg: &Arg) -> String {
    let help = cell(arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string));
    let values: Vec<String> = if arg.get_action().takes_values() {
        arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect()
    } else {
        Vec::new()
    };
    if values.is_empty() { help } else { format!("{help} One of {}.", values.join(", ")) }
}

/// Text that fits a cell of a table.
fn cell(text: Option<String>) -> String {
    let line = text.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    if line.is_empty() || line.ends_with(['.', '?', ')']) { line } else { format!("{line}.") }
}
