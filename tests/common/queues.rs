//! lapin, for tests of what queues do with messages: declares with arguments, confirmed publishes, gets that wait.

#![allow(dead_code, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use lapin::message::BasicGetMessage;
use lapin::options::*;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};

use super::Server;

const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(10);

/// A connection, and a channel with publisher confirms.
pub struct Client {
    pub connection: Connection,
    pub channel: Channel,
}

/// An argument.
pub fn int(number: i64) -> AMQPValue {
    AMQPValue::LongLongInt(number)
}

pub fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// Arguments as a table.
pub fn table(arguments: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        table.insert((*name).into(), value.clone());
    }
    table
}

impl Client {
    pub async fn connect(server: &Server) -> Self {
        Self::enter(server, "%2f").await
    }

    /// Into a vhost, whose name is given as in a URI.
    pub async fn enter(server: &Server, vhost: &str) -> Self {
        let uri = format!("amqp://guest:guest@{}/{vhost}", server.amqp[0]);
        let properties = ConnectionProperties::default();
        let connection = Connection::connect(&uri, properties).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let options = ConfirmSelectOptions::default();
        channel.confirm_select(options).await.unwrap();
        Self {
            connection,
            channel,
        }
    }

    /// Declares a durable queue.
    pub async fn declare(&self, name: &str, arguments: &[(&str, AMQPValue)]) {
        let outcome = self.try_declare(name, arguments).await;
        outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// The same; or the text with which the channel, a new one, was closed.
    pub async fn try_declare(
        &self,
        name: &str,
        arguments: &[(&str, AMQPValue)],
    ) -> Result<(), String> {
        let options = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        let channel = self.connection.create_channel().await.unwrap();
        let declared = channel.queue_declare(name.into(), options, table(arguments));
        declared.await.map(drop).map_err(|error| error.to_string())
    }

    /// Publishes through the default exchange and waits for the confirm; false for a nack.
    pub async fn publish(&self, key: &str, body: &str) -> bool {
        let properties = BasicProperties::default().with_delivery_mode(2);
        self.publish_with("", key, body, properties).await
    }

    pub async fn publish_with(
        &self,
        exchange: &str,
        key: &str,
        body: &str,
        properties: BasicProperties,
    ) -> bool {
        let options = BasicPublishOptions::default();
        let published = self.channel.basic_publish(
            exchange.into(),
            key.into(),
            options,
            body.as_bytes(),
            properties,
        );
        let confirmation = published.await.unwrap().await.unwrap();
        matches!(confirmation, Confirmation::Ack(_))
    }

    /// The next message of a queue, as soon as there is one. It is not acknowledged.
    pub async fn get(&self, queue: &str) -> BasicGetMessage {
        let since = Instant::now();
        loop {
            if let Some(message) = self.try_get(queue).await {
                return message;
            }
            assert!(since.elapsed() < PATIENCE, "nothing comes to {queue}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    pub async fn try_get(&self, queue: &str) -> Option<BasicGetMessage> {
        let got = self
            .channel
            .basic_get(queue.into(), BasicGetOptions::default());
        got.await.unwrap()
    }

    /// The bodies of all that is ready, acknowledged.
    pub async fn drain(&self, queue: &str) -> Vec<String> {
        let mut bodies = Vec::new();
        while let Some(message) = self.try_get(queue).await {
            bodies.push(String::from_utf8(message.data.clone()).unwrap());
            message.ack(BasicAckOptions::default()).await.unwrap();
        }
        bodies
    }

    /// How many messages are ready; `None` when there is no such queue.
    pub async fn ready(&self, queue: &str) -> Option<u32> {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let channel = self.connection.create_channel().await.unwrap();
        let declared = channel.queue_declare(queue.into(), options, FieldTable::default());
        let count = declared.await.ok().map(|queue| queue.message_count());
        if count.is_some() {
            channel.close(200, "bye".into()).await.unwrap();
        }
        count
    }

    /// Waits until so many are ready.
    pub async fn until_ready(&self, queue: &str, count: u32) {
        let since = Instant::now();
        loop {
            let ready = self.ready(queue).await;
            if ready == Some(count) {
                return;
            }
            assert!(since.elapsed() < PATIENCE, "{queue}: {ready:?}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until a queue that may be unused for less than `pause` is gone. To look is to use it.
    pub async fn until_gone(&self, queue: &str, pause: Duration) {
        let since = Instant::now();
        loop {
            tokio::time::sleep(pause).await;
            if self.ready(queue).await.is_none() {
                return;
            }
            assert!(since.elapsed() < PATIENCE, "{queue} is there");
        }
    }
}

/// The headers of a message.
pub fn headers(message: &BasicGetMessage) -> FieldTable {
    message.properties.headers().clone().unwrap_or_default()
}

/// A header, or an entry of a table, as text.
pub fn text_of(table: &FieldTable, name: &str) -> String {
    match table.inner().get(&ShortString::from(name)) {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        other => panic!("{name}: {other:?}"),
    }
}

/// The deaths of a message, the newest first.
pub fn deaths(message: &BasicGetMessage) -> Vec<FieldTable> {
    match headers(message).inner().get(&ShortString::from("x-death")) {
        Some(AMQPValue::FieldArray(deaths)) => deaths
            .as_slice()
            .iter()
            .map(|death| match death {
                AMQPValue::FieldTable(death) => death.clone(),
                other => panic!("{other:?}"),
            })
            .collect(),
        other => panic!("no deaths: {other:?}"),
    }
}

/// Queue, reason and count of each death.
pub fn history(message: &BasicGetMessage) -> Vec<(String, String, i64)> {
    let deaths = deaths(message);
    let all = deaths.iter().map(|death| {
        let count = match death.inner().get(&ShortString::from("count")) {
            Some(AMQPValue::LongLongInt(count)) => *count,
            other => panic!("count: {other:?}"),
        };
        (text_of(death, "queue"), text_of(death, "reason"), count)
    });
    all.collect()
}
