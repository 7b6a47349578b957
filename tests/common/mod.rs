//! Starts the real server as a process for black-box tests: temporary data directory, ephemeral ports,
//! captured standard output, ended by its id when dropped.

// Every test binary compiles this module and uses a part of it; what fails here fails the test.
#![allow(dead_code, clippy::unwrap_used)]

pub mod admin;
pub mod bus;
pub mod dialog;
pub mod ledger;
pub mod peer;
pub mod queues;
pub mod raw;
pub mod small_disk;
pub mod traffic;
pub mod webhook;
pub mod websocket;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tempfile::TempDir;

/// The administrator's secret unless a test sets another or none.
pub const ADMIN_SECRET: &str = "administrator-secret-of-the-tests";

/// How long a server may take to get ready or to end.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(10);

/// A running server.
pub struct Server {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    data_dir: Arc<TempDir>,
    /// Where it listens for HTTP, in the order of `http.bind`.
    pub http: Vec<SocketAddr>,
    /// Where it listens for AMQP, in the order of `amqp.bind`.
    pub amqp: Vec<SocketAddr>,
}

impl Server {
    /// Starts a server with a new data directory and waits until it is ready.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// The same with environment variables; an empty value takes a default of this module away.
    pub async fn with(variables: &[(&str, &str)]) -> Self {
        Self::on(Arc::new(TempDir::new().unwrap()), variables).await
    }

    /// The same on a data directory that is there already.
    pub async fn on(data_dir: Arc<TempDir>, variables: &[(&str, &str)]) -> Self {
        let mut command = command(data_dir.path(), variables);
        command.arg("serve");
        Self::run(command, data_dir).await
    }

    /// Runs a command that becomes the server.
    pub async fn run(mut command: Command, data_dir: Arc<TempDir>) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (output, sink) = (BufReader::new(child.stdout.take().unwrap()), lines.clone());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                println!("server: {line}");
                sink.lock().push(line);
            }
        });
        let mut server = Self {
            child,
            lines,
            data_dir,
            http: Vec::new(),
            amqp: Vec::new(),
        };
        server.wait_until_ready().await;
        server
    }

    /// The address of a path, e.g. `/send`, on the first HTTP listener.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http[0])
    }

    /// What it has written to standard output so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().clone()
    }

    /// Its data directory, for a restart.
    pub fn data_dir(&self) -> Arc<TempDir> {
        self.data_dir.clone()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGTERM and waits for the end.
    pub async fn terminate(&mut self) -> ExitStatus {
        let sent = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
        self.wait().await
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    async fn wait(&mut self) -> ExitStatus {
        let since = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(since.elapsed() < PATIENCE, "the server does not end");
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn wait_until_ready(&mut self) {
        let since = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the server ended at once: {status}");
            }
            if self.has_said_all() {
                self.http = self.listening("http");
                self.amqp = self.listening("amqp");
                if self.is_ready().await {
                    return;
                }
            }
            assert!(since.elapsed() < PATIENCE, "the server does not get ready");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The last line of a start comes behind all addresses.
    fn has_said_all(&self) -> bool {
        let lines = self.lines.lock();
        lines.iter().any(|line| line.starts_with("durability "))
    }

    fn listening(&self, what: &str) -> Vec<SocketAddr> {
        let start = format!("listening {what} ");
        self.lines
            .lock()
            .iter()
            .filter_map(|line| line.strip_prefix(&start)?.parse().ok())
            .collect()
    }

    async fn is_ready(&self) -> bool {
        let answer = reqwest::get(self.url("/health/ready")).await;
        answer.is_ok_and(|answer| answer.status() == 200)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A new directory on the disk that holds the build, which is a real one where `/tmp` may be in memory.
pub fn directory_on_disk() -> Arc<TempDir> {
    Arc::new(TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
}

/// A number of the environment, or what holds without it.
pub fn number_from(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}: a number, not {text:?}"))
    })
}

/// The program with a clean environment, ephemeral ports and `data_dir`, run inside of `data_dir` so that no
/// configuration file is found by accident. An empty value takes a default away.
pub fn command(data_dir: &Path, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backbone"));
    command
        .env_clear()
        .current_dir(data_dir)
        .stdin(Stdio::null());
    command.env("BACKBONE_DATA_DIR", data_dir);
    for (name, value) in [
        ("BACKBONE_AMQP__BIND", "127.0.0.1:0"),
        ("BACKBONE_HTTP__BIND", "127.0.0.1:0"),
        ("BACKBONE_ADMIN__SECRET", ADMIN_SECRET),
    ] {
        command.env(name, value);
    }
    for (name, value) in variables {
        match value.is_empty() {
            true => command.env_remove(name),
            false => command.env(name, value),
        };
    }
    command
}
