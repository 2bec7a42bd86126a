//! The `loadline` binary: commands and wiring, nothing else.

mod commands;
mod demo;
mod gatewayd;
mod serve;
mod stack;

use clap::{CommandFactory, Parser, Subcommand};
use std::process::ExitCode;

/// Autoscaling for LLM inference: from zero to as many replicas as the traffic needs.
#[derive(Debug, Parser)]
#[command(name = "loadline", version, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Two minutes without a GPU: ten minutes of traffic from zero replicas and back, with every decision explained.
    Demo(demo::Args),
    /// Run models on this machine: a gateway, an autoscaler, and replicas from zero to N.
    Up(commands::up::Args),
    /// Run in Kubernetes: scale InferenceAutoscalers and serve the metrics APIs to HorizontalPodAutoscalers.
    Serve(commands::serve::Args),
    /// Hold, queue and route requests in front of the replicas of a namespace, in Kubernetes.
    Gateway(commands::gateway::Args),
    /// Emulate an inference engine without a GPU: OpenAI API and /metrics.
    Engine(commands::engine::Args),
    /// Load an OpenAI endpoint from a trace or with fixed lengths and report latencies.
    Bench(commands::bench::Args),
    /// Show what is read from a metrics page: engine, signals, and the series each came from.
    Signals(commands::signals::Args),
    /// Explain one autoscaling decision step by step.
    Explain(commands::explain::Args),
    /// Print a completion script for a shell.
    Completions(commands::reference::CompletionArgs),
    /// Prints docs/reference/cli.md.
    #[command(hide = true)]
    HelpMarkdown,
}

fn main() -> ExitCode {
    // before anything else: a keeper is on the way of every start, and must not have threads yet
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == loadline_process::KEEPER_ARGUMENT) {
        return loadline_process::keeper::run(args);
    }
    let outcome = match Cli::parse().command {
        Command::Demo(args) => demo::run(args),
        Command::Up(args) => commands::up::run(args),
        Command::Serve(args) => commands::serve::run(args),
        Command::Gateway(args) => commands::gateway::run(args),
        Command::Engine(args) => commands::engine::run(args),
        Command::Bench(args) => commands::bench::run(args),
        Command::Signals(args) => commands::signals::run(args),
        Command::Explain(args) => commands::explain::run(args),
        Command::Completions(args) => commands::reference::completions(&args, Cli::command()),
        Command::HelpMarkdown => commands::reference::help_markdown(&Cli::command()),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
