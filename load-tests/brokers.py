"""Starts and stops the brokers that `compare`, `flatness`, `backlog` and `soak` measure, and says what they ran on.

Each broker gets free ports of the loopback interface, a temporary folder and default settings, and is stopped by its
process id. Folders are made beside the build and removed after: `/tmp` may be in memory, and a disk is measured.
"""

import contextlib
import os
import platform
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parent.parent
SCENARIOS = ROOT / "load-tests" / "scenarios"
RABBITMQ_SERVERS = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "/usr/local/sbin/rabbitmq-server")
START_LIMIT_S = 90
# The level of a persistent message that nobody has asked another for.
DEFAULT_LEVEL = "synced"
STOP_LIMIT_S = 20


class Broker(NamedTuple):
    """A running broker."""

    name: str
    process: subprocess.Popen
    amqp: int
    http: int | None
    # From its start to when it could be used, in seconds.
    ready_s: float
    # Its own, with its data.
    folder: Path


def prepare():
    """Makes signals end the program in order, and lets it and what it starts open as many files as is allowed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # A shell starts background commands with the signal ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def fail(text) -> NoReturn:
    sys.exit(f"{Path(sys.argv[0]).name}: {text}")


def note(text):
    print(text, file=sys.stderr, flush=True)


def build():
    """Builds server and generator, each as it is built alone, so that neither changes the other's features."""
    for arguments in ([], ["-p", "backbone-perf"]):
        command = ["cargo", "build", "--release", "--locked", *arguments]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            fail("the build failed")
    release = target() / "release"
    return release / "backbone", release / "backbone-perf"


def target():
    return ROOT / os.environ.get("CARGO_TARGET_DIR", "target")


def scratch(prefix):
    """A temporary folder on the disk that the build is on."""
    folder = target()
    folder.mkdir(exist_ok=True)
    kind = file_system(folder)
    if kind in ("tmpfs", "ramfs"):
        fail(f"{folder} is a {kind}: set CARGO_TARGET_DIR to a folder on a disk")
    return tempfile.TemporaryDirectory(prefix=prefix, dir=folder)


def file_system(folder):
    done = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def python_environment():
    """The interpreter of `.venv` with the pinned packages, made as `scripts/test` makes it."""
    venv, pinned = ROOT / ".venv", ROOT / "tests" / "clients" / "requirements.txt"
    python, installed = venv / "bin" / "python", venv / "installed.txt"
    if installed.exists() and installed.read_text() == pinned.read_text():
        return python
    install = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet", "-r", pinned]
    for command in ([] if python.exists() else [[sys.executable, "-m", "venv", venv]]) + [install]:
        if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
            fail(f"the packages of {pinned} could not be installed; with `--only` row i-pika can be left out")
    shutil.copy(pinned, installed)
    return python


def find_rabbitmq():
    """The server's own script; `/usr/sbin/rabbitmq-server` of Debian would change the user and the folders."""
    for attempt in range(2):
        for path in RABBITMQ_SERVERS:
            if os.access(path, os.X_OK) and shutil.which("epmd"):
                return path
        if attempt == 0:
            install_rabbitmq()
    fail("rabbitmq-server is installed, but not where it was looked for: " + ", ".join(RABBITMQ_SERVERS))


def install_rabbitmq():
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        fail("RabbitMQ is missing; install it, on Debian: sudo apt-get install --no-install-recommends rabbitmq-server")
    note("installing rabbitmq-server")
    # The package would start a service on the usual ports of all interfaces; this policy is how Debian lets one say no.
    policy = Path("/usr/sbin/policy-rc.d")
    own_policy = not policy.exists()
    if own_policy:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for arguments in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", "rabbitmq-server"]):
            subprocess.run(["apt-get", *arguments], env=environment, stdout=sys.stderr, check=True)
    finally:
        if own_policy:
            policy.unlink()


def start_rabbitmq(stack, script, folder, port=None, plugins=(), settings=""):
    """Starts it on the data that it has left in the folder, if any; `settings` are lines of a `rabbitmq.conf`."""
    folder = folder / "rabbitmq"
    folder.mkdir(exist_ok=True)
    free, distribution, names = free_ports(3)
    amqp = port or free
    epmd_at = {"ERL_EPMD_ADDRESS": "127.0.0.1", "ERL_EPMD_PORT": str(names)}
    # A port mapper of its own: the node would start one that outlives it.
    mapper = start(stack, ["epmd"], epmd_at, folder, "epmd.log")
    wait_for_port(mapper, names, folder / "epmd.log")
    empty = folder / "empty"
    empty.touch()
    (folder / "plugins").write_text(f"[{','.join(plugins)}].\n")
    (folder / "settings.conf").write_text(settings)
    own = {
        **epmd_at,
        "HOME": folder,
        # Makes the script become the Erlang machine instead of starting it: one process, one id.
        "RUNNING_UNDER_SYSTEMD": "true",
        "RABBITMQ_NODENAME": f"compare{os.getpid()}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": amqp,
        "RABBITMQ_DIST_PORT": distribution,
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput -kernel inet_dist_use_interface {127,0,0,1}",
        "RABBITMQ_MNESIA_BASE": folder / "data",
        "RABBITMQ_LOG_BASE": folder / "log",
        "RABBITMQ_CONF_ENV_FILE": empty,
        "RABBITMQ_CONFIG_FILE": folder / ("settings.conf" if settings else "none"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": folder / "none.config",
        "RABBITMQ_ENABLED_PLUGINS_FILE": folder / "plugins",
    }
    began = time.monotonic()
    process = start(stack, [script], own, folder, "output.log")
    wait_for_port(process, amqp, folder / "output.log")
    return Broker("RabbitMQ", process, amqp, None, time.monotonic() - began, folder)


def start_backbone(stack, binary, folder, level=None, ports=None, settings=None):
    """Starts it on the data that it has left in the folder, if any; at its default level of durability, or another."""
    folder = folder / "backbone"
    folder.mkdir(exist_ok=True)
    amqp, http = ports or free_ports(2)
    own = {
        "BACKBONE_AMQP__BIND": f"127.0.0.1:{amqp}",
        "BACKBONE_HTTP__BIND": f"127.0.0.1:{http}",
        "BACKBONE_DATA_DIR": folder / "data",
    }
    if level and level != DEFAULT_LEVEL:
        own["BACKBONE_DURABILITY__LEVEL"] = level
    own |= settings or {}
    began = time.monotonic()
    process = start(stack, [binary], own, folder, "output.log")
    wait_for_port(process, amqp, folder / "output.log")
    wait_until(process, lambda: says_ready(http), folder / "output.log")
    return Broker("Backbone", process, amqp, http, time.monotonic() - began, folder)


def start_sink(stack, generator, folder, level=None):
    """The stand-in broker that does the least a broker can do; at `written` and `synced` with a log."""
    folder = folder / "sink"
    folder.mkdir(exist_ok=True)
    (port,) = free_ports(1)
    command = [generator, "sink", "--bind", f"127.0.0.1:{port}"]
    if level in ("written", "synced"):
        command += ["--log", folder, "--level", level]
    began = time.monotonic()
    process = start(stack, command, {}, folder, "output.log")
    wait_for_port(process, port, folder / "output.log")
    return Broker("sink", process, port, None, time.monotonic() - began, folder)


def start(stack, command, own, folder, log):
    """Starts a process with default settings but `own`, outside the reach of the terminal's Ctrl-C."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RABBITMQ_", "BACKBONE_", "ERL_"))}
    environment = kept | {name: str(value) for name, value in own.items()}
    with open(folder / log, "wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    stack.callback(stop, process)
    return process


def stop(process):
    # Nothing may keep a broker from being stopped: not an impatient second Ctrl-C either.
    kept = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        process.terminate()
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def free_ports(count):
    """Ports that nobody has just now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [s.getsockname()[1] for s in sockets]


def wait_for_port(process, port, log):
    wait_until(process, lambda: accepts(port), log)


def wait_until(process, is_up, log):
    """Looks a thousand times a second at first, because a start may take a few milliseconds."""
    began = time.monotonic()
    while process.poll() is None:
        if is_up():
            return
        took = time.monotonic() - began
        if took > START_LIMIT_S:
            break
        time.sleep(0.001 if took < 1 else 0.02)
    fail(f"{process.args[0]} did not start:\n{log.read_text(errors='replace')[-2000:]}")


def accepts(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def says_ready(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as connection:
        connection.sendall(b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return connection.recv(64).startswith(b"HTTP/1.1 200")
    return False


def generator_command(generator, broker, stem, durability, *flags):
    """A run of the generator against a broker."""
    command = [generator, "--scenario", SCENARIOS / f"{stem}.toml", "--durability", durability, "--port", broker.amqp]
    command += ["--broker-pid", broker.process.pid, *flags]
    if broker.http:
        command += ["--http", f"127.0.0.1:{broker.http}"]
    return command


def outcome(command, what):
    """Runs a command and reads its standard output, one line of JSON each; there must be one."""
    command = [str(word) for word in command]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if not done.stdout.strip():
        fail(f"{what}: {done.stderr.strip()}")
    return done.stdout.splitlines()


def hardware(machine):
    """What a result says of the machine, in a line."""
    told = f"{machine['cores']} cores, {machine['cpu']}, Linux {machine['kernel']}, " if machine else ""
    return told + memory()


def system():
    return platform.freedesktop_os_release().get("PRETTY_NAME", platform.platform())


def memory():
    """The machine's, and what the data lies on."""
    with open("/proc/meminfo") as file:
        kibibytes = int(file.readline().split()[1])
    return f"{kibibytes / (1 << 20):.1f} GiB, data on {file_system(target())}"


def resident_mb(process):
    """Resident memory of a process, in millions of octets."""
    with open(f"/proc/{process.pid}/status") as file:
        line = next(line for line in file if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024 / 1e6


def disk_mb(folder):
    """What the files below a folder occupy on the disk, in millions of octets."""
    blocks = 0
    for path in folder.rglob("*"):
        # It may have gone meanwhile.
        with contextlib.suppress(FileNotFoundError):
            blocks += path.lstat().st_blocks
    return blocks * 512 / 1e6


def revision():
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return f"commit {done.stdout.strip() or 'unknown'}"
