//! Class exchange.

use backbone_wire::ShortStr;
use backbone_wire::method::exchange::{
    Bind, BindOk, Declare, DeclareOk, Delete, DeleteOk, Unbind, UnbindOk,
};

use super::Core;
use super::channel::Channel;
use super::methods::name;
use crate::error::Error;
use crate::out::OutBuf;
use crate::topology::ExchangeSpec;

impl Core {
    pub(super) fn exchange_declare(
        &mut self,
        channel: &Channel,
        declare: &Declare<'_>,
        out: &mut OutBuf,
    ) -> Result<(), Error> {
        let exchange = name(declare.exchange)?;
        if !declare.passive {
            self.may_configure("exchange", exchange)?;
        }
        let vhost = self.publisher.vhost();
        let as_it_is = vhost.protected_exchange(exchange) == Some(true);
        vhost.topology().declare_exchange(&ExchangeSpec {
            name: exchange,
            kind: name(declare.type_)?,
            passive: declare.passive || as_it_is,
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            internal: declare.internal,
            arguments: declare.arguments,
        })?;
        if !declare.no_wait {
            DeclareOk {}.write(channel.id, &mut out.bytes);
        }
        Ok(())
    }

    pub(super) fn exchange_delete(
        &mut self,
        channel: &Channel,
        delete: &Delete<'_>,
        out: &mut OutBuf,
    ) -> Result<(), Error> {
        let exchange = name(delete.exchange)?;
        self.may_configure("exchange", exchange)?;
        let vhost = self.publisher.vhost();
        if vhost.protected_exchange(exchange).is_some() {
            return Err(Error::access_refused(format!(
                "exchange '{exchange}' in vhost '{}' belongs to the bus",
                vhost.name()
            )));
        }
        let topology = vhost.topology();
        topology.delete_exchange(exchange, delete.if_unused)?;
        if !delete.no_wait {
            DeleteOk {}.write(channel.id, &mut out.bytes);
        }
        Ok(())
    }

    pub(super) fn exchange_bind(
        &mut self,
        channel: &Channel,
        bind: &Bind<'_>,
        out: &mut OutBuf,
    ) -> Result<(), Error> {
        let (destination, source) = self.ends(bind.destination, bind.source)?;
        let topology = self.publisher.vhost().topology();
        topology.bind_exchange(
            destination,
            source,
            bind.routing_key.as_bytes(),
            bind.arguments,
        )?;
        if !bind.no_wait {
            BindOk {}.write(channel.id, &mut out.bytes);
        }
        Ok(())
    }

    pub(super) fn exchange_unbind(
        &mut self,
        channel: &Channel,
        unbind: &Unbind<'_>,
        out: &mut OutBuf,
    ) -> Result<(), Error> {
        let (destination, source) = self.ends(unbind.destination, unbind.source)?;
        let topology = self.publisher.vhost().topology();
        topology.unbind_exchange(
            destination,
            source,
            unbind.routing_key.as_bytes(),
            unbind.arguments,
        )?;
        if !unbind.no_wait {
            UnbindOk {}.write(channel.id, &mut out.bytes);
        }
        Ok(())
    }

    /// Both ends of a binding between exchanges, if they may be changed.
    fn ends<'a>(
        &self,
        destination: ShortStr<'a>,
        source: ShortStr<'a>,
    ) -> Result<(&'a str, &'a str), Error> {
        let ends = (name(destination)?, name(source)?);
        self.may_configure("exchange", ends.0)?;
        self.may_configure("exchange", ends.1)?;
        Ok(ends)
    }

    /// Whether the user may change `kind` (exchange or queue) `name`.
    pub(super) fn may_configure(&self, kind: &str, name: &str) -> Result<(), Error> {
        let origin = self.publisher.origin();
        let vhost = self.publisher.vhost().name();
        origin.access.configure(&origin.user, vhost, kind, name)
    }
}
