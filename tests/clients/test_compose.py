"""docker-compose.yml and what it mounts: the server runs with those settings, and they fit each other.

No container runs here. The server is started with the environment, the secrets and the definitions that the container
would get, and asked as Prometheus and an operator would ask it.
"""

import json
import os
import re
import shutil
import stat
import subprocess

import pytest
import requests
import yaml

from support.server import start_server, stop_server

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
COMPOSE = os.path.join(ROOT, "config", "compose")


def read_yaml(*path):
    with open(os.path.join(*path), encoding="utf-8") as file:
        return yaml.safe_load(file)


@pytest.fixture(scope="module")
def compose():
    return read_yaml(ROOT, "docker-compose.yml")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder in which run-compose.sh made the secrets."""
    folder = tmp_path_factory.mktemp("compose")
    shutil.copy(os.path.join(ROOT, "run-compose.sh"), folder)
    shutil.copy(os.path.join(ROOT, ".env"), folder)
    subprocess.run(["./run-compose.sh", "--prepare"], cwd=folder, check=True, timeout=60)
    return folder


@pytest.fixture(scope="module")
def server(compose, prepared):
    """The server with the container's environment; only addresses and folders are those of the test."""
    binary = os.environ.get("BACKBONE_BIN")
    if not binary:
        pytest.skip("needs BACKBONE_BIN, the server's binary")
    secrets = prepared / "secrets"
    environment = {
        name: str(value).replace("/run/secrets", str(secrets))
        for name, value in compose["services"]["backbone"]["environment"].items()
        if not str(value).startswith("${") and not name.endswith("__BIND")
    }
    # Empty: not set. The secret comes from the file.
    server = start_server(binary, environment | {"BACKBONE_ADMIN__SECRET": ""})
    yield server
    stop_server(server)


def secret(prepared, name):
    return (prepared / "secrets" / name).read_text()


def test_compose_itself_takes_the_file():
    if shutil.which("docker-compose") is None:
        pytest.skip("docker-compose is not installed")
    checked = subprocess.run(
        ["docker-compose", "-f", os.path.join(ROOT, "docker-compose.yml"), "config", "--quiet"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_secrets_are_made_once_at_random_and_out_of_reach(prepared):
    folder = prepared / "secrets"
    names = {"backbone_admin", "backbone_definitions", "grafana_password", "prometheus_password"}
    made = {file.name: file.read_text() for file in folder.iterdir()}
    assert set(made) == names
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    passwords = [made[name] for name in names - {"backbone_definitions"}]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", password) for password in passwords)
    assert len(set(passwords)) == 3
    subprocess.run(["./run-compose.sh", "--prepare"], cwd=prepared, check=True, timeout=60)
    assert {file.name: file.read_text() for file in folder.iterdir()} == made
    assert made["prometheus_password"] not in made["backbone_definitions"]


def test_every_service_of_compose_mounts_what_is_there(compose):
    declared = set(compose["secrets"])
    assert {secret for service in compose["services"].values() for secret in service["secrets"]} == declared
    for service in compose["services"].values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in compose["volumes"] or source.startswith("${") or os.path.exists(os.path.join(ROOT, source)), volume


def test_the_image_is_small_and_runs_as_nobody(compose):
    with open(os.path.join(ROOT, "Dockerfile"), encoding="utf-8") as file:
        last = file.read().split("\nFROM ")[-1]
    assert last.startswith("scratch\n")
    assert "\nUSER 65532:65532\n" in last
    assert "\nHEALTHCHECK " in last
    service = compose["services"]["backbone"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert all(port.startswith("${BACKBONE_PUBLISH:-127.0.0.1}:") for port in service["ports"])


def test_prometheus_may_scrape_with_its_password_and_do_nothing_else(server, prepared):
    job = read_yaml(COMPOSE, "prometheus.yml")["scrape_configs"][0]
    assert job["static_configs"] == [{"targets": ["backbone:5000"]}]
    assert job["basic_auth"]["password_file"] == "/run/secrets/prometheus_password"
    auth = (job["basic_auth"]["username"], secret(prepared, "prometheus_password"))
    scraped = requests.get(f"{server.http_url}/metrics", auth=auth, timeout=10)
    assert scraped.status_code == 200
    assert "backbone_uptime_seconds" in scraped.text
    assert requests.get(f"{server.http_url}/metrics", timeout=10).status_code == 401
    refused = requests.post(f"{server.http_url}/clients", auth=auth, json={"client_id": "a"}, timeout=10)
    assert refused.status_code == 403


def test_the_administrator_has_the_secret_of_the_file_and_guest_is_out(server, prepared):
    admin = ("admin", secret(prepared, "backbone_admin"))
    added = requests.post(f"{server.http_url}/clients", auth=admin, json={"client_id": "noc-c2"}, timeout=10)
    assert added.status_code == 201
    guest = requests.get(f"{server.http_url}/api/overview", auth=("guest", "guest"), timeout=10)
    assert guest.status_code == 401


def test_the_health_check_of_the_image_answers(server):
    with open(os.path.join(ROOT, "Dockerfile"), encoding="utf-8") as file:
        command = json.loads(re.search(r"HEALTHCHECK .* CMD (\[.*\])", file.read()).group(1))
    assert command[0] == "/backbone"
    arguments = [os.environ["BACKBONE_BIN"], *command[1:], "--api", server.http_url]
    checked = subprocess.run(arguments, capture_output=True, text=True, timeout=30, check=False)
    assert (checked.returncode, checked.stdout.splitlines()[0]) == (0, "ready: true")
    arguments[-1] = "http://127.0.0.1:9"
    assert subprocess.run(arguments, capture_output=True, timeout=30, check=False).returncode != 0


def test_dashboard_and_alerts_ask_for_metrics_that_are_there(server, prepared):
    scraped = requests.get(f"{server.http_url}/metrics", auth=("admin", secret(prepared, "backbone_admin")), timeout=10)
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", scraped.text, re.MULTILINE))
    there = set(kinds) | {f"{name}_bucket" for name, kind in kinds.items() if kind == "histogram"} | {"up"}
    with open(os.path.join(COMPOSE, "grafana", "dashboards", "backbone.json"), encoding="utf-8") as file:
        panels = json.load(file)["panels"]
    rules = read_yaml(COMPOSE, "alerts.yml")["groups"][0]["rules"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]] + [rule["expr"] for rule in rules]
    assert len(panels) >= 10 and len(rules) >= 5
    for expression in asked:
        names = re.findall(r"\b(?:backbone_\w+|up)\b", re.sub(r'\{[^}]*\}', "", expression))
        assert names, expression
        assert set(names) <= there, expression
    for expression in asked:
        counted = re.findall(r"(?:rate|increase)\((\w+)", expression)
        assert all(kinds.get(name, "histogram") in ("counter", "histogram") for name in counted), expression
