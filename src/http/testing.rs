//! Services for handlers' unit tests.

use std::sync::Arc;
use std::time::Duration;

use actix_web::web;

use super::Services;
use crate::amqp::Connections;
use crate::audit::Audit;
use crate::auth::{Authenticator, ClientLogin, Secret, SecretHash};
use crate::bus::{Bus, BusParts, KeyBounds};
use crate::config::Config;
use crate::definitions::Definitions;
use crate::engine::Engine;
use crate::push::Courier;
use crate::runtime::Lifecycle;
use crate::state::StateStore;
use crate::telemetry::Telemetry;

/// Services with the administrator `admin`, secret `a`, and the client `noc`, secret `s`.
pub(super) async fn services(configure: impl FnOnce(&mut Config)) -> web::Data<Services> {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.admin.secret = Secret::new("a");
    configure(&mut config);
    let state = StateStore::open(dir.path()).unwrap();
    let telemetry = Telemetry::new(dir.path());
    let (auth, _) = Authenticator::open(&config, &state, telemetry.events())
        .await
        .unwrap();
    let secret = SecretHash::of(&Secret::new("s"));
    auth.put_client("noc", &ClientLogin::with(secret));
    let auth = Arc::new(auth);
    let engine = Engine::for_tests(1 << 30);
    let definitions = Definitions::new(engine.clone(), Arc::clone(&auth), state.clone());
    let bus = Bus::open(BusParts {
        engine: engine.clone(),
        state,
        auth: Arc::clone(&auth),
        arbiters: vec![actix_rt::Arbiter::current()],
        disconnect: Arc::new(|_, _| {}),
        push: config.push.clone(),
        courier: Arc::new(Courier::new(&config.push).unwrap()),
        lenient_declare: true,
        idempotency: KeyBounds {
            window: Duration::from_secs(60),
            bytes_max: 1 << 20,
        },
    });
    let bus = bus.await.unwrap();
    let lifecycle = Lifecycle::default();
    let audit = Audit::open(&engine, config.audit.clone(), telemetry.events());
    web::Data::new(Services {
        audit: Arc::new(audit),
        config: Arc::new(config),
        serve_amqp: Box::new(|_, _, _| Arc::default()),
        auth,
        listeners: Vec::new(),
        connections: Connections::default(),
        bus,
        definitions,
        engine,
        telemetry,
        lifecycle,
    })
}
