//! One task owns what is known of models, pods and the writer, and tells the gateway.

use super::certificates::{self, TlsSource};
use super::feed::Feed;
use super::names::Names;
use super::picture::{ModelPicture, SharedPicture};
use super::roster::{Roster, roster};
use super::view::View;
use anyhow::Result;
use loadline_base::GatewayId;
use loadline_cluster::Snapshot;
use loadline_gateway::{Gateway, GatewayHandle, GatewaySettings};
use loadline_hold::HoldSettings;
use loadline_hold::protocol::{GatewayOrder, GatewayReport};
use loadline_link::{ClientEvent, LinkClient, LinkClientSettings, LinkLimits};
use loadline_net::Clock;
use loadline_net::tls::ReloadableClient;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Reports and orders waiting between a part and the loop.
const CHANNEL: usize = 1_024;

/// What a daemon is started with.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Who it is: `namespace/pod`.
    pub(crate) id: GatewayId,
    /// Whose autoscalers it serves.
    pub(crate) namespace: String,
    /// As autoscalers name it.
    pub(crate) name: String,
    /// Where it listens.
    pub(crate) listen: SocketAddr,
    /// Where its certificate is; without one it speaks to no writer.
    pub(crate) tls: TlsSource,
    /// How often the certificate is read again.
    pub(crate) tls_period: Duration,
    /// What holds where an autoscaler says nothing.
    pub(crate) hold: HoldSettings,
    /// The bounds of the link.
    pub(crate) link: LinkLimits,
    /// Time between "not ready" and the end of accepting connections at shutdown.
    pub(crate) drain_delay: Duration,
    /// The label of that name on the endpoint picker's metrics.
    pub(crate) top_level_controller_name: String,
}

/// What it looks at.
pub(crate) struct Inputs {
    /// The watches.
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Where the writer's link listens, as the Lease says.
    pub(crate) writer: watch::Receiver<Option<String>>,
}

/// A running gateway with all around it.
pub(crate) struct Daemon {
    gateway: Arc<GatewayHandle>,
    cancel: CancellationToken,
    ended: CancellationToken,
    task: JoinHandle<()>,
    picture: SharedPicture,
}

impl Daemon {
    /// Starts the gateway and the loop; to be called within a runtime.
    pub(crate) fn start(settings: Settings, clock: Clock, inputs: Inputs) -> Result<Self> {
        let (reports, from_gateway) = mpsc::channel(CHANNEL);
        let picture = SharedPicture::default();
        picture.lock().missing = Some(format!(
            "the autoscalers, targets and pods of namespace `{}` have not been listed yet",
            settings.namespace
        ));
        let gateway = Gateway::start(
            GatewaySettings {
                gateway: settings.id.clone(),
                listen: settings.listen,
                drain_delay: settings.drain_delay,
                top_level_controller_name: settings.top_level_controller_name.clone(),
                // request ids begin with it, and must not come again after a restart
                seed: u64::try_from(clock.now().as_nanos()).unwrap_or_default(),
                pages: Some(picture.pages()),
                readiness: Some(picture.readiness()),
                ..GatewaySettings::default()
            },
            clock.clone(),
            reports,
        )
        // its text names the system's reason already
        .map_err(|error| anyhow::anyhow!("{error}"))?;
        let gateway = Arc::new(gateway);
        let (cancel, ended) = (CancellationToken::new(), CancellationToken::new());
        let (events, from_link) = mpsc::channel(CHANNEL);
        let driver = Driver {
            gateway: Arc::clone(&gateway),
            clock,
            view: View::default(),
            feed: Feed::default(),
            roster: Roster::default(),
            problems: Vec::new(),
            link: None,
            events,
            picture: picture.clone(),
            settings,
        };
        let on_end = ended.clone().drop_guard();
        let stop = cancel.clone();
        let task = tokio::spawn(async move {
            // dropped at the end of the loop, also when that is a panic
            let _on_end = on_end;
            tokio::select! {
                () = stop.cancelled() => {}
                () = driver.run(inputs, from_gateway, from_link) => {}
            }
        });
        Ok(Self { gateway, cancel, ended, task, picture })
    }

    /// Where the gateway listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.gateway.local_addr()
    }

    /// Completes when the loop has ended, however that came: the gateway would learn nothing any more.
    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Not ready at once; what is held and in flight is served within `patience`, with pods and writer still followed; then all ends.
    pub(crate) async fn shutdown(self, patience: Duration) {
        self.picture.lock().missing = Some("the gateway is shutting down".to_owned());
        self.gateway.shutdown(patience).await;
        self.cancel.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the gateway's loop ended abnormally");
        }
    }
}

struct Driver {
    gateway: Arc<GatewayHandle>,
    clock: Clock,
    settings: Settings,
    view: View,
    feed: Feed,
    roster: Roster,
    problems: Vec<String>,
    link: Option<LinkClient>,
    events: mpsc::Sender<ClientEvent>,
    picture: SharedPicture,
}

impl Driver {
    async fn run(
        mut self,
        inputs: Inputs,
        mut from_gateway: mpsc::Receiver<GatewayReport>,
        mut from_link: mpsc::Receiver<ClientEvent>,
    ) {
        let Inputs { mut snapshots, writer } = inputs;
        let (ready, mut certificates) = mpsc::channel(1);
        let following = certificates::follow(self.settings.tls.clone(), self.settings.tls_period, ready);
        let _following = AbortOnDropHandle::new(tokio::spawn(following));
        self.snapshot(&snapshots.borrow_and_update().clone());
        loop {
            tokio::select! {
                biased;
                Some(event) = from_link.recv() => self.heard(event),
                Some(report) = from_gateway.recv() => self.report(report),
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        // the watches have ended for good
                        return;
                    }
                    let snapshot = snapshots.borrow_and_update().clone();
                    self.snapshot(&snapshot);
                }
                Some(tls) = certificates.recv() => self.connect(tls, writer.clone()),
            }
        }
    }

    fn connect(&mut self, tls: Arc<ReloadableClient>, writer: watch::Receiver<Option<String>>) {
        let settings = LinkClientSettings {
            gateway: self.settings.id.clone(),
            models: self.roster.names.links().collect(),
            limits: self.settings.link.clone(),
            seed: u64::try_from(self.clock.now().as_nanos()).unwrap_or_default(),
        };
        self.link = Some(LinkClient::start(settings, tls, self.clock.clone(), writer, self.events.clone()));
    }

    /// A report of the gateway goes to the writer, if there is a link; without one it is said again later or of no use.
    fn report(&self, report: GatewayReport) {
        if let (Some(link), Some(report)) = (&self.link, self.roster.names.outward(report)) {
            link.report(report);
        }
    }

    fn heard(&mut self, event: ClientEvent) {
        match event {
            ClientEvent::Up { writer } => {
                tracing::info!(writer, "connected to the writer of replica counts");
                let mut picture = self.picture.lock();
                picture.links = picture.links.saturating_add(1);
                picture.writer = Some(writer);
                drop(picture);
                self.gateway.writer_changed();
            }
            ClientEvent::Down { why } => {
                tracing::warn!(why, "the link to the writer is lost; serving goes on with what is known");
                self.picture.lock().writer = None;
            }
            ClientEvent::Order(order) => {
                let order = self.feed.ordered(order);
                self.tell(order);
                self.paint();
            }
        }
    }

    fn tell(&self, orders: impl IntoIterator<Item = GatewayOrder>) {
        for order in orders.into_iter().filter_map(|order| self.roster.names.inward(order)) {
            tracing::debug!(?order, "told");
            self.gateway.order(order);
        }
    }

    fn snapshot(&mut self, snapshot: &Snapshot) {
        self.picture.lock().is_stale = snapshot.stale_since().is_some();
        if !snapshot.is_ready() {
            return;
        }
        let Settings { namespace, name, hold, .. } = &self.settings;
        let (facts, mut problems) = self.view.read(snapshot, namespace, name);
        let mut now = roster(namespace, facts, hold);
        problems.append(&mut now.problems);
        for problem in problems.iter().filter(|problem| !self.problems.contains(problem)) {
            tracing::warn!("{problem}");
        }
        self.problems = problems;
        if now.models != self.roster.models {
            self.gateway.set_models(now.models.clone());
        }
        let is_renamed = now.names != self.roster.names;
        self.roster = now;
        if is_renamed {
            tracing::info!(models = list(&self.roster.names), "the models of this gateway");
            if let Some(link) = &self.link {
                link.set_models(self.roster.names.links());
            }
        }
        let orders = self.feed.seen(&self.roster.pods);
        self.tell(orders);
        self.picture.lock().missing = None;
        self.paint();
    }

    fn paint(&self) {
        let mut picture = self.picture.lock();
        picture.problems.clone_from(&self.problems);
        picture.models = self
            .roster
            .pods
            .iter()
            .map(|(link, model)| ModelPicture {
                model: model.name.to_string(),
                autoscaler: link.to_string(),
                pods: model.pods.len(),
                up: self.feed.up(link),
            })
            .collect();
    }
}

fn list(names: &Names) -> String {
    let names: Vec<String> = names.links().map(|link| format!("`{link}`")).collect();
    names.join(", ")
}
