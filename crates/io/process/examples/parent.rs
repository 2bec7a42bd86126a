//! A Loadline in miniature, for tests: `parent KEEPER SCRIPT` keeps one `/bin/sh -c SCRIPT` running until it is killed;
//! `parent itself` re-executes itself as keeper and as replica once a line comes, and prints the replica's last output.

use loadline_base::PoolId;
use loadline_process::{
    KEEPER_ARGUMENT, KeeperCommand, Limits, PoolSpec, ProcessEvent, ProcessPools, Settings, keeper,
};
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

const REPLICA: &str = "replica";

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let first = args.next().ok_or("no keeper")?;
    if first == KEEPER_ARGUMENT {
        return Ok(keeper::run(args));
    }
    if first == REPLICA {
        let mark = std::env::var("LOADLINE_TEST_MARK").unwrap_or_default();
        println!("in {} with `{mark}`", std::env::current_dir()?.display());
        return Ok(ExitCode::from(3));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if first == "itself" {
        let command = ["/proc/self/exe", REPLICA, "{port}"].map(str::to_owned).to_vec();
        println!("started");
        std::io::stdin().read_line(&mut String::new())?;
        runtime.block_on(keep(KeeperCommand::this_binary(), command))?;
    } else {
        let script = args.next().and_then(|text| text.into_string().ok()).ok_or("no script")?;
        let command = ["/bin/sh", "-c", &script, "{port}"].map(str::to_owned).to_vec();
        runtime.block_on(keep(KeeperCommand { program: first.into(), args: vec![] }, command))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Keeps one replica until its first exit.
async fn keep(keeper: KeeperCommand, command: Vec<String>) -> Result<(), Box<dyn Error>> {
    let settings = Settings { keeper, limits: Limits::DEFAULT };
    let (sender, mut events) = tokio::sync::mpsc::channel(16);
    let handle = ProcessPools::start(settings, loadline_net::Clock::real(), sender)?;
    let pool = PoolId::from("p");
    let mut spec = PoolSpec::new(pool.clone(), command);
    spec.termination_grace = Duration::from_millis(300);
    handle.configure(vec![spec])?;
    handle.set_replicas(&pool, 1, vec![]);
    while let Some(event) = events.recv().await {
        match event {
            ProcessEvent::Exited { last_lines, .. } => {
                println!("{}", last_lines.join(" "));
                break;
            }
            ProcessEvent::CannotStart { error, .. } => return Err(error.into()),
            _ => {}
        }
    }
    handle.shutdown(Duration::from_secs(1)).await;
    Ok(())
}
