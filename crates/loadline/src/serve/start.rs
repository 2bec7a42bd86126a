//! Starting the parts of `loadline serve`, and ending them in order.

use super::certificates::{Certificates, Registrations};
use super::driver::{Driver, Inputs, Parts};
use super::lease::Candidate;
use super::pages::{Picture, router};
use super::pools::PoolsSettings;
use super::scraping::Scraping;
use super::store::Stores;
use super::supply::Supply;
use anyhow::{Context, Result};
use loadline_cluster::{Cluster, ClusterSettings, Key, WatchScope};
use loadline_control::ControlSettings;
use loadline_control::election::ElectionSettings;
use loadline_link::{LinkLimits, LinkServer};
use loadline_manifest::serve::{LeaseConfig, ServeConfig};
use loadline_metricsapi::{Handle, MetricsApi, ServedSource, Settings as ApiSettings};
use loadline_net::Clock;
use loadline_policy::Budgets;
use loadline_scrape::{PageUse, ScrapeSettings, Scraper};
use loadline_signals::served::{Served, ServedLimits};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Events waiting between a part and the driver; a full channel makes the part wait.
const CHANNEL: usize = 1_024;

/// Reports of scrapes waiting for the driver, each with its whole page.
const SCRAPES: usize = 32;

/// The least time between two decisions for one model, edges excepted.
const DECISION_PERIOD: Duration = Duration::from_secs(1);

/// How long everything may take to end.
const END: Duration = Duration::from_secs(10);

/// What the command line and the environment say.
#[derive(Debug, Clone)]
pub(crate) struct ServeOptions {
    /// The configuration.
    pub(crate) config: ServeConfig,
    /// A kubeconfig file.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// A context of it.
    pub(crate) context: Option<String>,
    /// Where Loadline is installed.
    pub(crate) namespace: String,
    /// The name of this process in the lease: the pod's.
    pub(crate) identity: String,
    /// The address at which gateways reach this process: the pod's.
    pub(crate) address: IpAddr,
}

/// Runs until `stop`.
pub(crate) async fn run(options: ServeOptions, stop: CancellationToken) -> Result<()> {
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let _cancels = cancel.clone().drop_guard();
    let Started { api, mut driver, candidate, candidate_end } = tokio::select! {
        started = start(options, &tasks, &cancel) => started?,
        () = stop.cancelled() => return Ok(()),
    };
    let is_asked = tokio::select! {
        () = stop.cancelled() => true,
        _ = &mut driver => false,
    };
    if is_asked {
        tracing::info!("ending: the lease is given back, writes under way end");
    }
    // nothing is decided any more, and no write is under way, before the lease is free
    cancel.cancel();
    if is_asked && tokio::time::timeout(END, driver).await.is_err() {
        tracing::warn!("the control loop did not end in time");
    }
    candidate_end.cancel();
    let ended = async {
        let _ = candidate.await;
        tasks.close();
        tasks.wait().await;
    };
    if tokio::time::timeout(END, ended).await.is_err() {
        tracing::warn!("some tasks did not end in time");
    }
    if let Some(api) = Arc::into_inner(api) {
        api.shutdown().await;
    }
    anyhow::ensure!(is_asked, "the control loop has ended by itself; its log says why");
    Ok(())
}

/// What has been started; everything else runs in the tracker.
struct Started {
    api: Arc<Handle>,
    driver: JoinHandle<()>,
    candidate: JoinHandle<()>,
    candidate_end: CancellationToken,
}

async fn start(options: ServeOptions, tasks: &TaskTracker, cancel: &CancellationToken) -> Result<Started> {
    let clock = Clock::real();
    let cluster = connect(&options, &clock).await?;
    let ServeOptions { config, namespace, identity, address, .. } = options;
    let served = Arc::new(RwLock::new(Served::new(served_limits(&config))));
    let source = ServedSource::new(Arc::clone(&served));
    let snapshots = cluster.watch(tasks, cancel);
    let certificates = certificates(&config, &namespace, &cluster, &clock);
    let servers = certificates.first().await?;
    let settings = api_settings(&config)?;
    let certificate = Arc::clone(&servers.api);
    let api = MetricsApi::start(&settings, cluster.client(), clock.clone(), Arc::new(source.clone()), certificate)?;
    let api = Arc::new(api);
    let (links_in, links) = mpsc::channel(CHANNEL);
    let listen = listen_address(&config.link_listen, "link.listen")?;
    let limits = LinkLimits { max_connections: usize::try_from(config.limits.gateways)?, ..LinkLimits::default() };
    let link = LinkServer::start(listen, Arc::clone(&servers.link), clock.clone(), limits, links_in)?;
    let link_address = SocketAddr::new(address, link.local_addr().port()).to_string();
    let election = election(&config.lease, &identity, &clock);
    let (candidate, office) = Candidate::new(election, cluster.lease(), clock.clone(), link_address)?;
    let candidate_end = CancellationToken::new();
    let candidate = tasks.spawn(candidate.run(candidate_end.clone()));

    let (scrapes_in, scrapes) = mpsc::channel(SCRAPES);
    let (secrets_in, secrets) = mpsc::channel(1);
    let (supplied_in, supplied) = mpsc::channel(CHANNEL);
    let (written_in, written) = mpsc::channel(CHANNEL);
    let (memories_in, memories) = mpsc::channel(1);
    let (is_writer, writes) = watch::channel(false);
    let (publish, picture) = watch::channel(Arc::new(Picture::default()));
    let (registrations, registered) = watch::channel(Default::default());
    tasks.spawn(certificates.keep(servers, writes.clone(), registrations, cancel.clone()));
    let stores = Stores::new(cluster.statuses(), cluster.checkpoints(), clock.clone());
    tasks.spawn(stores.clone().write_statuses(writes.clone(), cancel.clone()));
    tasks.spawn(stores.clone().write_memories(writes, cancel.clone()));
    let (scraping, read_secrets) = Scraping::new(cluster.secrets(), secrets_in, cancel.clone());
    tasks.spawn(read_secrets);
    let period = config.scrape.period;
    let seen = (cluster.usage(), snapshots.clone());
    let (supply, supplying) =
        Supply::new(clock.clone(), period, Arc::clone(&served), seen, supplied_in, cancel.clone());
    tasks.spawn(supplying);
    let parts = Parts {
        scraper: Scraper::start(clock.clone(), scrape_settings(&config)?, scrapes_in),
        clock,
        served,
        source,
        scraping,
        link,
        actuator: cluster.actuator(),
        events: cluster.events(tasks, cancel),
        stores,
        supply,
        is_writer,
        picture: publish,
        tasks: tasks.clone(),
        control: ControlSettings { decision_period: DECISION_PERIOD, budgets: Budgets { gpus: config.gpu_budget } },
        pools: PoolsSettings { scrape_period: period, max_autoscalers: usize::try_from(config.limits.autoscalers)? },
        checkpoint_period: config.checkpoint_period,
    };
    let inputs =
        Inputs { snapshots, office, scrapes, links, written, memories, supplied, secrets, cancel: cancel.clone() };
    let driver = tasks.spawn(Driver::new(parts, written_in, memories_in).run(inputs));
    serve_pages(&config, (picture, registered), &api, tasks, cancel)?;
    tracing::info!(%identity, namespace, metrics_api = %api.local_addr(), "loadline serves");
    Ok(Started { api, driver, candidate, candidate_end })
}

async fn connect(options: &ServeOptions, clock: &Clock) -> Result<Cluster> {
    let config = &options.config;
    let settings = ClusterSettings {
        kubeconfig: options.kubeconfig.clone(),
        context: options.context.clone(),
        scope: config.namespace.clone().map_or(WatchScope::Cluster, WatchScope::Namespace),
        lease_name: config.lease.name.clone(),
        request_timeout: config.kubernetes.timeout,
        ..ClusterSettings::new(&options.namespace, &options.identity)
    };
    Ok(Cluster::connect(settings, clock.clone()).await?)
}

fn certificates(config: &ServeConfig, namespace: &str, cluster: &Cluster, clock: &Clock) -> Certificates {
    Certificates {
        secrets: cluster.secrets(),
        api_services: cluster.api_services(),
        groups: groups(config),
        service: Key::new(namespace, config.metrics_api.service.as_str()),
        names: config.metrics_api.certificate_names(namespace),
        config: config.tls.clone(),
        clock: clock.clone(),
    }
}

fn election(lease: &LeaseConfig, identity: &str, clock: &Clock) -> ElectionSettings {
    let started = clock.now().as_nanos();
    ElectionSettings {
        lease_duration: lease.duration,
        renew_deadline: lease.renew_deadline,
        retry_period: lease.retry_period,
        // a pod's name with its start: a restarted container is another process
        ..ElectionSettings::new(format!("{identity}_{started}"), u64::try_from(started).unwrap_or_default())
    }
}

/// The admin pages, until cancelled.
fn serve_pages(
    config: &ServeConfig,
    (picture, registered): (watch::Receiver<Arc<Picture>>, watch::Receiver<Registrations>),
    api: &Arc<Handle>,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> Result<()> {
    let api = Arc::clone(api);
    let pages = router(picture, registered, Arc::new(move || api.exposition()));
    let listen = listen_address(&config.admin_listen, "admin.listen")?;
    let listener = loadline_net::http::bind(listen, "`admin.listen`")?;
    let end = cancel.clone().cancelled_owned();
    tasks.spawn(async move {
        if let Err(error) = axum::serve(listener, pages).with_graceful_shutdown(end).await {
            tracing::error!(%error, "the admin pages are not served any more");
        }
    });
    Ok(())
}

/// Names of the APIServices that are served.
fn groups(config: &ServeConfig) -> Vec<String> {
    let custom = ["v1beta1.custom.metrics.k8s.io", "v1beta2.custom.metrics.k8s.io"];
    let external = ["v1beta1.external.metrics.k8s.io"];
    let custom = custom.iter().filter(|_| config.metrics_api.custom);
    custom.chain(external.iter().filter(|_| config.metrics_api.external)).map(|name| (*name).to_owned()).collect()
}

fn listen_address(text: &str, field: &str) -> Result<SocketAddr> {
    text.parse().with_context(|| format!("`{field}` is `{text}`; write an address and a port, such as `0.0.0.0:6443`"))
}

fn served_limits(config: &ServeConfig) -> ServedLimits {
    let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    ServedLimits {
        max_pods: count(config.limits.pods),
        max_series_per_page: count(config.limits.series_per_page),
        ..ServedLimits::default()
    }
}

fn api_settings(config: &ServeConfig) -> Result<ApiSettings> {
    Ok(ApiSettings {
        listen: listen_address(&config.metrics_api.listen, "metricsApi.listen")?,
        token_ttl: config.metrics_api.token_cache,
        access_ttl: config.metrics_api.access_cache,
        max_in_flight: usize::try_from(config.metrics_api.max_concurrent)?,
        window: config.scrape.period,
        ..ApiSettings::default()
    })
}

fn scrape_settings(config: &ServeConfig) -> Result<ScrapeSettings> {
    Ok(ScrapeSettings {
        period: config.scrape.period,
        timeout: config.scrape.timeout,
        max_body_bytes: usize::try_from(config.scrape.max_body_bytes)?,
        max_concurrent: usize::try_from(config.scrape.max_concurrent)?,
        pages: PageUse::Keep,
        ..ScrapeSettings::default()
    })
}
