//! The clients of a bus run: registered over HTTP before it and removed after it.
//!
//! A sender is a client that a publisher logs in as, a receiver one that the consumers of a queue log
//! in as. Sender i publishes on the topic of receiver i mod queues, so the bus routes as the default
//! exchange does in other runs, and the same numbers are due on the same queues. Where publishers or consumers are
//! fewer than the queues, each receiver has a sender of its own, and a connection that stands in for many
//! clients logs in as the scenario's user, who may use all their queues.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::options::Scenario;
use crate::slab::Names;

/// The AMQP header that names a message's topic.
pub const TOPIC_HEADER: &str = "topic";
/// The AMQP header in which the bus names the sender.
pub const SENDER_HEADER: &str = "sender";
/// How long the server may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest answer that is read, in octets.
const ANSWER_MAX: u64 = 1 << 20;

/// The clients of a run. Those that are left when it is dropped are removed then.
#[derive(Debug)]
pub struct Clients {
    api: Api,
    logins: Vec<Login>,
    senders: usize,
    /// Whether a publisher is a sender, and whether a consumer reads the inbox of one receiver.
    own_outbox: bool,
    own_inbox: bool,
}

/// What a client logs in with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The client's id.
    pub id: String,
    /// Its secret.
    pub secret: String,
}

/// The server's REST interface, as the operator sees it.
#[derive(Debug)]
struct Api {
    address: String,
    authorization: String,
}

impl Clients {
    /// Registers a client for each publisher and each queue.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses. Those registered by then are removed.
    pub fn create(scenario: &Scenario, names: &Names) -> Result<Self> {
        let mut clients = Clients {
            api: Api {
                address: scenario.http.clone(),
                authorization: STANDARD.encode(&scenario.operator),
            },
            logins: Vec::new(),
            senders: scenario.publishers.max(scenario.queues),
            own_outbox: !scenario.queues_in_turn(),
            own_inbox: scenario.consumers >= scenario.queues,
        };
        for sender in 0..clients.senders {
            clients.register(names.sender(sender), None)?;
        }
        for queue in 0..scenario.queues {
            clients.register(names.receiver(queue), Some(names.pattern(queue)))?;
        }
        for idler in 0..scenario.idle_clients {
            clients.register(names.idler(idler), None)?;
        }
        Ok(clients)
    }

    /// Whom publisher `publisher` logs in as, if it is a client.
    pub fn sender(&self, publisher: usize) -> Option<&Login> {
        self.own_outbox.then(|| &self.logins[publisher])
    }

    /// Whom the consumers of queue `queue` log in as, if they read no other.
    pub fn receiver(&self, queue: usize) -> Option<&Login> {
        self.own_inbox.then(|| &self.logins[self.senders + queue])
    }

    /// Removes the clients with their queues.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses; the others are still tried.
    pub fn remove(mut self) -> Result<()> {
        self.remove_all()
    }

    fn register(&mut self, id: String, subscription: Option<String>) -> Result<()> {
        let mut fields = json!({"client_id": id, "client_name": id});
        if let Some(pattern) = subscription {
            fields["subscription"] = pattern.into();
        }
        let answer = self
            .api
            .call("POST", "/clients", 201, &fields.to_string())
            .with_context(|| format!("registering client {id}"))?;
        let answer: serde_json::Value = serde_json::from_str(&answer)?;
        let secret = answer["secret"]
            .as_str()
            .context("no secret in the answer")?;
        self.logins.push(Login {
            id,
            secret: secret.to_owned(),
        });
        Ok(())
    }

    fn remove_all(&mut self) -> Result<()> {
        let mut result = Ok(());
        for login in self.logins.drain(..) {
            let path = format!("/clients/{}", login.id);
            let removed = self.api.call("DELETE", &path, 204, "");
            if let Err(error) = removed {
                result = Err(error.context(format!("removing client {}", login.id)));
            }
        }
        result
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        if let Err(error) = self.remove_all() {
            eprintln!("backbone-perf: {error:#}");
        }
    }
}

impl Api {
    /// Sends one request on a connection of its own; gives the body of the answer.
    fn call(&self, method: &str, path: &str, status: u16, body: &str) -> Result<String> {
        let address = &self.address;
        let mut stream =
            TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Basic {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.authorization,
            body.len(),
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.take(ANSWER_MAX).read_to_string(&mut answer)?;
        let (got, body) = split_answer(&answer).context("an answer that is not HTTP")?;
        ensure!(got == status, "{method} {path}: {got} {body}");
        Ok(body.to_owned())
    }
}

/// The status and the body of a whole answer; chunked ones are not known.
fn split_answer(answer: &str) -> Option<(u16, &str)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let chunked = head.to_ascii_lowercase().contains("\r\ntransfer-encoding:");
    (!chunked).then_some((status, body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    #[test]
    fn an_answer_has_a_status_and_a_body() {
        let answer = "HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(split_answer(answer), Some((201, "{}")));
        assert_eq!(
            split_answer("HTTP/1.1 204 No Content\r\n\r\n"),
            Some((204, ""))
        );
        assert_eq!(split_answer("HTTP/1.1 200 OK"), None);
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        assert_eq!(split_answer(chunked), None);
    }

    /// Answers each request with the next of `answers`, and gives the requests' first lines.
    fn server(answers: Vec<&'static str>) -> (String, thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let handle = thread::spawn(move || {
            answers
                .into_iter()
                .map(|answer| {
                    let (mut stream, _) = listener.accept().unwrap();
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    let mut seen = Vec::new();
                    let mut piece = [0; 4096];
                    // The requests are small: their first line and all the rest come at once or soon.
                    while !seen.windows(4).any(|w| w == b"\r\n\r\n") {
                        let n = stream.read(&mut piece).unwrap();
                        assert!(n > 0, "the request ended early");
                        seen.extend_from_slice(&piece[..n]);
                    }
                    stream.write_all(answer.as_bytes()).unwrap();
                    let seen = String::from_utf8(seen).unwrap();
                    seen.lines().next().unwrap().to_owned()
                })
                .collect()
        });
        (address, handle)
    }

    #[test]
    fn clients_registered_before_a_refusal_are_removed() {
        let created = "HTTP/1.1 201 Created\r\n\r\n{\"secret\":\"s\"}";
        let refused = "HTTP/1.1 409 Conflict\r\n\r\ntaken";
        let removed = "HTTP/1.1 204 No Content\r\n\r\n";
        let (http, server) = server(vec![created, refused, removed]);
        let scenario: Scenario = toml::from_str(&format!("bus = true\nhttp = {http:?}")).unwrap();
        let error = Clients::create(&scenario, &Names::new("p".into(), &scenario)).unwrap_err();
        assert!(format!("{error:#}").contains("409 taken"), "{error:#}");
        let seen = server.join().unwrap();
        assert_eq!(
            seen,
            [
                "POST /clients HTTP/1.1",
                "POST /clients HTTP/1.1",
                "DELETE /clients/p-s0 HTTP/1.1"
            ]
        );
    }
}
