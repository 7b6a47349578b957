#!/usr/bin/env bash
# Starts Backbone, Prometheus and Grafana with docker compose, and makes what they need on the first run:
#
#   ./run-compose.sh              builds and starts everything, and says where it is
#   ./run-compose.sh --prepare    only makes the secrets and the data directory
#   ./run-compose.sh ARG...       passes the arguments on, e.g. ./run-compose.sh down
#
# Settings are in .env. Secrets are made at random in ./secrets and stay there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# What .env sets, unless the environment does.
setting() {
    local name=$1 default=$2
    if [[ -n ${!name:-} ]]; then
        echo "${!name}"
    elif [[ -f .env ]] && grep -q "^$name=." .env; then
        sed -n "s/^$name=//p" .env | tail -n 1
    else
        echo "$default"
    fi
}

random() {
    head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n'
}

# hash_of PASSWORD: as definitions have it, base64 of a salt of 4 octets and the SHA-256 of salt and password.
hash_of() {
    local salt digest
    salt=$(head -c 4 /dev/urandom | od -An -tx1 | tr -d ' \n')
    digest=$({ octets "$salt"; printf '%s' "$1"; } | sha256sum | cut -d ' ' -f 1)
    octets "$salt$digest" | base64 | tr -d '\n'
}

octets() {
    # shellcheck disable=SC2059
    printf "$(sed 's/../\\x&/g' <<<"$1")"
}

# Containers read these files as other users; the folder keeps this machine's users out.
prepare_secrets() {
    mkdir -p secrets
    chmod 700 secrets
    local name
    for name in backbone_admin prometheus_password grafana_password; do
        [[ -s secrets/$name ]] || random >"secrets/$name"
    done
    if [[ ! -s secrets/backbone_definitions ]]; then
        printf '{"users": [{"name": "prometheus", "tags": "monitoring", "hashing_algorithm": "%s", "password_hash": "%s"}]}\n' \
            rabbit_password_hashing_sha256 "$(hash_of "$(cat secrets/prometheus_password)")" >secrets/backbone_definitions
    fi
    chmod 644 secrets/*
}

# The server runs as who starts it, so that its files are his; never as root.
prepare_data() {
    local folder
    folder=$(setting DATA_DIR ./data)
    mkdir -p "$folder"
    if [[ $(id -u) == 0 ]]; then
        export BACKBONE_UID=65532 BACKBONE_GID=65532
        chown -R 65532:65532 "$folder"
    else
        BACKBONE_UID=$(id -u) BACKBONE_GID=$(id -g)
        export BACKBONE_UID BACKBONE_GID
    fi
}

compose() {
    if docker compose version >/dev/null 2>&1; then
        docker compose "$@"
    elif command -v docker-compose >/dev/null; then
        docker-compose "$@"
    else
        echo "run-compose.sh: neither 'docker compose' nor 'docker-compose' is there; on Debian: apt-get install docker-compose" >&2
        return 1
    fi
}

prepare_secrets
prepare_data
case ${1:-} in
    --prepare) exit 0 ;;
    "") ;;
    *) compose "$@"; exit ;;
esac
compose up --build --detach
address=$(setting BACKBONE_PUBLISH 127.0.0.1)
cat <<SAID
AMQP        amqp://$address:5672
REST        http://$address:5000, and /docs there
Grafana     http://$address:3001, user admin, password in secrets/grafana_password
The administrator of Backbone is admin, its secret in secrets/backbone_admin. The first client:
    curl -u "admin:\$(cat secrets/backbone_admin)" http://$address:3000/clients -d '{"client_id": "noc-c2", "subscription": "soar.#"}'
SAID
