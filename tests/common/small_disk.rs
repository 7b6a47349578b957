//! A small file system of its own for a server, without being root: a tmpfs in a user namespace.

#![allow(dead_code, clippy::unwrap_used)]

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use tempfile::TempDir;

use super::directory_on_disk;

/// What finds `unshare`, `nsenter` and `mount`; the server's environment is otherwise empty.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A file system of a fixed size, for as long as this lives.
pub struct SmallDisk {
    directory: Arc<TempDir>,
    /// Holds the namespace.
    holder: Child,
}

impl SmallDisk {
    /// Mounts it. `None`, after saying loudly why, where that is not allowed.
    pub fn new(bytes: u64) -> Option<Self> {
        let directory = directory_on_disk();
        let script = "mount -t tmpfs -o size=\"$1\" tmpfs \"$2\" && echo mounted && exec cat";
        let started = Command::new("unshare")
            .args(["-r", "-m", "sh", "-c", script, "sh", &bytes.to_string()])
            .arg(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut holder = match started {
            Ok(holder) => holder,
            Err(error) => return skip(&format!("`unshare` of util-linux: {error}")),
        };
        let mut line = String::new();
        let output = holder.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        let disk = Self { directory, holder };
        match line.trim() {
            "mounted" => Some(disk),
            _ => skip("a user namespace that may mount a tmpfs (see its message above)"),
        }
    }

    /// The directory that it is mounted on, which is empty for everybody else.
    pub fn directory(&self) -> Arc<TempDir> {
        self.directory.clone()
    }

    /// A path on it, as everybody sees it.
    pub fn path(&self, name: &str) -> PathBuf {
        let inside = self.directory.path().strip_prefix("/").unwrap();
        PathBuf::from(format!("/proc/{}/root", self.holder.id()))
            .join(inside)
            .join(name)
    }

    /// Takes so many bytes of it with a file.
    pub fn put_ballast(&self, name: &str, bytes: u64) {
        let mut file = File::create(self.path(name)).unwrap();
        let piece = vec![1; 1 << 20];
        for _ in 0..bytes >> 20 {
            file.write_all(&piece).unwrap();
        }
    }

    /// Leaves so many bytes of it free, by a file that grows and shrinks.
    pub fn leave_free(&self, bytes: u64) {
        let mut options = File::options();
        let mut file = options
            .create(true)
            .append(true)
            .open(self.path("filling"))
            .unwrap();
        let piece = vec![1; 1 << 20];
        // In pieces: the server takes some of it meanwhile.
        loop {
            let stat = rustix::fs::statvfs(self.path(".")).unwrap();
            let free = stat.f_bavail * stat.f_frsize;
            if free <= bytes {
                let size = file.metadata().unwrap().len();
                return file.set_len(size.saturating_sub(bytes - free)).unwrap();
            }
            let surplus = piece.len().min((free - bytes) as usize);
            match file.write_all(&piece[..surplus]) {
                Err(error) if error.kind() == ErrorKind::StorageFull => {}
                written => written.unwrap(),
            }
        }
    }

    /// The command, run where the file system is seen. It becomes the process itself.
    pub fn inside(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside
            .args(["-t", &self.holder.id().to_string()])
            .args(["-U", "-m", "--preserve-credentials", "sh", "-c"])
            .args(["cd \"$1\" && shift && exec \"$@\"", "sh"])
            .arg(self.directory.path())
            .arg(command.get_program())
            .args(command.get_args())
            .env_clear()
            .env("PATH", PATH)
            .stdin(Stdio::null());
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                inside.env(name, value);
            }
        }
        inside
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}

/// Says that a test does nothing, and what it needs.
pub fn skip<T>(missing: &str) -> Option<T> {
    let test = std::thread::current();
    let test = test.name().unwrap_or("a test").to_owned();
    eprintln!("\n*** SKIPPED: {test} needs {missing}\n");
    // Past the capture of the test's output, so that it is seen.
    let terminal = Path::new("/dev/stderr");
    if let Ok(mut err) = File::options().append(true).open(terminal) {
        drop(writeln!(err, "\n*** SKIPPED: {test} needs {missing}"));
    }
    None
}
