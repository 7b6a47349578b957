//! Methods: what peers ask of each other and answer.
//!
//! One struct a method, in one module a class, and [`Method`] over all of them. They borrow from the frame
//! that they were decoded from. Bits are `bool`, short strings [`ShortStr`](crate::ShortStr), long strings
//! bytes, tables [`Table`](crate::table::Table); reserved arguments are skipped when read and written as zero
//! or empty. Whether a method makes sense in the state of a connection is not decided here.
//!
//! All but this file is generated from `spec/amqp-0-9-1.txt`.

pub mod access;
mod any;
pub mod basic;
pub mod channel;
pub mod confirm;
pub mod connection;
pub mod exchange;
pub mod queue;
pub mod tx;

pub use any::Method;

use crate::codec::Reader;
use crate::error::DecodeError;

/// Who may send a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// Clients only.
    Client,
    /// The server only.
    Server,
    /// Either side.
    Both,
}

/// What is known about a method, whatever its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Facts {
    class_id: u16,
    method_id: u16,
    name: &'static str,
    sender: Sender,
    has_content: bool,
}

impl Facts {
    const fn new(
        class_id: u16,
        method_id: u16,
        name: &'static str,
        sender: Sender,
        has_content: bool,
    ) -> Self {
        Self {
            class_id,
            method_id,
            name,
            sender,
            has_content,
        }
    }
}

/// The name of a method, such as `basic.publish`, if there is one with these numbers.
pub fn name(class_id: u16, method_id: u16) -> Option<&'static str> {
    let mut all = any::ALL.iter();
    let found = all.find(|facts| (facts.class_id, facts.method_id) == (class_id, method_id));
    found.map(|facts| facts.name)
}

impl<'a> Method<'a> {
    /// Decodes the payload of a method frame, to its last byte.
    ///
    /// # Errors
    /// With class and method, if there is no such method or its arguments are malformed; without, if the
    /// payload is shorter than the four octets that name them.
    pub fn decode(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        let class_id = reader.short()?;
        let method_id = reader.short()?;
        match Self::decode_arguments(class_id, method_id, reader.rest()) {
            Ok(Some(method)) => Ok(method),
            Ok(None) => Err(DecodeError::UnknownMethod {
                class_id,
                method_id,
            }),
            Err(malformed) => Err(DecodeError::Arguments {
                class_id,
                method_id,
                malformed,
            }),
        }
    }

    /// Class of the method.
    pub fn class_id(&self) -> u16 {
        self.facts().class_id
    }

    /// The method in its class.
    pub fn method_id(&self) -> u16 {
        self.facts().method_id
    }

    /// Class and method by name, such as `basic.publish`.
    pub fn name(&self) -> &'static str {
        self.facts().name
    }

    /// Who may send it.
    pub fn sent_by(&self) -> Sender {
        self.facts().sender
    }

    /// True if a client may send it.
    pub fn is_from_client(&self) -> bool {
        self.sent_by() != Sender::Server
    }

    /// True if a content header, and a body unless that is empty, follow it.
    pub fn has_content(&self) -> bool {
        self.facts().has_content
    }
}
