//! The services on the client port.
//!
//! Promises: arguments are checked before anything else is done; OK is said
//! only of what is durable; every call is bounded in memory by [`ApiConfig`];
//! clients reach none of the services between nodes.
//!
//! Nothing here chooses a node or touches a disk: bytes go through a
//! [`BlobStore`], refs through a [`Consensus`]. One service a file; pure
//! helpers (`resource_name`, `arguments`, `closure`, `status`) beside
//! them.
//!
//! ```text
//! FindMissing, batches, GetTree   cas ──────────────────────────┐
//! ByteStream                      bytestream ───────────────────┤
//! FetchBlob, FetchDirectory       asset::fetch ─ refs ─ completeness ─► BlobStore
//! PushBlob, PushDirectory         asset::push ── publish ─ gather ─────┘
//! GetReference, UpdateReference   reference_storage (both)   └─► Consensus
//! ```

use std::sync::Arc;

use tonic::{server::NamedService, service::Routes};
use tonic_health::server::HealthReporter;
use weir_cluster::{blob::BlobStore, raft::Consensus};
use weir_proto::{
    asset::{fetch_server::FetchServer, push_server::PushServer},
    buildstream::v2::reference_storage_server::ReferenceStorageServer,
    reapi::capabilities_server::CapabilitiesServer,
};

mod agreed;
mod arguments;
mod asset;
mod bytestream;
mod capabilities;
mod cas;
mod closure;
mod completeness;
mod config;
mod directories;
mod discovery;
mod fast_codec;
mod gather;
mod guard;
mod method;
mod publish;
mod reference_storage;
mod refs;
mod resource_name;
mod restore;
pub(crate) mod status;
mod tree;

pub use config::ApiConfig;

use self::{
    agreed::Agreed,
    asset::{fetch::Fetch, push::Push},
    bytestream::{ByteStream, ByteStreamService},
    capabilities::Capabilities,
    cas::{Cas, CasService},
    completeness::Completeness,
    gather::Gatherer,
    guard::{Guarded, Limits},
    publish::Publisher,
    reference_storage::ReferenceStorage,
    refs::RefFinder,
};

/// Largest request of the services that carry names and references.
const REQUEST_BYTES: usize = 4 << 20;

/// What the services work over.
pub struct ApiParts {
    pub store: Arc<dyn BlobStore>,
    pub consensus: Arc<dyn Consensus>,
    pub config: ApiConfig,
}

/// The services, ready to be served.
pub struct Api {
    /// All services of the client port, health and reflection among them.
    pub routes: Routes,
    /// Sets what `grpc.health.v1` answers. Every service begins as serving.
    pub health: HealthReporter,
}

/// Builds the services. To be called within a Tokio runtime.
pub async fn services(parts: ApiParts) -> Result<Api, tonic_reflection::server::Error> {
    let ApiParts {
        store,
        consensus,
        config,
    } = parts;
    let agreed = Agreed::new(&*consensus);
    let limits = Limits::new(&config);
    let cas = Cas::new(store.clone(), agreed.clone(), limits.clone(), &config);
    let cas_message_bytes = cas.message_bytes();
    let cas = CasService(Arc::new(cas));
    let bytestream = ByteStream::new(store.clone(), agreed.clone(), limits.clone(), &config);
    let bytestream = ByteStreamService(Arc::new(bytestream));
    let completeness = Completeness::new(store.clone(), agreed.clone(), limits.clone(), &config);
    let finder = RefFinder::new(consensus.clone(), agreed.clone(), completeness);
    let publisher = Publisher::new(Gatherer::new(store, agreed, &config), consensus);
    let capabilities = CapabilitiesServer::new(Capabilities::new(&config));
    let fetch = FetchServer::new(Fetch::new(finder.clone()));
    let push = PushServer::new(Push::new(publisher.clone()));
    let references = ReferenceStorageServer::new(ReferenceStorage::new(finder, publisher));
    let (health, health_server) = tonic_health::server::health_reporter();

    let names = [
        name_of(&health_server),
        name_of(&capabilities),
        name_of(&cas),
        name_of(&bytestream),
        name_of(&fetch),
        name_of(&push),
        name_of(&references),
    ];
    for name in names {
        let serving = tonic_health::ServingStatus::Serving;
        health.set_service_status(name, serving).await;
    }
    let routes = Routes::default()
        .add_service(Guarded::new(capabilities, &limits, REQUEST_BYTES))
        .add_service(Guarded::new(cas, &limits, cas_message_bytes))
        .add_service(Guarded::new(bytestream, &limits, bytestream::MESSAGE_BYTES))
        .add_service(Guarded::new(fetch, &limits, REQUEST_BYTES))
        .add_service(Guarded::new(push, &limits, REQUEST_BYTES))
        .add_service(Guarded::new(references, &limits, REQUEST_BYTES))
        .add_service(Guarded::new(health_server, &limits, REQUEST_BYTES));
    let routes = discovery::add(routes, &limits, &names)?;
    Ok(Api {
        routes: routes.prepare(),
        health,
    })
}

fn name_of<S: NamedService>(_: &S) -> &'static str {
    S::NAME
}
