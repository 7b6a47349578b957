"""The bus as a program with an HTTP client sees it."""

import uuid

import requests

TIMEOUT_S = 15


class Client:
    """A registered party, with the secret that was shown once."""

    def __init__(self, server, record):
        self.url = server.http_url
        self.record = record
        self.id = record["client_id"]
        self.secret = record["secret"]
        self.auth = (self.id, self.secret)
        self.outbox = f"{self.id}-outbox"
        self.notify_queue = f"{self.id}-notify"
        self.broadcast_queue = f"{self.id}-broadcast"
        self.inbox = f"{self.id}-inbox"

    @property
    def pair(self):
        """The credentials as the original's clients pass them: in the query or in the body."""
        return {"client_id": self.id, "secret": self.secret}

    def send(self, topic, body, expect=200):
        """POST /send with Basic credentials."""
        answer = requests.post(
            f"{self.url}/send", json={"topic": topic, "body": body}, auth=self.auth, timeout=TIMEOUT_S
        )
        assert answer.status_code == expect, answer.text
        return answer.json()

    def notify(self, body, expect=200):
        """POST /notify with Basic credentials."""
        answer = requests.post(f"{self.url}/notify", json={"body": body}, auth=self.auth, timeout=TIMEOUT_S)
        assert answer.status_code == expect, answer.text
        return answer.json()

    def receive_answer(self, **query):
        """GET /receive with the pair in the query, as the original's README shows it."""
        return requests.get(f"{self.url}/receive", params={**self.pair, **query}, timeout=TIMEOUT_S)

    def receive(self, **query):
        """Every message that waits."""
        answer = self.receive_answer(**query)
        assert answer.status_code == 200, answer.text
        return answer.json()


class Bus:
    """The operator's side: clients come and go."""

    def __init__(self, server):
        self.server = server
        self.url = server.http_url
        self.admin = server.admin
        self.run = uuid.uuid4().hex[:8]
        self.created = []

    def new_id(self, name="client"):
        """A client id that nobody uses; a client of that id is deleted after the test."""
        client_id = f"{name}-{self.run}-{len(self.created)}"
        self.created.append(client_id)
        return client_id

    def topic(self, rest):
        """A topic of this test alone, so that tests do not hear each other."""
        return f"soar.{self.run}.{rest}"

    def create(self, name="client", subscription=None, **fields):
        """POST /clients as the administrator."""
        record = {"client_id": self.new_id(name), "client_name": name, **fields}
        if subscription is not None:
            record["subscription"] = subscription
        answer = self.call("POST", "/clients", json=record)
        assert answer.status_code == 201, answer.text
        return Client(self.server, answer.json())

    def pair(self, subscription="#"):
        """A sender and a reader that is subscribed to this test's topics."""
        return self.create("sender"), self.create("reader", self.topic(subscription))

    def call(self, method, path, **request):
        """Any request; as the administrator unless `auth` says otherwise."""
        request.setdefault("auth", self.admin)
        request.setdefault("timeout", TIMEOUT_S)
        request.setdefault("allow_redirects", False)
        return requests.request(method, f"{self.url}{path}", **request)

    def delete_clients(self):
        """Remove what `create` made."""
        for client_id in self.created:
            self.call("DELETE", f"/clients/{client_id}")


def assert_error(answer, status):
    """Errors are JSON with a stable code and a text for people."""
    assert answer.status_code == status, f"{answer.status_code} {answer.text}"
    assert answer.headers["Content-Type"].startswith("application/json"), answer.headers
    error = answer.json()
    assert isinstance(error["error"], str) and error["error"], error
    assert isinstance(error["message"], str) and error["message"], error
    return error
