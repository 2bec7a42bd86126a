//! The keeper as a program of its own, for tests; `loadline` re-executes itself instead.

fn main() -> std::process::ExitCode {
    loadline_process::keeper::run(std::env::args_os().skip(1))
}
