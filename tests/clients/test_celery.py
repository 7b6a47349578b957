"""Celery with real worker processes: results, retries, late acknowledgement, remote control."""

import importlib
import os
import signal
import subprocess
import sys

import pytest
from celery import group
from celery.exceptions import TaskRevokedError

from support.wait import eventually

pytestmark = pytest.mark.timeout(110)

HERE = os.path.dirname(os.path.abspath(__file__))
START_TIMEOUT_S = 30
RESULT_TIMEOUT_S = 60


class Worker:
    """`celery worker` in a process group of its own, so that its children can be ended with it."""

    def __init__(self, name, log_path, pool, prefetch=4):
        self.name = f"{name}@backbone-tests"
        self.log_path = log_path
        command = [
            *(sys.executable, "-m", "celery", "-A", "support.celery_app", "worker"),
            *("--pool", pool, "--concurrency", "2", "--hostname", self.name, "--loglevel", "INFO"),
        ]
        with open(log_path, "ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=HERE,
                env={**os.environ, "TEST_PREFETCH": str(prefetch)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_ready(self):
        def ready():
            assert self.process.poll() is None, self.log()
            return f"{self.name} ready" in self.log()

        eventually(ready, START_TIMEOUT_S)
        return self

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return log.read()

    def kill(self):
        """SIGKILL to the whole group: no goodbye to the broker."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()


@pytest.fixture
def celery(broker, names, monkeypatch):
    """The application on a queue of this test's own."""
    queue = names.new("celery")
    monkeypatch.setenv("CELERY_URL", broker.amqp_url)
    monkeypatch.setenv("TEST_QUEUE", queue)
    import support.celery_app

    module = importlib.reload(support.celery_app)
    yield module
    module.app.close()


@pytest.fixture
def start_worker(celery, tmp_path):
    workers = []

    def start(pool="prefork", **options):
        name = f"w{len(workers)}-{os.getpid()}"
        worker = Worker(name, tmp_path / f"{name}.log", pool, **options)
        workers.append(worker)
        return worker.wait_until_ready()

    yield start
    for worker in workers:
        worker.stop()


def test_thousand_tasks_give_the_right_results_and_retries_end_well(celery, start_worker):
    start_worker()
    results = [celery.add.delay(number, number) for number in range(1000)]
    retried = [celery.fails_twice.delay(number) for number in range(10)]
    failed = celery.fails.delay("on purpose")
    assert [result.get(timeout=RESULT_TIMEOUT_S) for result in results] == [2 * number for number in range(1000)]
    assert [result.get(timeout=RESULT_TIMEOUT_S) for result in retried] == [[number, 2] for number in range(10)]
    with pytest.raises(ValueError, match="on purpose"):
        failed.get(timeout=RESULT_TIMEOUT_S)
    grouped = group(celery.add.s(number, 1) for number in range(20)).apply_async()
    assert grouped.get(timeout=RESULT_TIMEOUT_S) == [number + 1 for number in range(20)]


def test_tasks_of_a_killed_worker_are_delivered_again(celery, start_worker, tmp_path):
    first = start_worker(pool="threads", prefetch=1)
    results = [celery.slow_once.delay(str(tmp_path), number) for number in range(4)]
    eventually(lambda: len(list(tmp_path.glob("started-*"))) == 2, START_TIMEOUT_S)
    first.kill()
    # What the killed worker had not begun must not hang in the second one either.
    for number in range(4):
        (tmp_path / f"started-{number}").touch()
    start_worker(pool="threads", prefetch=1)
    answers = [result.get(timeout=RESULT_TIMEOUT_S) for result in results]
    assert [number for number, _ in answers] == [0, 1, 2, 3]
    assert [redelivered for _, redelivered in answers[:2]] == [True, True]


def test_remote_control_reaches_the_worker(celery, start_worker):
    worker = start_worker(pool="prefork")
    control = celery.app.control
    assert control.ping(timeout=5, limit=1) == [{worker.name: {"ok": "pong"}}]
    inspect = control.inspect([worker.name], timeout=5)
    assert celery.QUEUE in [queue["name"] for queue in inspect.active_queues()[worker.name]]
    running = celery.sleeps.delay(60)
    eventually(lambda: inspect.active()[worker.name], 15)
    control.revoke(running.id, terminate=True)
    with pytest.raises(TaskRevokedError):
        running.get(timeout=20)
    assert celery.add.delay(1, 2).get(timeout=20) == 3
    control.shutdown([worker.name])
    eventually(lambda: worker.process.poll() is not None, 20)


def test_events_of_a_worker_are_heard(celery, start_worker):
    """Workers tell what they do on a topic exchange."""
    heard = []
    worker = start_worker(pool="threads")
    with celery.app.connection_for_read() as connection:

        def on_event(event):
            heard.append((event["type"], event["hostname"]))
            receiver.should_stop = ("worker-heartbeat", worker.name) in heard

        receiver = celery.app.events.Receiver(connection, handlers={"*": on_event})
        receiver.capture(limit=None, timeout=20, wakeup=True)
    assert ("worker-heartbeat", worker.name) in heard
