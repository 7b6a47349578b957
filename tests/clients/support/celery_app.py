"""The Celery application of the tests; worker processes import it too. Everything comes from the environment."""

import os
import time

from celery import Celery

QUEUE = os.environ.get("TEST_QUEUE", "celery-test")

app = Celery("backbone_tests", broker=os.environ["CELERY_URL"], backend="rpc://")
app.conf.update(
    task_default_queue=QUEUE,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    result_expires=300,
    # One message at a time, so that a killed worker leaves the rest to the next.
    worker_prefetch_multiplier=int(os.environ.get("TEST_PREFETCH", "4")),
)


@app.task
def add(x, y):
    return x + y


@app.task(bind=True, max_retries=5)
def fails_twice(self, x):
    """Fails on its first two runs."""
    if self.request.retries < 2:
        raise self.retry(exc=RuntimeError("not yet"), countdown=0.2)
    return [x, self.request.retries]


@app.task(bind=True, acks_late=True)
def slow_once(self, folder, number):
    """Hangs until its worker is killed the first time; done at once when it is delivered again."""
    started = os.path.join(folder, f"started-{number}")
    if not os.path.exists(started):
        with open(started, "w", encoding="utf-8") as mark:
            mark.write(str(os.getpid()))
        time.sleep(60)
    return [number, bool(self.request.delivery_info["redelivered"])]


@app.task
def sleeps(seconds):
    time.sleep(seconds)
    return "slept"


@app.task
def fails(text):
    raise ValueError(text)
