//! Keeps the certificates of this installation: in a Secret, made and rotated by the writer, read by everybody.

use anyhow::Context as _;
use loadline_base::Timestamp;
use loadline_cluster::{ApiServices, CaOutcome, ClusterError, Key, SecretStore};
use loadline_manifest::serve::TlsConfig;
use loadline_net::Clock;
use loadline_net::tls::{AuthorityBundle, Clients, Leaf, LeafSpec, Lifetimes, ReloadableServer, ServerTls, ensure};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The certificate of the metrics APIs, by its name in the Secret.
const SERVING: &str = "serving";
/// The certificate of the link.
const WRITER: &str = "writer";
/// The certificate that gateways show.
const GATEWAY: &str = "gateway";

/// How often the Secret is looked at while it has what is needed.
const PERIOD: Duration = Duration::from_secs(10);
/// And while it has not.
const IMPATIENT: Duration = Duration::from_millis(500);
/// And while it cannot be read or written.
const AFTER_FAILURE: Duration = Duration::from_secs(2);
/// After so long without a Secret the process starts with certificates of its own: decisions do not need any that others trust.
const START_WITHOUT: Duration = Duration::from_secs(10);

/// What is kept in step with the Secret.
pub(crate) struct Certificates {
    /// Where the Secrets are.
    pub(crate) secrets: SecretStore,
    /// The registrations whose caBundle is ours to set.
    pub(crate) api_services: ApiServices,
    /// Names of the registrations that are served.
    pub(crate) groups: Vec<String>,
    /// The Service in front of the metrics APIs.
    pub(crate) service: Key,
    /// Names that the serving certificate needs.
    pub(crate) names: Vec<String>,
    /// What the configuration says.
    pub(crate) config: TlsConfig,
    /// The clock.
    pub(crate) clock: Clock,
}

/// The two servers that show our certificates.
#[derive(Clone)]
pub(crate) struct Servers {
    /// Of the metrics APIs.
    pub(crate) api: Arc<ReloadableServer>,
    /// Of the link.
    pub(crate) link: Arc<ReloadableServer>,
}

/// What became of the registrations, for `/status` and the log.
pub(crate) type Registrations = BTreeMap<String, String>;
/// What is said of a registration that leads here.
pub(crate) const OURS: &str = "ours";

impl Certificates {
    fn wanted(&self) -> BTreeMap<String, LeafSpec> {
        BTreeMap::from([
            (SERVING.to_owned(), LeafSpec::server(self.names.iter().map(String::as_str))),
            (WRITER.to_owned(), LeafSpec::server([loadline_link::SERVER_NAME])),
            (GATEWAY.to_owned(), LeafSpec::client(loadline_link::CERTIFICATE_PREFIX)),
        ])
    }

    fn lifetimes(&self) -> Lifetimes {
        Lifetimes { leaf: self.config.validity, ..Lifetimes::default() }
    }

    /// Waits until the Secret has what is needed, making it where nobody has, and gives the servers. Where that stays impossible they
    /// begin with certificates that nobody trusts: the metrics APIs and gateways wait, decisions do not.
    pub(crate) async fn first(&self) -> anyhow::Result<Servers> {
        let mut said = String::new();
        let begun = tokio::time::Instant::now();
        loop {
            match self.refresh(true, None).await {
                Ok(bundle) => return self.servers(&bundle),
                Err(error) => {
                    let text = format!("{error:#}");
                    let secret = &self.config.secret;
                    if begun.elapsed() >= START_WITHOUT {
                        tracing::error!(
                            secret,
                            error = text,
                            "the metrics APIs and gateways have no certificates until this is mended; decisions are made"
                        );
                        let (bundle, _) = ensure(None, self.clock.now(), &self.wanted(), &self.lifetimes())?;
                        return self.servers(&bundle);
                    }
                    if said != text {
                        tracing::warn!(secret, error = text, "no certificates yet; trying again");
                        said = text;
                    }
                    tokio::time::sleep(IMPATIENT).await;
                }
            }
        }
    }

    fn servers(&self, bundle: &AuthorityBundle) -> anyhow::Result<Servers> {
        let (api, link) = server_tls(bundle)?;
        Ok(Servers { api: Arc::new(ReloadableServer::new(&api)?), link: Arc::new(ReloadableServer::new(&link)?) })
    }

    /// Keeps everything in step until cancelled. Only the writer makes and writes.
    pub(crate) async fn keep(
        self,
        servers: Servers,
        mut is_writer: watch::Receiver<bool>,
        registrations: watch::Sender<Registrations>,
        cancel: CancellationToken,
    ) {
        let mut said: Registrations = BTreeMap::new();
        let mut in_force: Option<AuthorityBundle> = None;
        loop {
            let writes = *is_writer.borrow_and_update();
            let pause = match self.refresh(writes, in_force.as_ref()).await {
                Ok(bundle) => {
                    // the registrations trust what is shown before it is shown
                    if writes {
                        said = self.register(&bundle, said).await;
                        registrations.send_replace(said.clone());
                    }
                    if in_force.as_ref() != Some(&bundle) {
                        match replace(&servers, &bundle) {
                            Ok(()) => tracing::info!("the certificates of the Secret are in force"),
                            Err(error) => {
                                tracing::error!(%error, "the certificates of the Secret cannot be used; those in force stay");
                            }
                        }
                    }
                    in_force = Some(bundle);
                    PERIOD
                }
                Err(error) => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "the certificates could not be looked at; those in force stay"
                    );
                    AFTER_FAILURE
                }
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = is_writer.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// The bundle in force; with `makes`, brought up to date first. Where the Secret is gone, it gets what was in force `before`, so that
    /// nobody who trusts that has to learn anything.
    async fn refresh(&self, makes: bool, before: Option<&AuthorityBundle>) -> anyhow::Result<AuthorityBundle> {
        let name = &self.config.secret;
        let found = self.secrets.read_tls(name).await?;
        let bundle = match &found {
            Some(secret) => AuthorityBundle::from_secret(&secret.data).with_context(|| format!("Secret `{name}`"))?,
            None => None,
        };
        if !makes {
            return bundle.with_context(|| format!("Secret `{name}` holds no certificates yet"));
        }
        let now: Timestamp = self.clock.now();
        let is_lost = bundle.is_none() && before.is_some();
        let (bundle, changed) = ensure(bundle.or_else(|| before.cloned()), now, &self.wanted(), &self.lifetimes())?;
        if changed.any() || is_lost {
            let against = found.as_ref().map(|secret| secret.resource_version.as_str());
            self.secrets.write_tls(name, &bundle.to_secret(), against).await?;
            tracing::info!(secret = name, authority = changed.authority, leaves = ?changed.leaves, "certificates made");
        }
        self.share(&bundle).await?;
        Ok(bundle)
    }

    /// Puts what gateways need, and no more, into a Secret of their own.
    async fn share(&self, bundle: &AuthorityBundle) -> anyhow::Result<()> {
        let Some(entries) = bundle.leaf_secret(GATEWAY) else { return Ok(()) };
        let name = &self.config.client_secret;
        let found = self.secrets.read_tls(name).await?;
        if found.as_ref().is_some_and(|found| found.data == entries) {
            return Ok(());
        }
        let against = found.as_ref().map(|secret| secret.resource_version.as_str());
        match self.secrets.write_tls(name, &entries, against).await {
            // another replica was first, with the same
            Ok(_) | Err(ClusterError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Sets the caBundle of each registration that is ours, and says once whose the others are.
    async fn register(&self, bundle: &AuthorityBundle, before: Registrations) -> Registrations {
        let mut now = BTreeMap::new();
        for name in &self.groups {
            let text = match self.api_services.patch_ca_bundle(name, &bundle.ca_pem, &self.service).await {
                Ok(CaOutcome::Patched | CaOutcome::AlreadySet) => OURS.to_owned(),
                Ok(CaOutcome::OwnedBy(owner)) => format!(
                    "served by {owner}: HPAs read that provider, not Loadline; remove it, or point the APIService at {}",
                    self.service
                ),
                Ok(CaOutcome::Missing) => "not registered; install the chart's APIServices".to_owned(),
                Err(error) => error.to_string(),
            };
            if before.get(name) != Some(&text) {
                if text == OURS {
                    tracing::info!(api_service = name, "registered");
                } else {
                    tracing::warn!(api_service = name, "{text}");
                }
            }
            now.insert(name.clone(), text);
        }
        now
    }
}

fn server_tls(bundle: &AuthorityBundle) -> anyhow::Result<(ServerTls, ServerTls)> {
    let leaf = |name: &str| -> anyhow::Result<Leaf> {
        bundle.leaves.get(name).cloned().with_context(|| format!("there is no certificate `{name}`"))
    };
    let alpn = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let api = ServerTls { identity: leaf(SERVING)?, clients: Clients::Any, alpn };
    let clients = Clients::Required { ca_pem: bundle.ca_pem.clone() };
    Ok((api, ServerTls { identity: leaf(WRITER)?, clients, alpn: Vec::new() }))
}

fn replace(servers: &Servers, bundle: &AuthorityBundle) -> anyhow::Result<()> {
    let (api, link) = server_tls(bundle)?;
    servers.api.replace(&api)?;
    servers.link.replace(&link)?;
    Ok(())
}
