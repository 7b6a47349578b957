//! From a message to its queues.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use backbone_wire::properties::Properties;
use backbone_wire::table::Table;

use super::exchange::Slot;
use super::pick::Message;
use super::snapshot::Routes;
use super::walk::Walk;
use super::{Route, Targets, Topology};
use crate::error::{Error, Resource};

impl<T: Clone> Topology<T> {
    /// Appends the queues that a message published to `exchange` goes to and that `out` does not hold yet. Their order depends
    /// only on the order of the bindings.
    ///
    /// The default exchange routes by queue name. An exchange none of whose bindings match, neither to a queue nor to an exchange, hands
    /// the message to its alternate exchange. An alternate exchange that is missing, or is the default one, drops it.
    ///
    /// # Errors
    /// 404 if the exchange is missing, 403 `cannot publish to internal exchange 'x' in vhost '/'`.
    pub fn route(
        &self,
        exchange: &[u8],
        key: &[u8],
        headers: Option<Table<'_>>,
        out: &mut Targets<T>,
    ) -> Result<Route, Error> {
        let message = Message::of(key, headers);
        self.route_from(exchange, &message, out, false)
    }

    /// As [`Self::route`], for a message with these properties, to which exchanges may look, and further keys: each exchange on the
    /// way looks at all of them before it hands the message to its alternate exchange.
    ///
    /// # Errors
    /// As [`Self::route`].
    pub(crate) fn route_message(
        &self,
        exchange: &[u8],
        (key, further): (&[u8], &[&[u8]]),
        properties: Properties<'_>,
        out: &mut Targets<T>,
    ) -> Result<Route, Error> {
        let message = Message {
            further,
            properties: Some(properties),
            ..Message::of(key, properties.headers())
        };
        self.route_from(exchange, &message, out, false)
    }

    /// As [`Self::route`], into internal exchanges too: for what the broker publishes itself.
    ///
    /// # Errors
    /// 404 if the exchange is missing.
    pub fn route_internal(
        &self,
        exchange: &[u8],
        key: &[u8],
        headers: Option<Table<'_>>,
        out: &mut Targets<T>,
    ) -> Result<Route, Error> {
        let message = Message::of(key, headers);
        self.route_from(exchange, &message, out, true)
    }

    /// As [`Self::route_internal`], for a dead letter that has further keys.
    ///
    /// # Errors
    /// 404 if the exchange is missing.
    pub(crate) fn route_letter(
        &self,
        exchange: &[u8],
        (key, further): (&[u8], &[&[u8]]),
        headers: Table<'_>,
        out: &mut Targets<T>,
    ) -> Result<Route, Error> {
        let message = Message {
            further,
            ..Message::of(key, Some(headers))
        };
        self.route_from(exchange, &message, out, true)
    }

    /// As [`Self::route_message`], into internal exchanges too. `waited`: the message waited for its time, and no exchange lets it wait once more.
    ///
    /// # Errors
    /// 404 if the exchange is missing.
    pub(crate) fn route_on(
        &self,
        exchange: &[u8],
        (key, further): (&[u8], &[&[u8]]),
        properties: Properties<'_>,
        waited: bool,
        out: &mut Targets<T>,
    ) -> Result<Route, Error> {
        let message = Message {
            further,
            properties: Some(properties),
            waited,
            ..Message::of(key, properties.headers())
        };
        self.route_from(exchange, &message, out, true)
    }

    fn route_from(
        &self,
        exchange: &[u8],
        message: &Message<'_>,
        out: &mut Targets<T>,
        internal: bool,
    ) -> Result<Route, Error> {
        let generation = self.generation();
        if exchange.is_empty() {
            for key in message.keys() {
                if let Some(named) = self.queues.get(key)
                    && !out.iter().any(|(id, _)| *id == named.id)
                {
                    out.push((named.id, named.handle.clone()));
                }
            }
            return Ok(Route {
                cacheable: true,
                generation,
                deduplicates: false,
            });
        }
        let found = self.exchanges.find(exchange);
        let Some(slot) = found.get(exchange) else {
            return Err(Error::no_exchange(
                &String::from_utf8_lossy(exchange),
                &self.vhost,
            ));
        };
        if slot.internal && !internal {
            let resource = Resource::exchange(&slot.name, &self.vhost);
            return Err(Error::access_refused(format!(
                "cannot publish to internal {resource}"
            )));
        }
        let deduplicates = slot.dedup.is_some();
        let mut walk = Walk::new(message, out);
        self.visit(&mut walk, slot);
        while let Some(name) = walk.found.pending.pop() {
            // Without a slot the exchange was deleted meanwhile, or is an alternate that never was.
            if let Some(slot) = self.exchanges.find(name.as_bytes()).get(name.as_bytes()) {
                self.visit(&mut walk, slot);
            }
        }
        Ok(Route {
            cacheable: walk.cacheable,
            generation,
            deduplicates,
        })
    }

    fn visit(&self, walk: &mut Walk<'_, T>, slot: &Slot<T>) {
        if !walk.enter(slot) || walk.rests_at(slot) {
            return;
        }
        let routes = slot.routes.load();
        match &*routes {
            Some(routes) => walk.visit(slot, routes),
            None => {
                if let Some(routes) = self.compile(slot) {
                    walk.visit(slot, &routes);
                }
            }
        }
    }

    /// Compiles the routes of an exchange, unless another publisher was faster. `None`: the exchange is gone.
    fn compile(&self, slot: &Slot<T>) -> Option<Arc<Routes<T>>> {
        let state = self.state.lock();
        if let Some(routes) = slot.routes.load_full() {
            return Some(routes);
        }
        let routes = Arc::new(state.compile(slot)?);
        slot.routes.store(Some(routes.clone()));
        self.compilations.fetch_add(1, Ordering::Relaxed);
        Some(routes)
    }
}
