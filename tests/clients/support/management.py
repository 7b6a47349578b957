"""Users, permissions, policies over RabbitMQ's management API, which Backbone has too."""

import os

import requests

VHOST = "%2F"


class Management:
    """What is made through it is taken back by `undo`."""

    def __init__(self, server):
        self.url = os.environ.get("MANAGEMENT_URL") or server.http_url
        self.credentials = (server.user, server.password)
        self.made = []

    def call(self, method, path, body=None):
        answer = requests.request(method, f"{self.url}/api/{path}", json=body, auth=self.credentials, timeout=30)
        assert answer.ok or (method == "DELETE" and answer.status_code == 404), f"{path}: {answer.status_code} {answer.text}"

    def put(self, path, body):
        self.call("PUT", path, body)
        self.made.append(path)

    def delete(self, path):
        self.call("DELETE", path)

    def user(self, name, password):
        self.put(f"users/{name}", {"password": password, "tags": ""})

    def permissions(self, user, configure=".*", write=".*", read=".*"):
        self.put(f"permissions/{VHOST}/{user}", {"configure": configure, "write": write, "read": read})

    def policy(self, name, pattern, apply_to="all", priority=0, operator=False, **definition):
        definition = {key.replace("_", "-"): value for key, value in definition.items()}
        path = f"{'operator-' if operator else ''}policies/{VHOST}/{name}"
        self.put(path, {"pattern": pattern, "definition": definition, "apply-to": apply_to, "priority": priority})
        return path

    def undo(self):
        while self.made:
            self.delete(self.made.pop())
