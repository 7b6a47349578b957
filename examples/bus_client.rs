//! A client of the bus over AMQP: `bus_client SOAR-CONFIG send TOPIC TEXT`, or `bus_client SOAR-CONFIG read [COUNT]`, which
//! without a count goes on until it is interrupted. `AMQP_ADDRESS` says where the broker is (127.0.0.1:5672).

use std::error::Error;

use futures_lite::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::uri::{AMQPAuthority, AMQPUri, AMQPUserInfo};
use lapin::{BasicProperties, Confirmation, Connection, ConnectionProperties};
use serde::Deserialize;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What of a client's file is needed here.
#[derive(Deserialize)]
struct SoarConfig {
    client_id: String,
    secret: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [file, "send", topic, text] => send(&read_config(file)?, topic, text).await,
        [file, "read"] => read(&read_config(file)?, usize::MAX).await,
        [file, "read", count] => read(&read_config(file)?, count.parse()?).await,
        _ => Err("usage: bus_client SOAR-CONFIG send TOPIC TEXT | SOAR-CONFIG read [COUNT]".into()),
    }
}

fn read_config(file: &str) -> Result<SoarConfig> {
    Ok(serde_json::from_str(&std::fs::read_to_string(file)?)?)
}

async fn connect(config: &SoarConfig) -> Result<Connection> {
    let address = std::env::var("AMQP_ADDRESS").unwrap_or_else(|_| "127.0.0.1:5672".into());
    let (host, port) = address
        .rsplit_once(':')
        .ok_or("AMQP_ADDRESS is host:port")?;
    let uri = AMQPUri {
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo {
                username: config.client_id.clone(),
                password: config.secret.clone(),
            },
            host: host.into(),
            port: port.parse()?,
        },
        vhost: "/".into(),
        ..AMQPUri::default()
    };
    Ok(Connection::connect_uri(uri, ConnectionProperties::default()).await?)
}

/// Returns when the message is safe.
async fn send(config: &SoarConfig, topic: &str, text: &str) -> Result<()> {
    let connection = connect(config).await?;
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    let mut headers = FieldTable::default();
    headers.insert("topic".into(), AMQPValue::LongString(topic.into()));
    let persistent = BasicProperties::default()
        .with_delivery_mode(2)
        .with_headers(headers);
    let outbox = ShortString::from(format!("{}-outbox", config.client_id));
    let options = BasicPublishOptions::default();
    let sent = channel.basic_publish("".into(), outbox, options, text.as_bytes(), persistent);
    match sent.await?.await? {
        Confirmation::Ack(_) => println!("sent on {topic}"),
        refused => return Err(format!("the broker did not take it: {refused:?}").into()),
    }
    connection.close(200, "done".into()).await?;
    Ok(())
}

/// Prints what comes; a message leaves the inbox when it was printed.
async fn read(config: &SoarConfig, count: usize) -> Result<()> {
    let connection = connect(config).await?;
    let channel = connection.create_channel().await?;
    let inbox = ShortString::from(format!("{}-inbox", config.client_id));
    let options = BasicConsumeOptions::default();
    let consumer = channel.basic_consume(inbox, "".into(), options, FieldTable::default());
    let mut deliveries = consumer.await?.take(count);
    while let Some(delivery) = deliveries.next().await {
        let delivery = delivery?;
        println!(
            "{} {}",
            delivery.routing_key,
            String::from_utf8_lossy(&delivery.data)
        );
        delivery.ack(BasicAckOptions::default()).await?;
    }
    connection.close(200, "done".into()).await?;
    Ok(())
}
