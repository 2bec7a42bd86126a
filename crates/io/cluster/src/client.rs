//! The connection, and what hangs on it.

use crate::actuator::Actuator;
use crate::apiservices::ApiServices;
use crate::checkpoints::Checkpoints;
use crate::error::{ClusterError, sources};
use crate::events::Events;
use crate::lease::LeaseClient;
use crate::mapper::Mapper;
use crate::rest::Rest;
use crate::secrets::SecretStore;
use crate::settings::ClusterSettings;
use crate::snapshot::Snapshot;
use crate::status::StatusWriter;
use crate::usage::UsageReader;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use loadline_net::clock::Clock;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long connecting may take; well under the pause after which a silent watch counts as up.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection may say nothing: watches end by themselves before.
const READ_TIMEOUT: Duration = Duration::from_secs(70);

/// A cluster.
#[derive(Clone)]
pub struct Cluster {
    pub(crate) rest: Rest,
    pub(crate) settings: ClusterSettings,
    pub(crate) clock: Clock,
    pub(crate) mapper: Arc<Mapper>,
}

impl Cluster {
    /// Reads the configuration; the first request connects.
    ///
    /// # Errors
    /// [`ClusterError::Configuration`] where there is none, or it is wrong.
    pub async fn connect(settings: ClusterSettings, clock: Clock) -> Result<Self, ClusterError> {
        let wrong = |why: String| ClusterError::Configuration { why };
        let options = KubeConfigOptions { context: settings.context.clone(), ..KubeConfigOptions::default() };
        let mut config = match &settings.kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path)
                    .map_err(|error| wrong(format!("`{}`: {}", path.display(), sources(&error))))?;
                Config::from_custom_kubeconfig(file, &options).await.map_err(|error| wrong(sources(&error)))?
            }
            None if settings.context.is_some() => {
                Config::from_kubeconfig(&options).await.map_err(|error| wrong(sources(&error)))?
            }
            None => Config::infer().await.map_err(|error| wrong(sources(&error)))?,
        };
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = Some(READ_TIMEOUT);
        config.reset_reader_on_write = true;
        // every caller here has a deadline and knows what a repeat means
        config.default_retry = false;
        let client = Client::try_from(config).map_err(|error| wrong(sources(&error)))?;
        Ok(Self::with_client(client, settings, clock))
    }

    /// A cluster behind a client that exists already.
    #[must_use]
    pub fn with_client(client: Client, settings: ClusterSettings, clock: Clock) -> Self {
        let rest = Rest::new(client, settings.request_timeout);
        let mapper = Arc::new(Mapper::new(rest.clone(), settings.kind_retry));
        Self { rest, settings, clock, mapper }
    }

    /// The client itself, for requests that are not made here.
    #[must_use]
    pub fn client(&self) -> Client {
        self.rest.client().clone()
    }

    /// What was configured.
    #[must_use]
    pub const fn settings(&self) -> &ClusterSettings {
        &self.settings
    }

    /// Starts every watch. The snapshots end with `cancel`.
    #[must_use]
    pub fn watch(&self, tasks: &TaskTracker, cancel: &CancellationToken) -> watch::Receiver<Arc<Snapshot>> {
        crate::watch::start(self, tasks, cancel)
    }

    /// Writes scales.
    #[must_use]
    pub fn actuator(&self) -> Actuator {
        Actuator::new(self.rest.clone(), Arc::clone(&self.mapper))
    }

    /// Reads and writes the Lease.
    #[must_use]
    pub fn lease(&self) -> LeaseClient {
        LeaseClient::new(self.rest.clone(), self.clock.clone(), self.settings.clone())
    }

    /// Writes statuses; clones share what was written, a second call does not.
    #[must_use]
    pub fn statuses(&self) -> StatusWriter {
        StatusWriter::new(self.rest.clone(), self.clock.clone())
    }

    /// Starts the writer of events.
    #[must_use]
    pub fn events(&self, tasks: &TaskTracker, cancel: &CancellationToken) -> Events {
        Events::start(self.rest.clone(), self.clock.clone(), &self.settings, tasks, cancel)
    }

    /// Reads and writes checkpoints.
    #[must_use]
    pub fn checkpoints(&self) -> Checkpoints {
        Checkpoints::new(self.rest.clone(), &self.settings.install_namespace)
    }

    /// Reads tokens and authorities; reads and writes our own certificates.
    #[must_use]
    pub fn secrets(&self) -> SecretStore {
        SecretStore::new(self.rest.clone(), &self.settings.install_namespace, self.settings.secret_ttl)
    }

    /// Reads and patches APIServices.
    #[must_use]
    pub fn api_services(&self) -> ApiServices {
        ApiServices::new(self.rest.clone())
    }

    /// Reads metrics that others serve.
    #[must_use]
    pub fn usage(&self) -> UsageReader {
        UsageReader::new(self.rest.clone())
    }
}
