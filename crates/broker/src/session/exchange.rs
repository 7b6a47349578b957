//! Class exchange.

use std::borrow::Cow;

use backbone_wire::ShortStr;
use backbone_wire::method::exchange::{
    Bind, BindOk, Declare, DeclareOk, Delete, DeleteOk, Unbind, UnbindOk,
};

use super::Core;
use super::channel::Channel;
use super::methods::name;
use crate::acting::Acting;
use crate::error::Error;
use crate::out::OutBuf;
use crate::topology::{ExchangeSpec, clean_name};

impl Core {
    pub(super) fn exchange_declare(
        &mut self,
        channel: &Channel,
        declare: &Declare<'_>,
        out: &mut OutBuf,
    ) -> Result<(), Error> {
        self.acting().declare_exchange(&ExchangeSpec {
            name: &clean_name(name(declare.exchange)?),
            kind: name(declare.type_)?,
            passive: declare.passive,
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
        let exchange = clean_name(name(delete.exchange)?);
        self.acting().delete_exchange(&exchange, delete.if_unused)?;
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
        let (destination, source) = ends(bind.destination, bind.source)?;
        let key = name(bind.routing_key)?.as_bytes();
        self.publisher.vhost().tell_time(self.now_ms);
        self.acting()
            .bind_exchange(&destination, &source, key, bind.arguments)?;
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
        let (destination, source) = ends(unbind.destination, unbind.source)?;
        let key = name(unbind.routing_key)?.as_bytes();
        self.acting()
            .unbind_exchange(&destination, &source, key, unbind.arguments)?;
        if !unbind.no_wait {
            UnbindOk {}.write(channel.id, &mut out.bytes);
        }
        Ok(())
    }

    /// The connection's user at work.
    pub(super) fn acting(&self) -> Acting<'_> {
        Acting::new(self.publisher.vhost(), self.publisher.origin(), self.conn)
    }
}

/// Both ends of a binding between exchanges.
fn ends<'a>(
    destination: ShortStr<'a>,
    source: ShortStr<'a>,
) -> Result<(Cow<'a, str>, Cow<'a, str>), Error> {
    Ok((clean_name(name(destination)?), clean_name(name(source)?)))
}
