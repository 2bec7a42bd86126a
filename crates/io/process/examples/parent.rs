//! A Loadline in miniature, for tests to kill: `parent KEEPER SCRIPT` keeps one `/bin/sh -c SCRIPT` running.

use loadline_base::PoolId;
use loadline_process::{KeeperCommand, Limits, PoolSpec, ProcessPools, Settings};
use std::time::Duration;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let program = args.next().ok_or("no keeper")?.into();
    let script = args.next().and_then(|text| text.into_string().ok()).ok_or("no script")?;
    let settings = Settings { keeper: KeeperCommand { program, args: vec![] }, limits: Limits::DEFAULT };
    let (sender, mut events) = tokio::sync::mpsc::channel(16);
    let handle = ProcessPools::start(settings, loadline_net::Clock::real(), sender)?;
    let pool = PoolId::from("p");
    let mut spec = PoolSpec::new(pool.clone(), ["/bin/sh", "-c", &script, "{port}"].map(str::to_owned).to_vec());
    spec.termination_grace = Duration::from_millis(300);
    handle.configure(vec![spec])?;
    handle.set_replicas(&pool, 1, vec![]);
    while events.recv().await.is_some() {}
    Ok(())
}
