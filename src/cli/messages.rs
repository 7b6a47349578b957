//! `backbone send` and `backbone receive`: a client's ends of the bus.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::api::{Api, ApiFailure};
use super::{CLIENT, Failure, RemoteArgs};
use crate::config::{Environment, Secret};

/// How long one call waits for a message while following, seconds.
const FOLLOW_WAIT_S: u16 = 30;
/// Between attempts to reach a server that is away.
const FOLLOW_PAUSE: Duration = Duration::from_secs(1);

/// Which client it is.
#[derive(Args)]
struct ClientArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// The client's own file, as `client add --config` writes it: the server's address, its id and its secret
    #[arg(long, value_name = "FILE", conflicts_with_all = ["id", "secret"])]
    client: Option<PathBuf>,
}

/// What of `soar-config.json` matters here.
#[derive(Deserialize)]
struct SoarConfig {
    api: Option<String>,
    client_id: String,
    secret: Secret,
}

impl ClientArgs {
    fn connect(&self, environment: &Environment) -> Result<Api, Failure> {
        let Some(path) = &self.client else {
            return self.remote.connect(environment, &CLIENT);
        };
        let text = std::fs::read_to_string(path).map_err(|error| Failure::file(path, error))?;
        let config: SoarConfig = serde_json::from_str(&text)
            .map_err(|error| Failure::file(path, format!("is not a client's file: {error}")))?;
        let api = match (&self.remote.api, config.api) {
            (None, Some(api)) => Api::new(&api)?,
            _ => self.remote.anonymous(environment)?,
        };
        Ok(api.with_credentials(config.client_id, config.secret.expose().to_owned()))
    }
}

#[derive(Args)]
pub(super) struct SendArgs {
    #[command(flatten)]
    client: ClientArgs,
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
    client: ClientArgs,
    /// At most this many messages
    #[arg(long)]
    limit: Option<u64>,
    /// Wait this long for a message when none is there, seconds
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u16>,
    /// Go on until interrupted, or until there were as many as the limit; with --json one object a line
    #[arg(long, conflicts_with = "wait")]
    follow: bool,
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
    let api = args.client.connect(environment)?;
    let answer = api.json(Method::POST, &[path], Some(outgoing)).await?;
    match args.client.remote.json {
        true => println!("{answer:#}"),
        false => println!("accepted {}", answer["id"].as_str().unwrap_or_default()),
    }
    Ok(())
}

/// Takes what waits in the inbox. Every message stays as the server wrote it, byte by byte.
pub(super) async fn receive(args: ReceiveArgs, environment: &Environment) -> Result<(), Failure> {
    let api = args.client.connect(environment)?;
    let as_json = args.client.remote.json;
    if args.follow {
        return follow(&api, args.limit, as_json).await;
    }
    let text = take(&api, args.limit, args.wait.unwrap_or(0)).await?;
    if as_json {
        println!("{text}");
        return Ok(());
    }
    match serde_json::from_str::<Vec<&RawValue>>(&text) {
        Ok(items) => items.iter().for_each(|item| println!("{}", line(item))),
        // Messages are never dropped because they look unusual: they are gone from the inbox.
        Err(_) => println!("{text}"),
    }
    Ok(())
}

/// What waits, or comes within `wait_s`, as the server wrote it.
async fn take(api: &Api, limit: Option<u64>, wait_s: u16) -> Result<String, ApiFailure> {
    let limit = limit.map(|limit| ("limit", limit.to_string()));
    let wait = (wait_s > 0).then(|| ("wait", wait_s.to_string()));
    let query: Vec<_> = limit.into_iter().chain(wait).collect();
    let patience = Duration::from_secs(wait_s.into());
    api.get(&["receive"], &query, patience).await
}

/// Shows messages as they come. A server that is away for a while is waited for.
async fn follow(api: &Api, limit: Option<u64>, as_json: bool) -> Result<(), Failure> {
    let mut left = limit;
    let mut out = std::io::stdout();
    let mut is_away = false;
    while left != Some(0) {
        let text = match take(api, left, FOLLOW_WAIT_S).await {
            Ok(text) => text,
            Err(failure) if failure.may_pass() => {
                if !std::mem::replace(&mut is_away, true) {
                    eprintln!("backbone: {failure}, trying again");
                }
                tokio::time::sleep(FOLLOW_PAUSE).await;
                continue;
            }
            Err(failure) => return Err(failure.into()),
        };
        is_away = false;
        let items: Vec<&RawValue> = serde_json::from_str(&text)?;
        for item in &items {
            match as_json {
                true => writeln!(out, "{item}")?,
                false => writeln!(out, "{}", line(item))?,
            }
        }
        out.flush()?;
        left = left.map(|left| left.saturating_sub(items.len() as u64));
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

/// A received message for people; as it is if it looks unusual.
fn line(item: &RawValue) -> String {
    let Ok(item_read) = serde_json::from_str::<Item>(item.get()) else {
        return item.get().to_owned();
    };
    let (topic, sender) = (
        item_read.topic.as_deref().unwrap_or("-"),
        item_read.sender.as_deref().unwrap_or("-"),
    );
    format!("{topic}\t{sender}\t{}", item_read.message.get())
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
        let of = |text| line(serde_json::from_str(text).unwrap());
        assert_eq!(
            of(r#"{"topic":"t","message":{"b":1.0,"a":2}}"#),
            "t\t-\t{\"b\":1.0,\"a\":2}"
        );
        assert_eq!(of(r#"{"b":1.0}"#), r#"{"b":1.0}"#);
    }
}
