//! `CC` and `BCC` headers: more routing keys for the same exchange. Nobody but the broker gets to
//! see `BCC`.

use std::sync::Arc;

use backbone_wire::properties::{Properties, PropertiesBuilder};
use backbone_wire::table::{TableBuf, Value};
use smallvec::SmallVec;

use super::headers::Headers;
use super::{Publisher, Routed};
use crate::error::Error;
use crate::queue::Queue;
use crate::record::{self, Content, HEADER_FIXED_LEN};
use crate::topology::Targets;

/// The further routing keys of a message.
pub(super) struct Carbon<'a> {
    keys: SmallVec<[&'a [u8]; 4]>,
    /// Some of them are in `BCC`.
    blind: bool,
}

impl<'a> Carbon<'a> {
    /// The further keys in a content header, if it has any.
    #[cold]
    pub fn of(header: &'a [u8]) -> Result<Option<Self>, Error> {
        let properties = Properties::assume_checked(&header[HEADER_FIXED_LEN..]);
        let Some(headers) = properties.headers() else {
            return Ok(None);
        };
        let (cc, bcc) = (headers.get("CC"), headers.get("BCC"));
        let blind = bcc.is_some();
        if cc.is_none() && !blind {
            return Ok(None);
        }
        let mut keys = SmallVec::new();
        for (name, value) in [("CC", cc), ("BCC", bcc)] {
            match value {
                None => {}
                Some(Value::Array(array)) => {
                    for item in array.iter() {
                        match item {
                            Ok(Value::LongStr(key)) => keys.push(key),
                            // As in RabbitMQ, what is no string is no key.
                            Ok(_) => {}
                            Err(error) => {
                                return Err(Error::new(error.reply_code(), error.to_string()));
                            }
                        }
                    }
                }
                Some(other) => return Err(unacceptable(name, &other)),
            }
        }
        Ok(Some(Self { keys, blind }))
    }
}

fn unacceptable(name: &str, value: &Value<'_>) -> Error {
    let kind = value.type_name();
    Error::precondition_failed(format!(
        "invalid message: {{unacceptable_type_in_header,\"{name}\",{kind}}}"
    ))
}

impl Publisher {
    /// Says whether a message with these names may go to all of its further keys.
    pub(super) fn check_further(&self, carbon: &Carbon<'_>, names: &[u8]) -> Result<(), Error> {
        let exchange = &names[1..=usize::from(names[0])];
        for key in carbon.keys.iter().copied() {
            self.may_publish(exchange, key)?;
            self.may_publish_topic(exchange, key)?;
        }
        Ok(())
    }

    /// Takes a message with further routing keys. Its route is not kept.
    #[cold]
    pub(super) fn publish_copies(
        &mut self,
        content: Content<'_>,
        now_ms: u64,
    ) -> Result<Routed, Error> {
        let carbon = Carbon::of(content.header)?.expect("CC or BCC was seen");
        let found = self.route_copies(&carbon, content)?;
        let (exchange, _) = content.exchange_and_key();
        let Some(dedup) = self.vhost.topology().dedup(exchange) else {
            return self.publish_found(&carbon, found, content, now_ms);
        };
        let taken = self.once(&dedup, content, now_ms, |this| {
            this.publish_found(&carbon, found, content, now_ms)
        })?;
        Ok(taken.unwrap_or_else(|| {
            self.messages += 1;
            Routed::Queues
        }))
    }

    fn publish_found(
        &mut self,
        carbon: &Carbon<'_>,
        found: Targets<Arc<Queue>>,
        content: Content<'_>,
        now_ms: u64,
    ) -> Result<Routed, Error> {
        if !found.iter().any(|(_, queue)| queue.is_history()) {
            return self.take_copies(carbon, found, content, now_ms);
        }
        self.while_none_joins(|this| {
            // Whoever joined meanwhile is found now.
            let found = this.route_copies(carbon, content)?;
            this.take_copies(carbon, found, content, now_ms)
        })
    }

    fn take_copies(
        &mut self,
        carbon: &Carbon<'_>,
        mut found: Targets<Arc<Queue>>,
        content: Content<'_>,
        now_ms: u64,
    ) -> Result<Routed, Error> {
        let (exchange, key) = content.exchange_and_key();
        let properties = Properties::assume_checked(&content.header[HEADER_FIXED_LEN..]);
        let generation = self.vhost.topology().generation();
        let waits = carbon.blind && found.iter().any(|(_, queue)| queue.is_schedule());
        let mut routed = None;
        if waits {
            // What waits keeps its keys until it is due.
            let (stores, rest) = found.into_iter().partition(|(_, it)| it.is_schedule());
            let number = self
                .routes
                .insert(exchange, key, generation, false, &stores);
            self.messages += 1;
            routed = Some(self.take_ruled(number, content, &Headers::NONE, now_ms));
            found = rest;
        }
        if let (Some(routed), true) = (routed, found.is_empty()) {
            return Ok(routed);
        }
        let header;
        let content = if carbon.blind {
            header = without_bcc(properties, content.body.len());
            Content {
                header: &header,
                ..content
            }
        } else {
            content
        };
        let number = self.routes.insert(exchange, key, generation, false, &found);
        let headers = Headers::of(content.header)?;
        if headers.expiration.is_some() || self.current(number).by_rules {
            self.messages += 1;
            return Ok(self.take_ruled(number, content, &headers, now_ms));
        }
        Ok(self.take(number, content, &headers, now_ms))
    }

    /// The queues that a message goes to with all of its keys.
    fn route_copies(
        &self,
        carbon: &Carbon<'_>,
        content: Content<'_>,
    ) -> Result<Targets<Arc<Queue>>, Error> {
        let (exchange, key) = content.exchange_and_key();
        let properties = Properties::assume_checked(&content.header[HEADER_FIXED_LEN..]);
        let mut found = Targets::new();
        let keys = std::iter::once(key).chain(carbon.keys.iter().copied());
        for key in keys.clone() {
            self.may_publish(exchange, key)?;
        }
        self.vhost
            .route(exchange, (key, &carbon.keys), properties, &mut found)?;
        for key in keys {
            self.may_publish_topic(exchange, key)?;
        }
        Ok(found)
    }
}

/// The content header as others may see it, if it must not be shown as it is: without `BCC`.
#[cold]
pub(crate) fn shown(content: &Content<'_>) -> Option<Vec<u8>> {
    let properties = Properties::assume_checked(&content.header[HEADER_FIXED_LEN..]);
    properties.headers()?.get("BCC")?;
    Some(without_bcc(properties, content.body.len()))
}

/// The content header without `BCC`.
fn without_bcc(properties: Properties<'_>, body_len: usize) -> Vec<u8> {
    let mut kept = TableBuf::new();
    if let Some(headers) = properties.headers() {
        kept.put_some(headers, |name| name != b"BCC");
    }
    let builder = PropertiesBuilder {
        headers: Some(kept.as_table()),
        ..PropertiesBuilder::from(properties)
    };
    let mut header = Vec::new();
    record::write_header(&mut header, body_len, &builder.build());
    header
}
