//! `backbone send` and `backbone receive`: a client's ends of the bus.

use std::io::Read;
use std::time::Duration;

use clap::Args;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::{CLIENT, Failure, RemoteArgs};
use crate::config::Environment;

#[derive(Args)]
pub(super) struct SendArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// Send to everybody instead of on a topic
    #[arg(long)]
    notify: bool,
    /// TOPIC and the message (with --notify the message alone); JSON stays JSON, anything else is text, and a
    /// single `-` reads standard input
    #[arg(required = true, value_name = "TOPIC MESSAGE")]
    words: Vec<String>,
}

#[derive(Args)]
pub(super) struct ReceiveArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// At most this many messages
    #[arg(long)]
    limit: Option<u64>,
    /// Wait this long for a message when none is there, seconds
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u16>,
}

/// Sends one message.
pub(super) async fn send(args: SendArgs, environment: &Environment) -> Result<(), Failure> {
    let (topic, words) = match (args.notify, args.words.split_first()) {
        (false, Some((topic, words))) if !words.is_empty() => (Some(topic), words),
        (true, _) => (None, &args.words[..]),
        _ => {
            return Err(Failure::Usage(
                "give a topic and a message, or --notify and a message".into(),
            ));
        }
    };
    let message = payload(words)?;
    let path = if topic.is_some() { "send" } else { "notify" };
    let outgoing = serde_json::to_string(&Outgoing {
        topic,
        body: &message,
    })?;
    let api = args.remote.connect(environment, &CLIENT)?;
    let answer = api.json(Method::POST, &[path], Some(outgoing)).await?;
    match args.remote.json {
        true => println!("{answer:#}"),
        false => println!("accepted {}", answer["id"].as_str().unwrap_or_default()),
    }
    Ok(())
}

/// Takes what waits in the inbox. Every message stays as the server wrote it, byte by byte.
pub(super) async fn receive(args: ReceiveArgs, environment: &Environment) -> Result<(), Failure> {
    let api = args.remote.connect(environment, &CLIENT)?;
    let limit = args.limit.map(|limit| ("limit", limit.to_string()));
    let wait = args.wait.map(|wait| ("wait", wait.to_string()));
    let query: Vec<_> = limit.into_iter().chain(wait).collect();
    let patience = Duration::from_secs(args.wait.unwrap_or(0).into());
    let text = api.get(&["receive"], &query, patience).await?;
    if args.remote.json {
        println!("{text}");
        return Ok(());
    }
    match serde_json::from_str::<Vec<Item>>(&text) {
        Ok(items) => items.iter().for_each(|item| println!("{}", item.line())),
        // Messages are never dropped because they look unusual: they are gone from the inbox.
        Err(_) => println!("{text}"),
    }
    Ok(())
}

/// The body of `/send` and `/notify`.
#[derive(Serialize)]
struct Outgoing<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a String>,
    body: &'a RawValue,
}

/// What is shown of one received message.
#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    topic: Option<String>,
    #[serde(default)]
    sender: Option<String>,
    message: Box<RawValue>,
}

impl Item {
    fn line(&self) -> String {
        let (topic, sender) = (
            self.topic.as_deref().unwrap_or("-"),
            self.sender.as_deref().unwrap_or("-"),
        );
        format!("{topic}\t{sender}\t{}", self.message.get())
    }
}

/// The message: JSON as it was typed if it is JSON, else the words as text.
fn payload(words: &[String]) -> Result<Box<RawValue>, Failure> {
    let text = match words {
        [dash] if dash == "-" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            text
        }
        words => words.join(" "),
    };
    match RawValue::from_string(text.trim().to_owned()) {
        Ok(json) => Ok(json),
        Err(_) => Ok(to_raw_value(&text)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_stays_json_and_words_become_text() {
        let of = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            payload(&words).unwrap().get().to_owned()
        };
        assert_eq!(of(&["{\"b\":1.0, \"a\":2}"]), "{\"b\":1.0, \"a\":2}");
        assert_eq!(of(&["hello", "there"]), "\"hello there\"");
    }

    #[test]
    fn a_received_message_is_shown_as_it_was_written() {
        let items: Vec<Item> =
            serde_json::from_str(r#"[{"topic":"t","message":{"b":1.0,"a":2}}]"#).unwrap();
        assert_eq!(items[0].line(), "t\t-\t{\"b\":1.0,\"a\":2}");
    }
}
