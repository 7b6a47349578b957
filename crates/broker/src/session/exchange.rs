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
use crate::publisher::Origin;
use crate::topology::{ExchangeKind, ExchangeSpec, check_deletable, check_not_default};

impl Core {
    pub(super) fn exchange_declare(
        &mut self,
        channel: &Channel,
        declare: &Declare<'_>,
        out: &mut OutBuf,
    ) -> Result<(), Error> {
        let exchange = name(declare.exchange)?;
        if !declare.passive {
            self.may_declare_exchange(exchange, declare)?;
        }
        let vhost = self.publisher.vhost();
        let as_it_is = vhost.protected_exchange(exchange) == Some(true);
        vhost.declare_exchange(&ExchangeSpec {
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
        check_deletable(exchange, self.publisher.vhost().name())?;
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
        vhost.forget_orphans();
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
        let key = bind.routing_key.as_bytes();
        let (destination, source) = self.ends(bind.destination, bind.source, key)?;
        let topology = self.publisher.vhost().topology();
        topology.bind_exchange(destination, source, key, bind.arguments)?;
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
        let key = unbind.routing_key.as_bytes();
        let (destination, source) = self.ends(unbind.destination, unbind.source, key)?;
        let vhost = self.publisher.vhost();
        let topology = vhost.topology();
        topology.unbind_exchange(destination, source, key, unbind.arguments)?;
        vhost.forget_orphans();
        if !unbind.no_wait {
            UnbindOk {}.write(channel.id, &mut out.bytes);
        }
        Ok(())
    }

    /// Both ends of a binding between exchanges, if the user may bind them.
    fn ends<'a>(
        &self,
        destination: ShortStr<'a>,
        source: ShortStr<'a>,
        key: &[u8],
    ) -> Result<(&'a str, &'a str), Error> {
        let (destination, source) = (name(destination)?, name(source)?);
        self.may_bind("exchange", destination, source, key)?;
        Ok((destination, source))
    }

    /// Whether the user may bind `kind` (exchange or queue) `destination` to an exchange, or unbind it.
    pub(super) fn may_bind(
        &self,
        kind: &str,
        destination: &str,
        source: &str,
        key: &[u8],
    ) -> Result<(), Error> {
        let Origin { user, access } = self.publisher.origin();
        let vhost = self.publisher.vhost();
        access.write(user, vhost.name(), kind, destination)?;
        if kind == "exchange" {
            check_not_default(destination)?;
        }
        check_not_default(source)?;
        access.read(user, vhost.name(), "exchange", source)?;
        let is_topic = || vhost.topology().kind(source.as_bytes()) == Some(ExchangeKind::Topic);
        if access.has_topic_rules() && is_topic() {
            access.bind_topic(user, vhost.name(), source, key)?;
        }
        Ok(())
    }

    fn may_declare_exchange(&self, exchange: &str, declare: &Declare<'_>) -> Result<(), Error> {
        let Origin { user, access } = self.publisher.origin();
        let vhost = self.publisher.vhost();
        ExchangeKind::parse(name(declare.type_)?)?;
        check_not_default(exchange)?;
        access.configure(user, vhost.name(), "exchange", exchange)?;
        if vhost.topology().kind(exchange.as_bytes()).is_some() {
            return Ok(());
        }
        // What is not routed goes on to the alternate exchange with this user's rights.
        let alternate = declare.arguments.get("alternate-exchange");
        match alternate.and_then(|value| value.as_str()) {
            Some(alternate) if !exchange.starts_with("amq.") => {
                access.read(user, vhost.name(), "exchange", exchange)?;
                access.write(user, vhost.name(), "exchange", alternate)
            }
            _ => Ok(()),
        }
    }

    /// Whether the user may change `kind` (exchange or queue) `name`.
    pub(super) fn may_configure(&self, kind: &str, name: &str) -> Result<(), Error> {
        let origin = self.publisher.origin();
        let vhost = self.publisher.vhost().name();
        origin.access.configure(&origin.user, vhost, kind, name)
    }
}
