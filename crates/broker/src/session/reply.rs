//! Direct reply-to on a channel: its consumer of answers, and the address that its requests get.

use std::sync::Arc;

use backbone_wire::ShortStr;
use backbone_wire::method::basic::{Consume, ConsumeOk};
use backbone_wire::properties::{Properties, PropertiesBuilder};

use super::Core;
use super::channel::Channel;
use super::methods::name;
use super::source::Source;
use crate::access::Access;
use crate::error::Error;
use crate::out::OutBuf;
use crate::queue::ConsumerSpec;
use crate::record::{self, HEADER_FIXED_LEN};
use crate::replies::NAME;

/// A channel's consumer of answers.
pub(super) struct Reply {
    /// Its source.
    pub source: u32,
    /// What requests carry as `reply-to`.
    address: Arc<str>,
}

impl Core {
    /// `basic.consume` from `amq.rabbitmq.reply-to`.
    pub(super) fn consume_replies(
        &mut self,
        channel: &mut Channel,
        consume: &Consume<'_>,
        out: &mut OutBuf,
    ) -> Result<(), Error> {
        let vhost = Arc::clone(self.publisher.vhost());
        let origin = self.publisher.origin();
        if let Access::BusClient(_) = origin.access {
            origin.access.consume(&origin.user, vhost.name(), NAME)?;
        }
        let tag = self.consumer_tag(channel, name(consume.consumer_tag)?)?;
        if !consume.no_ack {
            return Err(Error::precondition_failed(
                "reply consumer cannot acknowledge",
            ));
        }
        if channel.reply.is_some() {
            return Err(Error::precondition_failed("reply consumer already set"));
        }
        let queue = vhost.open_reply();
        let mut source = Source::new(Arc::clone(&queue), channel.id);
        source.tag = tag.as_bytes().into();
        source.no_ack = true;
        let index = self.sources.add(source);
        let spec = ConsumerSpec {
            bell: Arc::clone(&self.bell),
            key: self.sources.key(index),
            prefetch: 0,
            shared: None,
            no_ack: true,
            exclusive: true,
            priority: 0,
        };
        let consuming = queue.consume(spec, &mut self.wakes);
        self.sources.get(index).consumer = Some(consuming.expect("the queue is new"));
        channel.sources.push(index);
        channel.reply = Some(Reply {
            source: index,
            address: Arc::clone(queue.name()),
        });
        if !consume.no_wait {
            let consumer_tag = ShortStr::new(tag.as_bytes()).expect("tags fit");
            ConsumeOk { consumer_tag }.write(channel.id, &mut out.bytes);
        }
        Ok(())
    }

    /// The content header with the channel's address in it, if `header` asks for answers to be sent there; what is wrong
    /// with it otherwise.
    pub(super) fn with_address(
        &self,
        channel: &Channel,
        header: &[u8],
        body_len: usize,
    ) -> Result<Option<Vec<u8>>, Error> {
        let properties = Properties::assume_checked(&header[HEADER_FIXED_LEN..]);
        let asks = properties.reply_to();
        if asks.is_none_or(|asks| asks.as_bytes() != NAME.as_bytes()) {
            return Ok(None);
        }
        let Some(reply) = &channel.reply else {
            return Err(Error::precondition_failed(
                "fast reply consumer does not exist",
            ));
        };
        let address = ShortStr::new(reply.address.as_bytes()).expect("an address is short");
        let builder = PropertiesBuilder {
            reply_to: Some(address),
            ..PropertiesBuilder::from(properties)
        };
        let mut changed = Vec::new();
        record::write_header(&mut changed, body_len, &builder.build());
        Ok(Some(changed))
    }
}
