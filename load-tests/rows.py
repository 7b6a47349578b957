"""The rows of `compare`: what is measured, how, and what Backbone must reach.

What each must reach is this project's own aim for two cores, client and broker on one machine.
"""

import contextlib
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import brokers

# Where a message is that has been accepted or confirmed. Backbone and the sink are started at this level; RabbitMQ's
# classic queues give a persistent message to the page cache before they confirm it, and know no other level.
TRANSIENT = {"RabbitMQ": "memory", "Backbone": "memory", "sink": "memory"}
WRITTEN = {"RabbitMQ": "written", "Backbone": "written", "sink": "written"}
SYNCED = {"RabbitMQ": "written", "Backbone": "synced", "sink": "synced"}
# How long the disk is measured before a run that is compared with it, in seconds; and the pause after each sync when
# it is measured beside the run.
DISK_S = 1
DISK_PAUSE_MS = 5
# A broker that has taken more than it can pass on may say nothing for long.
STALL_S = 60


class Tools(NamedTuple):
    """What measures."""

    server: Path
    rabbitmq: str
    generator: Path
    python: Path | None
    seconds: float


class Metric(NamedTuple):
    """A value of the result, and what it must be, if it must be anything."""

    label: str
    path: tuple[str, ...]
    scale: float
    unit: str
    must: float | None
    lower_is_better: bool = False
    # What it must be as a share of what the sink does, which is the limit of the machine. It comes from the machine
    # for which `must` was set, and holds on slower and faster ones.
    share: float | None = None

    def value(self, result):
        for key in self.path:
            result = result[key]
        return result * self.scale

    def show(self, value):
        larger = {"/s": (" M/s", " k/s"), "µs": (" s", " ms"), "ms": (" ks", " s")}.get(self.unit, ())
        for limit, unit in zip((1e6, 1e3), larger, strict=False):
            if value >= limit:
                return f"{value / limit:.3g}{unit}"
        return f"{value:.3g}{'' if self.unit == '/s' else ' '}{self.unit}"

    def holds(self, value):
        return value <= self.must if self.lower_is_better else value >= self.must

    def holds_share(self, share):
        return share <= self.share if self.lower_is_better else share >= self.share

    def times_better(self, ours, theirs):
        return theirs / ours if self.lower_is_better else ours / theirs


class Row(NamedTuple):
    """Something to measure, and the metrics that it is there for."""

    name: str
    title: str
    metrics: tuple[Metric, ...]
    # Called with the tools, the row and a running broker, or the broker's name where the row starts its own.
    measure: Callable
    durability: dict = TRANSIENT
    backbone_only: bool = False
    # Of the generator.
    stem: str = ""
    flags: tuple = ()
    # Instead of what the command line says; and at most so many against one of the brokers.
    runs: int | None = None
    runs_most: dict = {}
    starts_brokers: bool = False
    needs_python: bool = False

    @property
    def letter(self):
        return self.name.split("-")[0]

    def usable(self, result):
        """The metrics whose value is there: a run without a delivery has no latencies."""
        return [m for m in self.metrics if result.get(m.path[0]) is not None]

    def has(self, name):
        """Whether the row is measured against this broker."""
        if name == "sink":
            return any(metric.share for metric in self.metrics)
        return name == "Backbone" or not self.backbone_only

    def durability_text(self):
        levels = {name: level for name, level in self.durability.items() if name != "sink"}
        if self.backbone_only or len(set(levels.values())) == 1:
            return f"`{levels['Backbone']}`"
        return ", ".join(f"{name} `{level}`" for name, level in levels.items())


class Ratio(NamedTuple):
    """The rate of one row over that of another."""

    title: str
    above: str
    below: str
    must: float
    at_most: bool

    def holds(self, value):
        return value <= self.must if self.at_most else value >= self.must


def scenario(tools, row, broker):
    flags = ("--duration-s", float(tools.seconds), "--stall-s", STALL_S, *row.flags)
    command = brokers.generator_command(tools.generator, broker, row.stem, row.durability[broker.name], *flags)
    return json.loads(brokers.outcome(command, f"{row.name} against {broker.name}")[-1])


def beside_the_disk(tools, row, broker):
    """A run, with what the same disk does at rest before it and what an `fdatasync` of 4 KiB takes meanwhile."""
    at_rest = json.loads(brokers.outcome(disk_command(tools, broker, DISK_S, 0), "measuring the disk")[-1])
    with contextlib.ExitStack() as stack:
        command = disk_command(tools, broker, tools.seconds, DISK_PAUSE_MS)
        probe = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        stack.callback(brokers.stop, probe)
        result = scenario(tools, row, broker)
        output, _ = probe.communicate()
    if probe.returncode:
        brokers.fail("measuring the disk beside a run")
    meanwhile = json.loads(output)
    confirm_us = result["confirm_us"]
    over = confirm_us and {p: confirm_us[p] / meanwhile["sync_us"][p] for p in ("p50", "p99")}
    return {**result, "at_rest": at_rest, "meanwhile": meanwhile, "confirm_over_sync": over}


def disk_command(tools, broker, seconds, pause_ms):
    words = ["disk", "--folder", broker.folder, "--duration-s", float(seconds), "--pause-ms", pause_ms]
    return [str(word) for word in (tools.generator, *words)]


def pika_bus(tools, row, broker):
    """So many messages that the forwarder in Python needs about the time of a run for them."""
    script = brokers.ROOT / "load-tests" / "pika_bus.py"
    command = [tools.python, script, "--amqp", broker.amqp, "--messages", int(8_000 * tools.seconds)]
    command += ["--http", broker.http] if broker.http else []
    return json.loads(brokers.outcome(command, f"{row.name} against {broker.name}")[-1])


def subcommand(name, *flags):
    def measure(tools, row, broker):
        command = [tools.generator, name, "--uri", f"amqp://guest:guest@127.0.0.1:{broker.amqp}"]
        command += ["--broker-pid", broker.process.pid, *flags]
        result = json.loads(brokers.outcome(command, f"{row.name} against {broker.name}")[-1])
        wrong = [f"{count} messages {what}" for what, count in result.get("faults", {}).items() if count]
        return {"ok": True, "problems": wrong, **result}

    return measure


def start(tools, stack, name, folder, level):
    if name == "RabbitMQ":
        return brokers.start_rabbitmq(stack, tools.rabbitmq, Path(folder))
    folder = Path(folder) / level
    folder.mkdir(exist_ok=True)
    if name == "sink":
        return brokers.start_sink(stack, tools.generator, folder, level)
    return brokers.start_backbone(stack, tools.server, folder, level)


def idle(tools, row, name):
    """On a broker that has just started: one that has run keeps memory, and would take the new things out of it."""
    with brokers.scratch("backbone-compare-") as folder, contextlib.ExitStack() as stack:
        return subcommand("idle")(tools, row, start(tools, stack, name, folder, row.durability[name]))


def start_up(tools, row, name):
    """Starts a broker without data, and once more on the data directory that it has left."""
    ready_s = {}
    with brokers.scratch("backbone-compare-") as folder:
        began = time.monotonic()
        for kind in ("empty_s", "existing_s"):
            with contextlib.ExitStack() as stack:
                ready_s[kind] = start(tools, stack, name, folder, row.durability[name]).ready_s
    return {"ok": True, "problems": [], "seconds": time.monotonic() - began, **ready_s}


def rate(must, share=None):
    return (Metric("", ("delivered_per_s",), 1, "/s", must, share=share),)


def throughput(must_gb, share):
    return (Metric("", ("delivered_mb_per_s",), 1e-3, "GB/s", must_gb, share=share),)


def latency(key="latency_us", label="", share=None, **must_us):
    return tuple(Metric(f"{label}{p}", (key, p), 1, "µs", must, True, share) for p, must in must_us.items())


def run_of(stem, title, metrics, **more):
    """A row that is a scenario file."""
    return Row(more.pop("name", stem), title, metrics, scenario, stem=stem, **more)


def durable_row(stem, shape, metrics, variant="", flags=(), measure=scenario, durability=SYNCED, **more):
    """Persistent messages with confirms and manual acks, at some level."""
    name = f"{stem}-{variant}" if variant else stem
    window = "" if variant == "window-1" else ", window 1,000"
    title = f"b: {shape}, persistent{window}, manual acks"
    return Row(name, title, metrics, measure, durability, stem=f"{stem}-persist", flags=flags, **more)


def topic_row(name, title, bindings, keys):
    flags = ("--queues", 1, "--consumers", 1, "--bindings", bindings, "--keys", keys)
    return run_of("d-topic1000-1KiB", title, rate(None), name=name, flags=flags, backbone_only=True)


WINDOW_1 = ("--confirm-window", 1, "--ack", "each")
IN_TURN = ("--queues", 1000)
SEQUENTIAL = (Metric("the disk's sequential rate", ("at_rest", "sequential_mb_per_s"), 1e-3, "GB/s", None),)

ROWS = (
    Row(
        "s-start",
        "s: start, median of 10 (RabbitMQ 3), until it is ready,",
        (
            Metric("without data", ("empty_s",), 1e3, "ms", 100, True),
            Metric("with the data that it left", ("existing_s",), 1e3, "ms", 100, True),
        ),
        start_up,
        durability=SYNCED,
        runs=10,
        runs_most={"RabbitMQ": 3},
        starts_brokers=True,
    ),
    durable_row("b-16B", "16 B", rate(800e3, 0.33)),
    durable_row("b-1KiB", "1 KiB", rate(250e3, 0.75)),
    durable_row("b-1KiB", "1 KiB, window 1", rate(5e3, 0.9), "window-1", WINDOW_1),
    durable_row("b-16B", "16 B, 1,000 queues in turn", rate(None), "1000-queues", IN_TURN),
    durable_row("b-1KiB", "1 KiB, 1,000 queues in turn", rate(None), "1000-queues", IN_TURN),
    durable_row("b-16B", "16 B", rate(None), "written", durability=WRITTEN),
    durable_row("b-1KiB", "1 KiB", rate(None) + SEQUENTIAL, "written", measure=beside_the_disk, durability=WRITTEN),
    durable_row("b-16B", "16 B", rate(None), "memory", durability=TRANSIENT, backbone_only=True),
    durable_row("b-1KiB", "1 KiB", rate(None), "memory", durability=TRANSIENT, backbone_only=True),
    Row(
        "q-20k-1KiB",
        "q: 20,000/s of 1 KiB persistent, publish to confirm,",
        latency("confirm_us", p50=None, p99=None)
        + (
            Metric("p99 of an fdatasync at rest", ("at_rest", "sync_us", "p99"), 1, "µs", None, True),
            Metric("p99 of an fdatasync meanwhile", ("meanwhile", "sync_us", "p99"), 1, "µs", None, True),
            Metric("p99 over that", ("confirm_over_sync", "p99"), 1, "times", 3, True),
        ),
        beside_the_disk,
        stem="b-1KiB-persist",
        flags=("--rate", 20_000.0, "--confirm-window", 20_000),
        durability=SYNCED,
    ),
    Row(
        "n-declares",
        "n: 10,000 durable queues declared, one run,",
        (
            Metric("each after the other's answer", ("each_s",), 1e3, "ms", None, True),
            Metric("without waiting", ("pipelined_s",), 1e3, "ms", 3000, True),
        ),
        subcommand("declare"),
        durability=SYNCED,
        runs=1,
    ),
    run_of("a-16B", "a: 16 B, 1 → 1", rate(6e6, 0.27)),
    run_of("a4-16B", "a4: 16 B, 4 → 4 queues", rate(6e6, 0.26)),
    run_of("c-fanout10-1KiB", "c: fan-out to 10 queues, 1 KiB, deliveries", rate(1.8e6, 0.5)),
    run_of("d-topic1000-1KiB", "d: topic, 1,000 wildcard bindings, 1 KiB", rate(600e3, 0.46)),
    topic_row("d-1-binding", "d: 1 wildcard binding, 10,000 keys in turn, 1 KiB", 1, 10_000),
    topic_row("d-10000-bindings", "d: 10,000 wildcard bindings, as many keys in turn, 1 KiB", 10_000, 10_000),
    topic_row("d-1-binding-1-key", "d: 1 wildcard binding, one key, 1 KiB", 1, 1),
    topic_row("d-10000-bindings-1-key", "d: 10,000 wildcard bindings, one key, 1 KiB", 10_000, 1),
    run_of("e-64KiB", "e: 64 KiB", throughput(1.7, 0.78)),
    run_of("e-1MiB", "e: 1 MiB", throughput(2.8, 0.82)),
    run_of("f-5k-1KiB", "f: 5,000/s of 1 KiB, latency", latency(p50=62, share=1.2) + latency(p99=250, share=1.6)),
    run_of(
        "p-100k-16B",
        "p: 100,000/s of 16 B, latency",
        latency(p99=1000) + latency("latency_from_due_us", "from when due, ", p99=None),
    ),
    run_of("l-lapin-16B", "l: lapin, 16 B, 1 → 1", rate(54e3, 1.58)),
    run_of(
        "l-lapin-1KiB-persist",
        "l: lapin, 1 KiB persistent, confirms window 1,000, manual acks",
        rate(26e3, 1.24),
        # The sink without a log: the client is the limit.
        durability=SYNCED | {"sink": "memory"},
    ),
    run_of("i-bus-16B", "i: bus, outbox → inbox, 16 B", rate(3e6), backbone_only=True),
    run_of("i-plain-16B", "i: straight to the queue, the same octets delivered", rate(None), backbone_only=True),
    Row(
        "i-pika",
        "i: bus, pika clients, 256 B of JSON (RabbitMQ: with a forwarder in Python)",
        rate(20e3),
        pika_bus,
        needs_python=True,
    ),
    Row(
        "c-1000",
        "c: 1,000 connections with 10 channels each, a queue declared on each channel,",
        (Metric("until the last one", ("seconds",), 1e3, "ms", 3000, True),),
        subcommand("connect"),
    ),
    Row(
        "t-1000",
        "t: 1,000 connections, a message a second each: cpu, one run of 20 s",
        (Metric("", ("broker_percent",), 1, "% of a core", 3, True),),
        subcommand("trickle"),
        runs=1,
    ),
    Row(
        "h-idle",
        "h: idle, 10,000 of each, one run, memory for a",
        (
            Metric("connection", ("connections", "octets_each"), 1e-3, "kB", 20, True),
            Metric("queue", ("queues", "octets_each"), 1e-3, "kB", 2, True),
        ),
        idle,
        runs=1,
        starts_brokers=True,
    ),
)

RATIOS = (
    Ratio("time for a message, i: bus over straight to the queue, the same octets", "i-plain-16B", "i-bus-16B", 1.3, True),
    Ratio("rate, b: 1,000 queues in turn over one, 16 B, `synced`", "b-16B-1000-queues", "b-16B", 0.8, False),
    Ratio("rate, b: 1,000 queues in turn over one, 1 KiB, `synced`", "b-1KiB-1000-queues", "b-1KiB", 0.8, False),
    Ratio("rate, b: `written` over `memory`, 16 B", "b-16B-written", "b-16B-memory", 0.8, False),
    Ratio("rate, b: `written` over `memory`, 1 KiB", "b-1KiB-written", "b-1KiB-memory", 0.8, False),
    Ratio("rate, d: 10,000 wildcard bindings over one, 10,000 keys in turn", "d-10000-bindings", "d-1-binding", 0.8, False),
    Ratio("rate, d: 10,000 wildcard bindings over one, one key", "d-10000-bindings-1-key", "d-1-binding-1-key", 0.8, False),
)
