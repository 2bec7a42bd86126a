//! Arrivals laid on the edge from one to zero.

use crate::rig::{Replica, Rig, model, plain};
use loadline_gateway::GatewaySettings;
use loadline_hold::HoldSettings;
use loadline_hold::protocol::{GatewayOrder, GatewayReport};
use loadline_net::Clock;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_cycles_to_zero_and_back_lose_nothing() {
    cycles(Rig::start(plain()), &Clock::real(), [Duration::ZERO; 2]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_cycles_with_slow_starts_lose_nothing() {
    let clock = Clock::scaled(3_000.0);
    // At this speed a pause of the machine is minutes of model time; budgets are tested where time is only a number.
    let day = Duration::from_secs(86_400);
    let hold =
        HoldSettings { cold_budget: Some(day), saturated_budget: day, hold_limit: day, ..HoldSettings::default() };
    let rig = Rig::with(hold, GatewaySettings::default(), clock.clone());
    cycles(rig, &clock, [Duration::from_secs(30), Duration::from_secs(120)]).await;
}

/// A writer that closes, stops the replica when the close was accepted, and starts it again on a wake; clients that
/// arrive at every point of that. The start times take turns.
async fn cycles(mut rig: Rig, clock: &Clock, starts: [Duration; 2]) {
    let mut replica = Replica::start().await;
    let address = replica.address;
    let served = tokio::spawn(async move {
        loop {
            replica.call().await.reply("{\"ok\":1}").await;
        }
    });
    let mut client = rig.client().await;
    let (mut epoch, mut accepted_closes) = (0, 0);
    for cycle in 0..100_usize {
        let start = starts[cycle % 2];
        client.post(r#"{"model":"m"}"#).await;
        epoch = epoch.max(rig.wake().await);
        rig.gateway.order(GatewayOrder::Ack { model: model(), epoch, expected: Some(start) });
        clock.sleep(start).await;
        rig.up("a", address, 4);
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "{\"ok\":1}"), "cycle {cycle}");
        // The next arrival lies right on the close.
        epoch += 1;
        let close = GatewayOrder::Close { model: model(), epoch };
        let mut late = rig.client().await;
        let body = r#"{"model":"m","stream":true}"#;
        if cycle % 3 == 0 {
            late.post(body).await;
            rig.gateway.order(close);
        } else if cycle % 3 == 1 {
            rig.gateway.order(close);
            late.post(body).await;
        } else {
            tokio::join!(late.post(body), async { rig.gateway.order(close) });
        }
        let accepted = rig
            .report("closed", |report| match report {
                GatewayReport::Closed { epoch: answered, accepted, .. } => (answered == epoch).then_some(accepted),
                _ => None,
            })
            .await;
        let mut answer = std::pin::pin!(late.answer());
        if accepted {
            accepted_closes += 1;
            rig.down("a");
        }
        // It was answered before the close, or it refused the close, or it wakes.
        let answer = loop {
            tokio::select! {
                answer = &mut answer => break answer,
                heard = rig.wake() => {
                    epoch = epoch.max(heard);
                    clock.sleep(start).await;
                    rig.up("a", address, 4);
                }
            }
        };
        assert!(answer.status == 200 && answer.text().contains("{\"ok\":1}"), "cycle {cycle}: {answer:?}");
        // To zero for the next cycle.
        loop {
            epoch += 1;
            rig.gateway.order(GatewayOrder::Close { model: model(), epoch });
            let accepted = rig
                .report("closed", |report| match report {
                    GatewayReport::Closed { epoch: answered, accepted, .. } => (answered == epoch).then_some(accepted),
                    _ => None,
                })
                .await;
            if accepted {
                break;
            }
            tokio::task::yield_now().await;
        }
        rig.down("a");
    }
    assert!(accepted_closes > 0);
    assert_eq!(rig.metric("loadline_gateway_server_errors_total").await, 0.0);
    rig.no_law_is_broken().await;
    served.abort();
}
