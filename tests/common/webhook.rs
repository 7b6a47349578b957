//! A receiver of pushed messages, which answers as it is told.

#![allow(dead_code, clippy::unwrap_used)]

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;

/// How a call is answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// With this status and no body.
    Status(u16),
    /// With a redirect.
    Redirect(String),
    /// 200, after a while.
    Slow(Duration),
    /// Not at all; the connection stays open.
    Hang,
    /// Not at all; the connection ends.
    Drop,
    /// With half a head; then the connection ends.
    Half,
    /// With something that is not HTTP.
    Garbage,
    /// With this status and a body of 100 MB.
    Huge(u16),
    /// With an endless head.
    HugeHead,
}

/// A call as it came.
#[derive(Debug, Clone)]
pub struct Heard {
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Heard {
    pub fn header(&self, name: &str) -> &str {
        let mut found = self.headers.iter().filter(|(key, _)| key == name);
        found.next().map_or("", |(_, value)| value)
    }

    pub fn item(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The number of the attempt, and what was sent.
    pub fn attempt(&self) -> (u32, Value) {
        let attempt = self.header("x-backbone-attempt").parse().unwrap();
        (attempt, self.item()["body"].clone())
    }
}

#[derive(Default)]
struct State {
    script: VecDeque<Answer>,
    heard: Vec<Heard>,
    open: usize,
    open_max: usize,
    /// Bytes of bodies that were written.
    written: usize,
    connections: usize,
}

/// Listens on loopback.
pub struct Receiver {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Receiver {
    /// Answers with the script, and when it is through, with 200.
    pub fn start(script: &[Answer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            script: script.iter().cloned().collect(),
            ..State::default()
        }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                state.lock().connections += 1;
                std::thread::spawn(move || serve(&stream, &state));
            }
        });
        Self { address, state }
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook?key=a%20b", self.address)
    }

    /// Adds to the script.
    pub fn then(&self, answers: &[Answer]) {
        self.state.lock().script.extend(answers.iter().cloned());
    }

    pub fn heard(&self) -> Vec<Heard> {
        self.state.lock().heard.clone()
    }

    pub fn attempts(&self) -> Vec<(u32, Value)> {
        self.heard().iter().map(Heard::attempt).collect()
    }

    /// Waits until there were `count` calls.
    pub async fn wait(&self, count: usize) -> Vec<Heard> {
        let begin = Instant::now();
        loop {
            let heard = self.heard();
            if heard.len() >= count {
                return heard;
            }
            let patient = begin.elapsed() < Duration::from_secs(30);
            assert!(patient, "{} of {count} calls", heard.len());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Calls at the same time, at most.
    pub fn open_max(&self) -> usize {
        self.state.lock().open_max
    }

    /// Bytes of bodies that the peer took, or its socket's buffers.
    pub fn written(&self) -> usize {
        self.state.lock().written
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.state.lock().connections
    }
}

fn serve(stream: &TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream);
    while let Some(heard) = read_call(&mut reader) {
        let answer = {
            let mut state = state.lock();
            state.heard.push(heard);
            state.open += 1;
            state.open_max = state.open_max.max(state.open);
            state.script.pop_front().unwrap_or(Answer::Status(200))
        };
        if let Answer::Slow(pause) = answer {
            wait(pause);
        }
        // Before the answer, which the next call may follow at once.
        state.lock().open -= 1;
        let goes_on = reply(stream, answer, state);
        if !goes_on {
            return;
        }
    }
}

fn read_call(reader: &mut impl BufRead) -> Option<Heard> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    assert!(line.starts_with("POST "), "{line}");
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let mut body = vec![0; length?.1.parse().unwrap()];
    reader.read_exact(&mut body).ok()?;
    Some(Heard {
        path,
        headers,
        body,
    })
}

/// True: the connection can be used again.
fn reply(mut stream: &TcpStream, answer: Answer, state: &Mutex<State>) -> bool {
    let empty = |status: u16| format!("HTTP/1.1 {status} Said\r\ncontent-length: 0\r\n");
    let mut say = |text: &str| stream.write_all(text.as_bytes()).is_ok();
    match answer {
        Answer::Status(status) => say(&format!("{}\r\n", empty(status))),
        Answer::Slow(_) => say(&format!("{}\r\n", empty(200))),
        Answer::Redirect(to) => say(&format!("{}location: {to}\r\n\r\n", empty(307))),
        Answer::Hang => {
            // Until the peer gives up.
            let _ = stream.read(&mut [0]);
            false
        }
        Answer::Drop => false,
        Answer::Half => {
            say("HTTP/1.1 200 O");
            false
        }
        Answer::Garbage => {
            say("220 mail.example ESMTP\r\n\r\n");
            false
        }
        Answer::Huge(status) => {
            let length = 100 << 20;
            let head = format!("HTTP/1.1 {status} Said\r\ncontent-length: {length}\r\n\r\n");
            say(&head) && pour(stream, length, state)
        }
        Answer::HugeHead => {
            say("HTTP/1.1 200 OK\r\nx: ");
            pour(stream, 100 << 20, state);
            false
        }
    }
}

fn pour(mut stream: &TcpStream, mut length: usize, state: &Mutex<State>) -> bool {
    let chunk = [b'x'; 65_536];
    while length > 0 {
        let next = chunk.len().min(length);
        if stream.write_all(&chunk[..next]).is_err() {
            return false;
        }
        state.lock().written += next;
        length -= next;
    }
    true
}

/// A thread of its own may sleep.
#[allow(clippy::disallowed_methods)]
fn wait(pause: Duration) {
    std::thread::sleep(pause);
}
